//! Reading `/proc/PID/cgroup`, and what a cgroup's path says about containers.

use std::borrow::Cow;

/// Length of a container id, in hexadecimal digits: docker, containerd's CRI plugin, nerdctl, CRI-O and podman all make 64, in
/// small letters. The short ones are for people, and no cgroup has them.
const ID_LEN: usize = 64;

/// What container managers put before the id in the name of a container's cgroup, systemd's scope or not.
///
/// `libpod-payload-` is podman's where it splits the cgroup of a service (`--cgroups=split`, as quadlets do).
const PREFIXES: [&str; 7] =
    ["docker-", "cri-containerd-", "crio-", "libpod-", "libpod-payload-", "nerdctl-", "containerd-"];

/// Folders in which docker's cgroupfs driver names a cgroup by the container's id alone: its own, and that of GitHub's runners.
const FOLDERS: [&str; 2] = ["docker", "actions_job"];

/// containerd's namespaces: without systemd its clients make `/NAMESPACE/ID`. `default` is that of nerdctl and ctr, `k8s.io` of pods.
const NAMESPACES: [&str; 2] = ["default", "k8s.io"];

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
///
/// A path that a cgroup namespace cuts begins with `..`. Where that takes the folder away which says what an id belongs to,
/// there is none.
#[must_use]
pub fn container_id(path: &str) -> Option<Cow<'_, str>> {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | "..")).collect();
    (0..parts.len()).rev().find_map(|at| id_at(&parts, at)).map(Cow::Borrowed)
}

/// The id, if the last of `parts[..=at]` is the cgroup of a container.
fn id_at<'a>(parts: &[&'a str], at: usize) -> Option<&'a str> {
    let part = *parts.get(at)?;
    let name = part.strip_suffix(".scope").unwrap_or(part);
    if let Some(id) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix).filter(|id| is_id(id))) {
        return Some(id);
    }
    // A runtime that does not know systemd's "slice:prefix:id" takes it for a name.
    if let [_, prefix, id] = part.split(':').collect::<Vec<_>>()[..] {
        let known = PREFIXES.iter().any(|known| known.strip_suffix('-') == Some(prefix));
        return (known && is_id(id)).then_some(id);
    }
    let above = parts.get(..at)?;
    (is_id(part) && names_by_id(above)).then_some(part)
}

