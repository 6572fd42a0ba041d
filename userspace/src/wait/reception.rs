//! Taking calls in: the thread that every bind and listen of the command goes through.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use tokio::sync::Notify;

use super::call::{self, Unread, Wanted};
use super::caller::{Callers, name_of};
use super::carrier::{self, Carrier, Order};
use super::outstanding::{Outstanding, Place};
use crate::clock;
use crate::event::{BootTime, Cookie, ProcessKey, Tid, WaitingCall};
use crate::probe::seccomp::{Answer, Listener, Notification, Which};

/// Ports below this one take a capability, unless `net.ipv4.ip_unprivileged_port_start` says otherwise.
const LOW_PORTS: u16 = 1024;

/// Where calls are taken in.
pub struct Reception {
    pub(super) listener: Listener,
    pub(super) outstanding: Outstanding,
    pub(super) carrier: Arc<Carrier>,
    /// Everything is left to the kernel.
    lets_pass: AtomicBool,
    /// Held while a call is looked at.
    busy: Mutex<()>,
    /// A process of the command has restricted itself.
    restricted: AtomicBool,
    /// A process of the command could not be looked into, and that was told.
    hidden: AtomicBool,
    news: Mutex<Vec<News>>,
    bell: Notify,
}

/// What the loop of the recording is told.
pub enum News {
    /// A call waits.
    Waits(Box<Held>),
    /// A call that waited was interrupted, made again, and has succeeded at once.
    Done(Cookie, u32, BootTime),
    /// Too many wait: this one did not.
    Full,
    /// A process restricted itself (Landlock): from now on nothing is carried out for others.
    Restricted,
    /// A process may not be looked into: its calls are left to the kernel.
    Hidden,
}

/// A call that failed with EADDRINUSE and has not been answered.
pub struct Held {
    pub(super) id: u64,
    pub(super) place: Place,
    pub(super) process: ProcessKey,
    pub(super) tid: u32,
    pub(super) comm: String,
    pub(super) cookie: Cookie,
    pub(super) socket: OwnedFd,
    pub(super) wanted: Wanted,
    pub(super) low: bool,
    pub(super) at: BootTime,
}

impl Held {
    pub(crate) const fn cookie(&self) -> Cookie {
        self.cookie
    }

    pub(crate) const fn process(&self) -> ProcessKey {
        self.process
    }

    pub(crate) const fn tid(&self) -> Tid {
        Tid(self.tid)
    }

    /// Name of its thread; empty when that was gone.
    pub(crate) fn comm(&self) -> &str {
        &self.comm
    }

    /// When it had failed.
    pub(crate) const fn at(&self) -> BootTime {
        self.at
    }

    pub(crate) const fn which(&self) -> WaitingCall {
        self.wanted.which()
    }

    /// The address that a bind wants; None of a listen, whose socket has its address.
    pub(crate) const fn address(&self) -> Option<SocketAddr> {
        match self.wanted {
            Wanted::Bind(address) => Some(address),
            Wanted::Listen(_) => None,
        }
    }
}

impl Reception {
    /// Of the calls that arrive at `listener`.
    #[must_use]
    pub fn new(listener: Listener, outstanding: Outstanding, carrier: Arc<Carrier>) -> Self {
        Self {
            listener,
            outstanding,
            carrier,
            lets_pass: AtomicBool::new(false),
            busy: Mutex::new(()),
            restricted: AtomicBool::new(false),
            hidden: AtomicBool::new(false),
            news: Mutex::new(Vec::new()),
            bell: Notify::new(),
        }
    }

    /// Starts the thread. It ends with bindwatch, or when nobody is left who could call.
    ///
    /// # Errors
    /// When there can be no thread, or `/proc` is not there.
    pub fn open(self: &Arc<Self>) -> io::Result<()> {
        let callers = Callers::new()?;
        self.listener.take_turns();
        let reception = Arc::clone(self);
        let serve = move || reception.serve(callers);
        std::thread::Builder::new().name("waits".to_owned()).spawn(serve).map(drop)
    }

