//! How many binds a second, over the last minute. Time is the events' own, and what the caller says it is.

use std::collections::VecDeque;

use crate::event::{Body, BootTime, Event};

/// Seconds that are remembered.
pub const WINDOW_S: u64 = 60;
/// Seconds over which the rate is taken.
const RATE_S: u64 = 5;
const SECOND_NS: u64 = 1_000_000_000;

/// Binds in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Binds that succeeded.
    pub binds: u32,
    /// Binds and listens that failed or were denied.
    pub failed: u32,
}

/// Binds in the seconds of the window that had any.
#[derive(Debug, Default)]
pub struct Rates(VecDeque<(u64, Second)>);

impl Rates {
    /// Takes an event.
    pub fn event(&mut self, event: &Event) {
        let (binds, failed) = match event.body {
            Body::Bind(_) => (1, 0),
            Body::BindFailed(_) | Body::ListenFailed(_) | Body::ConnectFailed(_) | Body::Denied(_) => (0, 1),
            _ => return,
        };
        let second = event.at.0 / SECOND_NS;
        if self.0.back().is_none_or(|(last, _)| *last < second) {
            self.0.push_back((second, Second::default()));
            while self.0.front().is_some_and(|(first, _)| first + WINDOW_S < second) {
                self.0.pop_front();
            }
        }
        if let Some((_, last)) = self.0.back_mut() {
            last.binds = last.binds.saturating_add(binds);
            last.failed = last.failed.saturating_add(failed);
        }
    }

    /// Binds and failures a second, over the last seconds before `now`.
    #[must_use]
    pub fn rate(&self, now: BootTime) -> (f64, f64) {
        let second = now.0 / SECOND_NS;
        let recent = self.0.iter().filter(|(at, _)| at + RATE_S > second && *at <= second);
        let (binds, failed) = recent.fold((0_u32, 0_u32), |(binds, failed), (_, count)| {
            (binds.saturating_add(count.binds), failed.saturating_add(count.failed))
        });
        (f64::from(binds) / RATE_S as f64, f64::from(failed) / RATE_S as f64)
    }

    /// Binds, failed ones included, in the last `points` spans of `span` seconds each, the last one with `now` in it.
    #[must_use]
    pub fn points(&self, now: BootTime, points: usize, span: u64) -> Vec<u32> {
        let mut sums = vec![0_u32; points];
        let span = span.max(1);
        let last = now.0 / SECOND_NS / span;
        for (second, count) in &self.0 {
            let Some(back) = last.checked_sub(second / span).and_then(|back| usize::try_from(back).ok())
            else {
                continue;
            };
            if let Some(sum) = points.checked_sub(back + 1).and_then(|at| sums.get_mut(at)) {
                *sum = sum.saturating_add(count.binds).saturating_add(count.failed);
            }
        }
        sums
    }

    /// Whether what is shown will change as time goes on, without any event.
    #[must_use]
    pub fn fades(&self, now: BootTime) -> bool {
        self.0.back().is_some_and(|(last, _)| last + WINDOW_S >= now.0 / SECOND_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Stage;
    use super::*;

    #[test]
    fn seconds_are_counted_and_fade() {
        let mut stage = Stage::new();
        for (cookie, ms) in [(1, 1_000), (2, 1_900), (3, 2_000), (4, 63_500)] {
            stage.binds(cookie, 1, &format!("127.0.0.1:{}", 80 + cookie), ms);
        }
        let rates = stage.world.rates();
        let at = |ms: u64| BootTime(ms * 1_000_000);
        assert_eq!(rates.points(at(63_999), 3, 1), [0, 0, 1]);
        assert_eq!(rates.points(at(64_000), 3, 1), [0, 1, 0]);
        // The first seconds are out of the window.
        assert_eq!(rates.points(at(63_500), 7, 10), [0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(rates.rate(at(63_500)), (0.2, 0.0));
        assert_eq!(rates.rate(at(70_000)), (0.0, 0.0));
        assert!(rates.fades(at(123_000)) && !rates.fades(at(124_000)));
        assert!(!Rates::default().fades(at(0)));
    }
}
