//! What a frame of the live screen costs: `cargo run --release -p bindwatch --example frames`.
//!
//! For 10 000 and 100 000 listening sockets of a tenth as many processes: the order of the rows, which is made anew when
//! something changed, and a frame of 120x40 with what of it goes to the terminal. Medians, ms of wall-clock time.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench fails by panicking")]

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bindwatch::event::{
    Bind, Body, BootTime, Cookie, Door, Event, Family, Hook, Inum, Known, Listen, NetnsCookie, Options,
    Process, ProcessKey, Protocol, Seq, SocketFacts, Tid, Uid,
};
use bindwatch::ledger::Settings;
use bindwatch::tui::model::Model;
use bindwatch::tui::rows::{self, Tab};
use bindwatch::tui::theme::{Palette, Theme, UNICODE};
use bindwatch::tui::view::{self, Layout};
use bindwatch::tui::world::{Origin, World};
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};

const AREA: Rect = Rect::new(0, 0, 120, 40);
const FRAMES: usize = 100;

fn process(number: u32) -> Process {
    let key = ProcessKey { tgid: 1000 + number, start: 100 };
    Process {
        process: key,
        parent: None,
        lineage: key,
        known: Known::Exec,
        comm: format!("server-{number}"),
        exe: format!("/usr/bin/server-{number}"),
        cmdline: vec!["server".into(), "--listen".into(), format!("port-{number}")],
        cmdline_cut: false,
        uid: Uid(1000),
        session: 1,
        cgroup: format!("/ci/job-{}", number % 50),
        container: None,
        mark: None,
        job: None,
    }
}

/// So many listeners, on ports of their own or addresses of their own.
fn world(sockets: u32) -> World {
    let mut world = World::new(Origin::default(), Settings::default());
    let mut events = Vec::new();
    let mut seq = 0;
    let mut add = |body: Body| {
        seq += 1;
        events.push(Event { seq: Seq(seq), at: BootTime(seq * 1_000_000), hook: Hook::Bindwatch, body });
    };
    for number in 0..sockets / 10 {
        add(Body::Process(process(number)));
    }
    for number in 0..sockets {
        let owner = process(number / 10).process;
        let [_, a, b, c] = (number / 20_000).to_be_bytes();
        let socket = SocketFacts {
            cookie: Cookie(u64::from(number) + 1),
            netns: Inum(4_026_531_840),
            netns_cookie: NetnsCookie(1),
            family: Family::Inet,
            protocol: Protocol::Tcp,
            address: IpAddr::V4(Ipv4Addr::new(127, a, b, c + 1)),
            port: u16::try_from(10_000 + number % 20_000).unwrap(),
            options: Options::default(),
            uid: Uid(1000),
        };
        let (process, requested_port) = (owner, socket.port);
        let (tid, comm, door) = (Tid(1), String::new(), Door::Syscall);
        add(Body::Bind(Bind { process, tid, comm, socket: socket.clone(), requested_port, door }));
        add(Body::Listen(Listen { process, socket }));
    }
    world.take(&mut events);
    world.refresh();
    world
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn main() {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:>8}  {:<10} {:>9} {:>9} {:>9}", "sockets", "view", "rows ms", "frame ms", "bytes")
        .unwrap();
    for sockets in [10_000, 100_000] {
        let world = world(sockets);
        for tab in Tab::ALL {
            let mut model = Model { tab, ..Model::default() };
            let query = model.query();
            let started = |work: &mut dyn FnMut()| {
                let start = Instant::now();
                work();
                start.elapsed()
            };
            let index = rows::index(&world, &query);
            let ordered = (0..20).map(|_| started(&mut || drop(rows::index(&world, &query)))).collect();
            let options = TerminalOptions { viewport: Viewport::Fixed(AREA) };
            let mut sink = Vec::new();
            let mut terminal = Terminal::with_options(CrosstermBackend::new(&mut sink), options).unwrap();
            let rows = index.entries.len().max(1);
            let frames = (0..FRAMES).map(|frame| {
                // Another part of the rows each time: every cell may change.
                let pane = &mut model.panes[tab.place()];
                pane.at = frame * 997 % rows;
                pane.top = pane.at;
                pane.key = index.entries.get(pane.at).map(|entry| entry.key.clone());
                started(&mut || {
                    let layout = Layout::new(&model, &world, rows, AREA);
                    model.settle(&index, layout.table_rows().into());
                    let theme = Theme { palette: Palette::Dark, glyphs: &UNICODE };
                    terminal
                        .draw(|frame| view::draw(&model, &world, &index, &layout, theme, frame.buffer_mut()))
                        .unwrap();
                })
            });
            let frames = median(frames.collect());
            drop(terminal);
            let bytes = sink.len() / FRAMES;
            writeln!(
                out,
                "{sockets:>8}  {:<10} {:>9.2} {frames:>9.2} {bytes:>9}",
                tab.name(),
                median(ordered)
            )
            .unwrap();
        }
    }
}
