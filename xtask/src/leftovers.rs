//! What bindwatch or a scenario could leave on a machine: processes, programs in the kernel, cgroups, network namespaces.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::shell;

/// Depth to which the cgroup hierarchy is searched; deeper groups are containers' own.
const CGROUP_DEPTH: usize = 4;

/// How often to look before something counts as left behind, and how long to wait in between.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// How the names of our cgroups begin.
const CGROUP_PREFIX: &str = "bindwatch-";

/// How the names of the scenarios' folders begin.
const TEST_FOLDER: &str = "/bindwatch-test-";

/// How the names of the scenarios' network namespaces begin (`ip netns`).
const NETNS_PREFIX: &str = "bw-";

/// Everything of this kind that is there at one moment, each in a line for people.
pub(crate) struct Traces(BTreeSet<String>);

impl Traces {
    /// Looks at the machine.
    pub(crate) fn now() -> anyhow::Result<Self> {
        let mut found = BTreeSet::new();
        let programs = shell::output(shell::command(bpftool()).args(["prog", "show"]))
            .context("bpftool cannot list the kernel's programs")?;
        found.extend(programs.lines().filter_map(program).map(|program| format!("BPF program {program}")));
        found.extend(processes());
        for mount in cgroup2_mounts()? {
            cgroups(&mount, CGROUP_DEPTH, &mut found);
        }
        if let Ok(names) = std::fs::read_dir("/run/netns") {
            let names = names.filter_map(|name| name.ok()?.file_name().into_string().ok());
            found.extend(
                names.filter(|n| n.starts_with(NETNS_PREFIX)).map(|n| format!("network namespace {n}")),
            );
        }
        Ok(Self(found))
    }

    /// What has come since `before` and stays. The kernel frees a program a moment after its last user has gone.
    pub(crate) fn left(before: &Self) -> anyhow::Result<Vec<String>> {
        let mut looks = 0;
        loop {
            let left: Vec<String> = Self::now()?.since(before).into_iter().map(str::to_owned).collect();
            looks += 1;
            if left.is_empty() || looks == LOOKS {
                return Ok(left);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// What is there now and was not before.
    fn since<'a>(&'a self, before: &'a Self) -> Vec<&'a str> {
        self.0.difference(&before.0).map(String::as_str).collect()
    }
}

/// `17: cgroup_sock_addr  name bind4  tag …  gpl` without what changes from one look to the next.
fn program(line: &str) -> Option<String> {
    let (id, rest) = line.split_once(": ")?;
    id.parse::<u32>().ok()?;
    // systemd and container runtimes attach unnamed programs whenever a unit or a container starts; ours have names.
    let mut words = rest.split_whitespace();
    let kind = words.next()?;
    let name = words.next().filter(|word| *word == "name").and_then(|_| words.next())?;
    (!name.starts_with("sd_")).then(|| format!("{id} ({kind} {name})"))
}

/// Processes that run a program of this build (actors, and bindwatch itself), or anything in a test's folder.
fn processes() -> Vec<String> {
    let build = shell::target_dir();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let running = entries.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let program = std::fs::read_link(entry.path().join("exe")).ok()?;
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let is_of_a_test = arguments.windows(TEST_FOLDER.len()).any(|part| part == TEST_FOLDER.as_bytes());
        let ours = (program.starts_with(&build) || is_of_a_test) && pid != std::process::id();
        ours.then(|| format!("process {pid} ({})", program.display()))
    });
    running.collect()
}

fn bpftool() -> &'static Path {
    let debian = Path::new("/usr/sbin/bpftool");
    if debian.is_file() { debian } else { Path::new("bpftool") }
}

fn cgroup2_mounts() -> anyhow::Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("/proc is not mounted")?;
    let mut found = Vec::new();
    for line in mounts.lines() {
        if let [_, place, "cgroup2", ..] = line.split(' ').collect::<Vec<_>>().as_slice() {
            found.push(PathBuf::from(place));
        }
    }
    Ok(found)
}

fn cgroups(folder: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with(CGROUP_PREFIX) {
            found.insert(format!("cgroup {}", entry.path().display()));
        }
        if depth > 1 {
            cgroups(&entry.path(), depth - 1, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_programs_are_told_from_the_service_managers() {
        let line = "412: cgroup_sock_addr  name bind4  tag 2f0a3b5c1d9e8f70  gpl";
        assert_eq!(program(line).as_deref(), Some("412 (cgroup_sock_addr bind4)"));
        assert_eq!(program("9: cgroup_device  tag 03b4eaae2f14641a  gpl"), None);
        assert_eq!(program("10: cgroup_skb  name sd_fw_egress  tag 6deef7357e7b4530  gpl"), None);
        assert_eq!(program("\tloaded_at 2026-01-01T00:00:00+0000  uid 0"), None);
    }

    #[test]
    fn only_what_is_new_is_left_behind() {
        let before = Traces(["cgroup a".to_owned()].into());
        let after = Traces(["cgroup a".to_owned(), "network namespace bw-1".to_owned()].into());
        assert_eq!(after.since(&before), ["network namespace bw-1"]);
        assert_eq!(before.since(&after), Vec::<&str>::new());
    }
}
