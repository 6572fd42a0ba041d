//! What is written is read back; what is cut is read up to the cut and said to be cut; nothing panics.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::io::{self, Cursor, Write};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::samples::{events, header, socket};
use super::*;
use crate::event::{Body, Event, Hook, Seq};

/// A file in memory that takes a given number of bytes.
#[derive(Clone, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: Option<usize>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.bytes.lock().unwrap();
        let room = self.room.map_or(bytes.len(), |room| room.saturating_sub(disk.len()).min(bytes.len()));
        if room == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.extend_from_slice(&bytes[..room]);
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk {
    fn writer(&self, compressed: bool, limit: Option<u64>) -> Result<Writer, WriteError> {
        let file = LogFile::over(Box::new(self.clone()), Path::new("x.jsonl"), compressed);
        Writer::new(file, &header(), limit)
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

fn written(events: &[Event], compressed: bool) -> Vec<u8> {
    let disk = Disk::default();
    let mut writer = disk.writer(compressed, None).unwrap();
    for event in events {
        assert_eq!(writer.event(event).unwrap(), Progress::Written);
        writer.flush().unwrap();
    }
    writer.finding(&serde_json::json!({"id": 1, "summary": "x"})).unwrap();
    writer.end(&End { events: events.len() as u64, reason: "stop".to_owned(), ..End::default() }).unwrap();
    disk.bytes()
}

fn reader(bytes: &[u8]) -> Result<Reader, ReadError> {
    Reader::new(Cursor::new(bytes.to_vec()), Path::new("x.jsonl"))
}

fn read(bytes: &[u8]) -> Result<(Vec<Event>, Ending), ReadError> {
    let mut reader = reader(bytes)?;
    let events = reader.by_ref().collect::<Result<_, _>>()?;
    Ok((events, reader.ending().clone()))
}

fn error(bytes: &[u8]) -> String {
    read(bytes).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn samples_hold_every_kind_of_event() {
    let have: BTreeSet<_> = events("x").iter().map(|event| event.body.type_name()).collect();
    // One more kind than this: give it a sample.
    assert_eq!(have.len(), 31);
}

#[test]
fn every_kind_of_event_comes_back_as_it_was() {
    for compressed in [false, true] {
        let events = events("no\u{fffd}de \"x\" \u{1b}[2J\n\u{202e}");
        let bytes = written(&events, compressed);
        let mut reader = reader(&bytes).unwrap();
        assert_eq!(*reader.header(), header());
        let back: Vec<_> = reader.by_ref().map(Result::unwrap).collect();
        assert_eq!(back, events);
        assert!(reader.ending().complete());
        assert_eq!(reader.ending().end.as_ref().unwrap().events, events.len() as u64);
    }
}

#[test]
fn lines_begin_with_type_and_are_valid_json() {
    let text = String::from_utf8(written(&events("x"), false)).unwrap();
    assert!(text.starts_with("{\"type\":\"header\",\"schema\":\"bindwatch.log/1\","), "{text}");
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let kind = value["type"].as_str().unwrap();
        assert!(line.starts_with(&format!("{{\"type\":\"{kind}\",")), "{line}");
    }
    assert!(text.contains(
        "{\"type\":\"bind\",\"seq\":9,\"at\":2090000000,\"hook\":\"post_bind4\",\"process\":\"1@880213\","
    ));
    assert!(text.lines().last().unwrap().starts_with("{\"type\":\"end\","));
}

#[test]
fn a_log_cut_at_any_byte_is_a_prefix_and_says_so() {
    let events = events("cut");
    for compressed in [false, true] {
        let whole = written(&events, compressed);
        let mut longest = 0;
        for cut in 0..whole.len() {
            match read(&whole[..cut]) {
                Ok((back, ending)) => {
                    assert_eq!(back, events[..back.len()], "cut at {cut}");
                    let lost_something = back.len() < events.len() || ending.end.is_none();
                    assert_eq!(ending.complete(), !lost_something, "cut at {cut}: {ending:?}");
                    assert!(back.len() >= longest, "cut at {cut}");
                    longest = back.len();
                    if !compressed {
                        let within_a_line = whole[cut - 1] != b'\n' && whole[cut] != b'\n';
                        assert_eq!(ending.torn.is_some(), within_a_line, "cut at {cut}");
                    }
                    if let Some(torn) = ending.torn {
                        assert_eq!(torn.line, ending.lines + 1, "cut at {cut}");
                    }
                }
                Err(ReadError::NoHeader { .. } | ReadError::NotALog { .. }) => {
                    assert_eq!(longest, 0, "cut at {cut}");
                }
                Err(error) => panic!("cut at {cut}: {error}"),
            }
        }
        assert_eq!(longest, events.len());
    }
}

#[test]
fn a_cut_within_a_line_names_the_line() {
    let whole = written(&events("x"), false);
    let third = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(2).unwrap().0;
    let (back, ending) = read(&whole[..third + 20]).unwrap();
    assert_eq!(back.len(), 2);
    assert_eq!(ending.torn, Some(Torn { line: 4, reason: "the line is cut off".to_owned() }));
    let (_, ending) = read(&whole[..=third]).unwrap();
    assert_eq!((ending.torn.is_none(), ending.complete()), (true, false));
}

/// As a machine leaves a file that loses power while it writes: longer than what it has of it.
#[test]
fn a_log_with_nuls_behind_the_cut_is_read_up_to_there() {
    let events = events("crash");
    for compressed in [false, true] {
        let whole = written(&events, compressed);
        for cut in [whole.len() / 3, whole.len() / 2, whole.len() - 9, whole.len()] {
            let expected = read(&whole[..cut]).unwrap();
            for nuls in [4096, LINE_MAX + 1] {
                let mut left = whole[..cut].to_vec();
                left.resize(cut + nuls, 0);
                assert_eq!(read(&left).unwrap(), expected, "cut at {cut}");
            }
        }
    }
}

#[test]
fn what_was_flushed_is_readable_while_the_recording_goes_on() {
    for compressed in [false, true] {
        let disk = Disk::default();
        let mut writer = disk.writer(compressed, None).unwrap();
        let events = events("x");
        for event in &events[..5] {
            writer.event(event).unwrap();
        }
        writer.flush().unwrap();
        let (back, ending) = read(&disk.bytes()).unwrap();
        assert_eq!((back.as_slice(), ending.complete()), (&events[..5], false));
    }
}

#[test]
fn a_recording_that_fails_leaves_all_that_came_before() {
    for compressed in [false, true] {
        let disk = Disk::default();
        let mut writer = disk.writer(compressed, None).unwrap();
        let events = events("x");
        events.iter().for_each(|event| assert_eq!(writer.event(event).unwrap(), Progress::Written));
        drop(writer);
        let (back, ending) = read(&disk.bytes()).unwrap();
        assert_eq!((back, ending.end), (events, None));
    }
}

#[test]
fn a_second_of_events_is_flushed_without_being_asked() {
    let disk = Disk::default();
    let mut writer = disk.writer(true, None).unwrap();
    let mut event = events("x").remove(0);
    for second in 0..3_u64 {
        event.seq.0 = second + 1;
        event.at.0 = 5_000_000_000 + second * 1_000_000_000;
        writer.event(&event).unwrap();
    }
    assert_eq!(read(&disk.bytes()).unwrap().0.len(), 3);
}

#[test]
fn broken_lines_in_the_middle_are_named_with_what_was_expected() {
    let whole = String::from_utf8(written(&events("x"), false)).unwrap();
    let with_line_3 = |line: &str| {
        let mut lines: Vec<_> = whole.lines().collect();
        lines[2] = line;
        lines.join("\n") + "\n"
    };
    let cases = [
        ("garbage", "x.jsonl, line 3: expected {\"type\":"),
        ("{}", "line 3: expected {\"type\":"),
        ("", "line 3: expected {\"type\":"),
        ("\0\0\0\0", "line 3: expected {\"type\":"),
        (
            "{\"type\":\"gone\",\"seq\":2,\"at\":1,\"hook\":\"proc\",\"cookie\":\"x\"}",
            "line 3: expected the fields of \"gone\": ",
        ),
        (
            "{\"type\":\"gone\",\"seq\":2,\"at\":1,\"hook\":\"proc\",\"cookie\":5",
            "line 3: expected the fields of \"gone\": ",
        ),
        (
            "{\"type\":\"gone\",\"seq\":1,\"at\":1,\"hook\":\"proc\",\"cookie\":5}",
            "line 3: event 1 follows event 1",
        ),
        ("{\"type\":\"header\",\"schema\":\"bindwatch.log/1\"}", "line 3: a second header"),
        ("{\"type\":\"end\",\"events\":0}", "line 4: more lines follow"),
    ];
    for (line, expected) in cases {
        let error = error(with_line_3(line).as_bytes());
        assert!(error.contains(expected), "{line:?} gave {error:?}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn lines_in_another_order_and_of_later_versions_are_read() {
    let whole = String::from_utf8(written(&[], false)).unwrap();
    let own = [
        "{\"cookie\": 5, \"hook\": \"proc\", \"seq\": 1, \"type\": \"gone\", \"at\": 7}",
        "{\"type\":\"teleported\",\"seq\":2,\"at\":1,\"hook\":\"warp\",\"x\":[1]}",
        "{\"type\":\"gone\",\"seq\":3,\"at\":1,\"hook\":\"warp\",\"cookie\":6,\"more\":{}}",
    ];
    let mut lines: Vec<_> = whole.lines().collect();
    lines.splice(1..1, own);
    let (back, ending) = read((lines.join("\n") + "\n").as_bytes()).unwrap();
    assert_eq!(back.iter().map(|event| event.seq).collect::<Vec<_>>(), [Seq(1), Seq(3)]);
    assert_eq!((back[0].hook, back[0].at.0), (Hook::Proc, 7));
    assert_eq!((ending.unknown, ending.complete()), (1, true));
}

#[test]
fn other_files_are_told_from_logs() {
    let cases: [(&[u8], &str); 7] = [
        (b"", "it is empty"),
        (b"hello\nworld\n", "is not a bindwatch log: its first line is not a header"),
        (b"{\"type\":\"bind\"}\n", "its first line is not a header"),
        (b"\x1f\x8b\x08\0", "decompress it first"),
        (b"{\"type\":\"header\",\"schema\":\"bindwatch.log/2\"}\n", "update bindwatch"),
        (
            b"{\"type\":\"header\",\"schema\":\"bindwatch.log/1\"}\n",
            "line 1: expected a header: missing field `version`",
        ),
        (b"{\"type\":\"header\",\"sche", "cut off within its first line"),
    ];
    for (bytes, expected) in cases {
        let error = error(bytes);
        assert!(error.contains(expected), "{bytes:?} gave {error:?}");
    }
}

#[test]
fn a_line_without_end_is_refused_and_not_kept() {
    let mut bytes = written(&[], false);
    let header_end = bytes.iter().position(|b| *b == b'\n').unwrap();
    bytes.truncate(header_end + 1);
    bytes.resize(header_end + 1 + LINE_MAX + 10, b'x');
    assert!(error(&bytes).contains("line 2: is longer than any line of a log"));
    // A finding names all its holders with their arguments, and is not read back.
    for compressed in [false, true] {
        let disk = Disk::default();
        let mut writer = disk.writer(compressed, None).unwrap();
        let all = events("x");
        writer.event(&all[0]).unwrap();
        writer.finding(&serde_json::json!({"holders": "x".repeat(3 * LINE_MAX)})).unwrap();
        writer.event(&all[1]).unwrap();
        writer.finding(&serde_json::json!({"holders": "x".repeat(LINE_MAX + 1)})).unwrap();
        writer.end(&End::default()).unwrap();
        let (back, ending) = read(&disk.bytes()).unwrap();
        assert_eq!((back.as_slice(), ending.complete(), ending.lines), (&all[..2], true, 6));
        let cut = read(&disk.bytes()[..disk.bytes().len() / 2]).unwrap();
        assert!(!cut.1.complete());
    }
}

#[test]
fn a_full_disk_is_said_once_and_what_is_there_stays_readable() {
    for (compressed, room) in [(false, 3000), (true, 900)] {
        let disk = Disk { room: Some(room), ..Disk::default() };
        let mut writer = disk.writer(compressed, None).unwrap();
        let mut errors = Vec::new();
        let all: Vec<_> = (1..=4000)
            .map(|seq| Event { seq: Seq(seq), ..events("x")[usize::try_from(seq).unwrap() % 20].clone() })
            .collect();
        for event in &all {
            errors.extend(writer.event(event).err());
        }
        errors.extend(writer.flush().err());
        assert!(writer.is_broken());
        assert!(writer.dropped() > 0);
        writer.end(&End::default()).unwrap();
        assert_eq!(errors.len(), 1);
        let text = errors[0].to_string();
        assert!(
            text.contains("cannot write the log x.jsonl") && text.contains("stays readable up to event"),
            "{text}"
        );
        let (back, ending) = read(&disk.bytes()).unwrap();
        assert_eq!(back, all[..back.len()]);
        assert!(!ending.complete());
    }
}

#[test]
fn at_its_size_limit_a_log_says_so_and_ends_in_order() {
    let disk = Disk::default();
    let mut writer = disk.writer(false, Some(4000)).unwrap();
    let all = events("x");
    let progress: Vec<_> = all.iter().map(|event| writer.event(event).unwrap()).collect();
    let kept = progress.iter().take_while(|progress| **progress == Progress::Written).count();
    assert!(kept > 5 && kept < all.len() - 1, "{kept}");
    assert_eq!(progress[kept], Progress::LimitReached);
    assert!(progress[kept + 1..].iter().all(|progress| *progress == Progress::Dropped));
    writer.end(&End { events: all.len() as u64, ..End::default() }).unwrap();
    let (back, ending) = read(&disk.bytes()).unwrap();
    assert_eq!(back[..kept], all[..kept]);
    let Body::Limit(limit) = &back[kept].body else { panic!("no limit event") };
    assert_eq!((limit.bound.as_str(), limit.value, limit.unit.as_str()), ("log-size", 4000, "bytes"));
    assert!(!ending.complete(), "events are missing");
    assert_eq!(ending.end.unwrap().dropped, (all.len() - kept) as u64);
}

#[test]
fn a_log_is_its_users_alone_and_replaces_only_logs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    let create_error = |path: &Path| create(path).map(|_| ()).unwrap_err().to_string();

    let first = Writer::new(create(&path).unwrap(), &header(), None).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(create_error(&path).contains("another recording writes to it"));
    first.end(&End::default()).unwrap();
    let second = Writer::new(create(&path).unwrap(), &header(), None).unwrap();
    second.end(&End::default()).unwrap();
    assert!(crate::source::log::open(&path).unwrap().header() == &header());

    let other = folder.path().join("notes");
    std::fs::write(&other, "dear diary").unwrap();
    assert!(create_error(&other).contains("a file that is not a log is there"));
    let link = folder.path().join("link");
    symlink(&other, &link).unwrap();
    assert!(create_error(&link).contains("a symbolic link is there"));
    assert!(create_error(folder.path()).contains("a directory is there"));
    std::fs::hard_link(&path, folder.path().join("second-name")).unwrap();
    assert!(create_error(&path).contains("more than one name"));
    assert!(create_error(&folder.path().join("no/x")).contains("No such file"));
    assert!(create_private(&link).map(|_| ()).unwrap_err().to_string().contains("a symbolic link is there"));
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "dear diary");
    create_private(&other).unwrap().write_all(b"report").unwrap();
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "report");
    assert_eq!(std::fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn this_machine_has_a_name_a_kernel_and_a_boot() {
    let host = Host::of_this_machine();
    assert!(!host.kernel.is_empty() && host.boot_id.len() == 36, "{host:?}");
}

#[test]
fn a_name_that_ends_in_zst_is_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl.zst");
    let mut writer = Writer::new(create(&path).unwrap(), &header(), None).unwrap();
    for event in events("x") {
        writer.event(&event).unwrap();
    }
    writer.end(&End::default()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[..4], file::ZSTD_MAGIC);
    assert_eq!(crate::source::log::open(&path).unwrap().count(), events("x").len());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), whole in any::<bool>()) {
        let mut log = if whole { written(&[], false) } else { Vec::new() };
        log.extend(bytes);
        drop(read(&log));
    }

    #[test]
    fn arbitrary_changes_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), compressed in any::<bool>()) {
        let mut log = written(&events("x"), compressed);
        let at = at.index(log.len());
        log[at] = byte;
        drop(read(&log));
    }

    #[test]
    fn any_text_and_number_comes_back(text in any::<String>(), seq in 1..u64::MAX, at in any::<u64>(), port in any::<u16>()) {
        for mut event in events(&text) {
            event.seq.0 = seq;
            event.at.0 = at;
            if let Body::Listen(listen) = &mut event.body {
                listen.socket = socket(seq, "2001:db8::1", port);
            }
            let mut line = Vec::new();
            encode(&event, &mut line).unwrap();
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert!(std::str::from_utf8(&line).unwrap().chars().all(crate::sink::escape::is_seen));
            prop_assert_eq!(decode(&mut line).unwrap(), Line::Event(event));
        }
    }
}
