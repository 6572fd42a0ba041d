//! How findings are judged: the rules a user can set, as text on the command line, in the configuration file and in a
//! log's header.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::cli::JudgeArgs;
use crate::config::Config;
use crate::ledger;

/// How long an old instance may overlap its successor unless `--handover` says otherwise.
pub const HANDOVER_DEFAULT: Duration = Duration::from_secs(1);

/// Which holders of one endpoint are related, and so raise nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RelatedBy {
    /// Only a process and itself.
    Process,
    /// Holders of one lineage, ancestors, workers of a recognised pool.
    #[default]
    Lineage,
    /// Holders of one session (setsid(2)).
    Session,
    /// Holders of one cgroup.
    Cgroup,
    /// Holders of one user.
    User,
}

/// Sharing that is meant. A finding is allowed when everything the rule gives matches.
///
/// As text: `program=nginx,port=8000-8099`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowRule {
    /// Name of the program: the process's name, the last part of its executable's path, or the whole path.
    pub program: Option<String>,
    /// The cgroup2 path, or an ancestor of it.
    pub cgroup: Option<String>,
    /// The endpoint's address.
    pub address: Option<IpAddr>,
    /// The endpoint's port.
    pub port: Option<RangeInclusive<u16>>,
}

/// Workers of a pool, which share on purpose. Two processes are of one pool when both match everything the rule gives.
///
/// As text: `program=worker,parent=supervisor`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolRule {
    /// The workers' program, as in [`AllowRule::program`].
    pub program: Option<String>,
    /// The workers' cgroup2 path, or an ancestor of it.
    pub cgroup: Option<String>,
    /// The program of the nearest ancestor of that name, which must be one process.
    pub parent: Option<String>,
}

/// The parts of a rule: `KEY=VALUE,KEY=VALUE`.
fn parts<'a>(text: &'a str, example: &'a str) -> impl Iterator<Item = Result<(&'a str, &'a str), String>> {
    text.split(',').map(move |part| match part.split_once('=') {
        None => Err(format!("\"{}\" is not KEY=VALUE: write for example {example}", part.escape_debug())),
        Some((key, "")) => Err(format!("{}= needs a value", key.escape_debug())),
        Some(pair) => Ok(pair),
    })
}

fn cgroup(value: &str) -> Result<String, String> {
    if !value.starts_with('/') {
        return Err("cgroup= needs a path that begins with /".to_owned());
    }
    Ok(value.trim_end_matches('/').to_owned())
}

/// Text of a rule, from its keys and values.
fn write_parts<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    parts: [(&str, Option<String>); N],
) -> fmt::Result {
    let mut separator = "";
    for (key, value) in parts {
        if let Some(value) = value {
            write!(f, "{separator}{key}={value}")?;
            separator = ",";
        }
    }
    Ok(())
}

impl FromStr for PoolRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rule = Self::default();
        for part in parts(text, "program=worker,parent=supervisor") {
            let (key, value) = part?;
            let twice = match key {
                "program" => rule.program.replace(value.to_owned()).is_some(),
                "cgroup" => rule.cgroup.replace(cgroup(value)?).is_some(),
                "parent" => rule.parent.replace(value.to_owned()).is_some(),
                _ => {
                    let key = key.escape_debug();
                    return Err(format!("\"{key}\" is not a key of a pool: program, cgroup or parent"));
                }
            };
            if twice {
                return Err(format!("{key}= is given twice"));
            }
        }
        Ok(rule)
    }
}

impl fmt::Display for PoolRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, cgroup, parent } = self.clone();
        write_parts(f, [("program", program), ("cgroup", cgroup), ("parent", parent)])
    }
}

impl FromStr for AllowRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rule = Self::default();
        for part in parts(text, "program=nginx,port=8080") {
            let (key, value) = part?;
            let twice = match key {
                "program" => rule.program.replace(value.to_owned()).is_some(),
                "cgroup" => rule.cgroup.replace(cgroup(value)?).is_some(),
                "address" => {
                    let bare = value.trim_start_matches('[').trim_end_matches(']');
                    let address = bare
                        .parse()
                        .map_err(|_| format!("address={} is not an IP address", value.escape_debug()))?;
                    rule.address.replace(address).is_some()
                }
                "port" => rule.port.replace(crate::cli::ports(value)?).is_some(),
                _ => {
                    let key = key.escape_debug();
                    return Err(format!(
                        "\"{key}\" is not a key of a rule: program, cgroup, address or port"
                    ));
                }
            };
            if twice {
                return Err(format!("{key}= is given twice"));
            }
        }
        Ok(rule)
    }
}

impl fmt::Display for AllowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port.as_ref().map(|range| {
            if range.start() == range.end() {
                range.start().to_string()
            } else {
                format!("{}-{}", range.start(), range.end())
            }
        });
        write_parts(
            f,
            [
                ("program", self.program.clone()),
                ("cgroup", self.cgroup.clone()),
                ("address", self.address.map(|address| address.to_string())),
                ("port", port),
            ],
        )
    }
}

/// Rules are stored as their text.
macro_rules! stored_as_text {
    ($rule:ty) => {
        impl Serialize for $rule {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $rule {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

stored_as_text!(AllowRule);
stored_as_text!(PoolRule);

/// Everything a judgement depends on, besides the events. Stored in a log's header, so that a report judges as the
/// recording did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Who is related.
    pub related_by: RelatedBy,
    /// Longest overlap of a reload, ns.
    pub handover_ns: u64,
    /// Workers that share on purpose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolRule>,
    /// Sharing that is meant.
    #[serde(default)]
    pub allow: Vec<AllowRule>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            related_by: RelatedBy::default(),
            handover_ns: nanoseconds(HANDOVER_DEFAULT),
            pools: Vec::new(),
            allow: Vec::new(),
        }
    }
}

impl Rules {
    /// The rules by the command line, then the configuration file, then `base` (a log's header, or the defaults).
    /// Pools and allow rules of all three add up.
    #[must_use]
    pub fn resolve(args: &JudgeArgs, config: &Config, base: Self) -> Self {
        let mut allow = base.allow;
        for rule in config.allow.iter().chain(&args.allow) {
            if !allow.contains(rule) {
                allow.push(rule.clone());
            }
        }
        let mut pools = base.pools;
        for rule in &config.pools {
            if !pools.contains(rule) {
                pools.push(rule.clone());
            }
        }
        let handover = args.handover.or(config.handover);
        Self {
            related_by: args.related_by.or(config.related_by).unwrap_or(base.related_by),
            handover_ns: handover.map_or(base.handover_ns, nanoseconds),
            pools,
            allow,
        }
    }
}

impl From<Rules> for ledger::Settings {
    fn from(rules: Rules) -> Self {
        let related_by = match rules.related_by {
            RelatedBy::Process => ledger::RelatedBy::Process,
            RelatedBy::Lineage => ledger::RelatedBy::Lineage,
            RelatedBy::Session => ledger::RelatedBy::Session,
            RelatedBy::Cgroup => ledger::RelatedBy::Cgroup,
            RelatedBy::User => ledger::RelatedBy::User,
        };
        let allow = rules.allow.into_iter().map(|rule| ledger::AllowRule {
            program: rule.program,
            cgroup: rule.cgroup,
            address: rule.address,
            port: rule.port,
        });
        let pools = rules.pools.into_iter().map(|rule| ledger::PoolRule {
            program: rule.program,
            cgroup: rule.cgroup,
            parent: rule.parent,
        });
        Self { related_by, handover_ns: rules.handover_ns, pools: pools.collect(), allow: allow.collect() }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
