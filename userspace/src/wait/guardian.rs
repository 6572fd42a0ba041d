//! Lets everything proceed once bindwatch has ended.

use std::os::fd::OwnedFd;

use super::Outstanding;
use crate::probe::seccomp::{Answer, Listener};

/// The listener and what waits there, in a process of its own.
#[derive(Debug)]
pub struct Guardian {
    listener: Listener,
    outstanding: OwnedFd,
}

impl Guardian {
    /// Of the two descriptors that bindwatch sends: the listener, and the numbers of the calls.
    #[must_use]
    pub fn of(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let [listener, outstanding] = descriptors.try_into().ok()?;
        Some(Self { listener: listener.into(), outstanding })
    }

    /// Answers what bindwatch has left unanswered, and then every call, until nobody is left who could make one: the
    /// kernel carries it out, as if nothing had been. Blocks.
    pub fn let_everything_pass(&self) {
        for id in Outstanding::read(&self.outstanding) {
            // It may have been answered, or not have come yet.
            let _ = self.listener.answer(id, Answer::Continue);
        }
        while self.listener.has_call() {
            if let Ok(call) = self.listener.receive() {
                let _ = self.listener.answer(call.id, Answer::Continue);
            }
        }
    }
}
