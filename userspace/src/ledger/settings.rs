//! What a judgement depends on besides the events.

use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Which holders of one endpoint are related, and so raise nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RelatedBy {
    /// Only a process and itself.
    Process,
    /// Holders of one lineage, ancestors, workers of a recognised pool.
    #[default]
    Lineage,
    /// Holders of one session (setsid(2)), besides lineage.
    Session,
    /// Holders of one cgroup, besides lineage.
    Cgroup,
    /// Holders of one user, besides lineage.
    User,
}

/// Sharing that is meant. A finding is allowed when everything the rule gives matches.
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

/// Everything a judgement depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who is related.
    pub related_by: RelatedBy,
    /// Longest overlap of a reload, ns.
    pub handover_ns: u64,
    /// Sharing that is meant.
    pub allow: Vec<AllowRule>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { related_by: RelatedBy::default(), handover_ns: 1_000_000_000, allow: Vec::new() }
    }
}
