//! Rules about source files.

use super::Problem;

/// What the ledger may not name: it is a pure function of events. Clocks, IO, randomness, async, locks, globals.
const IMPURE: [&str; 17] = [
    "Instant",
    "SystemTime",
    "std::fs",
    "std::env",
    "std::io",
    "std::thread",
    "std::process",
    "TcpStream",
    "UdpSocket",
    "tokio",
    "rand",
    "Mutex",
    "RwLock",
    "static mut",
    "thread_local",
    "OnceLock",
    "LazyLock",
];

/// What the ledger may use of this crate.
const LEDGER_USES: [&str; 2] = ["event", "ledger"];

/// Beginnings of paths that belong to one machine.
const MACHINE_PATHS: [&str; 3] = ["/root", "/work", "/home"];

/// Home folders that stand for anybody's in examples and test data.
const ANYBODY: [&str; 5] = ["ci", "me", "runner", "u", "user"];

/// A file that is too long.
pub(super) fn length(path: &str, text: &str, most: usize) -> Option<Problem> {
    let lines = text.lines().count();
    (lines > most).then(|| Problem::new(path, 0, format!("{lines} lines, at most {most}: one idea a file")))
}

/// Tests that nobody runs.
pub(super) fn ignored_tests(path: &str, text: &str) -> Vec<Problem> {
    let mark = concat!("#[", "ignore");
    lines(text)
        .filter(|(_, line)| line.trim_start().starts_with(mark))
        .map(|(number, _)| Problem::new(path, number, "an ignored test: mend it or remove it"))
        .collect()
}

/// Tests that sleep instead of waiting for what they need.
pub(super) fn sleeping_tests(path: &str, text: &str) -> Vec<Problem> {
    let from = if path.starts_with("tests/") { 0 } else { begin_of_tests(path, text) };
    lines(text)
        .skip(from)
        .filter(|(_, line)| {
            let code = code(line);
            ["thread::sleep", "time::sleep", "time.sleep"].iter().any(|call| has_word(code, call))
        })
        .map(|(number, _)| Problem::new(path, number, "a test sleeps: wait for the event instead"))
        .collect()
}

/// What keeps the ledger from being a pure function of events.
pub(super) fn pure(path: &str, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, line) in lines(text).take(begin_of_tests(path, text)) {
        let code = code(line);
        for word in IMPURE.iter().filter(|word| has_word(code, word)) {
            problems.push(Problem::new(
                path,
                number,
                format!("the ledger may not use {word}: it is a function of events"),
            ));
        }
        for after in code.split("crate::").skip(1) {
            let module: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !LEDGER_USES.contains(&module.as_str()) {
                problems.push(Problem::new(
                    path,
                    number,
                    format!("the ledger may not use crate::{module}, only the events"),
                ));
            }
        }
    }
    problems
}

/// Absolute paths of the machine the file was written on.
pub(super) fn machine_paths(path: &str, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, line) in lines(text) {
        for beginning in MACHINE_PATHS {
            // Spelt so that this file does not break its own rule.
            for (at, _) in line.match_indices(beginning) {
                let before = line[..at].chars().next_back();
                let rest = &line[at..];
                let mut after = rest[beginning.len()..].chars();
                let whole = !before.is_some_and(|c| c.is_alphanumeric() || "._-/*>})$\\".contains(c))
                    && after.next() == Some('/')
                    && after.next().is_some_and(|c| c.is_alphanumeric() || c == '.');
                if whole
                    && !(beginning == "/home" && ANYBODY.contains(&first_name(&rest[beginning.len() + 1..])))
                {
                    problems.push(Problem::new(
                        path,
                        number,
                        format!("a path of one machine: {beginning}/…"),
                    ));
                }
            }
        }
    }
    problems
}

/// The name that a path begins with.
fn first_name(path: &str) -> &str {
    path.split(|c: char| !(c.is_alphanumeric() || "._-".contains(c))).next().unwrap_or_default()
}

