//! The list of keys.

use super::cell;
use super::keys::{BINDINGS, Where};
use super::model::Model;
use super::theme::Role;
use super::view::{Canvas, Layout};

/// Columns of a key's name.
const NAMES: u16 = 15;

pub(super) fn draw(canvas: &mut Canvas<'_>, model: &Model, layout: &Layout) {
    let area = layout.body();
    let glyphs = canvas.theme.glyphs;
    let names = NAMES.min(area.width / 3);
    let room = area.width.saturating_sub(names + 1);
    let mut lines: Vec<(&str, String, Role)> = Vec::new();
    for binding in &BINDINGS {
        let off = match binding.when {
            Where::Always => "",
            Where::Replay if model.replay.is_some() => "",
            Where::Replay => " (in a replay)",
            Where::Live if model.replay.is_some() => " (not in a replay)",
            Where::Live => "",
        };
        let role = if off.is_empty() { Role::Plain } else { Role::Dim };
        let text = format!("{}{off}", binding.does);
        let mut name = binding.name;
        for line in cell::wrap(&cell::clean(&text, glyphs.ascii), room.into(), room.into(), 4, glyphs.cut) {
            lines.push((name, line, role));
            name = "";
        }
    }
    let height = usize::from(area.height);
    let top = model.help.unwrap_or(0).min(lines.len().saturating_sub(height));
    for ((name, text, role), y) in lines.iter().skip(top).zip(area.y..area.bottom()) {
        let name = if glyphs.ascii { ascii_name(name) } else { (*name).to_owned() };
        canvas.put(area.x, y, names, &name, Role::Key);
        canvas.put(area.x + names + 1, y, room, text, *role);
    }
    if lines.len() > height && area.height > 0 {
        let more = format!(" {}-{} of {}, Down ", top + 1, (top + height).min(lines.len()), lines.len());
        let width = u16::try_from(more.len()).unwrap_or(0).min(area.width);
        canvas.put(area.right() - width, area.bottom() - 1, width, &more, Role::Chosen);
    }
}

fn ascii_name(name: &str) -> String {
    name.replace('…', "-").replace('↑', "Up").replace('↓', "Down").replace('←', "Left").replace('→', "Right")
}
