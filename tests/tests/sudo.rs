//! Under sudo the command of a `run` is the caller's: ids, groups, environment, working directory. With the real sudo, and users
//! that only the test knows: it has a mount namespace with a user database of its own.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::os::unix::fs::chown;

use scenarios::{Folder, Outcome, Run, bindwatch};

/// A user with a home, a shell and two groups more, who may do anything by sudo.
const UID: u32 = 4242;
const GID: u32 = 4343;
const DATABASE: &str = r#"
set -e
mount -t tmpfs none /mnt
cp -p /etc/passwd /etc/group /etc/shadow /mnt
echo 'bwdev:x:4242:4343:Dev:/home/ci:/bin/dash' >> /mnt/passwd
printf 'bwdev:x:4343:\nbwone:x:4344:bwdev\nbwtwo:x:4345:bwdev\n' >> /mnt/group
echo 'bwdev:*:19000:0:99999:7:::' >> /mnt/shadow
printf '%s\n' 'Defaults env_reset,use_pty,secure_path=/usr/sbin:/usr/bin:/sbin:/bin' \
    'bwdev ALL=(ALL:ALL) NOPASSWD:SETENV: ALL' > /mnt/sudoers
chmod 440 /mnt/sudoers
for file in passwd group shadow sudoers; do
    test -e /etc/$file || : > /etc/$file
    mount --bind /mnt/$file /etc/$file
done
"#;
/// Becomes that user, with this environment alone.
const AS_USER: &str = "exec setpriv --reuid=4242 --regid=4343 --init-groups env -i PATH=/opt/dev:/usr/bin:/bin \
    HOME=/home/user USER=bwdev LOGNAME=bwdev SHELL=/bin/dash MAIL=/var/mail/bwdev TERM=dumb \
    TOKEN='a b=c' LD_LIBRARY_PATH=/opt/lib XDG_RUNTIME_DIR=/run/user/4242 LANG=C ";

/// Runs a line of shell where that user is known, in a folder of the user's. `$BINDWATCH` is what is tried.
fn known(line: &str) -> (Outcome, Folder) {
    let folder = Folder::new();
    chown(folder.path(), Some(UID), Some(GID)).expect("another owner");
    let script = format!("{DATABASE}cd {}\n{line}", folder.path().display());
    let namespace = ["--mount", "--propagation", "private", "sh", "-c", &script];
    let run = Run::new("unshare").args(namespace).env("BINDWATCH", bindwatch());
    (run.folder(folder.path()).outcome().expect(0), folder)
}

/// `run` as that user calls it, by `sudo`, which has its options, and what is to be run.
fn by_sudo(options: &str, command: &str) -> (Outcome, Folder) {
    let bindwatch = bindwatch().display().to_string();
    known(&format!("{AS_USER} sudo {options} {bindwatch} run --quiet -- {command}"))
}

