//! `__launch`: from a process of bindwatch into the command.
//!
//! It is a program of its own, started anew, so that it is single-threaded: joining the cgroup and dropping privileges
//! then concern the whole process, and nothing of bindwatch's threads or handlers is inherited.

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid, initgroups, setgid, setuid};

use super::environment::{self, Entry, Environment};
use super::shown;
use crate::probe::seccomp;

/// Exit code when bindwatch fails before the command is started.
const EXIT_SETUP: u8 = 125;
/// Exit code when the command cannot be executed.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// Exit code when the command is not found.
pub const EXIT_NOT_FOUND: u8 = 127;

/// What `__launch` was asked to do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    cgroup: PathBuf,
    uid: Option<u32>,
    gid: Option<u32>,
    user: Option<OsString>,
    home: Option<OsString>,
    shell: Option<OsString>,
    /// The user called sudo, and the environment is that of the call.
    called_sudo: bool,
    /// The socket over which the listener is wanted.
    hand_over: Option<i32>,
    command: Vec<OsString>,
}

/// Becomes the command: `--cgroup DIRECTORY [--uid N --gid N --user-name NAME [--home PATH] [--shell PATH] [--environment
/// caller]] [--hand-over N] -- CMD [ARG]…`.
///
/// Returns only when that failed, after one line on standard error, with the exit code.
#[must_use]
pub fn launch(arguments: &[OsString]) -> u8 {
    let (message, code) = match parse(arguments) {
        Some(plan) => {
            // As root: whose it is may not look into sudo.
            let environment = environment_of(&plan);
            match enter(&plan) {
                Ok(()) => become_command(&plan, environment),
                Err(message) => (message, EXIT_SETUP),
            }
        }
        None => ("__launch is an inner stage of bindwatch run, not a command".to_owned(), EXIT_SETUP),
    };
    let _ = writeln!(io::stderr(), "bindwatch: {message}");
    code
}

fn parse(arguments: &[OsString]) -> Option<Plan> {
    let mut plan = Plan::default();
    let mut rest = arguments.iter();
    loop {
        let option = rest.next()?;
        if option == "--" {
            break;
        }
        let value = rest.next()?;
        match option.to_str()? {
            "--cgroup" => plan.cgroup = value.into(),
            "--uid" => plan.uid = Some(value.to_str()?.parse().ok()?),
            "--gid" => plan.gid = Some(value.to_str()?.parse().ok()?),
            "--user-name" => plan.user = Some(value.clone()),
            "--hand-over" => plan.hand_over = Some(value.to_str()?.parse().ok()?),
            "--home" => plan.home = Some(value.clone()),
            "--shell" => plan.shell = Some(value.clone()),
            "--environment" if value == "caller" => plan.called_sudo = true,
            _ => return None,
        }
    }
    plan.command = rest.cloned().collect();
    let users = [plan.uid.is_some(), plan.gid.is_some(), plan.user.is_some()];
    let whole = users == [true; 3] || users == [false; 3];
    (whole && !plan.command.is_empty() && plan.cgroup.is_absolute()).then_some(plan)
}

/// Joins the cgroup, hands over its binds where that is wanted, then becomes the user: the other way round it could not,
/// or would have to give up set-user-ID programs.
fn enter(plan: &Plan) -> Result<(), String> {
    let procs = plan.cgroup.join("cgroup.procs");
    std::fs::write(&procs, "0")
        .map_err(|error| format!("cannot join {}: {error}", shown(procs.as_os_str())))?;
    if let Some(number) = plan.hand_over {
        hand_over(number)?;
    }
    let (Some(uid), Some(gid), Some(user)) = (plan.uid, plan.gid, &plan.user) else { return Ok(()) };
    let failed = |what: &str, errno| format!("cannot become the user {}: {what}: {errno}", shown(user));
    let name = CString::new(user.as_encoded_bytes()).map_err(|_| failed("its name", nix::Error::EINVAL))?;
    initgroups(&name, Gid::from_raw(gid)).map_err(|errno| failed("its groups", errno))?;
    setgid(Gid::from_raw(gid)).map_err(|errno| failed("its group", errno))?;
    // As root this sets the real, effective and saved id: there is no way back.
    setuid(Uid::from_raw(uid)).map_err(|errno| failed("its id", errno))
}

