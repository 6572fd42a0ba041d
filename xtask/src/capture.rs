//! `cargo xtask capture`: pictures of the live screen for the documents, taken of the real program in a real terminal.
//!
//! The program plays a stored log in a pane of tmux, paused at a moment, and what tmux has on that screen, colours
//! included, is drawn as SVG. The same screen as text is printed, for the README.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::shell;

/// Columns and rows of the picture.
const SIZE: (usize, usize) = (110, 30);
/// Pixels of a cell.
const CELL: (f64, f64) = (8.4, 18.0);
/// How long the screen may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long until it is looked at again.
const AGAIN: Duration = Duration::from_millis(50);

/// Takes the pictures.
pub(crate) fn capture() -> anyhow::Result<()> {
    let server = Server::start()?;
    server.wait("co-bind")?;
    server.tmux(&["send-keys", "Enter"])?;
    let text = server.wait("overlap")?;
    let styled = server.tmux(&["capture-pane", "-p", "-e"])?;
    let path = shell::root().join("docs/top.svg");
    std::fs::write(&path, svg(&styled)).with_context(|| path.display().to_string())?;
    println!("{}", text.trim_end());
    eprintln!("wrote docs/top.svg");
    Ok(())
}

/// A tmux server of our own; it ends with this.
struct Server(String);

impl Server {
    fn start() -> anyhow::Result<Self> {
        let program = shell::target_dir().join("release/bindwatch");
        if !program.is_file() {
            bail!("{}: build it with `cargo build --release`", program.display());
        }
        let server = Self(format!("bindwatch-capture-{}", std::process::id()));
        let (width, height) = (SIZE.0.to_string(), SIZE.1.to_string());
        let program = program.to_string_lossy().into_owned();
        let log = ["top", "--replay", "tests/golden/co-bind.jsonl", "--at", "15s"];
        let session = ["new-session", "-d", "-x", &width, "-y", &height, &program];
        server.tmux(&[&session[..], &log].concat())?;
        Ok(server)
    }

    fn tmux(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut tmux = shell::command("tmux");
        tmux.args(["-u", "-L", &self.0, "-f", "/dev/null"]).args(arguments);
        tmux.env("LC_ALL", "C.UTF-8").env("TERM", "xterm-256color").env_remove("NO_COLOR").env_remove("TMUX");
        shell::output(&mut tmux)
    }

    /// The screen, once this is on it.
    fn wait(&self, text: &str) -> anyhow::Result<String> {
        let begin = Instant::now();
        loop {
            let screen = self.tmux(&["capture-pane", "-p"])?;
            if screen.contains(text) {
                return Ok(screen);
            }
            if begin.elapsed() > PATIENCE {
                bail!("\"{text}\" does not come to the screen:\n{screen}");
            }
            std::thread::sleep(AGAIN);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.tmux(&["kill-server"]));
    }
}

/// How a cell looks.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Look {
    color: Option<u32>,
    bold: bool,
    dim: bool,
    underlined: bool,
    reversed: bool,
}

/// The sixteen colours.
const COLORS: [&str; 16] = [
    "#1c1f26", "#e06c75", "#98c379", "#d7ba7d", "#61afef", "#c678dd", "#56b6c2", "#c8ccd4", "#7f848e",
    "#ff7b86", "#b5e890", "#ffd68a", "#8cc8ff", "#e0a0ff", "#7fe0ec", "#ffffff",
];
const PAPER: &str = "#14171d";
const INK: &str = "#c8ccd4";

impl Look {
    /// Takes the numbers of an SGR sequence.
    fn set(&mut self, numbers: &str) {
        let mut numbers = numbers.split(';').map(|number| number.parse().unwrap_or(0));
        while let Some(number) = numbers.next() {
            match number {
                0 => *self = Self::default(),
                1 => self.bold = true,
                2 => self.dim = true,
                4 => self.underlined = true,
                7 => self.reversed = true,
                22 => (self.bold, self.dim) = (false, false),
                24 => self.underlined = false,
                27 => self.reversed = false,
                30..=37 => self.color = Some(number - 30),
                90..=97 => self.color = Some(number - 82),
                39 => self.color = None,
                // `38;5;N`, of which the first sixteen are the terminal's own.
                38 if numbers.next() == Some(5) => self.color = numbers.next(),
                _ => {}
            }
        }
    }

    fn ink(self) -> &'static str {
        self.color.and_then(|color| COLORS.get(color as usize).copied()).unwrap_or(INK)
    }
}

/// Draws what `capture-pane -e` gave.
fn svg(screen: &str) -> String {
    let (width, height) = (SIZE.0 as f64 * CELL.0 + 24.0, SIZE.1 as f64 * CELL.1 + 24.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"14\">\n\
         <title>bindwatch top</title>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{PAPER}\"/>\n"
    );
    let mut look = Look::default();
    for (row, line) in screen.lines().enumerate() {
        let (mut column, y) = (0, row as f64 * CELL.1 + 12.0);
        for part in line.split('\u{1b}').enumerate() {
            let text = match part {
                (0, text) => text,
                (_, command) => match command.strip_prefix('[').and_then(|rest| rest.split_once('m')) {
                    Some((numbers, text)) => {
                        look.set(numbers);
                        text
                    }
                    // tmux selects character sets by other sequences; nothing of ours uses them.
                    None => command.get(2..).unwrap_or_default(),
                },
            };
            let cells = text.chars().count();
            if cells > 0 {
                piece(&mut out, look, text, column as f64 * CELL.0 + 12.0, y, cells as f64 * CELL.0);
                column += cells;
            }
        }
    }
    out.push_str("</svg>\n");
    out
}

fn piece(out: &mut String, look: Look, text: &str, x: f64, y: f64, width: f64) {
    let (mut ink, middle) = (look.ink(), y + 13.5);
    // Writing to a String cannot fail.
    if look.reversed {
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{ink}\"/>",
            CELL.1
        );
        ink = PAPER;
    }
    if look.underlined {
        let line = y + 16.5;
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {line:.1}h{width:.1}\" stroke=\"{ink}\" stroke-opacity=\"0.5\"/>"
        );
    }
    if text.trim().is_empty() {
        return;
    }
    let weight = if look.bold { " font-weight=\"bold\"" } else { "" };
    let faint = if look.dim { " opacity=\"0.6\"" } else { "" };
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        out,
        "<text xml:space=\"preserve\" x=\"{x:.1}\" y=\"{middle:.1}\" textLength=\"{width:.1}\" lengthAdjust=\"spacingAndGlyphs\" fill=\"{ink}\"{weight}{faint}>{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::svg;

    #[test]
    fn colours_and_marks_survive() {
        let drawn = svg("\u{1b}[1m\u{1b}[91m!\u{1b}[0m a<b & \u{1b}[7mc\n");
        assert!(drawn.contains("fill=\"#ff7b86\" font-weight=\"bold\">!</text>"), "{drawn}");
        assert!(drawn.contains(" a&lt;b &amp; </text>") && drawn.ends_with("</svg>\n"), "{drawn}");
        assert!(drawn.contains("<rect x=\"79.2\""), "what is reversed has a ground: {drawn}");
        assert!(!drawn.contains('\u{1b}'));
    }
}
