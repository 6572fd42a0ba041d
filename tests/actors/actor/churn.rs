//! Many connections, and who closes them: whoever closes first is left with a TIME_WAIT.

use std::io::Read as _;
use std::net::{Shutdown, SocketAddr, TcpStream};

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::{Actor, Failure, name};

/// Which side of a connection closes it first.
#[derive(Clone, Copy)]
enum Turn {
    /// This one.
    First,
    /// The other one.
    Last,
}

impl Turn {
    fn of(word: &str) -> Result<Self, Failure> {
        match word {
            "first" => Ok(Self::First),
            "last" => Ok(Self::Last),
            _ => Err(Failure::Usage),
        }
    }

    /// Closes the connection when it is this side's turn, and returns when the other side has closed it too: were it
    /// left to itself, a full queue of the listener could make it end in a reset, without TIME_WAIT.
    fn close(self, mut stream: TcpStream) {
        if matches!(self, Self::First) {
            let _done = stream.shutdown(Shutdown::Write);
        }
        let _end = stream.read(&mut [0; 1]);
    }
}

impl Actor {
    pub(crate) fn serve(&mut self, id: u64, who: &str) -> Result<String, Failure> {
        let turn = Turn::of(who)?;
        let listener = self.get(id)?.try_clone()?;
        std::thread::spawn(move || {
            while let Ok(connection) = accept_with(&listener, SocketFlags::CLOEXEC) {
                turn.close(TcpStream::from(connection));
            }
        });
        Ok(String::new())
    }
}

pub(crate) fn churn(count: u64, address: &str, who: &str) -> Result<String, Failure> {
    let turn = Turn::of(who)?;
    let address: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
    for made in 0..count {
        match TcpStream::connect(address) {
            Ok(stream) => turn.close(stream),
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                return Ok(format!("made={made} failed={}", name(errno)));
            }
        }
    }
    Ok(format!("made={count}"))
}
