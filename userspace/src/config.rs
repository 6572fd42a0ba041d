//! The configuration file, `bindwatch.toml`.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::cli::FailOn;
use crate::judge::{AllowRule, PoolRule, RelatedBy};

/// Largest configuration file that is read, bytes.
const CONFIG_MAX: u64 = 1 << 20;

/// Settings of a project or a user. The command line wins over them; allow rules add up.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// `related-by = "lineage"`
    #[serde(default)]
    pub related_by: Option<RelatedBy>,
    /// `handover = "1s"`
    #[serde(default, deserialize_with = "duration")]
    pub handover: Option<Duration>,
    /// `fail-on = "error"`
    #[serde(default, deserialize_with = "parsed")]
    pub fail_on: Option<FailOn>,
    /// `[[pool]]` tables with `program`, `cgroup`, `parent`; or `pool = ["program=worker,parent=supervisor"]`
    #[serde(default, rename = "pool", deserialize_with = "pools")]
    pub pools: Vec<PoolRule>,
    /// `[[allow]]` tables with `program`, `cgroup`, `address`, `port`; or `allow = ["program=nginx,port=80"]`
    #[serde(default, deserialize_with = "rules")]
    pub allow: Vec<AllowRule>,
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration file {path}: {error}; name another with --config")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is larger than `CONFIG_MAX`.
    #[error("the configuration file {path} is larger than 1 MiB; name another with --config")]
    Large {
        /// Which file.
        path: PathBuf,
    },
    /// It says something that means nothing.
    #[error("{path}:{line}: {message}")]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// Which line of it, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
}

impl Config {
    /// Reads the file named by `--config`, else `bindwatch.toml` in the working directory, else the user's
    /// `config.toml`, else nothing.
    ///
    /// # Errors
    /// When a file that is there cannot be read or has something wrong in it.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        if let Some(path) = named {
            return Self::read(path);
        }
        // A folder that is not the caller's to look into (another user's $HOME) holds no settings of theirs.
        let is_none_there = |error: &std::io::Error| {
            use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
            matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
        };
        for path in [Some(PathBuf::from("bindwatch.toml")), users_file()].into_iter().flatten() {
            match Self::read(&path) {
                Err(ConfigError::Read { error, .. }) if is_none_there(&error) => {}
                other => return other,
            }
        }
        Ok(Self::default())
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |error| ConfigError::Read { path: path.to_owned(), error };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(CONFIG_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if text.len() as u64 > CONFIG_MAX {
            return Err(ConfigError::Large { path: path.to_owned() });
        }
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
            let message = error.message().replace('\n', " ");
            ConfigError::Wrong { path: path.to_owned(), line, message }
        })
    }
}

fn users_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("bindwatch/config.toml"))
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::cli::duration(&text).map(Some).map_err(serde::de::Error::custom)
}

fn parsed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<FailOn>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// A rule as a table: the same keys as its text form has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    program: Option<String>,
    cgroup: Option<String>,
    address: Option<String>,
    port: Option<PortOrRange>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a port like 8080, or a range like \"8000-8099\"")]
enum PortOrRange {
    Port(u16),
    Range(String),
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a table with some of program, cgroup, address and port, or a rule like \"program=nginx,port=80\""
)]
enum TableOrText {
    Text(String),
    Table(Table),
}

fn rules<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<AllowRule>, D::Error> {
    let rules = Vec::<toml::Spanned<TableOrText>>::deserialize(deserializer)?;
    rules.into_iter().map(|rule| rule.into_inner().rule().map_err(serde::de::Error::custom)).collect()
}

/// A pool as a table: the same keys as its text form has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolTable {
    program: Option<String>,
    cgroup: Option<String>,
    parent: Option<String>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a table with some of program, cgroup and parent, or a rule like \"program=worker,parent=supervisor\""
)]
enum PoolTableOrText {
    Text(String),
    Table(PoolTable),
}

fn pools<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PoolRule>, D::Error> {
    let rules = Vec::<toml::Spanned<PoolTableOrText>>::deserialize(deserializer)?;
    rules.into_iter().map(|rule| rule.into_inner().rule().map_err(serde::de::Error::custom)).collect()
}

