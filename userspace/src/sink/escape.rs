//! The one way that text from processes takes to a terminal.

/// `text` as one line that cannot do anything to a terminal.
#[must_use]
pub fn line(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}
