//! A table for a terminal.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::SocketAddr;

use super::text::Style;

/// Blanks between two columns.
const GAP: usize = 2;

/// Cells in lines. The text of all is in one piece: a machine has tens of thousands of sockets.
#[derive(Default)]
pub(super) struct Table {
    text: String,
    /// Where each cell ends in the text, and its length in characters.
    cells: Vec<(usize, usize)>,
    /// How many cells there are up to the end of each line, and whether the line is marked.
    lines: Vec<(usize, bool)>,
    widths: Vec<usize>,
    /// Where the cell that is being written begins.
    begin: usize,
}

impl Table {
    /// A part of the cell that is being written.
    pub(super) fn part(&mut self, part: &str) -> &mut Self {
        self.text.push_str(part);
        self
    }

    /// A number as a part of it.
    pub(super) fn number(&mut self, number: impl itoa::Integer) -> &mut Self {
        self.part(itoa::Buffer::new().format(number))
    }

    /// An address and port as a part of it.
    pub(super) fn endpoint(&mut self, endpoint: SocketAddr) -> &mut Self {
        match endpoint {
            // The usual one, without the formatter's ways.
            SocketAddr::V4(endpoint) => {
                let [a, b, c, d] = endpoint.ip().octets();
                self.number(a).part(".").number(b).part(".").number(c).part(".").number(d);
                self.part(":").number(endpoint.port())
            }
            SocketAddr::V6(_) => {
                // Writing to a String cannot fail.
                let _ = write!(self.text, "{endpoint}");
                self
            }
        }
    }

    /// A whole cell, or the last part of one.
    pub(super) fn cell(&mut self, cell: &str) {
        self.part(cell).end_cell();
    }

    pub(super) fn end_cell(&mut self) {
        let cell = self.text.get(self.begin..).unwrap_or_default();
        let length = if cell.is_ascii() { cell.len() } else { cell.chars().count() };
        let column = self.cells.len() - self.lines.last().map_or(0, |(cells, _)| *cells);
        match self.widths.get_mut(column) {
            Some(width) => *width = length.max(*width),
            None => self.widths.push(length),
        }
        self.begin = self.text.len();
        self.cells.push((self.begin, length));
    }

    pub(super) fn end_line(&mut self, marked: bool) {
        self.lines.push((self.cells.len(), marked));
    }

    pub(super) fn write(&self, style: Style, out: &mut impl Write) -> io::Result<()> {
        let mut from = 0;
        let mut first = 0;
        for (last, marked) in &self.lines {
            let colored = *marked && style.colored;
            if colored {
                out.write_all(b"\x1b[1;31m")?;
            }
            let cells = self.cells.get(first..*last).unwrap_or_default();
            // What pads a cell is written before the next one that has something in it: no line ends in blanks.
            let mut padding = 0;
            for ((end, length), width) in cells.iter().zip(&self.widths) {
                if *length > 0 {
                    pad(out, padding)?;
                    out.write_all(self.text.get(from..*end).unwrap_or_default().as_bytes())?;
                    padding = 0;
                }
                padding += width - length + GAP;
                from = *end;
            }
            out.write_all(if colored { b"\x1b[0m\n" } else { b"\n" })?;
            first = *last;
        }
        Ok(())
    }
}

/// Writes so many blanks.
fn pad(out: &mut impl Write, mut count: usize) -> io::Result<()> {
    const BLANKS: &[u8] = &[b' '; 64];
    while count > 0 {
        let some = BLANKS.get(..count).unwrap_or(BLANKS);
        out.write_all(some)?;
        count -= some.len();
    }
    Ok(())
}