impl PoolTableOrText {
    fn rule(self) -> Result<PoolRule, String> {
        let table = match self {
            Self::Text(text) => return text.parse(),
            Self::Table(table) => table,
        };
        let keys = [("program", table.program), ("cgroup", table.cgroup), ("parent", table.parent)];
        text_of(keys)
            .ok_or_else(|| "a pool without program, cgroup or parent would relate everybody".to_owned())?
            .parse()
    }
}

/// The text form of what a table gives; None when that is nothing.
fn text_of<const N: usize>(keys: [(&str, Option<String>); N]) -> Option<String> {
    let given: Vec<_> =
        keys.into_iter().filter_map(|(key, value)| value.map(|value| format!("{key}={value}"))).collect();
    (!given.is_empty()).then(|| given.join(","))
}

impl TableOrText {
    fn rule(self) -> Result<AllowRule, String> {
        let table = match self {
            Self::Text(text) => return text.parse(),
            Self::Table(table) => table,
        };
        let port = match table.port {
            Some(PortOrRange::Port(port)) => Some(port.to_string()),
            Some(PortOrRange::Range(range)) => Some(range),
            None => None,
        };
        let keys = [
            ("program", table.program),
            ("cgroup", table.cgroup),
            ("address", table.address),
            ("port", port),
        ];
        text_of(keys)
            .ok_or_else(|| {
                "an allow rule without program, cgroup, address or port would allow everything".to_owned()
            })?
            .parse()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
    use super::*;

    fn error(text: &str) -> String {
        Config::parse(text, Path::new("bindwatch.toml")).unwrap_err().to_string()
    }

    #[test]
    fn a_full_file() {
        let text = "related-by = \"session\"\nhandover = \"250ms\"\nfail-on = \"co-bind,exhausted\"\n\
            [[allow]]\nprogram = \"nginx\"\nport = \"8000-8099\"\n[[allow]]\ncgroup = \"/ci/pool\"\naddress = \"::1\"\nport = 80\n";
        let config = Config::parse(text, Path::new("x")).unwrap();
        assert_eq!(config.related_by, Some(RelatedBy::Session));
        assert_eq!(config.handover, Some(Duration::from_millis(250)));
        assert_eq!(config.fail_on, Some("co-bind,exhausted".parse().unwrap()));
        let rules: Vec<_> = config.allow.iter().map(ToString::to_string).collect();
        assert_eq!(rules, ["program=nginx,port=8000-8099", "cgroup=/ci/pool,address=::1,port=80"]);
    }

    #[test]
    fn pools_as_tables_and_as_text() {
        let table = Config::parse(
            "[[pool]]\nprogram = \"worker*\"\nparent = \"supervisord\"\n[[pool]]\ncgroup = \"/ci/a/\"\n",
            Path::new("x"),
        );
        let text = Config::parse(
            "pool = [\"program=worker*,parent=supervisord\", \"cgroup=/ci/a\"]\n",
            Path::new("x"),
        );
        let (table, text) = (table.unwrap(), text.unwrap());
        assert_eq!(table, text);
        let pools: Vec<_> = table.pools.iter().map(ToString::to_string).collect();
        assert_eq!(pools, ["program=worker*,parent=supervisord", "cgroup=/ci/a"]);
    }

    #[test]
    fn rules_as_text_are_the_same() {
        let table = Config::parse("[[allow]]\nprogram = \"a\"\nport = 1\n", Path::new("x")).unwrap();
        let text = Config::parse("allow = [\"program=a,port=1\"]\n", Path::new("x")).unwrap();
        assert_eq!(table, text);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cases = [
            ("fail-on = \"error\"\nhandovr = \"1s\"\n", "bindwatch.toml:2: unknown field `handovr`"),
            ("\n\nhandover = \"1\"\n", "bindwatch.toml:3: \"1\" has no unit"),
            ("[[allow]]\n", "would allow everything"),
            ("[[allow]]\nport = 0\n", "port 0 is never held"),
            ("[[pool]]\n", "would relate everybody"),
            ("[[pool]]\nport = 1\n", "some of program, cgroup and parent"),
            ("pool = [\"cgroup=ci\"]\n", "begins with /"),
            ("x", "bindwatch.toml:1: "),
        ];
        for (text, expected) in cases {
            let error = error(text);
            assert!(error.contains(expected), "{text:?} gave {error:?}");
            assert!(!error.contains('\n'), "{error:?} is more than a line");
        }
    }
}
