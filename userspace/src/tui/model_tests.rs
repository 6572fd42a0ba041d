//! Keys, as a pure update.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Rect;

use super::model::{Effect, Model, Msg, Playing, Shown};
use super::rows::{self, Index, Key, Tab};
use super::tests::Stage;
use super::view::Layout;

/// A model over a stage, on a screen of 80x24.
struct User {
    stage: Stage,
    model: Model,
    index: Index,
    layout: Layout,
}

impl User {
    /// Endpoints 127.0.0.1:8001 and so on, each with a process of its own.
    fn before(endpoints: u32) -> Self {
        let mut stage = Stage::new();
        for number in 1..=endpoints {
            stage.binds(number.into(), 1000 + number, &format!("127.0.0.1:{}", 8000 + number), 10);
        }
        let model = Model { tab: Tab::Endpoints, ..Model::default() };
        let mut user = Self { stage, model, index: Index::default(), layout: Layout::default() };
        user.look();
        user
    }

    fn look(&mut self) {
        self.stage.world.refresh();
        self.index = rows::index(&self.stage.world, &self.model.query());
        self.layout =
            Layout::new(&self.model, &self.stage.world, self.index.entries.len(), Rect::new(0, 0, 80, 24));
        self.model.settle(&self.index, self.layout.table_rows().into());
    }

    fn send(&mut self, msg: &Msg) -> Option<Effect> {
        let shown = Shown { world: &self.stage.world, index: &self.index, layout: &self.layout };
        let effect = self.model.update(msg, &shown);
        self.look();
        effect
    }

    fn press(&mut self, code: KeyCode) -> Option<Effect> {
        self.send(&Msg::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    fn control(&mut self, c: char) -> Option<Effect> {
        self.send(&Msg::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL)))
    }

    fn types(&mut self, text: &str) -> Option<Effect> {
        text.chars().map(|c| self.press(KeyCode::Char(c))).last().unwrap()
    }

