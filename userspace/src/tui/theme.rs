//! What things look like: roles of text, and the characters that lines are drawn with.
//!
//! Colours are the terminal's own sixteen, on its own background, so that they fit a dark and a light one. Every role
//! can also be told without colour: by bold, reverse or underline, and by the words and marks that stand there anyway.

use ratatui::style::{Color, Modifier, Style};

use crate::ledger::finding::Severity;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Data.
    #[default]
    Plain,
    /// What matters less: labels, what is past.
    Dim,
    /// What a block is about.
    Strong,
    /// The heads of columns.
    Head,
    /// The view that is shown.
    Tab,
    /// Severity error.
    Error,
    /// Severity warning.
    Warning,
    /// Severity note.
    Note,
    /// A key that can be pressed.
    Key,
    /// The row that is chosen.
    Chosen,
    /// The line that asks something.
    Question,
}

impl From<Severity> for Role {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Error => Self::Error,
            Severity::Warning => Self::Warning,
            Severity::Note => Self::Note,
        }
    }
}

/// Which colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Palette {
    /// None.
    Plain,
    /// Those that can be read on black.
    #[default]
    Dark,
    /// Those that can be read on white.
    Light,
}

/// What lines are drawn with.
#[derive(Debug, PartialEq, Eq)]
pub struct Glyphs {
    /// Only ASCII can be shown.
    pub ascii: bool,
    /// Where text was cut.
    pub cut: &'static str,
    /// Between two things of one line.
    pub dot: &'static str,
    /// A horizontal line.
    pub line: &'static str,
    /// Part of a time line in which somebody held.
    pub bar: &'static str,
    /// Part of a time line in which several did.
    pub overlap: &'static str,
    /// Part of a time line in which nobody did.
    pub empty: &'static str,
    /// Time goes on.
    pub play: &'static str,
    /// Time stands still.
    pub pause: &'static str,
    /// Where one is on a line.
    pub here: &'static str,
    /// A branch of a tree.
    pub branch: &'static str,
    /// Sorted upwards, downwards.
    pub order: [&'static str; 2],
    /// From nothing to the highest.
    pub spark: [&'static str; 9],
}

/// For terminals with UTF-8.
pub static UNICODE: Glyphs = Glyphs {
    ascii: false,
    cut: "…",
    dot: "·",
    line: "─",
    bar: "━",
    overlap: "▓",
    empty: "·",
    play: "▶",
    pause: "‖",
    here: "●",
    branch: "└ ",
    order: ["▲", "▼"],
    spark: ["▁", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
};

/// For those without.
pub static ASCII: Glyphs = Glyphs {
    ascii: true,
    cut: "~",
    dot: "|",
    line: "-",
    bar: "=",
    overlap: "#",
    empty: ".",
    play: ">",
    pause: "=",
    here: "O",
    branch: "\\ ",
    order: ["^", "v"],
    spark: ["_", "_", ".", ".", ":", ":", "|", "|", "#"],
};

/// Colours and characters.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    /// The colours.
    pub palette: Palette,
    /// The characters.
    pub glyphs: &'static Glyphs,
}

impl Theme {
    /// What the environment asks for. `value` looks up a variable of it; `light` is what the user said, if anything.
    #[must_use]
    pub fn of_environment(
        value: &dyn Fn(&str) -> Option<String>,
        colored: bool,
        light: Option<bool>,
        ascii: bool,
    ) -> Self {
        // rxvt, Konsole and others: "0;15" is black on white.
        let background = value("COLORFGBG").and_then(|text| text.rsplit(';').next()?.parse::<u8>().ok());
        let palette = match (colored, light.unwrap_or(matches!(background, Some(7 | 9..=15)))) {
            (false, _) => Palette::Plain,
            (true, false) => Palette::Dark,
            (true, true) => Palette::Light,
        };
        // The first of these that is set and not empty decides (locale(7)).
        let locale =
            ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(value).find(|text| !text.is_empty());
        let utf8 = locale.is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        Self { palette, glyphs: if utf8 && !ascii { &UNICODE } else { &ASCII } }
    }

    /// How a role looks.
    #[must_use]
    pub fn style(self, role: Role) -> Style {
        let style = Style::new();
        let colored = |dark: Color, light: Color| match self.palette {
            Palette::Plain => style,
            Palette::Dark => style.fg(dark),
            Palette::Light => style.fg(light),
        };
        match role {
            Role::Plain => style,
            Role::Dim => style.add_modifier(Modifier::DIM),
            Role::Strong => style.add_modifier(Modifier::BOLD),
            Role::Head => style.add_modifier(Modifier::UNDERLINED),
            Role::Tab => style.add_modifier(Modifier::REVERSED | Modifier::BOLD),
            Role::Error => colored(Color::LightRed, Color::Red).add_modifier(Modifier::BOLD),
            Role::Warning => colored(Color::Yellow, Color::Magenta),
            Role::Note => colored(Color::Cyan, Color::Blue),
            Role::Key => style.add_modifier(Modifier::BOLD),
            Role::Chosen => style.add_modifier(Modifier::REVERSED),
            Role::Question => {
                colored(Color::Yellow, Color::Magenta).add_modifier(Modifier::BOLD | Modifier::REVERSED)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn theme(variables: &[(&str, &str)], colored: bool) -> (Palette, bool) {
        let value =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let theme = Theme::of_environment(&value, colored, None, false);
        (theme.palette, theme.glyphs.ascii)
    }

    #[test]
    fn the_environment_decides() {
        assert_eq!(theme(&[("LANG", "C.UTF-8")], true), (Palette::Dark, false));
        assert_eq!(theme(&[("LANG", "en_US.utf8"), ("LC_ALL", "C")], true), (Palette::Dark, true));
        assert_eq!(theme(&[("LC_ALL", ""), ("LANG", "de_DE.UTF-8")], false), (Palette::Plain, false));
        assert_eq!(theme(&[("COLORFGBG", "0;15")], true), (Palette::Light, true));
        assert_eq!(theme(&[("COLORFGBG", "15;default;0")], true), (Palette::Dark, true));
        assert_eq!(theme(&[], true), (Palette::Dark, true));
    }

    #[test]
    fn without_colour_no_role_has_one() {
        let all = [
            Role::Plain,
            Role::Dim,
            Role::Strong,
            Role::Head,
            Role::Tab,
            Role::Error,
            Role::Warning,
            Role::Note,
            Role::Key,
            Role::Chosen,
            Role::Question,
        ];
        for role in all {
            let style = Theme { palette: Palette::Plain, glyphs: &ASCII }.style(role);
            assert_eq!((style.fg, style.bg), (None, None), "{role:?}");
        }
    }

    #[test]
    fn the_fallback_is_ascii() {
        let glyphs = format!("{ASCII:?}");
        assert!(glyphs.is_ascii(), "{glyphs}");
    }
}
