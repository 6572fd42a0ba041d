//! The keys, in one table: what is listed by `?` is what works.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rows::Tab;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// End the program.
    Quit,
    /// Stop until `fg`.
    Suspend,
    /// Show this view.
    Show(Tab),
    /// The next view, or the one before.
    Turn(bool),
    /// Move by so many rows.
    Move(i32),
    /// Move by so many pages.
    Page(i32),
    /// To the first row.
    First,
    /// To the last row.
    Last,
    /// Open or close the detail of the row.
    Detail,
    /// Close what is open; clear the filter.
    Back,
    /// Edit the filter.
    Filter,
    /// Sort by the next column, or the one before.
    Sort(bool),
    /// Turn the order round.
    Reverse,
    /// Let time stand still, or go on.
    Pause,
    /// Show connected sockets too.
    Connected,
    /// List the keys.
    Help,
    /// Copy the row's story.
    Copy,
    /// Write a report.
    Write,
    /// Send a signal to a holder.
    Kill,
    /// Replay: to the next finding, or the one before.
    Finding(bool),
    /// Replay: by so many seconds.
    Seek(i32),
    /// Replay: twice as fast, or half.
    Speed(bool),
    /// Replay: to the beginning, or the end.
    Edge(bool),
    /// Draw everything again.
    Redraw,
}

/// When a key means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Always.
    Always,
    /// When a log is played.
    Replay,
    /// When it is now.
    Live,
}

/// A key, as it is named, and what it does.
#[derive(Debug)]
pub struct Binding {
    /// As help names it.
    pub name: &'static str,
    /// What it does, for help.
    pub does: &'static str,
    /// When it does that.
    pub when: Where,
    keys: &'static [(KeyCode, KeyModifiers, Action)],
}

const NONE: KeyModifiers = KeyModifiers::NONE;
const CTRL: KeyModifiers = KeyModifiers::CONTROL;
const SHIFT: KeyModifiers = KeyModifiers::SHIFT;

const fn bind(
    name: &'static str,
    does: &'static str,
    when: Where,
    keys: &'static [(KeyCode, KeyModifiers, Action)],
) -> Binding {
    Binding { name, does, when, keys }
}

use Action as A;
use KeyCode as K;

/// Every key.
pub static BINDINGS: [Binding; 25] = [
    bind(
        "1…5",
        "show Findings, Endpoints, Processes, Events, Ports",
        Where::Always,
        &[
            (K::Char('1'), NONE, A::Show(Tab::Findings)),
            (K::Char('2'), NONE, A::Show(Tab::Endpoints)),
            (K::Char('3'), NONE, A::Show(Tab::Processes)),
            (K::Char('4'), NONE, A::Show(Tab::Events)),
            (K::Char('5'), NONE, A::Show(Tab::Ports)),
        ],
    ),
    bind(
        "Tab Shift-Tab",
        "next view, the one before",
        Where::Always,
        &[
            (K::Tab, NONE, A::Turn(true)),
            (K::BackTab, SHIFT, A::Turn(false)),
            (K::BackTab, NONE, A::Turn(false)),
        ],
    ),
    bind(
        "↑ ↓",
        "row up, row down (also Ctrl-P, Ctrl-N)",
        Where::Always,
        &[
            (K::Up, NONE, A::Move(-1)),
            (K::Down, NONE, A::Move(1)),
            (K::Char('p'), CTRL, A::Move(-1)),
            (K::Char('n'), CTRL, A::Move(1)),
        ],
    ),
    bind(
        "PgUp PgDn",
        "page up, page down (also Ctrl-B, Ctrl-F); in an open detail, of it",
        Where::Always,
        &[
            (K::PageUp, NONE, A::Page(-1)),
            (K::PageDown, NONE, A::Page(1)),
            (K::Char('b'), CTRL, A::Page(-1)),
            (K::Char('f'), CTRL, A::Page(1)),
        ],
    ),
    bind(
        "Home End",
        "first row, last row (also g, G)",
        Where::Always,
        &[
            (K::Home, NONE, A::First),
            (K::End, NONE, A::Last),
            (K::Char('g'), NONE, A::First),
            (K::Char('G'), SHIFT, A::Last),
        ],
    ),
    bind("Enter", "open or close the whole story of the row", Where::Always, &[(K::Enter, NONE, A::Detail)]),
    bind("Esc", "close what is open; then clear the filter", Where::Always, &[(K::Esc, NONE, A::Back)]),
    bind(
        "/",
        "filter: port, PID, address, program, cgroup, kind; !word leaves out; Enter keeps, Esc clears",
        Where::Always,
        &[(K::Char('/'), NONE, A::Filter)],
    ),
    bind(
        "s S",
        "sort by the next column, by the one before",
        Where::Always,
        &[(K::Char('s'), NONE, A::Sort(true)), (K::Char('S'), SHIFT, A::Sort(false))],
    ),
    bind("r", "turn the order round", Where::Always, &[(K::Char('r'), NONE, A::Reverse)]),
    bind(
        "Space",
        "freeze and follow again; in a replay, pause and play",
        Where::Always,
        &[(K::Char(' '), NONE, A::Pause)],
    ),
    bind("a", "also show connected sockets", Where::Always, &[(K::Char('a'), NONE, A::Connected)]),
    bind("y", "copy the row's story (OSC 52)", Where::Always, &[(K::Char('y'), NONE, A::Copy)]),
    bind(
        "w",
        "write a report of what is on the screen to a file",
        Where::Always,
        &[(K::Char('w'), NONE, A::Write)],
    ),
    bind("k", "send SIGTERM to a holder, after a question", Where::Live, &[(K::Char('k'), NONE, A::Kill)]),
    bind(
        "n p",
        "to the next finding, to the one before",
        Where::Replay,
        &[(K::Char('n'), NONE, A::Finding(true)), (K::Char('p'), NONE, A::Finding(false))],
    ),
    bind(
        "← →",
        "10 seconds back, ahead; with Shift one",
        Where::Replay,
        &[
            (K::Left, NONE, A::Seek(-10)),
            (K::Right, NONE, A::Seek(10)),
            (K::Left, SHIFT, A::Seek(-1)),
            (K::Right, SHIFT, A::Seek(1)),
        ],
    ),
    bind(
        "[ ]",
        "one minute back, ahead",
        Where::Replay,
        &[(K::Char('['), NONE, A::Seek(-60)), (K::Char(']'), NONE, A::Seek(60))],
    ),
    bind(
        "{ }",
        "to the beginning, to the end of the log",
        Where::Replay,
        &[(K::Char('{'), NONE, A::Edge(false)), (K::Char('}'), NONE, A::Edge(true))],
    ),
    bind(
        "+ -",
        "play twice as fast, half as fast",
        Where::Replay,
        &[
            (K::Char('+'), NONE, A::Speed(true)),
            (K::Char('='), NONE, A::Speed(true)),
            (K::Char('-'), NONE, A::Speed(false)),
        ],
    ),
    bind("mouse", "choose a row, a view, a column to sort by; wheel scrolls", Where::Always, &[]),
    bind("Ctrl-L", "draw everything again", Where::Always, &[(K::Char('l'), CTRL, A::Redraw)]),
    bind("Ctrl-Z", "stop until fg", Where::Always, &[(K::Char('z'), CTRL, A::Suspend)]),
    bind("?", "this list", Where::Always, &[(K::Char('?'), NONE, A::Help), (K::F(1), NONE, A::Help)]),
    bind(
        "q",
        "quit (also Ctrl-C)",
        Where::Always,
        &[(K::Char('q'), NONE, A::Quit), (K::Char('c'), CTRL, A::Quit)],
    ),
];

