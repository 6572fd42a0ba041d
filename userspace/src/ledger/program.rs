//! Which program a process runs, as a person would name it: to know a restart, and a victim that tries again.

use crate::event::Process;

/// What two instances of one program have in common: `python app.py` is another program than `python -m pytest`.
///
/// Borrowed, compared by value; None of [`Program::of`] equals nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Program<'a> {
    executable: &'a str,
    argument: Option<&'a str>,
}

impl<'a> Program<'a> {
    pub(super) fn of(process: &'a Process) -> Option<Self> {
        let executable = if process.exe.is_empty() { &process.comm } else { &process.exe };
        if executable.is_empty() {
            return None;
        }
        Some(Self { executable, argument: main_argument(&process.cmdline) })
    }
}

/// The script or subject: the first argument that is no option; behind `-m`, a module.
fn main_argument(cmdline: &[String]) -> Option<&str> {
    let mut arguments = cmdline.iter().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "-m" {
            return arguments.next().map(String::as_str);
        }
        if !argument.starts_with('-') {
            return Some(argument);
        }
    }
    None
}

/// Whether both are known and run the same program.
pub(super) fn same(a: Option<&Process>, b: Option<&Process>) -> bool {
    match (a.and_then(Program::of), b.and_then(Program::of)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(cmdline: &[&str]) -> Option<String> {
        let owned: Vec<String> = cmdline.iter().map(|text| (*text).to_owned()).collect();
        main_argument(&owned).map(str::to_owned)
    }

    #[test]
    fn the_main_argument_is_the_script_or_the_module() {
        assert_eq!(argument(&["node", "--inspect", "server.js", "x"]).as_deref(), Some("server.js"));
        assert_eq!(argument(&["python", "-u", "-m", "http.server", "80"]).as_deref(), Some("http.server"));
        assert_eq!(argument(&["nginx"]), None);
        assert_eq!(argument(&["a", "-x", "-m"]), None);
    }
}
