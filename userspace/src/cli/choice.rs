//! Values that are one of a few, and small compounds of them.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

use super::address::port;
use super::quantity::{duration, shown};
use crate::ledger::finding::{Finding, Kind, Severity};

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// `bindwatch.report/1`.
    Json,
    /// For a pull request's comment.
    Markdown,
    /// One page.
    Html,
    /// For a CI system's test view.
    Junit,
    /// For code scanning.
    Sarif,
    /// Workflow commands of GitHub Actions.
    Github,
}

impl Format {
    /// Every format, in the order of the documentation.
    pub const ALL: [Self; 7] =
        [Self::Text, Self::Json, Self::Markdown, Self::Html, Self::Junit, Self::Sarif, Self::Github];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Markdown => "markdown",
            Self::Html => "html",
            Self::Junit => "junit",
            Self::Sarif => "sarif",
            Self::Github => "github",
        }
    }
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set or TERM is dumb.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Events {
    /// Every event.
    #[default]
    All,
    /// Binds on ports that another socket has as well, and calls that fail.
    Conflicts,
}

impl FromStr for Events {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "conflicts" => Ok(Self::Conflicts),
            _ => Err("expected all or conflicts".to_owned()),
        }
    }
}

impl fmt::Display for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Events {
    /// The name on the command line and in a log's header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Conflicts => "conflicts",
        }
    }
}

/// How much of a process's arguments is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Cmdline {
    /// All arguments
    #[default]
    Full,
    /// Only the executable's path
    Exe,
    /// Neither: the name only
    None,
}

impl Cmdline {
    /// The name on the command line and in a log's header.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Exe => "exe",
            Self::None => "none",
        }
    }
}

/// What tells how calls end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The best that this kernel takes, in this order
    #[default]
    Auto,
    /// The exits of kernel functions, by BPF trampolines
    Fexit,
    /// The same, by kretprobes
    Kprobe,
    /// The exits of system calls
    Tracepoint,
}

impl Backend {
    /// The one that is asked for; None leaves the choice to the kernel.
    #[must_use]
    pub const fn forced(self) -> Option<crate::probe::Backend> {
        match self {
            Self::Auto => None,
            Self::Fexit => Some(crate::probe::Backend::Fexit),
            Self::Kprobe => Some(crate::probe::Backend::Kprobe),
            Self::Tracepoint => Some(crate::probe::Backend::Tracepoint),
        }
    }
}

/// Where the errno of failed binds comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ErrnoSource {
    /// The cheapest hook that gives it.
    #[default]
    Auto,
    /// None: failed binds are shown without it.
    Off,
}

/// A view of `top`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// What is wrong.
    Findings,
    /// Every endpoint that is bound.
    Endpoints,
    /// Who has what.
    Processes,
    /// What happens.
    Events,
    /// The ports that the kernel chooses from.
    Ports,
}

/// What is behind the text of the terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Background {
    /// What `COLORFGBG` says, else dark.
    #[default]
    Auto,
    /// Black, or nearly so.
    Dark,
    /// White, or nearly so.
    Light,
}

/// What is done about a conflict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// It is reported.
    #[default]
    Report,
    /// The bind is refused with EADDRINUSE.
    Deny,
    /// The bind, or one that would be refused, waits until its endpoint is free, this long at most.
    Wait(Duration),
}

impl FromStr for OnConflict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "report" => Ok(Self::Report),
            "deny" => Ok(Self::Deny),
            "wait" => Err("how long? wait=10s".to_owned()),
            _ => match text.strip_prefix("wait=") {
                Some(longest) => duration(longest).map(Self::Wait),
                None => Err("expected report, deny or wait=DURATION".to_owned()),
            },
        }
    }
}

impl fmt::Display for OnConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Report => f.write_str("report"),
            Self::Deny => f.write_str("deny"),
            Self::Wait(longest) => {
                let ns = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
                write!(f, "wait={}", super::duration_text(ns).replace(' ', ""))
            }
        }
    }
}

/// Parses the name of a kind of finding.
///
/// # Errors
/// One line with the names there are.
pub fn parse_kind(text: &str) -> Result<Kind, String> {
    Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("\"{}\" is not a kind of finding: {}", shown(text), names.join(", "))
    })
}

/// Kinds of findings that make the exit code 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailOn(BTreeSet<Kind>);

impl FailOn {
    /// Whether `finding` counts.
    #[must_use]
    pub fn matches(&self, finding: &Finding) -> bool {
        self.contains(finding.kind)
    }

    /// Whether findings of `kind` count.
    #[must_use]
    pub fn contains(&self, kind: Kind) -> bool {
        self.0.contains(&kind)
    }

    /// Whether nothing counts.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for FailOn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at_least = |severity| Kind::ALL.into_iter().filter(move |kind| kind.severity() >= severity);
        let mut kinds = BTreeSet::new();
        if text == "none" {
            return Ok(Self(kinds));
        }
        for word in text.split(',') {
            match word {
                "error" => kinds.extend(at_least(Severity::Error)),
                "warning" => kinds.extend(at_least(Severity::Warning)),
                "none" => return Err("none cannot be combined with other words".to_owned()),
                _ => match parse_kind(word) {
                    Ok(kind) => drop(kinds.insert(kind)),
                    Err(error) => return Err(format!("{error}; or error, warning, none")),
                },
            }
        }
        Ok(Self(kinds))
    }
}

/// A report to write when the recording ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportTarget {
    /// In which format.
    pub format: Format,
    /// Where to; `-` is standard output.
    pub path: PathBuf,
}

impl FromStr for ReportTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (format, path) = match text.split_once('=') {
            Some((name, path)) if name.bytes().all(|b| b.is_ascii_lowercase()) => {
                let format = Format::from_str(name, false).map_err(|_| {
                    format!(
                        "\"{}\" is not a format; for a file with = in its name write text=FILE",
                        shown(name)
                    )
                })?;
                (format, path)
            }
            _ => (format_by_name(text), text),
        };
        if path.is_empty() {
            return Err("the file's name is missing: write [FORMAT=]FILE".to_owned());
        }
        Ok(Self { format, path: PathBuf::from(path) })
    }
}

fn format_by_name(path: &str) -> Format {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("json") => Format::Json,
        Some("md") => Format::Markdown,
        Some("html" | "htm") => Format::Html,
        Some("xml") => Format::Junit,
        Some("sarif") => Format::Sarif,
        _ => Format::Text,
    }
}

/// Parses `8080` or `8000-8999`.
///
/// # Errors
/// One line that says what is wrong with `text`.
pub fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last { Err(format!("{first} is above {last}")) } else { Ok(first..=last) }
}