/// What a key asks for, in a replay or not.
#[must_use]
pub fn action(key: KeyEvent, replay: bool) -> Option<Action> {
    if key.modifiers.intersects(KeyModifiers::ALT | KeyModifiers::SUPER | KeyModifiers::META) {
        return None;
    }
    let shift = key.modifiers.contains(SHIFT);
    let bound = BINDINGS.iter().filter(|binding| match binding.when {
        Where::Always => true,
        Where::Replay => replay,
        Where::Live => !replay,
    });
    let mut keys = bound.flat_map(|binding| binding.keys);
    let found = keys.find(|(code, modifiers, _)| {
        *code == key.code
            && match code {
                // That a character is typed with Shift is seen in the character.
                K::Char(_) => (*modifiers == CTRL) == key.modifiers.contains(CTRL),
                K::Left | K::Right => (*modifiers == SHIFT) == shift,
                _ => true,
            }
    });
    found.map(|(_, _, action)| *action)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_key_is_bound_twice() {
        for replay in [false, true] {
            let mut seen = BTreeSet::new();
            let other = if replay { Where::Live } else { Where::Replay };
            for (code, modifiers, _) in
                BINDINGS.iter().filter(|binding| binding.when != other).flat_map(|binding| binding.keys)
            {
                assert!(seen.insert(format!("{code:?} {modifiers:?}")), "{code:?} {modifiers:?}");
            }
        }
    }

    #[test]
    fn every_key_does_what_is_written() {
        for binding in &BINDINGS {
            for (code, modifiers, wanted) in binding.keys {
                let replay = binding.when == Where::Replay;
                assert_eq!(
                    action(KeyEvent::new(*code, *modifiers), replay),
                    Some(*wanted),
                    "{}",
                    binding.name
                );
            }
        }
        let key = |c: char| KeyEvent::new(K::Char(c), NONE);
        assert_eq!(action(key('k'), true), None, "no signals in a replay");
        assert_eq!(action(key('n'), false), None);
        assert_eq!(action(key('G'), false), Some(A::Last), "terminals differ in telling Shift");
        assert_eq!(action(key('z'), false), None);
        assert_eq!(action(KeyEvent::new(K::Char('q'), KeyModifiers::ALT), false), None);
    }
}