    /// Leaves every call to the kernel from now on. When this returns, no other is under way.
    pub(super) fn let_pass(&self) {
        self.lets_pass.store(true, Ordering::SeqCst);
        drop(self.busy.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits for news. Cancel safe.
    pub(crate) async fn has_news(&self) {
        self.bell.notified().await;
    }

    /// What has come.
    pub(super) fn take_news(&self) -> Vec<News> {
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, news: News) {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).push(news);
        self.bell.notify_one();
    }

    fn serve(&self, mut callers: Callers) {
        carrier::give_up_low_ports();
        loop {
            match self.listener.receive() {
                Ok(call) => {
                    self.outstanding.received(call.id);
                    let _busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(answer) = self.look_at(&call, &mut callers) {
                        let _ = self.listener.answer(call.id, answer);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Its caller was interrupted before it could be received; or there are none any more.
                Err(error)
                    if error.raw_os_error() == Some(Errno::NOENT.raw_os_error())
                        && !self.listener.is_abandoned() => {}
                Err(_) => return,
            }
        }
    }

    /// What becomes of a call at once; None when it was answered, or waits.
    fn look_at(&self, call: &Notification, callers: &mut Callers) -> Option<Answer> {
        let leave_it = Some(Answer::Continue);
        if call.which == Which::Restrict && !self.restricted.swap(true, Ordering::Relaxed) {
            self.tell(News::Restricted);
        }
        if self.restricted.load(Ordering::Relaxed) || self.lets_pass.load(Ordering::SeqCst) {
            return leave_it;
        }
        let read = call::read(call);
        let found = read.and_then(|asked| match callers.descriptor(call.tid, asked.fd) {
            Ok(found) => Ok((asked.wanted, found)),
            Err(Errno::PERM) => Err(Unread::Hidden),
            Err(_) => Err(Unread::Other),
        });
        if matches!(found, Err(Unread::Hidden)) && !self.hidden.swap(true, Ordering::Relaxed) {
            self.tell(News::Hidden);
        }
        let Ok((wanted, (caller, socket))) = found else { return leave_it };
        let is_ip = matches!(carrier::protocol(socket.as_fd()), Some(6 | 17 | 136 | 262));
        let Ok(cookie) = rustix::net::sockopt::socket_cookie(&socket) else { return leave_it };
        let (low, ours) = match wanted {
            Wanted::Bind(address) if address.port() < LOW_PORTS => match callers.may_bind_low(call.tid) {
                Some(low) => (low, true),
                None => (false, false),
            },
            Wanted::Bind(_) => (false, true),
            // Without a port the kernel chooses one, and there is nothing to wait for.
            Wanted::Listen(_) => (false, has_port(&socket)),
        };
        if !is_ip || !ours || !callers.has_our_label(call.tid) {
            return leave_it;
        }
        // The thread still waits: it is the one whose memory was read and whose socket this is.
        if !self.listener.is_valid(call.id) {
            return None;
        }
        let cookie = Cookie(cookie);
        if self.carrier.has_succeeded(cookie, call.tid, wanted) {
            return Some(Answer::Done);
        }
        let (tid, process) = (call.tid, caller.process);
        let order = Order { caller: process, tid, cookie, socket: socket.as_fd(), wanted, low };
        match self.carrier.carry_out(&order) {
            Ok(()) => {
                // Whoever closes it from now on closes the last descriptor.
                drop(socket);
                if matches!(self.listener.answer(call.id, Answer::Done), Ok(false)) {
                    self.carrier.was_not_told(cookie, tid, wanted);
                } else if self.carrier.has_waited(cookie) {
                    self.tell(News::Done(cookie, tid, clock::boot_now()));
                }
                None
            }
            Err(Errno::ADDRINUSE) => {
                let Some(place) = self.outstanding.waits(call.id) else {
                    self.tell(News::Full);
                    return leave_it;
                };
                self.carrier.waits(cookie);
                let comm = name_of(process, tid);
                let at = clock::boot_now();
                let id = call.id;
                let held = Held { id, place, process, tid, comm, cookie, socket, wanted, low, at };
                self.tell(News::Waits(Box::new(held)));
                None
            }
            Err(_) => leave_it,
        }
    }
}

fn has_port(socket: &OwnedFd) -> bool {
    let address = rustix::net::getsockname(socket).ok();
    address.and_then(|any| SocketAddr::try_from(any).ok()).is_some_and(|address| address.port() != 0)
}
