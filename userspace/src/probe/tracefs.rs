//! Access to tracefs, also where nobody has mounted it.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where tracefs is looked for, in this order.
const POINTS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// The mounted tracefs, if there is one.
#[must_use]
pub fn mounted() -> Option<&'static Path> {
    POINTS.into_iter().map(Path::new).find(|point| point.join("events").is_dir())
}

/// Runs `work` with tracefs visible, or with the reason why it is not.
///
/// Where it is not mounted it is mounted for a thread that has a mount namespace of its own: the machine stays as it
/// was. (Trace events are opened by ids that only tracefs tells; once open they do not need it.)
pub fn with<R: Send>(work: impl FnOnce(Result<&Path, String>) -> R + Send) -> R {
    if let Some(point) = mounted() {
        return work(Ok(point));
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let visible = private_mount();
            work(visible.as_ref().map(|()| Path::new(POINTS[0])).map_err(Clone::clone))
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn private_mount() -> Result<(), String> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| format!("a private mount namespace was refused: {errno}"))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .and_then(|()| mount(Some("tracefs"), POINTS[0], Some("tracefs"), MsFlags::empty(), none))
        .map_err(|errno| format!("tracefs is not mounted and mounting it was refused: {errno}"))
}
