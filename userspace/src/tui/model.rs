//! What the user has chosen to see, and how keys change that: a pure state, and a pure update of it. What goes beyond
//! the screen comes out as an [`Effect`], for the caller to do.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

use super::filter::Filter;
use super::keys::{self, Action};
use super::rows::{self, Index, Key, Query, Tab};
use super::view::{Hit, Layout};
use super::world::World;
use crate::event::{BootTime, ProcessKey};

/// Longest filter, characters.
const FILTER_MAX: usize = 200;
/// Rows that one turn of the wheel moves.
const WHEEL_ROWS: i32 = 3;

/// Where one is in a view.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pane {
    /// The chosen row; None is the view's own choice: its first row, of the events the last.
    pub key: Option<Key>,
    /// Its place.
    pub at: usize,
    /// The first visible row.
    pub top: usize,
    /// Sorted by this column, backwards or not.
    pub sort: Option<(usize, bool)>,
}

/// A question before a signal is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// To one of these.
    pub targets: Vec<ProcessKey>,
    /// To this one of them.
    pub chosen: usize,
}

/// Where a replay is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Playing {
    /// The log's name, for the screen.
    pub name: String,
    /// Time goes on.
    pub runs: bool,
    /// So many times as fast as it was.
    pub speed: f64,
    /// The log's first moment.
    pub start: BootTime,
    /// Its last; None while it is not known yet.
    pub end: Option<BootTime>,
    /// Where it is now.
    pub at: BootTime,
    /// When findings were made.
    pub marks: Vec<BootTime>,
    /// It is on its way to another moment.
    pub seeks: bool,
}

/// What is on the screen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// The view.
    pub tab: Tab,
    /// Where one is in each.
    pub panes: [Pane; 5],
    /// What is asked for.
    pub filter: String,
    /// It is being edited.
    pub edits: bool,
    /// The detail of the chosen row is open.
    pub detail: bool,
    /// The first visible line of it.
    pub detail_top: usize,
    /// The list of keys is open: its first visible line.
    pub help: Option<usize>,
    /// Connected sockets are shown too.
    pub connected: bool,
    /// Events wait: so many.
    pub frozen: Option<usize>,
    /// A question is open.
    pub question: Option<Question>,
    /// Something to say, until the next key.
    pub message: Option<String>,
    /// A log is played.
    pub replay: Option<Playing>,
}

/// What comes from the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Msg {
    /// A key.
    Key(KeyEvent),
    /// The mouse.
    Mouse(MouseEvent),
    /// Text was pasted.
    Paste(String),
}

/// What is to be done beyond the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// End.
    Quit,
    /// Stop until `fg`.
    Suspend,
    /// Copy the chosen row's story.
    Copy,
    /// Write a report.
    Write,
    /// Ask a process to end.
    Terminate(ProcessKey),
    /// Let time stand still, or go on.
    Pause,
    /// Go to a finding.
    Finding(bool),
    /// Go by so many seconds.
    Seek(i32),
    /// Go to the beginning, or the end.
    Edge(bool),
    /// Play faster, or slower.
    Speed(bool),
    /// Draw everything again.
    Redraw,
}

/// What is on the screen, for the update.
pub struct Shown<'a> {
    /// What there is.
    pub world: &'a World,
    /// The rows of the view.
    pub index: &'a Index,
    /// Where what is.
    pub layout: &'a Layout,
}

impl Model {
    /// Where one is in the view.
    #[must_use]
    pub fn pane(&self) -> &Pane {
        let [findings, endpoints, processes, events, ports] = &self.panes;
        match self.tab {
            Tab::Findings => findings,
            Tab::Endpoints => endpoints,
            Tab::Processes => processes,
            Tab::Events => events,
            Tab::Ports => ports,
        }
    }

    fn pane_mut(&mut self) -> &mut Pane {
        let [findings, endpoints, processes, events, ports] = &mut self.panes;
        match self.tab {
            Tab::Findings => findings,
            Tab::Endpoints => endpoints,
            Tab::Processes => processes,
            Tab::Events => events,
            Tab::Ports => ports,
        }
    }

    /// Which rows are wanted.
    #[must_use]
    pub fn query(&self) -> Query {
        Query {
            tab: self.tab,
            filter: Filter::parse(&self.filter),
            sort: self.pane().sort,
            connected: self.connected,
        }
    }

