//! The picture: a pure function of what there is, what is chosen, and the size of the terminal.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::cell;
use super::detail;
use super::header;
use super::help;
use super::model::Model;
use super::rows::{self, Index, Row, Scene, Tab};
use super::theme::{Role, Theme};
use super::world::World;

/// From this height on the detail has a place of its own below the rows.
const SPLIT_HEIGHT: u16 = 24;
/// The smallest terminal that something is drawn in.
const SMALLEST: (u16, u16) = (10, 3);

/// Where what is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Everything.
    pub area: Rect,
    /// What is watched, counts and rates.
    pub header: Rect,
    /// The views.
    pub tabs: Rect,
    /// The heads of the columns.
    pub head: Rect,
    /// The rows.
    pub table: Rect,
    /// The detail, while it is open.
    pub detail: Rect,
    /// The line of a replay.
    pub bar: Rect,
    /// Filter, question, message or hints.
    pub foot: Rect,
    columns: Vec<(usize, u16, u16)>,
    tab_spans: Vec<(Tab, u16, u16)>,
}

/// What is at a place of the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// The name of a view.
    Tab(Tab),
    /// The head of a column.
    Head(usize),
    /// A row, from the first visible one.
    Row(u16),
}

impl Layout {
    /// Lays out a screen for a view of so many rows.
    #[must_use]
    pub fn new(model: &Model, world: &World, rows: usize, area: Rect) -> Self {
        let mut rest = area;
        let header = top(&mut rest, header::lines(world, area));
        let tabs = top(&mut rest, 1);
        let foot = bottom(&mut rest, 1);
        let bar = bottom(&mut rest, u16::from(model.replay.is_some() && area.height >= 8));
        let mut detail = Rect::default();
        if model.detail {
            // Few rows leave more room to the story.
            let needed = u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(2);
            let kept = needed.min(rest.height * 2 / 5);
            let share = if rest.height + 4 >= SPLIT_HEIGHT { rest.height - kept } else { rest.height };
            detail = bottom(&mut rest, share);
        }
        let has_head = u16::from(rest.height > 1);
        let head = top(&mut rest, has_head);
        let columns = columns(model.tab, rest.width);
        let mut layout =
            Self { area, header, tabs, head, table: rest, detail, bar, foot, columns, tab_spans: vec![] };
        layout.tab_spans = header::tab_spans(layout.tabs);
        layout
    }

    /// Everything between the views and the last lines.
    #[must_use]
    pub fn body(&self) -> Rect {
        let height = self.head.height + self.table.height + self.detail.height;
        Rect { y: self.tabs.bottom(), height, ..self.tabs }
    }

    /// Rows that are visible.
    #[must_use]
    pub const fn table_rows(&self) -> u16 {
        self.table.height
    }

    /// What is there.
    #[must_use]
    pub fn hit(&self, x: u16, y: u16) -> Option<Hit> {
        let within = |from: u16, width: u16| (from..from.saturating_add(width)).contains(&x);
        let at = (x, y).into();
        if self.tabs.contains(at) {
            return self
                .tab_spans
                .iter()
                .find(|(_, from, width)| within(*from, *width))
                .map(|s| Hit::Tab(s.0));
        }
        if self.head.contains(at) {
            return self
                .columns
                .iter()
                .find(|(_, from, width)| within(*from, *width))
                .map(|c| Hit::Head(c.0));
        }
        self.table.contains(at).then(|| Hit::Row(y - self.table.y))
    }
}

/// Takes rows from the top of `rest`, at most what there is.
fn top(rest: &mut Rect, height: u16) -> Rect {
    let height = height.min(rest.height);
    let taken = Rect { height, ..*rest };
    rest.y += height;
    rest.height -= height;
    taken
}

/// Takes rows from the bottom of `rest`.
fn bottom(rest: &mut Rect, height: u16) -> Rect {
    let height = height.min(rest.height);
    rest.height -= height;
    Rect { y: rest.y + rest.height, height, ..*rest }
}

/// Which columns there is room for, where they begin and how wide they are.
fn columns(tab: Tab, width: u16) -> Vec<(usize, u16, u16)> {
    let all = tab.columns();
    let mut ranked: Vec<usize> = (0..all.len()).collect();
    ranked.sort_by_key(|at| all.get(*at).map(|column| column.rank));
    let mut shown: Vec<usize> = Vec::new();
    let mut used = 0_u16;
    for at in ranked {
        let Some(column) = all.get(at) else { continue };
        let needed = column.width.saturating_add(u16::from(!shown.is_empty()));
        if shown.is_empty() || used.saturating_add(needed) <= width {
            used = used.saturating_add(needed);
            shown.push(at);
        } else {
            break;
        }
    }
    shown.sort_unstable();
    let grow: u16 = shown.iter().filter_map(|at| all.get(*at)).map(|column| column.grow).sum();
    let (mut spare, mut grow) = (width.saturating_sub(used), grow);
    // Those that have a limit take theirs first; the rest is for the others.
    let mut order: Vec<usize> = shown.clone();
    order.sort_by_key(|at| all.get(*at).map(|column| column.max));
    let mut widths = vec![0_u16; all.len()];
    for at in order {
        let (Some(column), Some(slot)) = (all.get(at), widths.get_mut(at)) else { continue };
        let share = u32::from(spare) * u32::from(column.grow) / u32::from(grow.max(1));
        let share = u16::try_from(share).unwrap_or(0).min(column.max.saturating_sub(column.width));
        *slot = column.width + share;
        spare -= share;
        grow -= column.grow;
    }
    let mut x = 0;
    let mut placed = Vec::new();
    for at in shown {
        let wide = widths.get(at).copied().unwrap_or(0).min(width.saturating_sub(x));
        placed.push((at, x, wide));
        x = x.saturating_add(wide + 1);
    }
    placed
}

