//! Reading `/proc/PID/cgroup`, and what a cgroup's path says about containers.

use std::borrow::Cow;

/// Shortest run of hexadecimal digits that is taken for a container id: crictl and docker print 12 or 13.
const ID_MIN: usize = 12;
/// Length of a whole container id, hexadecimal digits.
const ID_LEN: usize = 64;

/// Prefixes that container managers give to the systemd scope of a container; what follows is its id.
///
/// docker and cri-containerd from their own unit names, `crio-` CRI-O, `libpod-` podman, `nerdctl-` nerdctl.
const SCOPES: [&str; 6] = ["docker-", "cri-containerd-", "crio-", "libpod-", "nerdctl-", "containerd-"];

/// Parent folders under which the cgroupfs drivers name a cgroup after the container alone.
const FOLDERS: [&str; 5] = ["docker", "kubepods", "libpod_parent", "crio", "actions_job"];

/// The path in the cgroup2 hierarchy: what follows `0::`, in hybrid mode too. None when there is no such line.
///
/// The kernel appends ` (deleted)` when the cgroup is gone; that stays.
#[must_use]
pub fn unified_path(text: &[u8]) -> Option<&[u8]> {
    text.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"0::"))
}

/// Any path of the content of `/proc/PID/cgroup`, the unified one first, that shows a container.
///
/// In hybrid mode a container manager on cgroup v1 leaves the unified path at `/`.
#[must_use]
pub fn container_of(text: &[u8]) -> Option<String> {
    let of = |path: &[u8]| container_id(&String::from_utf8_lossy(path)).map(Cow::into_owned);
    unified_path(text).and_then(of).or_else(|| {
        text.split(|&b| b == b'\n').filter_map(|line| line.splitn(3, |&b| b == b':').nth(2)).find_map(of)
    })
}

/// The id of the innermost container a cgroup's path shows.
#[must_use]
pub fn container_id(path: &str) -> Option<Cow<'_, str>> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    parts.iter().enumerate().rev().find_map(|(at, part)| {
        // "kubepods-…:cri-containerd:ID" is containerd's cgroup when the runtime takes "slice:prefix:name" for a path.
        let name = part.rsplit(':').next().unwrap_or(part);
        let name = name.strip_suffix(".scope").unwrap_or(name);
        let scoped = SCOPES.iter().find_map(|prefix| name.strip_prefix(prefix)).filter(|id| is_id(id));
        let foldered = || {
            let known = parts.iter().take(at).any(|above| {
                FOLDERS.iter().any(|folder| {
                    above == folder
                        || above.strip_prefix(folder).is_some_and(|rest| rest.starts_with(['.', '-']))
                })
            });
            ((known && is_id(name)) || is_whole_id(name) && name != *part).then_some(name)
        };
        scoped.or_else(foldered).map(Cow::Borrowed)
    })
}

fn is_id(text: &str) -> bool {
    (ID_MIN..=ID_LEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_whole_id(text: &str) -> bool {
    text.len() == ID_LEN && is_id(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f2a9c1b7d3e4f2a9c1b7d3e4f2a9c1b7d3e4f2a9c1b7d3e4f2a9c1b7d3e4f2a";

    #[test]
    fn containers_by_their_paths() {
        let pod = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a2b_3c.slice";
        for (path, found) in [
            (format!("/system.slice/docker-{ID}.scope"), true),
            (format!("/docker/{ID}"), true),
            (format!("/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{ID}.scope"), true),
            (format!("/{pod}/cri-containerd-{ID}.scope"), true),
            (format!("/{pod}/crio-{ID}.scope"), true),
            (format!("/kubepods/burstable/pod8c8b7a1e-1111-2222-3333-444455556666/{ID}"), true),
            (format!("/kubepods/besteffort/pod8c8b7a1e-1111-2222-3333-444455556666/{ID}/init"), true),
            (
                format!(
                    "/system.slice/containerd.service/kubepods-burstable-pod1a.slice:cri-containerd:{ID}"
                ),
                true,
            ),
            (format!("/machine.slice/libpod-{ID}.scope"), true),
            (format!("/machine.slice/libpod-{ID}.scope/container"), true),
            (format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"), true),
            (format!("/libpod_parent/libpod-{ID}"), true),
            (format!("/system.slice/nerdctl-{ID}.scope"), true),
            (format!("/system.slice/docker-{ID}.scope/docker/{ID}"), true),
            (format!("/machine.slice/libpod-conmon-{ID}.scope"), false),
            (format!("/home/{ID}"), false),
            ("/system.slice/docker.service".to_owned(), false),
            ("/system.slice/docker-registry.service".to_owned(), false),
            ("/docker/buildkit".to_owned(), false),
            ("/kubepods/burstable/pod8c8b7a1e-1111-2222-3333-444455556666".to_owned(), false),
            ("/user.slice/user-1000.slice/session-3.scope".to_owned(), false),
            ("/".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(container_id(&path).as_deref(), found.then_some(ID), "{path}");
        }
        assert_eq!(container_id("/docker/4f2a9c1b7d3e").as_deref(), Some("4f2a9c1b7d3e"), "short ids count");
    }

    #[test]
    fn innermost_wins() {
        let inner = ID.replace('4', "5");
        let path = format!("/docker/{ID}/docker/{inner}");
        assert_eq!(container_id(&path).as_deref(), Some(inner.as_str()));
    }

    #[test]
    fn hybrid_and_pure_files() {
        let pure = b"0::/user.slice/a b\n";
        assert_eq!(unified_path(pure), Some(&b"/user.slice/a b"[..]));
        let hybrid = format!("9:name=systemd:/docker/{ID}\n4:memory:/docker/{ID}\n1:cpu:/\n0::/\n");
        assert_eq!(unified_path(hybrid.as_bytes()), Some(&b"/"[..]));
        assert_eq!(container_of(hybrid.as_bytes()).as_deref(), Some(ID));
        assert_eq!(unified_path(b"4:memory:/0::/x\n"), None);
        assert_eq!(container_of(b""), None);
    }
}
