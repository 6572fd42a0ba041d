//! The screen of `bindwatch top` on stored logs, in three sizes, cell by cell as it is stored in `tests/golden/top`.
//!
//! `BLESS=1 cargo test -p bindwatch --test screens` stores what is drawn now; look at it before it is committed.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bindwatch::clock::When;
use bindwatch::sink::escape;
use bindwatch::tui::Player;
use bindwatch::tui::model::{Model, Playing};
use bindwatch::tui::rows::{self, Tab};
use bindwatch::tui::theme::{ASCII, Palette, Theme, UNICODE};
use bindwatch::tui::view::{self, Layout};
use bindwatch::tui::world::World;
use ratatui::backend::{Backend as _, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr as _;

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (40, 10)];
const DARK: Theme = Theme { palette: Palette::Dark, glyphs: &UNICODE };

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// What a log has `after` its start.
fn world(log: &str, after: Duration) -> World {
    let mut player = Player::open(&folder().join(log), 1.0).unwrap();
    let origin = player.origin(false);
    let at = When::After(after).resolve(origin.clock, origin.start);
    let mut world = World::new(origin, player.rules().into());
    player.until(Some(at), &mut world);
    world
}

fn drawn(world: &World, model: &mut Model, (width, height): (u16, u16), theme: Theme) -> Buffer {
    let area = Rect::new(0, 0, width, height);
    let mut buffer = Buffer::empty(area);
    let index = rows::index(world, &model.query());
    let layout = Layout::new(model, world, index.entries.len(), area);
    model.settle(&index, layout.table_rows().into());
    view::draw(model, world, &index, &layout, theme, &mut buffer);
    buffer
}

/// The cells as lines of text.
fn lines(buffer: &Buffer) -> Vec<String> {
    let area = buffer.area;
    let line = |y: u16| {
        let mut text = String::new();
        let mut x = 0;
        while x < area.width {
            let symbol = buffer.cell((x, y)).unwrap().symbol();
            text.push_str(symbol);
            x += u16::try_from(symbol.width().max(1)).unwrap();
        }
        text
    };
    (0..area.height).map(line).collect()
}

/// Which cells look other than plain text, line by line: `4: 0-79 reversed`.
fn styles(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let mut x = 0;
        while x < buffer.area.width {
            let style = buffer.cell((x, y)).unwrap().style();
            let from = x;
            while x < buffer.area.width && buffer.cell((x, y)).unwrap().style() == style {
                x += 1;
            }
            let plain = Buffer::empty(buffer.area).cell((0, 0)).unwrap().style();
            if style != plain {
                let (fg, modifier) = (style.fg.unwrap(), style.add_modifier);
                writeln!(text, "{y}: {from}-{} {fg:?} {modifier:?}", x - 1).unwrap();
            }
        }
    }
    text
}

fn replayed(model: &mut Model, world: &World, name: &str) {
    model.replay = Some(Playing {
        name: name.to_owned(),
        runs: true,
        speed: 4.0,
        start: world.origin().start,
        end: Some(bindwatch::event::BootTime(world.origin().start.0 + 20_010_000_000)),
        at: world.now(),
        marks: world.findings().map(|finding| finding.first_seen).collect(),
        seeks: false,
    });
}

/// Every view of a log, each with the story of its first row, in one text.
fn everything(world: &World, name: &str, size: (u16, u16)) -> String {
    let mut text = String::new();
    let mut add = |what: &str, model: &mut Model, theme: Theme| {
        let buffer = drawn(world, model, size, theme);
        writeln!(text, "== {what} ==").unwrap();
        for line in lines(&buffer) {
            assert_eq!(line.width(), usize::from(size.0), "{what}: {line:?}");
            assert!(line.chars().all(escape::is_seen), "{what}: {line:?}");
            writeln!(text, "{}", line.trim_end()).unwrap();
        }
    };
    for tab in Tab::ALL {
        let mut model = Model { tab, ..Model::default() };
        add(tab.name(), &mut model, DARK);
        model.detail = true;
        add(&format!("{}, the story", tab.name()), &mut model, DARK);
    }
    let mut model = Model { help: Some(0), frozen: Some(1234), ..Model::default() };
    add("keys, frozen", &mut model, DARK);
    let mut model = Model { filter: "no such thing".to_owned(), edits: true, ..Model::default() };
    replayed(&mut model, world, name);
    add("a replay, filtered", &mut model, DARK);
    let mut model = Model { tab: Tab::Endpoints, ..Model::default() };
    replayed(&mut model, world, name);
    add("ASCII", &mut model, Theme { palette: Palette::Plain, glyphs: &ASCII });
    text
}

fn check(name: &str, said: &str) {
    let golden = folder().join("top").join(name).with_extension("txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&golden, said).unwrap();
    }
    let stored = std::fs::read_to_string(&golden).unwrap_or_default();
    let differs = said.lines().zip(stored.lines()).position(|(a, b)| a != b);
    assert_eq!(
        said,
        stored,
        "{} differs from line {:?}: BLESS=1 stores what is drawn now",
        golden.display(),
        differs.map(|at| at + 1)
    );
}

fn check_sizes(log: &str, after_s: u64) {
    let stem = log.rsplit('/').next().unwrap().trim_end_matches(".jsonl");
    let world = world(log, Duration::from_secs(after_s));
    for (width, height) in SIZES {
        check(&format!("{stem}-{width}x{height}"), &everything(&world, log, (width, height)));
    }
}