/// What `env` printed.
fn environment(outcome: &Outcome) -> BTreeMap<String, String> {
    let variables = outcome.stdout.lines().filter_map(|line| line.trim_end().split_once('='));
    variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn variables<const N: usize>(variables: [(&str, &str); N]) -> BTreeMap<String, String> {
    variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// As the caller has it, to the last variable.
fn of_the_caller() -> BTreeMap<String, String> {
    variables([
        ("PATH", "/opt/dev:/usr/bin:/bin"),
        ("HOME", "/home/user"),
        ("USER", "bwdev"),
        ("LOGNAME", "bwdev"),
        ("SHELL", "/bin/dash"),
        ("MAIL", "/var/mail/bwdev"),
        ("TERM", "dumb"),
        ("TOKEN", "a b=c"),
        ("LD_LIBRARY_PATH", "/opt/lib"),
        ("XDG_RUNTIME_DIR", "/run/user/4242"),
        ("LANG", "C"),
    ])
}

#[test]
fn ids_groups_and_folder_are_the_callers() {
    let (outcome, folder) =
        by_sudo("-n", "sh -c 'id -ru; id -u; id -g; id -G; pwd; grep CapEff /proc/self/status'");
    let lines: Vec<&str> = outcome.stdout.lines().map(str::trim_end).collect();
    let place = folder.path().display().to_string();
    let expected = ["4242", "4242", "4343", "4343 4344 4345", &place, "CapEff:\t0000000000000000"];
    assert_eq!(lines, expected, "{outcome}");
}

#[test]
fn the_environment_is_the_callers() {
    for options in ["-n", "-n -E", "-n -H"] {
        let (outcome, _folder) = by_sudo(options, "env");
        assert_eq!(environment(&outcome), of_the_caller(), "{options}: {outcome}");
    }
}

#[test]
fn what_is_given_to_sudo_or_behind_it_is_there_as_well() {
    let mut expected = of_the_caller();
    expected.extend(variables([("EXTRA", "1"), ("LANG", "de_DE.UTF-8")]));
    let (outcome, _folder) = by_sudo("-n EXTRA=1 LANG=de_DE.UTF-8 USER=root", "env");
    assert_eq!(environment(&outcome), expected, "{outcome}");
    // By a program of root's between them. Its own home, session and names are not the caller's.
    let between = "env -u SUDO_COMMAND EXTRA=1 LANG=de_DE.UTF-8 HOME=/root XDG_RUNTIME_DIR=/run/user/0";
    let (outcome, _folder) = by_sudo(&format!("-n {between}"), "env");
    assert_eq!(environment(&outcome), expected, "{outcome}");
}

/// A name for the job is a variable of bindwatch's own.
#[test]
fn a_job_finds_its_name_in_it() {
    let bindwatch = bindwatch().display().to_string();
    let line = format!("{AS_USER} sudo -n {bindwatch} run --quiet --name unit -- env");
    let (outcome, _folder) = known(&line);
    let mut expected = of_the_caller();
    expected.extend(variables([("BINDWATCH_NAME", "unit")]));
    assert_eq!(environment(&outcome), expected, "{outcome}");
}

/// Where sudo is no more (it executes its command itself, without a session of PAM), the user database tells.
#[test]
fn where_sudo_is_not_to_be_found_the_user_database_tells() {
    let root = "env -i PATH=/usr/bin:/bin HOME=/root USER=root LOGNAME=root SHELL=/bin/bash MAIL=/var/mail/root \
                SUDO_COMMAND=x SUDO_PS1=x XDG_RUNTIME_DIR=/run/user/0 TERM=dumb";
    let sudo = "SUDO_UID=4242 SUDO_GID=4343 SUDO_USER=bwdev";
    let common =
        variables([("PATH", "/usr/bin:/bin"), ("TERM", "dumb"), ("USER", "bwdev"), ("LOGNAME", "bwdev")]);
    let (outcome, _folder) = known(&format!("exec {root} {sudo} $BINDWATCH run --quiet -- env"));
    let mut expected = common.clone();
    expected.extend(variables([("HOME", "/home/ci"), ("SHELL", "/bin/dash"), ("MAIL", "/var/mail/bwdev")]));
    assert_eq!(environment(&outcome), expected, "{outcome}");
    // The same by name.
    let (outcome, _folder) = known(&format!("exec {root} $BINDWATCH run --quiet --user bwdev -- env"));
    assert_eq!(environment(&outcome), expected, "{outcome}");
    // Nobody knows this user.
    let sudo = "SUDO_UID=4949 SUDO_GID=4950 SUDO_USER=bwdev";
    let (outcome, _folder) = known(&format!("exec {root} {sudo} $BINDWATCH run --quiet -- env"));
    let mut expected = common;
    expected.extend(variables([("HOME", "/"), ("SHELL", "/bin/sh")]));
    assert_eq!(environment(&outcome), expected, "{outcome}");
}
