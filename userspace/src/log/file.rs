//! Creating a log's file: for its user alone, and never through a link that somebody left there.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::unistd::{Gid, Uid, fchown, geteuid};

use super::shorten::Identity;

/// Mode of a log: it holds arguments of other people's processes.
const MODE: u32 = 0o600;
/// What a compressed log begins with (RFC 8878).
pub(super) const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// What a plain log begins with.
pub(super) const PLAIN_MAGIC: &[u8] = b"{\"type\":\"header\"";

/// A place that a log can be written to.
pub struct LogFile {
    pub(super) path: PathBuf,
    pub(super) inner: Box<dyn Write + Send>,
    pub(super) compressed: bool,
    /// Which file it is, where a shorter one can take its place.
    pub(super) identity: Option<Identity>,
}

impl LogFile {
    /// Any place; `path` is its name in messages.
    #[must_use]
    pub fn over(inner: Box<dyn Write + Send>, path: &Path, compressed: bool) -> Self {
        Self { path: path.to_owned(), inner, compressed, identity: None }
    }
}

/// A log's file that cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The system refused.
    #[error("cannot create the log {path}: {error}")]
    System {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The name is taken by something that a log cannot replace.
    #[error("cannot create the log {path}: {why}; name another with -o")]
    Taken {
        /// The file.
        path: PathBuf,
        /// What is there.
        why: String,
    },
}

/// Creates the file of a log: mode 0600, of the user who called sudo if there is one, compressed when the name ends in
/// `.zst`. A log that is there is replaced; `-` is standard output; a character device is taken as it is.
///
/// # Errors
/// When the system refuses, or something is there that is not a log of this user's.
pub fn create(path: &Path) -> Result<LogFile, CreateError> {
    let compressed = path.extension().is_some_and(|extension| extension == "zst");
    if path.as_os_str() == "-" {
        return Ok(LogFile {
            path: PathBuf::from("standard output"),
            inner: Box::new(io::stdout()),
            compressed,
            identity: None,
        });
    }
    let (inner, identity): (Box<dyn Write + Send>, _) = match private(path, is_log)? {
        Private::File(file) => {
            let identity = Identity::of(&file.0).ok();
            (Box::new(file), identity)
        }
        Private::Device(file) => (Box::new(file), None),
    };
    Ok(LogFile { path: path.to_owned(), inner, compressed, identity })
}

/// Whether a file that begins so is a log.
fn is_log(start: &[u8]) -> bool {
    start.starts_with(&ZSTD_MAGIC) || start == PLAIN_MAGIC
}

/// Creates the file that is to take a log's place, in the same folder, with the care that [`create`] takes. What a
/// recording that was killed has left there goes.
pub(super) fn replacement(log: &Path) -> io::Result<(Locked, PathBuf)> {
    let mut name = OsString::from(".");
    name.push(log.file_name().unwrap_or_default());
    name.push(".shorter");
    let path = log.with_file_name(name);
    match private(&path, is_log).map_err(io_error)? {
        Private::File(file) => Ok((file, path)),
        Private::Device(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "a device is there")),
    }
}

/// Creates a file for other output with the care that [`create`] takes: mode 0600, of the user who called sudo, never
/// through a link. Whatever regular file of this user's is there is replaced; `-` is standard output.
///
/// # Errors
/// When the system refuses, or something is there that is not this user's.
pub fn create_private(path: &Path) -> io::Result<Box<dyn Write + Send>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(io::stdout()));
    }
    Ok(match private(path, |_| true).map_err(io_error)? {
        Private::File(file) => Box::new(file),
        Private::Device(file) => Box::new(file),
    })
}

fn io_error(error: CreateError) -> io::Error {
    match error {
        CreateError::System { error, .. } => error,
        CreateError::Taken { why, .. } => io::Error::new(io::ErrorKind::AlreadyExists, why),
    }
}

/// What a name stands for that may be written to.
enum Private {
    File(Locked),
    /// Taken as it is.
    Device(File),
}

/// Opens `path` for writing and empties it, when nothing speaks against it; `replaces` says by a file's first bytes
/// whether it may go.
fn private(path: &Path, replaces: fn(&[u8]) -> bool) -> Result<Private, CreateError> {
    let system = |error| CreateError::System { path: path.to_owned(), error };
    let taken = |why: &str| CreateError::Taken { path: path.to_owned(), why: why.to_owned() };

    // O_NONBLOCK: opening a pipe that nobody reads must fail and not wait.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(MODE).custom_flags(flags.bits());
    let mut file = options.open(path).map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => taken("a symbolic link is there"),
        Some(Errno::EISDIR) => taken("a directory is there"),
        _ => system(error),
    })?;
    let found = file.metadata().map_err(system)?;
    if found.file_type().is_char_device() {
        return Ok(Private::Device(file));
    }
    if !found.is_file() {
        return Err(taken("it is not a regular file"));
    }
    let caller = sudo_caller();
    let owners = [Some(geteuid().as_raw()), caller.map(|(uid, _)| uid.as_raw())];
    if !owners.contains(&Some(found.uid())) {
        return Err(taken(&format!("a file of another user (uid {}) is there", found.uid())));
    }
    if found.nlink() > 1 {
        return Err(taken("a file with more than one name is there"));
    }
    let mut start = Vec::new();
    (&mut file).take(PLAIN_MAGIC.len() as u64).read_to_end(&mut start).map_err(system)?;
    if !start.is_empty() && !replaces(&start) {
        return Err(taken("a file that is not a log is there"));
    }
    // Held until the file is closed: another recording into it would garble both.
    let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| taken("another recording writes to it"))?;
    file.set_len(0).map_err(system)?;
    file.set_permissions(Permissions::from_mode(MODE)).map_err(system)?;
    if let Some((uid, gid)) = caller {
        fchown(&*file, Some(uid), Some(gid)).map_err(|errno| system(errno.into()))?;
    }
    file.rewind().map_err(system)?;
    Ok(Private::File(Locked(file)))
}

/// A locked file, to be written.
pub(super) struct Locked(Flock<File>);

impl Locked {
    /// The same file, for another to write to. It stays locked by this one.
    pub(super) fn other(&self) -> io::Result<File> {
        self.0.try_clone()
    }
}

impl std::ops::Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Seek for Locked {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl Write for Locked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Who called sudo, when this runs as root by sudo.
fn sudo_caller() -> Option<(Uid, Gid)> {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if !geteuid().is_root() {
        return None;
    }
    Some((Uid::from_raw(id("SUDO_UID")?), Gid::from_raw(id("SUDO_GID")?)))
}