/// A surface to write on.
pub struct Canvas<'a> {
    /// The cells.
    pub buffer: &'a mut Buffer,
    /// How they look.
    pub theme: Theme,
}

impl Canvas<'_> {
    /// Writes clean text, at most `width` columns of it. Returns where it ends.
    pub fn put(&mut self, x: u16, y: u16, width: u16, text: &str, role: Role) -> u16 {
        self.put_styled(x, y, width, text, self.theme.style(role))
    }

    fn put_styled(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) -> u16 {
        let glyphs = self.theme.glyphs;
        let text = cell::clean(text, glyphs.ascii);
        let text = cell::fit(&text, width.into(), glyphs.cut);
        if !self.buffer.area.contains((x, y).into()) {
            return x;
        }
        self.buffer.set_stringn(x, y, text, width.into(), style).0
    }

    /// Writes pieces one after another. Returns where they end.
    pub fn pieces(&mut self, area: Rect, pieces: &[(String, Role)]) -> u16 {
        let mut x = area.x;
        for (text, role) in pieces {
            if area.height > 0 && x < area.right() {
                x = self.put(x, area.y, area.right() - x, text, *role);
            }
        }
        x
    }
}

/// Draws everything.
pub fn draw(model: &Model, world: &World, index: &Index, layout: &Layout, theme: Theme, buffer: &mut Buffer) {
    let mut canvas = Canvas { buffer, theme };
    let area = layout.area;
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        canvas.put(area.x, area.y, area.width, "too small", Role::Plain);
        return;
    }
    header::draw(&mut canvas, model, world, layout);
    header::tabs(&mut canvas, model, world, layout);
    let scene = Scene { world, glyphs: theme.glyphs };
    if model.help.is_some() {
        help::draw(&mut canvas, model, layout);
    } else {
        table(&mut canvas, scene, model, index, layout);
        if model.detail {
            detail::draw(&mut canvas, scene, model, index, layout.detail);
        }
    }
    header::bar(&mut canvas, model, world, layout);
    header::foot(&mut canvas, model, world, index, layout);
}

fn table(canvas: &mut Canvas<'_>, scene: Scene<'_>, model: &Model, index: &Index, layout: &Layout) {
    let pane = model.pane();
    heads(canvas, model, layout);
    let area = layout.table;
    if index.entries.is_empty() && area.height > 0 {
        let text = match index.hidden {
            0 => model.tab.nothing().to_owned(),
            hidden => format!("Nothing that the filter wants; {hidden} left out."),
        };
        for (y, line) in
            (area.y..area.bottom()).zip(cell::wrap(&text, area.width.into(), area.width.into(), 3, ""))
        {
            canvas.put(area.x, y, area.width, &line, Role::Dim);
        }
        return;
    }
    let visible = index.entries.iter().enumerate().skip(pane.top);
    for ((at, entry), y) in visible.zip(area.y..area.bottom()) {
        let row = rows::row(scene, model.tab, index, entry);
        let chosen = at == pane.at;
        let style = canvas.theme.style(row.role);
        let style = if chosen { style.patch(canvas.theme.style(Role::Chosen)) } else { style };
        if chosen {
            canvas.buffer.set_style(Rect { x: area.x, y, width: area.width, height: 1 }, style);
        }
        one(canvas, layout, model.tab, &row, y, style);
    }
}

fn one(canvas: &mut Canvas<'_>, layout: &Layout, tab: Tab, row: &Row, y: u16, style: Style) {
    for (at, x, width) in &layout.columns {
        let (Some(text), Some(column)) = (row.cells.get(*at), tab.columns().get(*at)) else { continue };
        let right = column.right.then(|| usize::from(*width).saturating_sub(cell::width(text)));
        let indent = right.and_then(|indent| u16::try_from(indent).ok()).unwrap_or(0);
        canvas.put_styled(layout.table.x + x + indent, y, width.saturating_sub(indent), text, style);
    }
}

fn heads(canvas: &mut Canvas<'_>, model: &Model, layout: &Layout) {
    let head = layout.head;
    if head.height == 0 {
        return;
    }
    canvas.buffer.set_style(head, canvas.theme.style(Role::Head));
    let [up, down] = canvas.theme.glyphs.order;
    for (at, x, width) in &layout.columns {
        let Some(column) = model.tab.columns().get(*at) else { continue };
        let order = match model.pane().sort {
            Some((by, backwards)) if by == *at => {
                if backwards {
                    down
                } else {
                    up
                }
            }
            _ => "",
        };
        // The order is seen even where the head is cut for it.
        let name = cell::fit(column.title, usize::from(*width).saturating_sub(cell::width(order)), "");
        let text = format!("{name}{order}");
        let indent = if column.right { usize::from(*width).saturating_sub(cell::width(&text)) } else { 0 };
        let indent = u16::try_from(indent).unwrap_or(0);
        canvas.put(head.x + x + indent, head.y, width.saturating_sub(indent), &text, Role::Head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_whatever_the_width() {
        for tab in Tab::ALL {
            for width in 1..260 {
                let columns = columns(tab, width);
                assert!(!columns.is_empty(), "{tab:?} {width}");
                let mut end = 0;
                for (at, x, wide) in columns {
                    assert!(
                        x >= end && x + wide <= width,
                        "{tab:?} {width}: column {at} at {x}, {wide} wide"
                    );
                    end = x + wide;
                }
            }
            assert_eq!(columns(tab, 250).len(), tab.columns().len(), "{tab:?} uses the room");
        }
    }
}
