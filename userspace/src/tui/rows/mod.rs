//! The rows of the views. An [`Index`] says which rows there are and in which order; only those that are visible are
//! made into text, so that a hundred thousand sockets cost what forty do.

mod endpoints;
mod events;
mod findings;
mod ports;
mod processes;

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::filter::Filter;
use super::history::Spot;
use super::theme::{Glyphs, Role};
use super::world::World;
use crate::clock::Anchors;
use crate::enrich::ACCEPTED_TOLD_MAX;
use crate::event::{BootTime, Cookie, Inum, Process, ProcessKey, Protocol, Seq};
use crate::ledger::SocketView;
use crate::ledger::finding::{FindingId, HolderState};
use crate::sink::{escape, words};

/// Characters of a name that a row starts from, before it is fitted into its column.
const TEXT_CHARS: usize = 400;

/// The views.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tab {
    /// What is wrong.
    #[default]
    Findings,
    /// Every endpoint that is bound.
    Endpoints,
    /// Who has what, by cgroup.
    Processes,
    /// What happens.
    Events,
    /// The ports that the kernel chooses from.
    Ports,
}

impl Tab {
    /// All, in the order of their number keys.
    pub const ALL: [Self; 5] = [Self::Findings, Self::Endpoints, Self::Processes, Self::Events, Self::Ports];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Findings => "Findings",
            Self::Endpoints => "Endpoints",
            Self::Processes => "Processes",
            Self::Events => "Events",
            Self::Ports => "Ports",
        }
    }

    /// Its place in [`Tab::ALL`].
    #[must_use]
    pub const fn place(self) -> usize {
        self as usize
    }

    /// Its columns.
    #[must_use]
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::Findings => &findings::COLUMNS,
            Self::Endpoints => &endpoints::COLUMNS,
            Self::Processes => &processes::COLUMNS,
            Self::Events => &events::COLUMNS,
            Self::Ports => &ports::COLUMNS,
        }
    }

    /// What stands there when it has no rows.
    #[must_use]
    pub const fn nothing(self) -> &'static str {
        match self {
            Self::Findings => "Nothing wrong so far.",
            Self::Endpoints => "Nothing is bound.",
            Self::Processes => "No process has a socket.",
            Self::Events => "Nothing happened yet.",
            Self::Ports => {
                "The ports have not been counted: live they are every two seconds, in a log once a minute."
            }
        }
    }
}

/// A column of a view.
#[derive(Debug)]
pub struct Column {
    /// Its head.
    pub title: &'static str,
    /// Its width at least.
    pub width: u16,
    /// Its share of what is left.
    pub grow: u16,
    /// Its width at most.
    pub max: u16,
    /// Columns of a higher rank go first when there is no room.
    pub rank: u8,
    /// Its text stands on the right.
    pub right: bool,
}

/// A column of fixed width.
const fn fixed(title: &'static str, width: u16, rank: u8) -> Column {
    Column { title, width, grow: 0, max: width, rank, right: false }
}

/// A column of numbers.
const fn number(title: &'static str, width: u16, rank: u8) -> Column {
    Column { title, width, grow: 0, max: width, rank, right: true }
}

/// A column that takes what is left.
const fn growing(title: &'static str, width: u16, grow: u16, max: u16, rank: u8) -> Column {
    Column { title, width, grow, max, rank, right: false }
}

/// What a row is, so that it is found again when others have come and gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A finding.
    Finding(FindingId),
    /// An endpoint.
    Endpoint(Spot),
    /// A cgroup, by its path.
    Cgroup(Box<str>),
    /// A process.
    Process(ProcessKey),
    /// An event.
    Event(Seq),
    /// The ports of a network namespace.
    Ports(Inum, Protocol),
    /// Who uses them: their place among the users.
    PortUser(Inum, Protocol, usize),
}

/// A row that is not text yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub key: Key,
    /// Its sockets: from here in [`Index::cookies`].
    first: u32,
    /// So many.
    sockets: u32,
    /// How deep in the tree.
    depth: u8,
}

impl Entry {
    const fn new(key: Key) -> Self {
        Self { key, first: 0, sockets: 0, depth: 0 }
    }
}

/// The rows of a view, in their order.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// The rows.
    pub entries: Vec<Entry>,
    /// Rows that the filter left out.
    pub hidden: usize,
    cookies: Vec<Cookie>,
}

impl Index {
    fn sockets_of(&self, entry: &Entry) -> &[Cookie] {
        let first = entry.first as usize;
        self.cookies.get(first..first + entry.sockets as usize).unwrap_or_default()
    }
}

/// Which rows are wanted, in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Of which view.
    pub tab: Tab,
    /// Those that pass.
    pub filter: Filter,
    /// By which column, and whether backwards; None is the view's own order.
    pub sort: Option<(usize, bool)>,
    /// Connected sockets too.
    pub connected: bool,
}

/// A row as text.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// One for each column of the view.
    pub cells: Vec<String>,
    /// How it looks.
    pub role: Role,
}

/// What rows are made with.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// What there is.
    pub world: &'a World,
    /// What lines are drawn with.
    pub glyphs: &'static Glyphs,
}

impl Scene<'_> {
    /// The clocks of the machine that is shown.
    #[must_use]
    pub const fn clock(&self) -> Anchors {
        self.world.origin().clock
    }

    /// `12:37:40.123`
    #[must_use]
    pub fn time(&self, at: BootTime) -> String {
        time(self.clock(), at)
    }

    /// The time, or `earlier` of what was there before the recording.
    #[must_use]
    pub fn since(&self, at: Option<BootTime>) -> String {
        at.map_or_else(|| "earlier".to_owned(), |at| self.time(at))
    }
}