/// Index of the line where a file's unit tests begin; the number of its lines when it has none.
fn begin_of_tests(path: &str, text: &str) -> usize {
    if path.ends_with("/tests.rs") || path.contains("/tests/") {
        return 0;
    }
    text.lines().position(|line| line.starts_with("#[cfg(test)]")).unwrap_or_else(|| text.lines().count())
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines())
}

/// A line without its comment.
fn code(line: &str) -> &str {
    if line.trim_start().starts_with('#') && !line.trim_start().starts_with("#[") {
        return ""; // Python
    }
    line.split("//").next().unwrap_or_default()
}

fn has_word(code: &str, word: &str) -> bool {
    let boundary = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        boundary(code[..at].chars().next_back()) && boundary(code[at + word.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn a_long_file_is_a_problem_and_one_at_the_bound_is_not() {
        assert_eq!(length("a.rs", "x\nx\nx\n", 3), None);
        assert_eq!(length("a.rs", "x\nx\nx\nx\n", 3).unwrap().what, "4 lines, at most 3: one idea a file");
    }

    #[test]
    fn an_ignored_test_is_found_by_its_line() {
        let text = format!("#[test]\n    {}ignore = \"slow\"]\nfn a() {{}}\n", "#[");
        assert_eq!(
            ignored_tests("a.rs", &text),
            [Problem::new("a.rs", 2, "an ignored test: mend it or remove it")]
        );
        assert_eq!(ignored_tests("a.rs", "#[test]\nfn ignore() {}\n"), []);
    }

    #[test]
    fn sleep_is_for_programs_and_not_for_tests() {
        let call = concat!("std::thread::", "sleep(PAUSE);\n");
        assert_eq!(sleeping_tests("userspace/src/a.rs", call), []);
        assert_eq!(sleeping_tests("tests/tests/a.rs", call)[0].line, 1);
        let unit = format!("{call}#[cfg(test)]\nmod tests {{\n{call}}}\n");
        let found: Vec<usize> = sleeping_tests("userspace/src/a.rs", &unit).iter().map(|p| p.line).collect();
        assert_eq!(found, [4]);
        assert_eq!(sleeping_tests("tests/actors/a.py", concat!("    time.", "sleep(1)\n")).len(), 1);
        assert_eq!(sleeping_tests("tests/actors/a.py", concat!("# time.", "sleep(1)\n")), []);
    }

    #[test]
    fn the_ledger_names_no_clock_and_no_other_module() {
        let path = "userspace/src/ledger/mod.rs";
        assert_eq!(pure(path, "use crate::event::Event;\nuse crate::ledger::finding::Kind;\n"), []);
        assert_eq!(
            pure(path, "let x = crate::enrich::look();\n")[0].what,
            "the ledger may not use crate::enrich, only the events"
        );
        assert_eq!(pure(path, "use crate::{event::Event, probe};\n").len(), 1);
        assert_eq!(pure(path, "let now = Instant::now();\n").len(), 1);
        assert_eq!(pure(path, "// An Instant would not replay.\nlet operand = rand_like(brand);\n"), []);
        assert_eq!(pure(path, "static mut LEDGER: u32 = 0;\n").len(), 1);
        assert_eq!(pure(path, "fn a() {}\n#[cfg(test)]\nmod tests {\nuse std::fs;\n}\n"), []);
        assert_eq!(pure("userspace/src/ledger/tests.rs", "use std::fs;\n"), []);
    }

    #[test]
    fn paths_of_one_machine_are_found_and_others_are_not() {
        let found = |text: &str| machine_paths("a.md", text).len();
        assert_eq!(found(concat!("cd /wo", "rk/main && make")), 1);
        assert_eq!(found(concat!("\"/ro", "ot/.cargo\" and /ho", "me/alice/x")), 2);
        assert_eq!(found("/home/ci/app, /home/runner/work/repo, `/home/user`, /home/me"), 0);
        assert_eq!(found(concat!("/ho", "me/user2/x")), 1);
        assert_eq!(
            found(concat!(
                "frame/wo",
                "rk/x, https://a.b/wo",
                "rk/c, the /ro",
                "ot cgroup, $HOME/wo",
                "rk/x"
            )),
            0
        );
    }
}