    /// Finds the chosen row again after the rows have changed, and keeps it visible in `height` rows.
    pub fn settle(&mut self, index: &Index, height: usize) {
        let follows = self.tab == Tab::Events && self.pane().sort.is_none();
        let pane = self.pane_mut();
        let last = index.entries.len().saturating_sub(1);
        pane.at = match &pane.key {
            None if follows => last,
            None => 0,
            Some(key) => {
                let here = index.entries.get(pane.at).is_some_and(|entry| entry.key == *key);
                let found = || index.entries.iter().position(|entry| entry.key == *key);
                if here { pane.at } else { found().unwrap_or_else(|| pane.at.min(last)) }
            }
        };
        let height = height.max(1);
        pane.top = pane.top.clamp((pane.at + 1).saturating_sub(height), pane.at);
        pane.top = pane.top.min(index.entries.len().saturating_sub(height));
    }

    fn choose(&mut self, at: usize, index: &Index) {
        let last = index.entries.len().saturating_sub(1);
        let follows = self.tab == Tab::Events && at >= last && self.pane().sort.is_none();
        let pane = self.pane_mut();
        pane.at = at.min(last);
        pane.key = index.entries.get(pane.at).map(|entry| entry.key.clone()).filter(|_| !follows);
        self.detail_top = 0;
    }

    fn step(&mut self, rows: i64, index: &Index) {
        let at = i64::try_from(self.pane().at).unwrap_or(i64::MAX).saturating_add(rows).max(0);
        self.choose(usize::try_from(at).unwrap_or(usize::MAX), index);
    }

    fn show(&mut self, tab: Tab) {
        self.tab = tab;
        self.detail = false;
        self.detail_top = 0;
    }

    /// Takes what came from the terminal.
    pub fn update(&mut self, msg: &Msg, shown: &Shown<'_>) -> Option<Effect> {
        self.message = None;
        match msg {
            Msg::Key(key) if self.question.is_some() => self.answer(*key),
            Msg::Key(key) if self.edits => self.edit(*key),
            Msg::Key(key) => match keys::action(*key, self.replay.is_some()) {
                Some(action) => self.act(action, shown),
                None => None,
            },
            Msg::Mouse(mouse) => self.mouse(*mouse, shown),
            Msg::Paste(text) => {
                if self.edits {
                    text.chars().for_each(|c| self.typed(c));
                }
                None
            }
        }
    }

