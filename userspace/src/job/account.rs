//! Who the command runs as.

use std::ffi::OsString;
use std::path::PathBuf;

use nix::unistd::{Gid, Uid, User, geteuid, getuid};

/// The user that a command runs as, when it is not the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Name, for the supplementary groups and the environment.
    pub name: String,
    /// Home directory; None when the user database does not know the user.
    pub home: Option<PathBuf>,
    /// Login shell, likewise.
    pub shell: Option<PathBuf>,
    /// Whether it is who called sudo: the environment of that call is the command's.
    pub called_sudo: bool,
}

/// A user that the command cannot run as.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Not in the user database.
    #[error("there is no user \"{}\"", crate::sink::escape::line(.0))]
    Unknown(String),
    /// Only root can.
    #[error("running the command as \"{}\" needs root", crate::sink::escape::line(.0))]
    NotRoot(String),
    /// The user database cannot be read.
    #[error("cannot look up the user \"{}\": {errno}", crate::sink::escape::line(.name))]
    Lookup {
        /// Who.
        name: String,
        /// Why.
        #[source]
        errno: nix::Error,
    },
}

impl Account {
    /// The user named, or else under sudo(8) the one who called it. None: the command runs as the caller.
    ///
    /// `variable` reads the environment: SUDO_UID, SUDO_GID and SUDO_USER count, and only for root.
    ///
    /// # Errors
    /// The named user does not exist, or the caller may not become it.
    pub fn resolve(
        named: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, AccountError> {
        match named {
            Some(name) => {
                let found = User::from_name(name)
                    .map_err(|errno| AccountError::Lookup { name: name.to_owned(), errno })?;
                let user = found.ok_or_else(|| AccountError::Unknown(name.to_owned()))?;
                if user.uid == getuid() && user.uid == geteuid() {
                    return Ok(None);
                }
                if !geteuid().is_root() {
                    return Err(AccountError::NotRoot(name.to_owned()));
                }
                Ok(Some(Self::from(user)))
            }
            None if geteuid().is_root() => Ok(Self::behind_sudo(variable)),
            None => Ok(None),
        }
    }

    fn behind_sudo(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let uid: u32 = variable("SUDO_UID")?.parse().ok()?;
        let gid: u32 = variable("SUDO_GID")?.parse().ok()?;
        let name = variable("SUDO_USER")?;
        let known = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let (home, shell) = known.map(|user| (user.dir, user.shell)).unzip();
        (uid != 0).then_some(Self { uid, gid, name, home, shell, called_sudo: true })
    }

    /// How `__launch` is told.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["--uid", &self.uid.to_string(), "--gid", &self.gid.to_string()]
            .into_iter()
            .chain(["--user-name", &self.name])
            .map(OsString::from)
            .collect();
        for (option, path) in [("--home", &self.home), ("--shell", &self.shell)] {
            let path = path.as_ref().filter(|path| !path.as_os_str().is_empty());
            arguments.extend(path.into_iter().flat_map(|path| [option.into(), path.into()]));
        }
        if self.called_sudo {
            arguments.extend(["--environment", "caller"].map(OsString::from));
        }
        arguments
    }
}

impl From<User> for Account {
    fn from(User { uid, gid, name, dir, shell, .. }: User) -> Self {
        let (home, shell) = (Some(dir), Some(shell));
        Self { uid: Uid::as_raw(uid), gid: Gid::as_raw(gid), name, home, shell, called_sudo: false }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn under_sudo(
        uid: &'static str,
        gid: &'static str,
        name: &'static str,
    ) -> impl Fn(&str) -> Option<String> {
        move |variable| {
            let value = match variable {
                "SUDO_UID" => uid,
                "SUDO_GID" => gid,
                "SUDO_USER" => name,
                _ => return None,
            };
            Some(value.to_owned())
        }
    }

    #[test]
    fn sudo_names_the_caller() {
        assert!(geteuid().is_root(), "under sudo one is root: run this test as root");
        let account = Account::resolve(None, under_sudo("4242", "4343", "dev")).unwrap().unwrap();
        assert_eq!((account.uid, account.gid, account.name.as_str()), (4242, 4343, "dev"));
        assert!(account.called_sudo);
        assert_eq!((account.home, account.shell), (None, None), "the user database does not know 4242");
        assert_eq!(Account::resolve(None, under_sudo("0", "0", "root")).unwrap(), None);
        assert_eq!(Account::resolve(None, under_sudo("x", "0", "root")).unwrap(), None);
        assert_eq!(Account::resolve(None, |_| None).unwrap(), None);
    }

    #[test]
    fn named_users() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        let account = Account::resolve(Some("nobody"), under_sudo("4242", "4343", "dev")).unwrap().unwrap();
        assert_eq!((account.uid, account.name.as_str()), (nobody.uid.as_raw(), "nobody"));
        assert_eq!((account.home, account.shell), (Some(nobody.dir), Some(nobody.shell)));
        assert!(!account.called_sudo);
        assert_eq!(Account::resolve(Some("root"), |_| None).unwrap(), None, "it is root already");
        let error = Account::resolve(Some("no\nbody"), |_| None).unwrap_err();
        assert_eq!(error.to_string(), "there is no user \"no\\nbody\"");
    }
}
