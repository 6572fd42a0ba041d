//! How soon the reader looks again.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use crate::probe::watched;

/// The longest pause between two looks while records come.
pub const DRAIN_EVERY: Duration = Duration::from_millis(5);
/// The shortest: where few records come, somebody may wait for what they tell.
pub(super) const DRAIN_SOON: Duration = Duration::from_millis(1);
/// More records than this in a look are many: each look costs those who write.
const FEW: usize = 16;

/// Waits between looks: less where few records come, more where many do or none.
pub(super) struct Pace {
    /// A timer of the kernel's: the runtime's are a millisecond later than they were asked to be (timerfd_create(2)).
    timer: AsyncFd<OwnedFd>,
    every: Duration,
}

impl Pace {
    /// # Errors
    /// When the process may have no more descriptors.
    pub(super) fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { timer: watched(timer)?, every: DRAIN_SOON })
    }

    /// A look brought this many records.
    pub(super) fn looked(&mut self, taken: usize) {
        self.every = after(self.every, taken);
    }

    /// Waits for the next look, and no longer than `most`.
    ///
    /// # Errors
    /// When the timer cannot be set or waited for.
    pub(super) async fn pause(&self, most: Duration) -> io::Result<()> {
        let pause = self.every.min(most);
        if pause.is_zero() {
            tokio::task::yield_now().await;
            return Ok(());
        }
        let spent = Timespec { tv_sec: 0, tv_nsec: 0 };
        // No pause is longer than DRAIN_EVERY.
        let value = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
        // Setting it takes back what it said before (fs/timerfd.c): only its descriptor may still look readable.
        timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: spent, it_value: value },
        )?;
        loop {
            let mut ready = self.timer.readable().await?;
            match rustix::io::read(self.timer.get_ref(), &mut [0; 8]) {
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                read => return read.map(|_| ready.clear_ready()).map_err(Into::into),
            }
        }
    }
}

/// The pause after a look that brought this many records, where the one before it was `every`.
fn after(every: Duration, taken: usize) -> Duration {
    match taken {
        // Slowly: what follows a bind that conflicts often comes a moment later.
        0 => (every * 5 / 4).min(DRAIN_EVERY),
        1..=FEW => DRAIN_SOON,
        _ => DRAIN_EVERY,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn looks_again_soon_after_few_and_later_after_many_or_none() {
        let mut every = DRAIN_EVERY;
        let pauses = [100, 1, 16, 17, 3, 0, 0, 0, 0, 2].map(|taken| {
            every = after(every, taken);
            every.as_micros()
        });
        assert_eq!(pauses, [5_000, 1_000, 1_000, 5_000, 1_000, 1_250, 1_562, 1_953, 2_441, 1_000]);
    }

    #[tokio::test]
    async fn a_pause_lasts_as_long_as_it_may_and_not_as_what_was_left_of_another() {
        let pace = Pace::new().unwrap();
        for most in [Duration::ZERO, Duration::from_micros(100), DRAIN_EVERY] {
            // Given up in the middle, as where something else happens first.
            tokio::select! {
                biased;
                paused = pace.pause(DRAIN_EVERY) => paused.unwrap(),
                () = tokio::task::yield_now() => {}
            }
            let begin = std::time::Instant::now();
            pace.pause(most).await.unwrap();
            assert!(begin.elapsed() >= most.min(DRAIN_SOON), "{:?} of {most:?}", begin.elapsed());
        }
    }
}
