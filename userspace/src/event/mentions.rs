//! What an event names: sockets and processes that others must have told of before.

use super::{Body, Cookie, ProcessKey};

impl Body {
    /// The socket that this is about.
    #[must_use]
    pub const fn cookie(&self) -> Option<Cookie> {
        match self {
            Self::Socket(found) => Some(found.socket.cookie),
            Self::Bind(bind) => Some(bind.socket.cookie),
            Self::BindFailed(failed) => Some(failed.socket.cookie),
            Self::Denied(denied) => Some(denied.socket.cookie),
            Self::Waiting(waiting) => Some(waiting.socket.cookie),
            Self::Waited(waited) => Some(waited.cookie),
            Self::Unresolved(unresolved) => Some(unresolved.socket.cookie),
            Self::Listen(listen) => Some(listen.socket.cookie),
            Self::Unlisten(unlisten) => Some(unlisten.cookie),
            Self::ListenFailed(failed) => Some(failed.socket.cookie),
            Self::Option(option) => Some(option.cookie),
            Self::Changed(changed) => Some(changed.socket.cookie),
            Self::Accepted(accepted) => Some(accepted.cookie),
            Self::Close(close) => Some(close.cookie),
            Self::Gone(gone) => Some(gone.cookie),
            Self::ConnectFailed(failed) => Some(failed.cookie),
            Self::Holders(holders) => Some(holders.cookie),
            Self::Table(row) => Some(row.socket.cookie),
            Self::Process(_)
            | Self::Exit(_)
            | Self::Signal(_)
            | Self::Inventory(_)
            | Self::PortRange(_)
            | Self::PortUse(_)
            | Self::Lost(_)
            | Self::Limit(_)
            | Self::Omitted(_)
            | Self::Job(_)
            | Self::Enforcement(_)
            | Self::CgroupRemoved(_)
            | Self::Note(_) => None,
        }
    }

    /// Gives every process that this names to `take`; ancestors of a process are named by its own event.
    pub fn for_each_process(&self, mut take: impl FnMut(ProcessKey)) {
        match self {
            Self::Process(process) => {
                [Some(process.process), process.parent, Some(process.lineage)]
                    .into_iter()
                    .flatten()
                    .for_each(take);
            }
            Self::Exit(exit) => take(exit.process),
            Self::Signal(signal) => {
                take(signal.process);
                signal.sender.into_iter().for_each(take);
            }
            Self::Socket(found) => found.holders.iter().copied().for_each(take),
            Self::Bind(bind) => take(bind.process),
            Self::BindFailed(failed) => take(failed.process),
            Self::Denied(denied) => {
                take(denied.process);
                take(denied.holder);
            }
            Self::Waiting(waiting) => {
                take(waiting.process);
                waiting.holder.into_iter().for_each(take);
            }
            Self::Waited(waited) => take(waited.process),
            Self::Unresolved(unresolved) => take(unresolved.process),
            Self::Listen(listen) => take(listen.process),
            Self::ListenFailed(failed) => take(failed.process),
            Self::Changed(changed) => changed.process.into_iter().for_each(take),
            Self::ConnectFailed(failed) => take(failed.process),
            Self::Holders(holders) => holders.processes.iter().copied().for_each(take),
            Self::Table(row) => row.holders.iter().copied().chain(row.last_owner).for_each(take),
            Self::PortUse(ports) => ports.users.iter().map(|user| user.process).for_each(take),
            Self::Job(job) => job.process.into_iter().chain(job.left.iter().copied()).for_each(take),
            Self::Note(note) => take(note.process),
            Self::Inventory(_)
            | Self::Unlisten(_)
            | Self::Option(_)
            | Self::Accepted(_)
            | Self::Close(_)
            | Self::Gone(_)
            | Self::PortRange(_)
            | Self::Lost(_)
            | Self::Limit(_)
            | Self::Omitted(_)
            | Self::Enforcement(_)
            | Self::CgroupRemoved(_) => {}
        }
    }
}