/// Lets bindwatch have this process's binds, and waits until it takes care of them.
fn hand_over(number: i32) -> Result<(), String> {
    let failed = |what: &dyn std::fmt::Display| format!("cannot let binds wait: {what}");
    let line = seccomp::inherited(number).map_err(|error| failed(&error))?;
    let listener = seccomp::hand_over().map_err(|refusal| failed(&refusal))?;
    crate::wait::send(&line, &[listener.as_fd()]).map_err(|error| failed(&error))?;
    drop(listener);
    if seccomp::is_taken_care_of() {
        Ok(())
    } else {
        Err(failed(&"bindwatch has ended, or this kernel cannot carry out what was handed over (Linux 5.5)"))
    }
}

/// The user's environment; None where the command has that of bindwatch.
fn environment_of(plan: &Plan) -> Option<Environment> {
    let (name, uid) = (plan.user.as_deref()?, plan.uid?);
    let caller = if plan.called_sudo { environment::of_caller(uid) } else { None };
    let entry = Entry { name, home: plan.home.as_deref(), shell: plan.shell.as_deref() };
    Some(environment::merged(caller, entry, std::env::vars_os()))
}

/// Executes the command; what it returns is why that failed.
fn become_command(plan: &Plan, environment: Option<Environment>) -> (String, u8) {
    let Some((program, arguments)) = plan.command.split_first() else {
        return ("no command was given".to_owned(), EXIT_SETUP);
    };
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(environment) = environment {
        // The program is looked for in the PATH that it gets.
        command.env_clear().envs(environment);
    }
    let error = command.exec();
    let name = shown(program);
    let is_path = |program: &OsStr| program.as_encoded_bytes().contains(&b'/');
    match error.kind() {
        io::ErrorKind::NotFound if is_path(program) && Path::new(program).exists() => (
            format!(
                "cannot execute {name}: the interpreter in its first line, or its loader, does not exist"
            ),
            EXIT_NOT_EXECUTABLE,
        ),
        io::ErrorKind::NotFound if is_path(program) => {
            (format!("cannot execute {name}: there is no such file"), EXIT_NOT_FOUND)
        }
        io::ErrorKind::NotFound => (format!("cannot execute {name}: not found in PATH"), EXIT_NOT_FOUND),
        _ => (format!("cannot execute {name}: {error}"), EXIT_NOT_EXECUTABLE),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn parsed(line: &str) -> Option<Plan> {
        parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn arguments() {
        let plan = parsed(
            "--cgroup /c/x --uid 7 --gid 8 --user-name u --home /home/u --environment caller -- make --cgroup y",
        );
        let plan = plan.unwrap();
        assert!(plan.called_sudo);
        assert_eq!((plan.uid, plan.gid, plan.cgroup.to_str()), (Some(7), Some(8), Some("/c/x")));
        assert_eq!(plan.command, ["make", "--cgroup", "y"], "what follows -- is the command's");
        assert_eq!(parsed("--cgroup /c -- -- x").unwrap().command, ["--", "x"]);
        assert_eq!(parsed("--cgroup /c -- x").unwrap().user, None);
        for wrong in [
            "--cgroup /c",
            "--cgroup /c --",
            "-- x",
            "--cgroup c -- x",
            "--cgroup /c --uid 7 -- x",
            "--cgroup /c --uid x --gid 8 --user-name u -- x",
            "--cgroup /c --gid 8 --user-name u -- x",
            "--other /c -- x",
            "--cgroup /c --environment x -- x",
            "",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