/// The time of day, UTC, with milliseconds: `12:37:40.123`.
#[must_use]
pub fn time(clock: Anchors, at: BootTime) -> String {
    clock.rfc3339(at).get(11..23).unwrap_or_default().to_owned()
}

/// Which rows `query` gives.
#[must_use]
pub fn index(world: &World, query: &Query) -> Index {
    match query.tab {
        Tab::Findings => findings::index(world, query),
        Tab::Endpoints => endpoints::index(world, query),
        Tab::Processes => processes::index(world, query),
        Tab::Events => events::index(world, query),
        Tab::Ports => ports::index(world, query),
    }
}

/// A row of `index` as text.
#[must_use]
pub fn row(scene: Scene<'_>, tab: Tab, index: &Index, entry: &Entry) -> Row {
    let row = match tab {
        Tab::Findings => findings::row(scene, entry),
        Tab::Endpoints => endpoints::row(scene, index, entry),
        Tab::Processes => processes::row(scene, index, entry),
        Tab::Events => events::row(scene, entry),
        Tab::Ports => ports::row(scene, entry),
    };
    row.unwrap_or_default()
}

/// Processes behind a row, for a signal.
#[must_use]
pub fn processes(world: &World, index: &Index, entry: &Entry) -> Vec<ProcessKey> {
    let mut found: Vec<ProcessKey> = match &entry.key {
        Key::Finding(id) => world.finding(*id).map_or_else(Vec::new, |finding| {
            finding.holders.iter().filter(|holder| holder.released_at.is_none()).map(|h| h.process).collect()
        }),
        Key::Endpoint(_) => {
            let sockets = index.sockets_of(entry).iter().filter_map(|cookie| world.view().socket(*cookie));
            sockets.flat_map(|socket| socket.processes().iter().copied()).collect()
        }
        Key::Process(process) => vec![*process],
        Key::PortUser(netns, protocol, at) => {
            ports::user(world, *netns, *protocol, *at).map(|user| user.process).into_iter().collect()
        }
        Key::Cgroup(_) | Key::Event(_) | Key::Ports(..) => Vec::new(),
    };
    found.retain(|process| process.tgid != 0 && !world.view().has_ended(*process));
    let mut seen = BTreeSet::new();
    found.retain(|process| seen.insert(*process));
    found
}

/// Sockets behind a row that connections may come to, for those to be counted. At most so many as are looked at once.
#[must_use]
pub fn listeners(world: &World, index: &Index, entry: &Entry) -> BTreeSet<Cookie> {
    let of_port = |netns, protocol, port| {
        let listens = |socket: &SocketView<'_>| socket.state() == HolderState::Listen;
        let sockets = world.view().on_port(netns, protocol, port).filter(listens);
        sockets.map(|socket| socket.cookie()).take(ACCEPTED_TOLD_MAX).collect()
    };
    match &entry.key {
        Key::Finding(id) => world
            .finding(*id)
            .map(|finding| of_port(finding.netns, finding.protocol, finding.port))
            .unwrap_or_default(),
        Key::Endpoint(spot) => of_port(spot.netns, spot.protocol, spot.port),
        Key::Process(_) => index.sockets_of(entry).iter().copied().take(ACCEPTED_TOLD_MAX).collect(),
        _ => BTreeSet::new(),
    }
}

/// What rows are sorted by.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum By {
    Number(u64),
    Text(Box<str>),
}

impl By {
    fn text(text: &str) -> Self {
        Self::Text(text.chars().take(TEXT_CHARS).flat_map(char::to_lowercase).collect::<String>().into())
    }

    /// Those with a time before the recording come first.
    fn time(at: Option<BootTime>) -> Self {
        Self::Number(at.map_or(0, |at| at.0))
    }
}

/// Sorts rows by a column; rows that are alike there keep their order.
fn sort(entries: &mut [Entry], (_, backwards): (usize, bool), by: impl Fn(&Entry) -> By) {
    let order = |a: &By, b: &By| {
        let order = a.partial_cmp(b).unwrap_or(Ordering::Equal);
        if backwards { order.reverse() } else { order }
    };
    let mut keyed: Vec<(By, Entry)> = entries.iter().map(|entry| (by(entry), entry.clone())).collect();
    keyed.sort_by(|(a, _), (b, _)| order(a, b));
    for (place, (_, entry)) in entries.iter_mut().zip(keyed) {
        *place = entry;
    }
}

/// `node server.js`: a process by what it runs, for a column. Of text that was never masked, only the program.
fn program(world: &World, facts: &Process) -> String {
    let name = words::name(&facts.comm);
    if facts.cmdline.len() < 2 {
        return name;
    }
    let shown = facts.cmdline.get(1..facts.cmdline.len().min(16)).unwrap_or_default();
    let arguments = escape::arguments(&world.arguments(shown));
    format!("{name} {}", escape::cut(&arguments, TEXT_CHARS))
}

/// `node (4711)`
fn short(world: &World, process: ProcessKey) -> String {
    let name = world.view().process(process).map_or("", |facts| facts.comm.as_str());
    let name = if name.is_empty() { "?".to_owned() } else { escape::cut(name, 64).into_owned() };
    format!("{name} ({})", process.tgid)
}

/// The fields of a process that a filter looks at.
fn process_fields(world: &World, process: ProcessKey, each: &mut dyn FnMut(super::filter::Field<'_>)) {
    use super::filter::Field;
    each(Field::Pid(process.tgid));
    if let Some(facts) = world.view().process(process) {
        each(Field::Program(&facts.comm));
        each(Field::Program(&facts.exe));
        facts.cmdline.iter().for_each(|argument| each(Field::Program(argument)));
        each(Field::Cgroup(&facts.cgroup));
        each(Field::Uid(facts.uid.0));
        if let Some(container) = &facts.container {
            each(Field::Cgroup(container));
        }
    }
}