#[test]
fn a_co_bind_while_it_goes_on() {
    check_sizes("co-bind.jsonl", 15);
}

#[test]
fn refused_binds() {
    check_sizes("refused.jsonl", 3600);
}

#[test]
fn lost_events() {
    check_sizes("lost.jsonl", 3600);
}

#[test]
fn hostile_names() {
    check_sizes("top/hostile.jsonl", 15);
    // And after the end, when names come from what is remembered.
    let world = world("top/hostile.jsonl", Duration::from_secs(3600));
    SIZES.iter().for_each(|size| drop(everything(&world, "\u{1b}[2J\u{202e}", *size)));
}

#[test]
fn no_size_breaks_anything() {
    let world = world("refused.jsonl", Duration::from_secs(3600));
    for width in 0..60 {
        for height in 0..14 {
            for (detail, help) in [(false, None), (true, None), (false, Some(0))] {
                for tab in Tab::ALL {
                    let mut model = Model { tab, detail, help, ..Model::default() };
                    replayed(&mut model, &world, "x");
                    drop(drawn(&world, &mut model, (width, height), DARK));
                }
            }
        }
    }
    let buffer = drawn(&world, &mut Model::default(), (300, 100), DARK);
    let widest = lines(&buffer).iter().map(|line| line.trim_end().width()).max().unwrap();
    assert!(widest > 150, "a large terminal is used: {widest}");
}

#[test]
fn colours() {
    let world = world("co-bind.jsonl", Duration::from_secs(15));
    let mut text = String::new();
    for palette in [Palette::Dark, Palette::Light, Palette::Plain] {
        let theme = Theme { palette, glyphs: &UNICODE };
        let mut model = Model { tab: Tab::Endpoints, detail: true, ..Model::default() };
        writeln!(text, "== {palette:?} ==\n{}", styles(&drawn(&world, &mut model, (80, 24), theme))).unwrap();
    }
    check("colours-80x24", &text);
}

/// What a terminal gets is text, and commands of ours: whatever a process calls itself is in no command.
#[test]
fn no_name_is_a_command() {
    let world = world("top/hostile.jsonl", Duration::from_secs(15));
    for tab in Tab::ALL {
        let mut model = Model { tab, detail: true, ..Model::default() };
        let buffer = drawn(&world, &mut model, (120, 40), DARK);
        let mut bytes = Vec::new();
        let cells = (0..40_u16).flat_map(|y| (0..120_u16).map(move |x| (x, y)));
        let cells = cells.map(|(x, y)| (x, y, buffer.cell((x, y)).unwrap()));
        CrosstermBackend::new(&mut bytes).draw(cells).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        for part in text.split('\u{1b}').skip(1) {
            let command = part.strip_prefix('[').unwrap_or_else(|| panic!("{part:?}"));
            let end = command.find(|c: char| c.is_ascii_alphabetic()).unwrap();
            let (numbers, rest) = command.split_at(end);
            assert!(numbers.chars().all(|c| c.is_ascii_digit() || c == ';'), "{part:?}");
            assert!(rest.starts_with(['H', 'm']), "only moves and colours: {part:?}");
            assert!(rest.chars().all(escape::is_seen), "{part:?}");
        }
    }
}

/// What was found live is found again: the screen's judgement of a log is the report's, byte for byte.
#[test]
fn the_screen_says_what_the_report_says() {
    for log in ["clean", "co-bind", "refused", "torn", "lost"] {
        let said = |arguments: &[&str]| {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bindwatch"));
            command.env_clear().current_dir(folder()).args(arguments).arg(format!("{log}.jsonl"));
            let output = command.output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stderr), "");
            String::from_utf8(output.stdout).unwrap()
        };
        let screen = said(&["top", "--once", "--format", "json", "--replay"]);
        assert_eq!(screen, said(&["report", "--format", "json"]), "{log}");
    }
}

#[test]
fn a_moment_of_a_log_is_printed() {
    let printed = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bindwatch"));
        command.env_clear().current_dir(folder()).args(["top", "--replay", "co-bind.jsonl"]).args(arguments);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = printed(&["--at", "12:30:25"]);
    assert_eq!(code, Some(0));
    assert!(said.contains("at 2025-11-20T12:30:25.000Z\n1 error, 0 warnings, 0 notes; 2 sockets"), "{said}");
    assert!(said.contains("!  tcp    127.0.0.3:9926  listen"), "{said}");
    assert_eq!(printed(&["--at", "10.5s", "--once", "--fail-on", "error"]).0, Some(0));
    assert_eq!(printed(&["--at", "11.5s", "--once", "--fail-on", "error"]).0, Some(1));
    // Every five seconds of twenty, four times as fast as it was.
    let (_, said) = printed(&["-b", "-d", "1.25", "--speed", "4x"]);
    let times: Vec<&str> =
        said.lines().filter_map(|line| line.split_once(" at ")).map(|(_, at)| at).collect();
    let clock =
        ["12:30:10.000", "12:30:15.000", "12:30:20.000", "12:30:25.000", "12:30:30.000", "12:30:30.010"];
    assert_eq!(times, clock.map(|clock| format!("2025-11-20T{clock}Z")));
    let (_, said) = printed(&["-b", "-n", "2", "--view", "events", "--filter", "bind"]);
    assert_eq!(said.matches("TIME").count(), 2, "{said}");
}
