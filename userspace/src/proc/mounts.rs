//! `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A mount, as this process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What of the file system is mounted: `/` mostly; of a namespace `net:[4026531840]`.
    pub root: Vec<u8>,
    /// Where.
    pub point: PathBuf,
    /// Type of the file system: `cgroup2`, `nsfs`, ….
    pub kind: Vec<u8>,
}

/// Every mount, later ones (which may cover earlier ones) last.
///
/// # Errors
/// `/proc` is not mounted.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(std::fs::read("/proc/self/mountinfo")?.split(|&b| b == b'\n').filter_map(Mount::parse).collect())
}

impl Mount {
    /// Reads one line; None when it is not what the kernel writes.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        // ID parent major:minor root point options [tags…] - kind source options
        let mut fields = line.split(|&b| b == b' ');
        let root = unescaped(fields.nth(3)?);
        let point = PathBuf::from(OsString::from_vec(unescaped(fields.next()?)));
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?.to_vec();
        Some(Self { root, point, kind })
    }
}

/// Undoes the octal escapes of space, tab, newline, backslash and `#`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        plain.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn mount(root: &str, point: &str, kind: &str) -> Option<Mount> {
        Some(Mount { root: root.into(), point: point.into(), kind: kind.into() })
    }

    #[test]
    fn lines() {
        for (line, expected) in [
            (
                "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
                mount("/", "/sys/fs/cgroup/unified", "cgroup2"),
            ),
            (
                "41 31 0:4 net:[4026532281] /run/netns/a\\040b\\134 rw shared:7 master:2 - nsfs nsfs rw",
                mount("net:[4026532281]", "/run/netns/a b\\", "nsfs"),
            ),
            (
                "41 31 0:4 /docker/1 /sys/fs/cgroup ro - cgroup2 c rw",
                mount("/docker/1", "/sys/fs/cgroup", "cgroup2"),
            ),
            ("41 31 0:4 / /x\\9 rw - ext4 d rw", mount("/", "/x\\9", "ext4")),
            ("41 31 0:4 / /x rw", None),
            ("", None),
        ] {
            assert_eq!(Mount::parse(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn this_machine_has_proc() -> io::Result<()> {
        assert!(mounts()?.iter().any(|mount| mount.kind == b"proc" && mount.point == Path::new("/proc")));
        Ok(())
    }
}