    fn answer(&mut self, key: KeyEvent) -> Option<Effect> {
        let question = self.question.as_mut()?;
        match key.code {
            KeyCode::Tab | KeyCode::Down | KeyCode::Right => {
                question.chosen = (question.chosen + 1) % question.targets.len().max(1);
                return None;
            }
            KeyCode::BackTab | KeyCode::Up | KeyCode::Left => {
                let all = question.targets.len().max(1);
                question.chosen = (question.chosen + all - 1) % all;
                return None;
            }
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                self.question = None;
                return Some(Effect::Quit);
            }
            _ => {}
        }
        let question = self.question.take()?;
        match key.code {
            KeyCode::Char('y' | 'Y') if key.modifiers.difference(KeyModifiers::SHIFT).is_empty() => {
                question.targets.get(question.chosen).copied().map(Effect::Terminate)
            }
            _ => None,
        }
    }

    fn edit(&mut self, key: KeyEvent) -> Option<Effect> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Enter => self.edits = false,
            KeyCode::Esc => {
                self.edits = false;
                self.filter.clear();
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char('c') if control => return Some(Effect::Quit),
            KeyCode::Char('z') if control => return Some(Effect::Suspend),
            KeyCode::Char('u') if control => self.filter.clear(),
            KeyCode::Char('w') if control => {
                let kept = self.filter.trim_end().rfind(' ').map_or(0, |at| at + 1);
                self.filter.truncate(kept);
            }
            KeyCode::Char(c) if !control => self.typed(c),
            _ => {}
        }
        None
    }

    fn typed(&mut self, c: char) {
        if !c.is_control() && self.filter.chars().count() < FILTER_MAX {
            self.filter.push(c);
        }
    }

    fn act(&mut self, action: Action, shown: &Shown<'_>) -> Option<Effect> {
        let page = i64::from(shown.layout.table_rows().max(2)) - 1;
        match action {
            Action::Quit => return Some(Effect::Quit),
            Action::Suspend => return Some(Effect::Suspend),
            Action::Show(tab) => self.show(tab),
            Action::Turn(ahead) => {
                let place = self.tab.place() + if ahead { 1 } else { Tab::ALL.len() - 1 };
                self.show(Tab::ALL.get(place % Tab::ALL.len()).copied().unwrap_or_default());
            }
            Action::Move(rows) => match &mut self.help {
                Some(top) => *top = top.saturating_add_signed(rows as isize),
                None => self.step(rows.into(), shown.index),
            },
            Action::Page(pages) => {
                let page = page.max(1);
                if let Some(top) = &mut self.help {
                    let page = isize::try_from(page).unwrap_or(isize::MAX);
                    *top = top.saturating_add_signed(page.saturating_mul(pages as isize));
                } else if self.detail {
                    let page = usize::from(shown.layout.detail.height.max(3)) - 2;
                    self.detail_top = self.detail_top.saturating_add_signed(pages as isize * page as isize);
                } else {
                    self.step(i64::from(pages) * page, shown.index);
                }
            }
            Action::First => self.choose(0, shown.index),
            Action::Last => self.choose(usize::MAX, shown.index),
            Action::Detail => {
                self.help = None;
                self.detail = !self.detail && !shown.index.entries.is_empty();
                self.detail_top = 0;
            }
            Action::Back => {
                if self.help.take().is_none() && !std::mem::take(&mut self.detail) {
                    self.filter.clear();
                }
            }
            Action::Filter => self.edits = true,
            Action::Sort(ahead) => self.sort(ahead),
            Action::Reverse => {
                let pane = self.pane_mut();
                pane.sort = Some(pane.sort.map_or((0, true), |(column, backwards)| (column, !backwards)));
            }
            Action::Pause => return Some(Effect::Pause),
            Action::Connected => self.connected = !self.connected,
            Action::Help => self.help = if self.help.is_some() { None } else { Some(0) },
            Action::Copy => return Some(Effect::Copy),
            Action::Write => return Some(Effect::Write),
            Action::Kill => self.ask(shown),
            Action::Finding(ahead) => return Some(Effect::Finding(ahead)),
            Action::Seek(seconds) => return Some(Effect::Seek(seconds)),
            Action::Edge(end) => return Some(Effect::Edge(end)),
            Action::Speed(up) => return Some(Effect::Speed(up)),
            Action::Redraw => return Some(Effect::Redraw),
        }
        None
    }

    fn ask(&mut self, shown: &Shown<'_>) {
        let entry = shown.index.entries.get(self.pane().at);
        let targets = entry.map(|entry| rows::processes(shown.world, shown.index, entry)).unwrap_or_default();
        if targets.is_empty() {
            self.message = Some("no process of this row is alive".to_owned());
        } else {
            self.question = Some(Question { targets, chosen: 0 });
        }
    }

    /// The view's own order, then each column that has a head.
    fn sort(&mut self, ahead: bool) {
        let columns = self.tab.columns().len();
        let pane = self.pane_mut();
        let now = pane.sort.map_or(0, |(column, _)| column + 1);
        let next = (now + if ahead { 1 } else { columns }) % (columns + 1);
        pane.sort = next.checked_sub(1).map(|column| (column, false));
    }

    fn mouse(&mut self, mouse: MouseEvent, shown: &Shown<'_>) -> Option<Effect> {
        let wheel = match mouse.kind {
            MouseEventKind::ScrollUp => -WHEEL_ROWS,
            MouseEventKind::ScrollDown => WHEEL_ROWS,
            MouseEventKind::Down(MouseButton::Left) => 0,
            _ => return None,
        };
        let over_detail = shown.layout.detail.contains((mouse.column, mouse.row).into());
        if let (Some(top), true) = (&mut self.help, wheel != 0) {
            *top = top.saturating_add_signed(wheel as isize);
        } else if wheel != 0 && self.detail && over_detail {
            self.detail_top = self.detail_top.saturating_add_signed(wheel as isize);
        } else if wheel != 0 {
            self.step(wheel.into(), shown.index);
        } else {
            match shown.layout.hit(mouse.column, mouse.row) {
                Some(Hit::Tab(tab)) => self.show(tab),
                Some(Hit::Head(column)) => {
                    let pane = self.pane_mut();
                    pane.sort = match pane.sort {
                        Some((by, false)) if by == column => Some((column, true)),
                        Some((by, true)) if by == column => None,
                        _ => Some((column, false)),
                    };
                }
                Some(Hit::Row(row)) if self.help.is_none() => {
                    let at = self.pane().top + usize::from(row);
                    if at < shown.index.entries.len() {
                        let again = at == self.pane().at && self.pane().key.is_some();
                        self.choose(at, shown.index);
                        self.detail = again || self.detail;
                    }
                }
                _ => {}
            }
        }
        None
    }
}
