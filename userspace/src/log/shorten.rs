//! Making a log shorter while it is written: beside it, by a thread of its own, and then put in its place.
//!
//! At every instant one of the two files is whole under the log's name: whoever is killed leaves a log that can be read.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use super::file::{Locked, replacement};
use super::keep::{Sockets, Wanted};
use super::{LogFile, ReadError, Reader, WriteError, Writer};
use crate::event::{Body, Event, Hook, Omitted};

/// Why a log stays as long as it is.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShortenError {
    #[error("another file has the log's name")]
    Moved,
    #[error("every event of its older part is still needed")]
    Needed,
    #[error(transparent)]
    System(#[from] io::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the thread ended early")]
    Thread,
}

/// Which file a log is: its device and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|found| Self(found.dev(), found.ino()))
    }
}

/// A log that is being shortened.
pub(super) struct Shortening {
    thread: JoinHandle<Result<Shorter, ShortenError>>,
    /// The file's length when it began, bytes: what is behind it is taken over as it is.
    from: u64,
}

/// The shorter log, not yet in its place.
struct Shorter {
    file: Locked,
    path: PathBuf,
    /// The log as it was.
    old: File,
}

impl Shortening {
    /// Begins. `from` bytes of the log are in its file, up to the end of a line (and of a frame where it is compressed).
    pub(super) fn begin(
        path: &Path,
        identity: Identity,
        compressed: bool,
        from: u64,
        wanted: Wanted,
    ) -> io::Result<Self> {
        let path = path.to_owned();
        let work = move || shorten(&path, identity, compressed, from, wanted);
        let thread = std::thread::Builder::new().name("shorten".to_owned()).spawn(work)?;
        Ok(Self { thread, from })
    }

    pub(super) fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for it, takes over what was written meanwhile, up to `end` bytes, and puts the shorter log in its place:
    /// its file, to be written on, which one it is, and its length in bytes.
    pub(super) fn finish(self, path: &Path, end: u64) -> Result<(Locked, Identity, u64), ShortenError> {
        let Shorter { mut file, path: beside, mut old } =
            self.thread.join().map_err(|_| ShortenError::Thread)??;
        let mut put = || {
            old.seek(SeekFrom::Start(self.from))?;
            file.seek(SeekFrom::End(0))?;
            io::copy(&mut (&mut old).take(end - self.from), &mut file)?;
            let length = file.stream_position()?;
            let identity = Identity::of(&file)?;
            fs::rename(&beside, path)?;
            Ok((identity, length))
        };
        match put() {
            Ok((identity, length)) => Ok((file, identity, length)),
            Err(error) => {
                drop(fs::remove_file(&beside));
                Err(ShortenError::System(error))
            }
        }
    }
}

/// Writes the shorter log beside the long one.
fn shorten(
    path: &Path,
    identity: Identity,
    compressed: bool,
    from: u64,
    wanted: Wanted,
) -> Result<Shorter, ShortenError> {
    let old = File::open(path)?;
    if Identity::of(&old)? != identity {
        return Err(ShortenError::Moved);
    }
    let (file, beside) = replacement(path)?;
    let written = write(&old, &file, path, compressed, from, wanted);
    if written.is_err() {
        drop(fs::remove_file(&beside));
    }
    written.map(|()| Shorter { file, path: beside, old })
}

fn write(
    old: &File,
    new: &Locked,
    path: &Path,
    compressed: bool,
    from: u64,
    wanted: Wanted,
) -> Result<(), ShortenError> {
    let read = || -> Result<Reader, ShortenError> {
        let mut log = old.try_clone()?;
        log.rewind()?;
        Ok(Reader::new(log.take(from), path)?)
    };
    let until = wanted.until;
    let older = |mut each: Box<dyn FnMut(&Event) + '_>| -> Result<(), ShortenError> {
        let mut log = read()?;
        while let Some(event) = log.next_event() {
            let event = event?;
            if event.seq > until {
                break;
            }
            each(event);
        }
        Ok(())
    };
    let mut sockets = Sockets::of(wanted);
    older(Box::new(|event| sockets.read(event)))?;
    let mut processes = sockets.chosen();
    older(Box::new(|event| processes.read(event)))?;
    let keep = processes.chosen();
    let mut gone: Option<Omitted> = None;
    older(Box::new(|event| keep.count(event, &mut gone)))?;
    let mut gone = Some(gone.ok_or(ShortenError::Needed)?);

    let mut log = read()?;
    let out: Box<dyn Write + Send> = Box::new(new.other()?);
    let mut out = Writer::new(LogFile::over(out, path, compressed), log.header(), None)?;
    while let Some(event) = log.next_event() {
        let event = event?;
        let goes = matches!(event.body, Body::Omitted(_)) || !keep.stays(event);
        if event.seq > until || !goes {
            out.event(event)?;
        } else if let Some(gone) = gone.take() {
            let Event { seq, at, .. } = *event;
            out.event(&Event { seq, at, hook: Hook::Bindwatch, body: Body::Omitted(gone) })?;
        }
    }
    Ok(out.close()?)
}
