//! The loop with a terminal in the hands of the test, and time that goes on when there is nothing left to do.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::*;
use crate::event::{
    Accepted, Bind, Body, BootTime, Cookie, Door, Found, Hook, Listen, Process, Seq, TcpState, Tid,
};
use crate::ledger::Settings;
use crate::log::samples;
use crate::tui::terminal::{Area, Taker};
use crate::tui::theme::{Palette, UNICODE};
use crate::tui::world::Origin;

/// Longer than anything that comes by itself.
const LONG: Duration = Duration::from_secs(3600);
const AREA: Area = Area::new(0, 0, 120, 40);

struct Bench {
    app: App,
    taker: Taker,
    keys: UnboundedSender<Input>,
}

impl Bench {
    fn new(source: Source, world: World) -> Self {
        let theme = Theme { palette: Palette::Dark, glyphs: &UNICODE };
        let options = Options { theme, mouse: false, tab: Tab::Findings, filter: String::new() };
        let (keys, heard) = unbounded_channel();
        let (screen, taker) = Taker::new(AREA);
        Self { app: App::new(source, world, &options, heard, screen), taker, keys }
    }

    /// A stored log, paused at a time in it.
    fn replay(log: &str, second: u64) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(log);
        let mut player = Player::open(&path, 1.0).unwrap();
        let origin = player.origin(false);
        player.begin_at(BootTime(origin.start.0 + second * 1_000_000_000));
        let world = World::new(origin, Settings::default());
        Self::new(Source::Log(Box::new(player)), world)
    }

    fn key(&self, c: char, modifiers: KeyModifiers) {
        let key = KeyEvent::new(KeyCode::Char(c), modifiers);
        self.keys.send(Input::Msg(Msg::Key(key))).unwrap();
    }

    /// Turns until nothing comes any more for `time`, or so many times. How often it did.
    async fn turns(&mut self, time: Duration, most: usize) -> usize {
        for turn in 0..most {
            match timeout(time, self.app.turn(pending())).await {
                Err(_elapsed) => return turn,
                Ok(goes_on) => assert!(goes_on.unwrap(), "it ended"),
            }
        }
        most
    }

    /// The same with a terminal that takes what is drawn. What it took.
    async fn shown(&mut self, time: Duration, most: usize) -> Vec<String> {
        let mut taken = Vec::new();
        for _ in 0..most {
            let turned = self.turns(time, 1).await;
            let before = taken.len();
            taken.extend(std::iter::from_fn(|| self.taker.take()).map(|bytes| text(&bytes)));
            if turned == 0 && taken.len() == before {
                return taken;
            }
        }
        taken
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a live source tells, by the hand of a test.
struct Hand {
    to: UnboundedSender<Vec<Event>>,
    waiting: Arc<AtomicUsize>,
    seq: u64,
}

impl Hand {
    fn live() -> (Bench, Self) {
        let (feed, to, waiting) = Feed::by_hand();
        let world = World::new(Origin::default(), Settings::default());
        (Bench::new(Source::Live(feed), world), Self { to, waiting, seq: 0 })
    }

    fn tells(&mut self, bodies: Vec<Body>) {
        let event = |body| {
            self.seq += 1;
            Event { seq: Seq(self.seq), at: BootTime(self.seq * 1000), hook: Hook::Bindwatch, body }
        };
        let events: Vec<Event> = bodies.into_iter().map(event).collect();
        self.waiting.fetch_add(events.len(), Ordering::AcqRel);
        self.to.send(events).unwrap();
    }
}

fn process(tgid: u32) -> Process {
    Process { parent: None, mark: None, ..samples::process(tgid, "server") }
}

fn bind(tgid: u32, cookie: u64, port: u16) -> Body {
    let socket = samples::socket(cookie, "127.0.0.1", port);
    let (tid, comm, door) = (Tid(tgid), "server".to_owned(), Door::Syscall);
    Body::Bind(Bind { process: process(tgid).process, tid, comm, socket, requested_port: port, door })
}

#[tokio::test(start_paused = true)]
async fn nothing_is_drawn_and_nobody_wakes_while_nothing_changes() {
    let mut bench = Bench::replay("co-bind.jsonl", 15);
    let shown = bench.shown(LONG, 1000).await;
    assert_eq!(shown.len(), 1, "one frame, and then none");
    assert!(shown.concat().contains("co-bind"));
    assert_eq!(bench.turns(LONG, 10).await, 0, "it sleeps");
    // A key is an answer of one frame.
    bench.key('2', KeyModifiers::NONE);
    assert_eq!(bench.shown(LONG, 1000).await.len(), 1);
    assert_eq!(bench.turns(LONG, 10).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_live_screen_sleeps_as_well() {
    let (mut bench, mut hand) = Hand::live();
    let socket = samples::socket(1, "127.0.0.1", 80);
    let holders = vec![process(1).process];
    let found = Found { socket, state: TcpState::Listen, holders };
    hand.tells(vec![Body::Process(process(1)), Body::Socket(found)]);
    let shown = bench.shown(LONG, 1000).await;
    assert!((1..=2).contains(&shown.len()), "{} frames", shown.len());
    assert_eq!(bench.turns(LONG, 10).await, 0, "it sleeps");
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_drawn_now_and_then() {
    let (mut bench, mut hand) = Hand::live();
    hand.tells(vec![Body::Process(process(1))]);
    let begin = Instant::now();
    let mut frames = 0;
    for port in 1000..2000 {
        hand.tells(vec![bind(1, port.into(), port)]);
        frames += bench.shown(Duration::from_millis(1), 100).await.len();
    }
    let most = usize::try_from(begin.elapsed().as_millis() / FRAME.as_millis()).unwrap() + 1;
    assert!((most / 2..=most).contains(&frames), "{frames} frames, where {most} fit");
}

#[tokio::test(start_paused = true)]
async fn a_terminal_that_takes_nothing_holds_nothing_up() {
    let (mut bench, mut hand) = Hand::live();
    hand.tells(vec![Body::Process(process(1)), Body::Process(process(2)), bind(2, 9998, 9)]);
    bench.key('2', KeyModifiers::NONE);
    // Rows are there: there is something to copy.
    assert!(bench.shown(Duration::from_millis(100), 1000).await.concat().contains("127.0.0.1:9"));
    let views = "1234".chars().cycle();
    for (batch, view) in (0..50_u16).zip(views) {
        let ports = 1000 + batch * 100..1100 + batch * 100;
        hand.tells(ports.map(|port| bind(1, port.into(), port)).collect());
        bench.key(view, KeyModifiers::NONE);
        bench.key('y', KeyModifiers::NONE);
        bench.key('l', KeyModifiers::CONTROL);
        bench.turns(Duration::from_millis(100), 50).await;
        assert_eq!(hand.waiting.load(Ordering::Acquire), 0, "what came was taken");
    }
    assert_eq!(bench.app.world.ledger().stats().events, 5003);
    // What was drawn meanwhile: one frame, and what had been asked for before it was too much.
    let waited: Vec<Vec<u8>> = std::iter::from_fn(|| bench.taker.take()).collect();
    let frames = waited.iter().filter(|bytes| !text(bytes).starts_with("\u{1b}]52;")).count();
    assert_eq!(frames, 1, "a frame before the last was written");
    assert!(waited.len() <= 5, "{} wait", waited.len());
    // Now it takes something again: what it shows is what there is.
    hand.tells(vec![bind(2, 9999, 7)]);
    bench.key('2', KeyModifiers::NONE);
    assert!(!bench.shown(Duration::from_millis(100), 1000).await.is_empty());
    bench.key('l', KeyModifiers::CONTROL);
    let shown = bench.shown(Duration::from_millis(100), 1000).await.concat();
    assert!(shown.contains("127.0.0.1:7 "), "what came last is not on the screen");
}

#[tokio::test(start_paused = true)]
async fn the_split_is_asked_for_while_it_is_looked_at() {
    let (mut bench, mut hand) = Hand::live();
    let listen = |tgid, cookie, port| {
        let socket = samples::socket(cookie, "127.0.0.1", port);
        Body::Listen(Listen { process: process(tgid).process, socket })
    };
    hand.tells(vec![
        Body::Process(process(1)),
        bind(1, 1, 80),
        listen(1, 1, 80),
        bind(1, 2, 81),
        listen(1, 2, 81),
    ]);
    let asked = |bench: &Bench| match &bench.app.source {
        Source::Live(feed) => feed.counting(),
        Source::Log(_) => Vec::new(),
    };
    bench.key('2', KeyModifiers::NONE);
    bench.shown(Duration::from_millis(100), 100).await;
    assert_eq!(asked(&bench), []);
    let enter = KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE);
    bench.keys.send(Input::Msg(Msg::Key(enter))).unwrap();
    bench.shown(Duration::from_millis(100), 100).await;
    assert_eq!(asked(&bench), [Cookie(1)]);
    // What was counted is there, while both go on.
    hand.tells(vec![Body::Accepted(Accepted { cookie: Cookie(1), connections: 61 })]);
    let shown = bench.shown(Duration::from_millis(100), 100).await.concat();
    assert!(shown.contains("61 "), "{shown}");
    bench.keys.send(Input::Msg(Msg::Key(enter))).unwrap();
    bench.shown(Duration::from_millis(100), 100).await;
    assert_eq!(asked(&bench), []);
}
