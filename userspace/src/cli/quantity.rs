//! Durations and sizes as people write them.

use std::time::Duration;

/// Units of durations, longest first, with their nanoseconds.
const DURATION_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The slowest and the fastest that a log is played.
pub const SPEEDS: (f64, f64) = (0.015_625, 4096.0);
/// The shortest time between two prints.
const SECONDS_MIN: Duration = Duration::from_millis(50);
/// Smallest ring buffer, bytes.
const RING_MIN: u64 = 64 << 10;
/// Largest ring buffer, bytes: what the kernel gives without special settings.
const RING_MAX: u64 = 1 << 30;

/// Parses `500ms`, `2s`, `1m30s`, `1.5s`.
///
/// # Errors
/// One line that says what is wrong with `text`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{}\" is not a duration: write 500ms, 2s or 1m30s", shown(text));
    let too_long = || format!("\"{}\" is too long: 292 years are the most", shown(text));
    let mut rest = text;
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(|| {
            format!("\"{}\" has no unit: write {}ms or {}s", shown(text), shown(rest), shown(rest))
        })?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let ns =
            DURATION_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, ns)| *ns).ok_or_else(wrong)?;
        let part = fixed_point(number, ns).ok_or_else(wrong)?;
        total = u64::try_from(part).ok().and_then(|part| total.checked_add(part)).ok_or_else(too_long)?;
        if total > i64::MAX.unsigned_abs() {
            return Err(too_long());
        }
        rest = tail;
    }
    Ok(Duration::from_nanos(total))
}

/// `number` (digits, at most one point between digits) times `unit`, rounded down.
fn fixed_point(number: &str, unit: u64) -> Option<u128> {
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || part.is_empty() || part.len() > 9 || part.contains('.') {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
    let whole: u64 = whole.parse().ok()?;
    let part: u64 = part.parse().ok()?;
    let unit = u128::from(unit);
    Some(u128::from(whole) * unit + u128::from(part) * unit / scale)
}

/// Parses a time in seconds, as `top -d` has it everywhere: `2`, `0.5`; and every [`duration`].
///
/// # Errors
/// One line that says what is wrong with `text`.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let plain = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let time = if plain { duration(&format!("{text}s")) } else { duration(text) };
    let time = time.map_err(|_| format!("\"{}\" is not a time in seconds: write 2 or 0.5", shown(text)))?;
    if time < SECONDS_MIN {
        return Err(format!("\"{}\" is less than {} ms", shown(text), SECONDS_MIN.as_millis()));
    }
    Ok(time)
}

/// Parses how fast a log is played: `4x`, `0.5x`, `4`.
///
/// # Errors
/// One line that says what is wrong with `text`.
pub fn speed(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix(['x', 'X']).unwrap_or(text);
    let plain = number.chars().all(|c| c.is_ascii_digit() || c == '.');
    match number.parse::<f64>() {
        Ok(speed) if plain && (SPEEDS.0..=SPEEDS.1).contains(&speed) => Ok(speed),
        _ => Err(format!(
            "\"{}\" is not a speed: write 4x or 0.5x, {}x to {}x",
            shown(text),
            SPEEDS.0,
            SPEEDS.1
        )),
    }
}

/// A duration for people: `7.0 s`, `340 ms`, `2 min 5 s`, `3 h 20 min`.
#[must_use]
pub fn duration_text(ns: u64) -> String {
    const US: u64 = 1_000;
    const MS: u64 = 1_000_000;
    const S: u64 = 1_000_000_000;
    match ns {
        0..US => format!("{ns} ns"),
        US..MS => format!("{} µs", ns / US),
        MS..S => format!("{} ms", ns / MS),
        _ => match ns / S {
            0..60 => format!("{}.{} s", ns / S, ns % S / (100 * MS)),
            s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
            s @ 3600..172_800 => format!("{} h {} min", s / 3600, s % 3600 / 60),
            s => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
        },
    }
}

/// Parses `4096`, `64K`, `16M`, `1G` (powers of 1024; `KiB` and `KB` mean the same).
///
/// # Errors
/// One line that says what is wrong with `text`.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{}\" is not a size: write 65536, 64K, 16M or 1G", shown(text));
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("\"{}\" is too large", shown(text)))
}

/// Parses a size that a BPF ring buffer can have: a power of two.
///
/// # Errors
/// One line that says what is wrong with `text`.
pub fn ring_size(text: &str) -> Result<u32, String> {
    let bytes = size(text)?;
    if !(RING_MIN..=RING_MAX).contains(&bytes) {
        return Err(format!("\"{}\" is outside 64K to 1G", shown(text)));
    }
    if !bytes.is_power_of_two() {
        let below = 1_u64 << bytes.ilog2();
        return Err(format!(
            "\"{}\" is not a power of two: the nearest are {} and {}",
            shown(text),
            below,
            below * 2
        ));
    }
    u32::try_from(bytes).map_err(|_| format!("\"{}\" is outside 64K to 1G", shown(text)))
}

/// What the user wrote, fit for one line of an error message.
pub(super) fn shown(text: &str) -> String {
    /// Characters of a wrong value that an error message repeats.
    const SHOWN_MAX: usize = 80;
    let mut short: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        short.push('…');
    }
    short
}
