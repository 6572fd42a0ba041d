//! How an actor multiplies: fork, spawn, exec.

#![expect(
    unsafe_code,
    reason = "fork(2), and descriptors that come by number through exec, have no safe form"
)]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::unistd::ForkResult;
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use crate::bare::fork_as;
use crate::{Actor, Failure};

/// The line to a child.
pub(crate) struct Channel(BufReader<UnixStream>);

impl Actor {
    pub(crate) fn fork(&mut self, pid: Option<libc::pid_t>) -> Result<String, Failure> {
        let (ours, theirs) = UnixStream::pair()?;
        let forked = match pid {
            // SAFETY: the actor has no other thread here: `threads` joins those it starts.
            None => unsafe { nix::unistd::fork() }?,
            Some(pid) => fork_as(pid)?,
        };
        match forked {
            ForkResult::Parent { child } => Ok(self.child(ours, child.as_raw().unsigned_abs())),
            ForkResult::Child => {
                // Or the line to the parent would stay open when the parent is gone, and this child with it.
                drop(ours);
                self.output = File::from(OwnedFd::from(theirs.try_clone()?));
                self.input = File::from(OwnedFd::from(theirs));
                self.children.clear();
                self.unread.clear();
                while let Some(command) = self.next_line() {
                    if !self.obey(&command) {
                        std::process::exit(0);
                    }
                }
                if self.stays {
                    let _interrupted = rustix::event::poll(&mut [], None);
                }
                std::process::exit(0);
            }
        }
    }

    pub(crate) fn spawn(&mut self, ids: &[&str]) -> Result<String, Failure> {
        let (ours, theirs) = UnixStream::pair()?;
        let numbers = self.inherit(ids, true)?;
        let child = Command::new(std::env::current_exe()?)
            .arg(adopting(&numbers))
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        self.inherit(ids, false)?;
        let answer = self.child(ours, child.id());
        Ok(answer)
    }

    pub(crate) fn leak(&self, id: &str, program: &str, arguments: &[&str]) -> Result<String, Failure> {
        self.inherit(&[id], true)?;
        let mut command = Command::new(program);
        let child = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = child.spawn()?;
        self.inherit(&[id], false)?;
        Ok(format!("pid={}", child.id()))
    }

    /// Takes a descriptor out of another process.
    pub(crate) fn fetch(&mut self, pid: i32, fd: RawFd) -> Result<String, Failure> {
        let pid = rustix::process::Pid::from_raw(pid).ok_or(Failure::Usage)?;
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let flags = rustix::process::PidfdGetfdFlags::empty();
        let socket = rustix::process::pidfd_getfd(process, fd, flags)?;
        Ok(format!("id={}", self.keep(socket)))
    }

    pub(crate) fn exec(&mut self, ids: &[&str]) -> Result<String, Failure> {
        let numbers = self.inherit(ids, true)?;
        let error = Command::new(std::env::current_exe()?)
            .arg(adopting(&numbers))
            .arg("pid")
            .stdin(Stdio::from(OwnedFd::from(self.input.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(self.output.try_clone()?)))
            .exec();
        Err(error.into())
    }

    pub(crate) fn relay(&mut self, child: u64, command: &[&str]) -> Result<String, Failure> {
        let channel = &mut self.children.get_mut(&child).ok_or(Failure::Usage)?.0;
        writeln!(channel.get_mut(), "{}", command.join(" "))?;
        let mut answer = String::new();
        channel.read_line(&mut answer)?;
        let answer = answer.trim_end();
        match answer.strip_prefix("ok").map(str::trim_start) {
            Some(rest) => Ok(rest.to_owned()),
            None => Err(Failure::Child(answer.to_owned())),
        }
    }

    /// Takes the sockets that came through exec by these numbers.
    pub(crate) fn adopt(&mut self, numbers: &str) {
        for number in numbers.split(',').filter_map(|number| number.parse::<RawFd>().ok()) {
            // SAFETY: whoever started this actor left the descriptor open for it, and named it once.
            let socket = unsafe { OwnedFd::from_raw_fd(number) };
            self.keep(socket);
        }
    }

    /// Lets these sockets through exec, or no longer.
    fn inherit(&self, ids: &[&str], inherited: bool) -> Result<Vec<RawFd>, Failure> {
        let mut numbers = Vec::new();
        for id in ids {
            let socket = self.get(id.parse()?)?;
            let mut flags = fcntl_getfd(socket)?;
            flags.set(FdFlags::CLOEXEC, !inherited);
            fcntl_setfd(socket, flags)?;
            numbers.push(socket.as_raw_fd());
        }
        Ok(numbers)
    }

    fn child(&mut self, channel: UnixStream, pid: u32) -> String {
        let number = self.children.last_key_value().map_or(1, |(last, _)| last + 1);
        self.children.insert(number, Channel(BufReader::new(channel)));
        format!("child={number} pid={pid}")
    }
}

fn adopting(numbers: &[RawFd]) -> String {
    let numbers: Vec<String> = numbers.iter().map(RawFd::to_string).collect();
    format!("--adopt={}", numbers.join(","))
}
