//! The one reader of clocks, and the way from `CLOCK_BOOTTIME` to wall-clock time.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::event::BootTime;

/// RFC 3339 with milliseconds, as every output has it.
static PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));

/// Now on `CLOCK_BOOTTIME`: ns since boot, suspended time included (clock_gettime(2)).
#[must_use]
pub fn boot_now() -> BootTime {
    BootTime(read(ClockId::CLOCK_BOOTTIME))
}

/// The clocks this reads exist on every kernel since 2.6.39, so reading them cannot fail; were it to, time stands still.
fn read(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}

/// One instant on both clocks, by which a log's times are shown as wall-clock time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchors {
    /// The instant on `CLOCK_BOOTTIME`, ns since boot.
    pub boot_ns: u64,
    /// The same instant on `CLOCK_REALTIME`, ns since 1970-01-01 UTC.
    pub wall_ns: u64,
}

impl Anchors {
    /// Reads both clocks. The wall clock is read between two readings of the other, and the pair of three with the
    /// least time in between is kept, so that being scheduled away does not bend every time in a log.
    #[must_use]
    pub fn now() -> Self {
        let pair = || {
            let before = read(ClockId::CLOCK_BOOTTIME);
            let wall_ns = read(ClockId::CLOCK_REALTIME);
            let span = read(ClockId::CLOCK_BOOTTIME).saturating_sub(before);
            (span, Self { boot_ns: before.saturating_add(span / 2), wall_ns })
        };
        let best = [pair(), pair(), pair()].into_iter().min_by_key(|(span, _)| *span);
        best.map(|(_, anchors)| anchors).unwrap_or_default()
    }

    /// The wall-clock time of `at`.
    #[must_use]
    pub fn wall(self, at: BootTime) -> Timestamp {
        let ns = i128::from(self.wall_ns) + i128::from(at.0) - i128::from(self.boot_ns);
        Timestamp::from_nanosecond(ns).unwrap_or(if ns < 0 { Timestamp::MIN } else { Timestamp::MAX })
    }

    /// `at` as `2026-11-20T12:37:40.123Z`.
    #[must_use]
    pub fn rfc3339(self, at: BootTime) -> String {
        PRINTER.timestamp_to_string(&self.wall(at))
    }

    /// The instant of `wall`: the boot where it was before that, and the last there is where it is later.
    #[must_use]
    pub fn boot(self, wall: Timestamp) -> BootTime {
        let ns = wall.as_nanosecond() - i128::from(self.wall_ns) + i128::from(self.boot_ns);
        BootTime(u64::try_from(ns.max(0)).unwrap_or(u64::MAX))
    }
}

/// A point in time of a log, as a user gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// A wall-clock time.
    At(Timestamp),
    /// So long after the log's start.
    After(Duration),
    /// A time of day, UTC: the first time that it was then.
    OfDay(jiff::civil::Time),
}

impl When {
    /// The instant in a log that began at `start`. Times before boot are the boot.
    #[must_use]
    pub fn resolve(self, anchors: Anchors, start: BootTime) -> BootTime {
        match self {
            Self::At(wall) => anchors.boot(wall),
            Self::OfDay(time) => {
                let began = anchors.wall(start).to_zoned(jiff::tz::TimeZone::UTC).datetime();
                let same_day = began.date().to_datetime(time);
                let then = if same_day < began {
                    same_day.checked_add(jiff::Span::new().days(1))
                } else {
                    Ok(same_day)
                };
                let wall = then.and_then(|then| then.to_zoned(jiff::tz::TimeZone::UTC));
                wall.map(|wall| anchors.boot(wall.timestamp())).unwrap_or_default()
            }
            Self::After(time) => {
                BootTime(start.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
            }
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse() {
            return Ok(Self::At(time));
        }
        let of_day = text.strip_suffix('Z').unwrap_or(text);
        if of_day.contains(':')
            && let Ok(time) = of_day.parse()
        {
            return Ok(Self::OfDay(time));
        }
        crate::cli::duration(text).map(Self::After).map_err(|_| {
            "expected a time like 2026-11-20T12:37:40Z or 12:37:40 (UTC), or 30s for that long after the log's start"
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    const ANCHORS: Anchors = Anchors { boot_ns: 5_000_000_000, wall_ns: 1_763_682_000_000_000_000 };

    #[test]
    fn anchors_shift_and_print_milliseconds() {
        assert_eq!(ANCHORS.rfc3339(BootTime(5_000_000_000)), "2025-11-20T23:40:00.000Z");
        assert_eq!(ANCHORS.rfc3339(BootTime(5_123_999_999)), "2025-11-20T23:40:00.123Z");
        assert_eq!(ANCHORS.rfc3339(BootTime(0)), "2025-11-20T23:39:55.000Z");
        assert_eq!(ANCHORS.boot(ANCHORS.wall(BootTime(77))), BootTime(77));
        assert_eq!(ANCHORS.boot(Timestamp::MIN), BootTime(0));
        assert_eq!(ANCHORS.boot(Timestamp::MAX), BootTime(u64::MAX));
    }

    #[test]
    fn absurd_times_do_not_panic() {
        let far = Anchors { boot_ns: 0, wall_ns: u64::MAX };
        assert!(far.wall(BootTime(u64::MAX)) > ANCHORS.wall(BootTime(0)));
        let early = Anchors { boot_ns: u64::MAX, wall_ns: 0 };
        assert!(early.rfc3339(BootTime(0)).starts_with("1385-"));
    }

    #[test]
    fn points_in_time_are_absolute_or_after_the_start() {
        let start = BootTime(10_000_000_000);
        let at = |text: &str| text.parse::<When>().unwrap().resolve(ANCHORS, start);
        assert_eq!(at("30s"), BootTime(40_000_000_000));
        assert_eq!(at("2025-11-20T23:40:01Z"), BootTime(6_000_000_000));
        assert_eq!(at("1999-01-01T00:00:00Z"), BootTime(0));
        // The log began at 23:40:05 UTC.
        assert_eq!(at("23:40:06"), BootTime(11_000_000_000));
        assert_eq!(at("23:40:06.5Z"), BootTime(11_500_000_000));
        assert_eq!(at("00:00:00"), BootTime(1_205_000_000_000));
        assert!("yesterday".parse::<When>().is_err() && "12".parse::<When>().is_err());
    }

    #[test]
    fn both_clocks_advance() {
        let (first, second) = (Anchors::now(), Anchors::now());
        assert!(
            first.boot_ns > 0 && first.boot_ns <= second.boot_ns && first.wall_ns > 1_600_000_000_000_000_000
        );
    }
}