    fn mouse(&mut self, kind: MouseEventKind, column: u16, row: u16) {
        let mouse = MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE };
        assert_eq!(self.send(&Msg::Mouse(mouse)), None);
    }

    /// The port of the chosen row.
    fn port(&self) -> u16 {
        match &self.index.entries.get(self.model.pane().at).unwrap().key {
            Key::Endpoint(spot) => spot.port,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn views_are_shown_by_number_and_tab() {
    let mut user = User::before(1);
    for (key, tab) in ['1', '2', '3', '4', '5'].into_iter().zip(Tab::ALL) {
        user.types(&key.to_string());
        assert_eq!(user.model.tab, tab);
    }
    user.press(KeyCode::Tab);
    assert_eq!(user.model.tab, Tab::Findings);
    user.press(KeyCode::BackTab);
    assert_eq!(user.model.tab, Tab::Ports);
}

#[test]
fn the_chosen_row_stays_chosen_when_others_come_and_go() {
    let mut user = User::before(50);
    user.press(KeyCode::Down);
    user.press(KeyCode::Down);
    assert_eq!(user.port(), 8003);
    user.stage.closes(1, 20);
    user.stage.binds(99, 99, "127.0.0.1:7000", 20);
    user.stage.binds(98, 99, "127.0.0.1:7001", 20);
    user.look();
    assert_eq!((user.port(), user.model.pane().at), (8003, 3));
    // When it goes itself, its neighbour is chosen.
    user.stage.closes(3, 30);
    user.look();
    assert_eq!(user.port(), 8004);
    user.press(KeyCode::End);
    assert_eq!((user.port(), user.model.pane().top > 0), (8050, true));
    user.press(KeyCode::PageUp);
    let rows = usize::from(user.layout.table_rows());
    assert_eq!(usize::from(user.port()), 8050 - (rows - 1));
    user.press(KeyCode::Home);
    assert_eq!((user.port(), user.model.pane().top), (7000, 0));
    user.press(KeyCode::Up);
    assert_eq!(user.port(), 7000);
}

#[test]
fn the_first_row_is_the_first_until_one_is_chosen() {
    let mut user = User::before(3);
    user.stage.binds(99, 99, "127.0.0.1:7000", 20);
    user.look();
    assert_eq!(user.port(), 7000);
}

#[test]
fn events_are_followed_until_one_is_chosen() {
    let mut user = User::before(20);
    user.types("4");
    let last = |user: &User| user.model.pane().at + 1 == user.index.entries.len();
    assert!(last(&user));
    user.stage.binds(99, 99, "127.0.0.1:7000", 20);
    user.look();
    assert!(last(&user));
    user.press(KeyCode::Up);
    let chosen = user.index.entries.get(user.model.pane().at).unwrap().key.clone();
    user.stage.binds(100, 99, "127.0.0.1:7001", 20);
    user.look();
    assert!(!last(&user) && user.index.entries.get(user.model.pane().at).unwrap().key == chosen);
    user.press(KeyCode::End);
    user.stage.binds(101, 99, "127.0.0.1:7002", 20);
    user.look();
    assert!(last(&user));
}

#[test]
fn a_filter_is_typed_kept_and_cleared() {
    let mut user = User::before(30);
    user.types("/8003");
    assert!(user.model.edits);
    assert_eq!((user.index.entries.len(), user.index.hidden), (1, 29));
    user.press(KeyCode::Backspace);
    // While a filter is typed no key means anything else.
    assert_eq!(user.types("q !k"), None);
    assert_eq!(user.model.filter, "800q !k");
    user.control('w');
    assert_eq!(user.model.filter, "800q ");
    user.control('u');
    user.send(&Msg::Paste("p1007\n\u{1b}[31m".to_owned()));
    assert_eq!(user.model.filter, "p1007[31m");
    for _ in 0..4 {
        user.press(KeyCode::Backspace);
    }
    user.press(KeyCode::Enter);
    assert_eq!((user.model.edits, user.port()), (false, 8007));
    user.press(KeyCode::Esc);
    assert_eq!((user.model.filter.as_str(), user.index.entries.len()), ("", 30));
    user.types("/x");
    user.press(KeyCode::Esc);
    assert_eq!((user.model.edits, user.model.filter.as_str()), (false, ""));
    user.types("/x");
    assert_eq!(user.control('c'), Some(Effect::Quit));
}

#[test]
fn rows_are_sorted_by_any_column() {
    let mut user = User::before(3);
    user.stage.binds(50, 900, "127.0.0.2:8000", 20);
    user.look();
    // Mark, protocol, then the port.
    user.types("sss");
    assert_eq!((user.model.pane().sort, user.port()), (Some((2, false)), 8000));
    user.types("r");
    assert_eq!((user.model.pane().sort, user.port()), (Some((2, true)), 8003));
    user.types("S");
    assert_eq!(user.model.pane().sort, Some((1, false)));
    user.types("SS");
    assert_eq!(user.model.pane().sort, None);
    user.types("S");
    assert_eq!(user.model.pane().sort, Some((Tab::Endpoints.columns().len() - 1, false)));
    user.types("s");
    assert_eq!(user.model.pane().sort, None);
    for tab in Tab::ALL {
        user.types(&(tab.place() + 1).to_string());
        for column in 0..tab.columns().len() {
            user.types("s");
            assert_eq!(user.model.pane().sort, Some((column, false)), "{tab:?}");
        }
    }
}

#[test]
fn the_story_opens_and_closes() {
    let mut user = User::before(3);
    user.press(KeyCode::Enter);
    assert!(user.model.detail && user.layout.detail.height > 5);
    user.press(KeyCode::PageDown);
    assert!(user.model.detail_top > 0);
    // Another row has another story.
    user.press(KeyCode::Down);
    assert_eq!((user.model.detail, user.model.detail_top, user.port()), (true, 0, 8002));
    user.press(KeyCode::Esc);
    assert!(!user.model.detail);
    user.types("/8001");
    user.press(KeyCode::Enter);
    user.press(KeyCode::Enter);
    user.press(KeyCode::Esc);
    assert_eq!((user.model.detail, user.model.filter.as_str()), (false, "8001"), "one thing at a time");
}

#[test]
fn a_signal_is_sent_only_after_a_yes() {
    let mut user = User::before(2);
    assert_eq!(user.types("k"), None);
    assert_eq!(user.model.question.as_ref().unwrap().targets.len(), 1);
    assert_eq!(user.types("n"), None);
    assert_eq!(user.model.question, None);
    user.types("k");
    assert_eq!(user.press(KeyCode::Enter), None, "Enter is no yes");
    assert_eq!(user.model.question, None);
    // Two holders: each can be chosen.
    user.stage.binds(3, 1003, "127.0.0.1:8001", 30);
    user.look();
    user.types("k");
    let first = user.model.question.as_ref().unwrap().targets.first().copied().unwrap();
    assert_eq!(user.press(KeyCode::Tab), None);
    let Some(Effect::Terminate(process)) = user.types("y") else { panic!("nothing is sent") };
    assert_ne!(process, first);
    assert_eq!(user.model.question, None);
    // In a replay there is nobody to send it to.
    user.model.replay = Some(Playing::default());
    assert_eq!((user.types("k"), user.model.question.is_none()), (None, true));
}

#[test]
fn what_goes_beyond_the_screen_is_an_effect() {
    let mut user = User::before(1);
    for (key, effect) in
        [("q", Effect::Quit), (" ", Effect::Pause), ("y", Effect::Copy), ("w", Effect::Write)]
    {
        assert_eq!(user.types(key), Some(effect));
    }
    assert_eq!(user.control('c'), Some(Effect::Quit));
    assert_eq!(user.control('z'), Some(Effect::Suspend));
    assert_eq!(user.control('l'), Some(Effect::Redraw));
    assert_eq!((user.types("n"), user.types("]"), user.types("+")), (None, None, None));
    user.model.replay = Some(Playing::default());
    assert_eq!(user.types("n"), Some(Effect::Finding(true)));
    assert_eq!(user.types("p"), Some(Effect::Finding(false)));
    assert_eq!(user.types("]"), Some(Effect::Seek(60)));
    assert_eq!(user.press(KeyCode::Left), Some(Effect::Seek(-10)));
    assert_eq!(user.types("-"), Some(Effect::Speed(false)));
    assert_eq!(user.types("}"), Some(Effect::Edge(true)));
}

#[test]
fn the_mouse_chooses() {
    let mut user = User::before(50);
    let down = MouseEventKind::Down(MouseButton::Left);
    let (top, head) = (user.layout.table.y, user.layout.head.y);
    user.mouse(down, 10, top + 4);
    assert_eq!((user.port(), user.model.detail), (8005, false));
    user.mouse(down, 10, top + 4);
    assert!(user.model.detail, "the same row again opens it");
    user.press(KeyCode::Esc);
    user.mouse(MouseEventKind::ScrollDown, 10, top);
    assert_eq!(user.port(), 8008);
    user.mouse(MouseEventKind::ScrollUp, 10, top);
    assert_eq!(user.port(), 8005);
    for sort in [Some((2, false)), Some((2, true)), None] {
        user.mouse(down, 10, head);
        assert_eq!(user.model.pane().sort, sort);
    }
    user.mouse(down, 30, user.layout.tabs.y);
    assert_eq!(user.model.tab, Tab::Processes);
    user.mouse(down, 79, 23);
    assert_eq!(user.model.tab, Tab::Processes);
}

#[test]
fn help_scrolls_and_closes() {
    let mut user = User::before(1);
    user.types("?");
    assert_eq!(user.model.help, Some(0));
    user.press(KeyCode::Down);
    assert_eq!(user.model.help, Some(1));
    user.press(KeyCode::PageUp);
    assert_eq!(user.model.help, Some(0));
    user.press(KeyCode::Esc);
    assert_eq!(user.model.help, None);
}

#[test]
fn connected_sockets_are_hidden_until_asked_for() {
    use crate::event::{Body, Found, TcpState};
    let mut user = User::before(1);
    let socket = crate::log::samples::socket(77, "127.0.0.1", 45000);
    let holders = vec![crate::log::samples::key(1001)];
    user.stage.event(20, Body::Socket(Found { socket, state: TcpState::Established, holders }));
    user.look();
    assert_eq!(user.index.entries.len(), 1);
    user.types("a");
    assert_eq!(user.index.entries.len(), 2);
}