/// Whether a folder has cgroups that are named by the container's id alone.
fn names_by_id(folder: &[&str]) -> bool {
    let Some((last, above)) = folder.split_last() else { return false };
    let in_pod = last.starts_with("pod") && above.contains(&"kubepods")
        || last.ends_with(".slice") && last.contains("kubepods-");
    // A namespace is a folder of the root, be it that of a container.
    let in_namespace = || {
        NAMESPACES.contains(last)
            && above.len().checked_sub(1).is_none_or(|outer| id_at(above, outer).is_some())
    };
    in_pod || FOLDERS.contains(last) || in_namespace()
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f2a9c1b7d3e4f2a9c1b7d3e4f2a9c1b7d3e4f2a9c1b7d3e4f2a9c1b7d3e4f2a";

    /// The parent of a pod's containers, by systemd and without.
    const SLICE: &str = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a2b_3c.slice";
    const POD: &str = "kubepods/besteffort/pod8c8b7a1e-1111-2222-3333-444455556666";
    /// A user's own services.
    const USER: &str = "user.slice/user-1000.slice/user@1000.service";

    #[test]
    fn containers_by_their_paths() {
        for path in [
            // docker, with systemd and without, rootless, as GitHub's runners have it, and in docker.
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!("/{USER}/app.slice/docker-{ID}.scope"),
            format!("/actions_job/{ID}"),
            format!("/system.slice/docker-{ID}.scope/docker/{ID}"),
            format!("/docker/{ID}/init.scope"),
            format!("/docker/{ID} (deleted)"),
            // Pods: containerd, CRI-O and docker, with systemd and without; in kind; and where the runtime does not know systemd.
            format!("/{SLICE}/cri-containerd-{ID}.scope"),
            format!("/{SLICE}/crio-{ID}.scope"),
            format!("/{SLICE}/crio-{ID}.scope/container"),
            format!("/{SLICE}/docker-{ID}.scope"),
            format!("/{POD}/{ID}"),
            format!("/{POD}/{ID}/init"),
            format!("/{POD}/crio-{ID}"),
            format!("/kubepods/burstable/pod8c8b7a1e-1111-2222-3333-444455556666/{ID}"),
            format!("/kubepods/pod8c8b7a1e-1111-2222-3333-444455556666/{ID}"),
            format!("/docker/{}/kubelet/{POD}/{ID}", ID.replace('4', "5")),
            format!(
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod1a.slice/cri-containerd-{ID}.scope"
            ),
            format!("/system.slice/containerd.service/kubepods-burstable-pod1a.slice:cri-containerd:{ID}"),
            format!("/kubepods-pod1a.slice:cri-containerd:{ID}"),
            format!("/system.slice:docker:{ID}"),
            // containerd by itself.
            format!("/system.slice/nerdctl-{ID}.scope"),
            format!("/{USER}/user.slice/nerdctl-{ID}.scope"),
            format!("/default/{ID}"),
            format!("/k8s.io/{ID}"),
            format!("/docker/{}/default/{ID}", ID.replace('4', "5")),
            // podman, rootless, in a pod, without systemd, and in the cgroup of a service.
            format!("/machine.slice/libpod-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/{USER}/user.slice/libpod-{ID}.scope/container"),
            format!("/machine.slice/machine-libpod_pod_{}.slice/libpod-{ID}.scope", ID.replace('4', "5")),
            format!("/libpod_parent/libpod-{ID}"),
            format!("/system.slice/web.service/libpod-payload-{ID}"),
            format!("/{USER}/app.slice/web.service/libpod-payload-{ID}/container"),
            // As a cgroup namespace shows those outside.
            format!("/../../system.slice/docker-{ID}.scope"),
            format!("/../docker-{ID}.scope"),
            format!("/../../docker/{ID}"),
            format!("/../../default/{ID}"),
            format!("/../../../{POD}/{ID}"),
        ] {
            assert_eq!(container_id(&path).as_deref(), Some(ID), "{path}");
        }
    }

    #[test]
    fn what_is_no_container() {
        let (short, long, capital) = (&ID[..63], format!("{ID}0"), ID.to_uppercase());
        for path in [
            // What looks after containers.
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/{SLICE}/crio-conmon-{ID}.scope"),
            format!("/{POD}/crio-conmon-{ID}"),
            format!("/libpod_parent/{ID}/libpod-conmon-{ID}"),
            "/system.slice/web.service/supervisor".to_owned(),
            "/system.slice/docker.service".to_owned(),
            "/docker/buildkit".to_owned(),
            // Pods.
            format!("/{POD}"),
            format!("/{SLICE}"),
            format!("/libpod_parent/{ID}"),
            format!("/machine.slice/machine-libpod_pod_{ID}.slice"),
            // No ids.
            format!("/docker/{short}"),
            format!("/docker/{long}"),
            format!("/docker/{capital}"),
            format!("/docker/{}", &ID[..12]),
            format!("/docker/{}g", short),
            format!("/docker/{}\u{e9}", &ID[..62]),
            format!("/system.slice/docker-{short}.scope"),
            format!("/system.slice/libpod-{long}.scope"),
            format!("/system.slice/docker-{ID}.service"),
            format!("/system.slice/docker-{ID}.scope.d"),
            format!("/system.slice/docker-docker-{ID}.scope"),
            format!("/system.slice/my-docker-{ID}.scope"),
            "/system.slice/docker-registry.service".to_owned(),
            // Ids of something else.
            format!("/{ID}"),
            format!("/{ID}.scope"),
            format!("/../{ID}"),
            format!("/builds/{ID}"),
            format!("/builds/x:{ID}"),
            format!("/builds/x:y:{ID}"),
            format!("/builds/x.slice:docker:y:{ID}"),
            format!("/builds/default/{ID}"),
            format!("/defaults/{ID}"),
            format!("/docker/cache/{ID}"),
            format!("/podcasts/{ID}"),
            format!("/kubepods/burstable/{ID}"),
            format!("/{USER}/app.slice/{ID}"),
            "/user.slice/user-1000.slice/session-3.scope".to_owned(),
            "/".to_owned(),
            String::new(),
        ] {
            assert_eq!(container_id(&path), None, "{path}");
        }
    }

    #[test]
    fn innermost_wins() {
        let inner = ID.replace('4', "5");
        for path in [
            format!("/docker/{ID}/docker/{inner}"),
            format!("/system.slice/docker-{ID}.scope/libpod_parent/libpod-{inner}"),
            format!("/{POD}/{ID}/docker/{inner}"),
        ] {
            assert_eq!(container_id(&path).as_deref(), Some(inner.as_str()), "{path}");
        }
        // What a container calls its own cgroups is its own affair.
        let path = format!("/docker/{ID}/builds/{inner}");
        assert_eq!(container_id(&path).as_deref(), Some(ID));
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
        let old = format!("12:pids:/{POD}/{ID}\n3:cpu,cpuacct:/{POD}/{ID}\n1:name=systemd:/{POD}/{ID}\n");
        assert_eq!(unified_path(old.as_bytes()), None);
        assert_eq!(container_of(old.as_bytes()).as_deref(), Some(ID));
    }
}
