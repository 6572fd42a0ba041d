//! What every event goes through, alone: `cargo bench --package scenarios`.
//!
//! `cargo xtask bench` measures what users feel, in ratios; this is for finding out where the time goes, and whether a change
//! of the code made a step of it slower: criterion compares with the run before.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a bench fails by panicking")]

use std::hint::black_box;
use std::io::{Cursor, Write};
use std::mem::offset_of;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bindwatch::cli::Format;
use bindwatch::event::{BootTime, Event};
use bindwatch::ledger::{Ledger, Settings};
use bindwatch::log::{LogFile, Reader, Writer};
use bindwatch::sink::text::Style;
use bindwatch::sink::{Window, report_of};
use bindwatch::wire;
use bindwatch_probe::abi::record as abi;
use bindwatch_probe::abi::record::{hook, kind};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use scenarios::Folder;
use scenarios::synthetic::{Plan, write};

/// Events of the log that is read and judged.
const EVENTS: u64 = 20_000;

/// A log as a busy machine records it.
fn log() -> Vec<u8> {
    let folder = Folder::new();
    let path = folder.file("log.jsonl");
    write(Plan { events: EVENTS, ..Plan::default() }, &path).expect("a log");
    std::fs::read(path).expect("the log")
}

fn reader(log: &[u8]) -> Reader {
    Reader::new(Cursor::new(log.to_vec()), Path::new("log")).expect("its header")
}

/// The record of a TCP bind at 127.0.0.2:8080, as the ring has it.
fn bind_record() -> Vec<u8> {
    let mut bytes = vec![0; size_of::<abi::Sock>()];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(offset_of!(abi::Sock, head.kind), &kind::BIND.to_ne_bytes());
    put(offset_of!(abi::Sock, head.hook), &hook::POST_BIND4.to_ne_bytes());
    put(offset_of!(abi::Sock, head.at), &77_u64.to_ne_bytes());
    put(offset_of!(abi::Sock, task.comm), b"server");
    put(offset_of!(abi::Sock, address), &[127, 0, 0, 2]);
    put(offset_of!(abi::Sock, port), &8080_u16.to_ne_bytes());
    put(offset_of!(abi::Sock, family), &2_u16.to_ne_bytes());
    put(offset_of!(abi::Sock, protocol), &6_u16.to_ne_bytes());
    bytes
}

fn wire_decode(criterion: &mut Criterion) {
    let record = bind_record();
    wire::decode(&record).expect("a record");
    criterion.bench_function("wire: decode a bind", |bench| bench.iter(|| wire::decode(black_box(&record))));
}

/// Takes all, keeps nothing but how much it was.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<u64>>);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        *self.0.lock().expect("one writer") += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn logs(criterion: &mut Criterion) {
    let log = log();
    let header = reader(&log).header().clone();
    let events: Vec<Event> = reader(&log).collect::<Result<_, _>>().expect("events");
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Elements(events.len() as u64)).sample_size(30);
    for (name, compressed) in [("write", false), ("write .zst", true)] {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let file = LogFile::over(Box::new(Counted::default()), Path::new("log"), compressed);
                let mut writer = Writer::new(file, &header, None).expect("a header");
                for event in &events {
                    writer.event(event).expect("room");
                }
            });
        });
    }
    group.bench_function("read", |bench| {
        bench.iter_batched(
            || reader(&log),
            |mut reader| {
                while let Some(event) = reader.next_event() {
                    black_box(event.expect("an event"));
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn ledger(criterion: &mut Criterion) {
    let log = log();
    let clock = reader(&log).header().clock;
    let events: Vec<Event> = reader(&log).collect::<Result<_, _>>().expect("events");
    let judged = || {
        let (mut ledger, mut changed) = (Ledger::new(Settings::default()), Vec::new());
        for event in &events {
            ledger.apply(event, &mut changed);
            changed.clear();
        }
        ledger
    };
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(events.len() as u64)).sample_size(30);
    group.bench_function("apply", |bench| bench.iter(judged));
    group.finish();

    let ledger = judged();
    let end = events.last().map_or(BootTime(0), |event| event.at);
    let window = Window { start: BootTime(clock.boot_ns), end, complete: true };
    let host = reader(&log).header().host.clone();
    let mut group = criterion.benchmark_group("report");
    for format in [Format::Text, Format::Json, Format::Html] {
        group.bench_function(format!("{format:?}"), |bench| {
            bench.iter(|| {
                let report = report_of(&ledger, host.clone(), clock, window, false);
                let mut out = Vec::new();
                report.write(format, Style::default(), &mut out).expect("room");
                out
            });
        });
    }
    group.finish();
}

criterion_group!(benches, wire_decode, logs, ledger);
criterion_main!(benches);
