//! The environment of a command that runs as another user than bindwatch: that user's, never root's.
//!
//! sudo(8) gives its command another environment than it was called with, and keeps its own as it is: what it was called
//! with can be read there. It is data of the caller's, and is given to what runs as the caller, and to nothing else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use nix::unistd::getppid;

use crate::proc::{Folder, PidPath, Stat, read_at, uids_of};

/// Variables, each by its name.
pub(super) type Environment = BTreeMap<OsString, OsString>;

/// Who somebody is, where what is theirs lies, and the session they are in: of bindwatch these are root's.
const OWN: [&str; 10] = [
    "DBUS_SESSION_BUS_ADDRESS",
    "HOME",
    "LOGNAME",
    "MAIL",
    "PATH",
    "SHELL",
    "USER",
    "USERNAME",
    "XDG_RUNTIME_DIR",
    "XDG_SESSION_ID",
];
/// What the names begin with by which sudo tells who called it.
const SUDO: &[u8] = b"SUDO_";
/// Where Debian, and most others, have a user's mail.
const MAIL: &str = "/var/mail";
/// Longest environment that is read, bytes: the kernel starts no program with more (execve(2)).
const ENVIRON_MAX: usize = 6 << 20;
/// Longest `/proc/PID/status` and `stat` that is read, bytes.
const FACTS_MAX: usize = 64 << 10;
/// Ancestors that are looked at.
const ANCESTORS_MAX: usize = 64;

/// What the user database says, as far as it knows the user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a OsStr,
    pub(super) home: Option<&'a OsStr>,
    pub(super) shell: Option<&'a OsStr>,
}

/// Who one is: by the caller of sudo, or else by the user database, with root's PATH. The rest: that of the caller, and what
/// bindwatch has itself, which was given to sudo or behind it and wins.
pub(super) fn merged(
    caller: Option<Environment>,
    entry: Entry<'_>,
    own: impl Iterator<Item = (OsString, OsString)>,
) -> Environment {
    let knows_caller = caller.is_some();
    let mut environment = caller.unwrap_or_else(|| by_database(entry));
    for (name, value) in own {
        let is_roots = OWN.iter().any(|one| name == *one) && (knows_caller || name != "PATH");
        if !is_roots {
            environment.insert(name, value);
        }
    }
    environment.retain(|name, _| !name.as_bytes().starts_with(SUDO));
    environment
}

fn by_database(Entry { name, home, shell }: Entry<'_>) -> Environment {
    let mut environment = Environment::new();
    let mut set = |variable: &str, value: &OsStr| drop(environment.insert(variable.into(), value.into()));
    set("USER", name);
    set("LOGNAME", name);
    set("HOME", home.unwrap_or(OsStr::new("/")));
    set("SHELL", shell.unwrap_or(OsStr::new("/bin/sh")));
    if home.is_some() {
        let mut mail = OsString::from(MAIL);
        mail.push("/");
        mail.push(name);
        set("MAIL", &mail);
    }
    environment
}

/// What the sudo among our ancestors was called with, by this user: it is the nearest of them that runs with the user's
/// real id, and as root. None when there is none: sudo can have executed its command itself.
pub(super) fn of_caller(uid: u32) -> Option<Environment> {
    let root = Folder::open_path(c"/proc").ok()?;
    let (mut above, mut text) = (u32::try_from(getppid().as_raw()).ok()?, Vec::new());
    for _ in 0..ANCESTORS_MAX {
        let folder = Folder::open(root.as_fd(), PidPath::new(above).as_c_str()).ok()?;
        read_at(folder.as_fd(), c"status", &mut text, FACTS_MAX).ok()?;
        let (real, effective) = {
            let mut uids = uids_of(&text).map(|uid| uid.0);
            (uids.next()?, uids.next()?)
        };
        if real == uid {
            let is_sudo =
                effective == 0 && read_at(folder.as_fd(), c"environ", &mut text, ENVIRON_MAX).is_ok();
            return (is_sudo && text.len() < ENVIRON_MAX).then(|| parse(&text));
        }
        read_at(folder.as_fd(), c"stat", &mut text, FACTS_MAX).ok()?;
        above = Stat::parse(&text)?.ppid;
    }
    None
}

/// Of two of one name the first counts, as for getenv(3).
fn parse(block: &[u8]) -> Environment {
    let mut environment = Environment::new();
    for variable in block.split(|byte| *byte == 0) {
        let Some(equals) = variable.iter().position(|byte| *byte == b'=').filter(|at| *at > 0) else {
            continue;
        };
        let (name, value) = variable.split_at(equals);
        let value = value.get(1..).unwrap_or_default();
        environment
            .entry(OsString::from_vec(name.to_vec()))
            .or_insert_with(|| OsString::from_vec(value.to_vec()));
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_an_environment() {
        let found = parse(b"A=1\0=x\0novalue\0B=\0A=2\0C=a=b\0\xff=\xfe\0\0\0D=cut");
        let expected: [(&[u8], &[u8]); 5] =
            [(b"A", b"1"), (b"B", b""), (b"C", b"a=b"), (b"D", b"cut"), (b"\xff", b"\xfe")];
        let expected = expected
            .map(|(name, value)| (OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value).to_owned()));
        assert_eq!(found, Environment::from(expected));
        assert_eq!(parse(b""), Environment::new());
    }

    #[test]
    fn nothing_that_is_roots_is_left() {
        let entry = Entry { name: OsStr::new("dev"), home: None, shell: None };
        let own = || OWN.iter().chain(&["SUDO_USER", "SUDO_X"]).map(|name| ((*name).into(), "roots".into()));
        let caller = Environment::from([("A".into(), "1".into()), ("SUDO_OLD".into(), "1".into())]);
        let rest = [("A".into(), "2".into()), ("B".into(), "3".into())];
        let found = merged(Some(caller), entry, own().chain(rest));
        assert_eq!(found, Environment::from([("A".into(), "2".into()), ("B".into(), "3".into())]));
        let found = merged(None, entry, own());
        let roots: Vec<_> = found.iter().filter(|(_, value)| *value == "roots").collect();
        assert_eq!(roots, [(&"PATH".into(), &"roots".into())]);
    }

    #[test]
    fn nobody_above_is_this_user() {
        assert_eq!(of_caller(u32::MAX - 1), None);
    }
}
