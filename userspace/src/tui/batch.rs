//! The same without a terminal: plain columns for pipes and files.

use std::io::{self, Write};

use super::cell;
use super::rows::{self, Query, Row, Scene, Tab};
use super::theme::UNICODE;
use super::world::World;
use crate::ledger::finding::Severity;
use crate::sink::words::{self, plural};

/// Rows of a view that are printed.
const ROWS_MAX: usize = 100_000;
/// Widest column that the others are aligned to.
const ALIGNED_MAX: usize = 48;

/// What there is, then the findings, then the rows of a view; those that a filter lets pass.
///
/// # Errors
/// When `out` cannot be written to.
pub fn screen(world: &World, query: &Query, out: &mut dyn Write) -> io::Result<()> {
    let origin = world.origin();
    let stats = world.ledger().stats();
    writeln!(
        out,
        "{} (Linux {}) at {}",
        cell::clean(&origin.host.hostname, false),
        cell::clean(&origin.host.kernel, false),
        origin.clock.rfc3339(world.now())
    )?;
    for notice in world.notices() {
        writeln!(out, "warning: {}", cell::clean(&notice, false))?;
    }
    let counts: Vec<String> = [Severity::Error, Severity::Warning, Severity::Note]
        .into_iter()
        .map(|severity| plural(world.count(severity).0 as u64, words::severity(severity)))
        .collect();
    writeln!(
        out,
        "{}; {}, {} ({} failed), {} lost",
        counts.join(", "),
        plural(stats.sockets, "socket"),
        plural(stats.binds + stats.binds_failed, "bind"),
        stats.binds_failed,
        stats.lost
    )?;
    if query.tab != Tab::Findings && world.findings().next().is_some() {
        writeln!(out)?;
        table(world, &Query { tab: Tab::Findings, sort: None, ..query.clone() }, out)?;
    }
    writeln!(out)?;
    table(world, query, out)
}

/// The rows of a view, in aligned columns.
fn table(world: &World, query: &Query, out: &mut dyn Write) -> io::Result<()> {
    let index = rows::index(world, query);
    let columns = query.tab.columns();
    let scene = Scene { world, glyphs: &UNICODE };
    let rows: Vec<Row> = index
        .entries
        .iter()
        .take(ROWS_MAX)
        .map(|entry| {
            let mut row = rows::row(scene, query.tab, &index, entry);
            for text in &mut row.cells {
                *text = cell::clean(text, false).into_owned();
            }
            row
        })
        .collect();
    let mut widths: Vec<usize> = columns.iter().map(|column| cell::width(column.title)).collect();
    for row in &rows {
        for (width, text) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(cell::width(text).min(ALIGNED_MAX));
        }
    }
    let heads = columns.iter().map(|column| column.title.to_owned()).collect();
    for row in std::iter::once(&Row { cells: heads, ..Row::default() }).chain(&rows) {
        let mut line = String::new();
        for ((text, column), width) in row.cells.iter().zip(columns).zip(&widths) {
            let padding = " ".repeat(width.saturating_sub(cell::width(text)));
            let padded = if column.right { format!("{padding}{text}") } else { format!("{text}{padding}") };
            line.push_str(&padded);
            line.push_str("  ");
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    if index.entries.len() > ROWS_MAX {
        writeln!(out, "and {} more", index.entries.len() - ROWS_MAX)?;
    }
    Ok(())
}
