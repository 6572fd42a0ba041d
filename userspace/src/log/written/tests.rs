//! What is read by hand is what serde reads.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::*;
use crate::log::samples::events;
use crate::log::{Line, decode, encode};

fn written(event: &Event) -> Vec<u8> {
    let mut line = Vec::new();
    encode(event, &mut line).unwrap();
    assert_eq!(line.pop(), Some(b'\n'));
    line
}

/// What is read here, by one that has read `before`.
fn by_hand(room: &mut Room, line: &[u8]) -> Option<Event> {
    let text = [line, b"\n{\"type\":"].concat();
    let (which, length) = room.read(&text)?;
    assert_eq!(length, line.len() + 1, "it ends where it ends");
    Some(room.event(which).clone())
}

/// What serde makes of the same line: a space makes sure that it is asked.
fn by_serde(line: &[u8]) -> Option<Event> {
    let mut line = [b"{ ", &line[1..]].concat();
    match decode(&mut line) {
        Ok(Line::Event(event)) => Some(event),
        _ => None,
    }
}

#[test]
fn what_is_written_is_read_here_and_not_left_to_serde() {
    let common =
        ["bind", "close", "listen", "accepted", "changed", "exit", "gone", "option", "unlisten", "process"];
    let all = events("node");
    for event in all.iter().filter(|event| common.contains(&event.body.type_name())) {
        let mut room = Room::new();
        for _ in 0..2 {
            assert_eq!(by_hand(&mut room, &written(event)).as_ref(), Some(event));
        }
    }
}

#[test]
fn digits_stop_where_they_stop() {
    for (text, count, value) in
        [("12345678", 8, 12_345_678), ("0000000x", 7, 0), ("7,\"at\":1", 1, 7), ("/0000000", 0, 0)]
    {
        assert_eq!(digits(text.as_bytes()[..8].try_into().unwrap()), (count, value), "{text}");
    }
    for byte in 0..=255 {
        let expected = if byte == b'9' { (8, 99_999_999) } else { (3, 999) };
        let found = digits([b'9', b'9', b'9', byte, b'9', b'9', b'9', b'9']);
        assert!(found == expected || (byte.is_ascii_digit() && found.0 == 8), "{byte}: {found:?}");
    }
}

proptest! {
    #[test]
    fn numbers_are_those_of_serde(number in any::<u64>(), shift in 0..64_u32, rest in "[0-9,.}e]{0,9}") {
        let text = format!("{}{rest}", number >> shift);
        let mut scanner = Scanner(text.as_bytes());
        let found = scanner.number();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        prop_assert_eq!(found, serde_json::from_str::<u64>(&text[..digits]).ok());
        prop_assert!(found.is_none() || scanner.0 == &text.as_bytes()[digits..]);
    }

    #[test]
    fn what_is_read_here_serde_reads_alike(
        text in any::<String>(),
        at in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), Just(b'0'), Just(b'"'), Just(b'}'), Just(b','), Just(b' ')],
        change in 0..4_u8,
    ) {
        // What one line leaves behind is no part of another.
        let mut room = Room::new();
        for event in events(&text) {
            let mut line = written(&event);
            prop_assert!(by_hand(&mut room, &line).is_none_or(|found| found == event));
            let at = at.index(line.len() - 1) + 1;
            match change {
                0 => drop(line.remove(at)),
                1 => line.insert(at, byte),
                2 => line.truncate(at),
                _ => line[at] = byte,
            }
            if let Some(found) = by_hand(&mut room, &line) {
                prop_assert_eq!(Some(found), by_serde(&line));
            }
        }
    }
}
