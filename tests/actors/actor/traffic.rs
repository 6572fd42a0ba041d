//! Traffic to a port, to learn who receives it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, connect, recv, send, sockopt};

use crate::sockets::{family_of, new};
use crate::{Actor, Failure};

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl Actor {
    /// Makes connections, or sends a datagram from each of so many sockets, and keeps them.
    pub(crate) fn knock(&mut self, protocol: &str, address: &str, count: usize) -> Result<String, Failure> {
        let address: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
        let mut refused = 0;
        for _ in 0..count {
            let socket = new(protocol, family_of(&address))?;
            if protocol.starts_with("udp") {
                connect(&socket, &address)?;
                send(&socket, b"knock", SendFlags::empty())?;
                self.knocks.push(socket);
                continue;
            }
            // No TIME_WAIT is to be left.
            sockopt::set_socket_linger(&socket, Some(std::time::Duration::ZERO))?;
            match connect(&socket, &address) {
                Ok(()) => self.knocks.push(socket),
                Err(Errno::CONNREFUSED) => refused += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(format!("refused={refused}"))
    }

    /// How many of the datagrams came back, so far: nobody is there.
    pub(crate) fn unreached(&mut self) -> Result<String, Failure> {
        let before = self.knocks.len();
        let mut kept = Vec::new();
        for socket in self.knocks.drain(..) {
            match recv(&socket, &mut [0_u8; 16][..], RecvFlags::DONTWAIT) {
                Err(Errno::CONNREFUSED) => {}
                _ => kept.push(socket),
            }
        }
        self.knocks = kept;
        Ok(format!("refused={}", before - self.knocks.len()))
    }

    /// Takes what waits in a socket, connections or datagrams, and says how many there were.
    pub(crate) fn take(&self, id: u64) -> Result<String, Failure> {
        let socket = self.get(id)?;
        let stream = sockopt::socket_type(socket)? == SocketType::STREAM;
        let mut taken = 0;
        while waits(socket)? {
            if stream {
                let connection = accept_with(socket, SocketFlags::CLOEXEC)?;
                sockopt::set_socket_linger(&connection, Some(std::time::Duration::ZERO))?;
            } else {
                recv(socket, &mut [0_u8; 16][..], RecvFlags::DONTWAIT)?;
            }
            taken += 1;
        }
        Ok(format!("taken={taken}"))
    }

    /// Waits for a datagram.
    pub(crate) fn receive(&self, id: u64) -> Result<String, Failure> {
        recv(self.get(id)?, &mut [0_u8; 16][..], RecvFlags::empty())?;
        Ok(String::new())
    }
}

fn waits(socket: &OwnedFd) -> Result<bool, Failure> {
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut polled, Some(&NOW))?;
    Ok(polled.iter().any(|polled| polled.revents().contains(PollFlags::IN)))
}
