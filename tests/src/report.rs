//! `bindwatch.report/1` as a test reads it.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;

/// A report.
#[derive(Clone, Debug)]
pub struct Report(pub Value);

impl Report {
    /// From JSON.
    ///
    /// # Panics
    /// When it is no report of the version the harness knows.
    #[must_use]
    #[track_caller]
    pub fn of(text: &str) -> Self {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(value.get("schema").and_then(Value::as_str), Some("bindwatch.report/1"));
        Self(value)
    }

    /// Every finding.
    ///
    /// # Panics
    /// When the report has no list of them.
    #[must_use]
    #[track_caller]
    pub fn findings(&self) -> Vec<Finding> {
        self.0["findings"].as_array().expect("findings").iter().cloned().map(Finding).collect()
    }

    /// The findings about an address.
    #[must_use]
    #[track_caller]
    pub fn at(&self, address: impl Into<IpAddr>) -> Vec<Finding> {
        let address = address.into().to_string();
        self.findings().into_iter().filter(|finding| finding.text("address") == address).collect()
    }

    /// The findings in a network namespace.
    #[must_use]
    #[track_caller]
    pub fn in_netns(&self, netns: u64) -> Vec<Finding> {
        self.findings().into_iter().filter(|finding| finding.number("netns") == netns).collect()
    }

    /// The findings about an endpoint.
    #[must_use]
    #[track_caller]
    pub fn on(&self, address: impl Into<IpAddr>, port: u64) -> Vec<Finding> {
        self.at(address).into_iter().filter(|finding| finding.number("port") == port).collect()
    }

    /// The one finding about an endpoint.
    ///
    /// # Panics
    /// When there is none or more than one.
    #[must_use]
    #[track_caller]
    pub fn only(&self, address: impl Into<IpAddr>, port: u64) -> Finding {
        let address = address.into();
        let mut found = self.on(address, port);
        assert_eq!(found.len(), 1, "one finding on {address}:{port}: {found:#?}");
        found.remove(0)
    }

    /// A number of `stats`.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        self.0["stats"][name].as_u64().unwrap_or_else(|| panic!("no number {name} in {}", self.0["stats"]))
    }

    /// Whether a finding of it is uncertain for another reason than that events were lost. Rightly so are findings of guests now and
    /// then: an emulated processor is preempted in the middle of a program, and the kernel leaves out what comes by meanwhile.
    ///
    /// # Panics
    /// When the finding or the report does not say.
    #[must_use]
    #[track_caller]
    pub fn doubts(&self, finding: &Finding) -> bool {
        finding.0["uncertain"].as_bool().expect("uncertain") && self.stat("lost") == 0
    }

    /// Whether the log was ended in order.
    ///
    /// # Panics
    /// When the report does not say.
    #[must_use]
    #[track_caller]
    pub fn complete(&self) -> bool {
        self.0["window"]["complete"].as_bool().expect("window.complete")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

/// A finding.
#[derive(Clone, Debug)]
pub struct Finding(pub Value);

impl Finding {
    /// A text of it.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    #[track_caller]
    pub fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_else(|| panic!("no text {name} in {:#}", self.0))
    }

    /// A number of it.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {:#}", self.0))
    }

    /// A time of it.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    #[track_caller]
    pub fn time(&self, name: &str) -> Timestamp {
        self.text(name).parse().unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Its kind.
    #[must_use]
    #[track_caller]
    pub fn kind(&self) -> &str {
        self.text("kind")
    }

    /// Its severity.
    #[must_use]
    #[track_caller]
    pub fn severity(&self) -> &str {
        self.text("severity")
    }

    /// Its cause, where it has one.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.0["cause"].as_str()
    }

    /// Its holders, in the order in which they came.
    ///
    /// # Panics
    /// When it has no list of them.
    #[must_use]
    #[track_caller]
    pub fn holders(&self) -> Vec<Holder> {
        self.0["holders"].as_array().expect("holders").iter().cloned().map(Holder).collect()
    }

    /// The process ids of its holders, in the order in which they came.
    #[must_use]
    #[track_caller]
    pub fn pids(&self) -> Vec<u64> {
        self.holders().iter().map(|holder| holder.number("pid")).collect()
    }

    /// The process id of who had it last, where that is known.
    #[must_use]
    pub fn last_owner(&self) -> Option<u64> {
        self.0["last_owner"]["pid"].as_u64()
    }

    /// The process whose call failed.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn victim(&self) -> Holder {
        assert!(self.0["victim"].is_object(), "no victim in {:#}", self.0);
        Holder(self.0["victim"].clone())
    }
}

/// A process in a finding.
#[derive(Clone, Debug)]
pub struct Holder(pub Value);

impl Holder {
    /// A number of it.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    #[track_caller]
    pub fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("no number {name} in {:#}", self.0))
    }

    /// A text of it.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    #[track_caller]
    pub fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_else(|| panic!("no text {name} in {:#}", self.0))
    }

    /// A list of texts.
    ///
    /// # Panics
    /// When it is not there.
    #[must_use]
    #[track_caller]
    pub fn texts(&self, name: &str) -> Vec<&str> {
        let list = self.0[name].as_array().unwrap_or_else(|| panic!("no list {name} in {:#}", self.0));
        list.iter().filter_map(Value::as_str).collect()
    }
}
