//! `bindwatch.report/1`: the shape that scripts read. Fields are added, never renamed or dropped.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::PrettyFormatter;

use super::escape::SafeJson;
use super::listing::{Answer, Listed, Listing, Person};
use super::{Report, Stats, history, story, words};
use crate::clock::Anchors;
use crate::event::{Ancestor, Cookie, Options, ProcessKey, Protocol, Rest, Seq, TcpState, WaitOutcome};
use crate::ledger::finding::{Cause, Finding, HolderState, Kind, PortRange, Receives, Severity};
use crate::ledger::finding::{Holder as Held, Victim as Failed};
use crate::log::Host;

/// The schema of a report.
pub const SCHEMA: &str = "bindwatch.report/1";

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    host: &'a Host,
    window: Window,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notices: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<history::Shape<'a>>,
    findings: Vec<Shape<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<Note<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    targets: Option<&'a [Answer]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sockets: Option<Vec<Socket<'a>>>,
    stats: Stats,
}

/// What a user wrote.
#[derive(Serialize)]
struct Note<'a> {
    at: String,
    text: &'a str,
    pid: u32,
    id: ProcessKey,
}

#[derive(Serialize)]
struct Window {
    start: String,
    end: String,
    complete: bool,
}

/// A finding as JSON has it. Also what `finding` lines of a log hold.
#[derive(Serialize)]
pub struct Shape<'a> {
    id: u32,
    kind: Kind,
    severity: Severity,
    protocol: Protocol,
    address: String,
    port: u16,
    netns: u32,
    first_seen: String,
    last_seen: String,
    overlap_ms: Option<u64>,
    live: bool,
    cause: Option<Cause>,
    tcp_state: Option<TcpState>,
    destination: Option<String>,
    summary: String,
    hint: String,
    holders: Vec<Holder<'a>>,
    victim: Option<Victim<'a>>,
    last_owner: Option<Holder<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed_cgroup: Option<&'a str>,
    port_range: Option<PortRange>,
    users: Vec<PortUser<'a>>,
    other_users: Rest,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_outcome: Option<WaitOutcome>,
    count: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    #[serde(skip_serializing_if = "is_zero")]
    would_deny: u64,
    uncertain: bool,
    receives: Option<String>,
    story: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<&'a str>,
    evidence: &'a [Seq],
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if wants a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A process that uses up ports.
#[derive(Serialize)]
struct PortUser<'a> {
    pid: u32,
    id: ProcessKey,
    comm: &'a str,
    exe: &'a str,
    ended: bool,
    sockets: u32,
    time_wait: u32,
}

/// A holder as JSON has it. Without a process, what tells of one is null.
#[derive(Serialize)]
pub struct Holder<'a> {
    pid: Option<u32>,
    id: Option<ProcessKey>,
    comm: &'a str,
    exe: &'a str,
    cmdline: &'a [String],
    cmdline_cut: bool,
    uid: u32,
    cgroup: &'a str,
    container: Option<&'a str>,
    job: Option<&'a str>,
    started: Option<String>,
    lineage: Option<ProcessKey>,
    parents: &'a [Ancestor],
    socket_cookie: Cookie,
    socket_cookies: &'a [Cookie],
    address: String,
    port: u16,
    peer: Option<String>,
    outgoing: bool,
    options: Vec<&'static str>,
    device: Option<u32>,
    state: HolderState,
    bound_at: Option<String>,
    released_at: Option<String>,
    accepted: Option<u64>,
    inherited_from: Option<ProcessKey>,
}

/// A socket of `list` or `check`: a holder with more.
#[derive(Serialize)]
struct Socket<'a> {
    protocol: Protocol,
    netns: u32,
    #[serde(flatten)]
    holder: Holder<'a>,
    user: Option<&'a str>,
    mptcp: bool,
    tcp_state: TcpState,
    queued: u32,
    expires_ms: Option<u32>,
    options_known: bool,
    last_owner: Option<LastOwner<'a>>,
}

/// Who opened a connection that is over. Of one that has ended too only the number is known.
#[derive(Serialize)]
struct LastOwner<'a> {
    pid: u32,
    id: ProcessKey,
    comm: Option<&'a str>,
    exe: Option<&'a str>,
    ended: bool,
}

#[derive(Serialize)]
struct Victim<'a> {
    #[serde(flatten)]
    holder: Holder<'a>,
    errno: Option<String>,
    call: &'static str,
}

/// `finding` as JSON has it. The arguments are shown as they are: mask them before.
#[must_use]
pub fn finding(finding: &Finding, anchors: Anchors) -> Shape<'_> {
    Shape {
        id: finding.id.0,
        kind: finding.kind,
        severity: finding.kind.severity(),
        protocol: finding.protocol,
        address: finding.address.to_string(),
        port: finding.port,
        netns: finding.netns.0,
        first_seen: anchors.rfc3339(finding.first_seen),
        last_seen: anchors.rfc3339(finding.last_seen),
        overlap_ms: finding.overlap.map(|ns| ns / 1_000_000),
        live: finding.live,
        cause: finding.cause,
        tcp_state: finding.tcp_state,
        destination: finding.destination.map(|to| to.to_string()),
        summary: words::summary(finding, anchors),
        hint: words::hint(finding),
        holders: finding.holders.iter().map(|held| holder(held, anchors)).collect(),
        victim: finding.victim.as_ref().map(|failed| victim(failed, finding, anchors)),
        last_owner: finding.last_owner.as_ref().map(|owner| holder(owner, anchors)),
        removed_cgroup: finding.removed_cgroup.as_deref(),
        port_range: finding.range,
        users: finding
            .users
            .iter()
            .map(|user| PortUser {
                pid: user.process.tgid,
                id: user.process,
                comm: &user.comm,
                exe: &user.exe,
                ended: user.ended,
                sockets: user.sockets,
                time_wait: user.time_wait,
            })
            .collect(),
        other_users: finding.others,
        waited_ms: finding.wait.map(|wait| wait.ns / 1_000_000),
        wait_outcome: finding.wait.and_then(|wait| wait.outcome),
        count: finding.count,
        dry_run: finding.dry_run,
        would_deny: finding.would_deny,
        uncertain: finding.uncertain,
        receives: finding.receives.map(|receives| match receives {
            Receives::Split => "split".to_owned(),
            Receives::One(lineage) => lineage.to_string(),
        }),
        story: story::sentence(finding, anchors),
        log: None,
        evidence: &finding.evidence,
    }
}

/// `held` as JSON has it. The arguments are shown as they are: mask them before.
#[must_use]
pub fn holder(held: &Held, anchors: Anchors) -> Holder<'_> {
    let known = held.process.tgid != 0;
    Holder {
        pid: known.then_some(held.process.tgid),
        id: known.then_some(held.process),
        comm: &held.comm,
        exe: &held.exe,
        cmdline: &held.cmdline,
        cmdline_cut: held.cmdline_cut,
        uid: held.uid.0,
        cgroup: &held.cgroup,
        container: held.container.as_deref(),
        job: held.job.as_deref(),
        started: known.then(|| anchors.rfc3339(held.process.started())),
        lineage: known.then_some(held.lineage),
        parents: &held.parents,
        socket_cookie: held.socket_cookie,
        socket_cookies: &held.sockets,
        address: held.address.to_string(),
        port: held.port,
        peer: held.peer.map(|peer| peer.to_string()),
        outgoing: held.outgoing,
        options: option_names(held.options),
        device: (held.options.device.0 != 0).then_some(held.options.device.0),
        state: held.state,
        bound_at: held.bound_at.map(|at| anchors.rfc3339(at)),
        released_at: held.released_at.map(|at| anchors.rfc3339(at)),
        accepted: held.accepted,
        inherited_from: held.inherited_from,
    }
}

/// One entry a socket and process, and one for a socket whose process is not known.
fn sockets(listing: &Listing, anchors: Anchors) -> Vec<Socket<'_>> {
    let entries = listing.sockets.iter().flat_map(|listed| {
        let mut people: Vec<Option<&Person>> = listing.holders(listed).map(Some).collect();
        if people.is_empty() {
            people.push(None);
        }
        people.into_iter().map(|person| socket(listing, listed, person, anchors))
    });
    entries.collect()
}

fn socket<'a>(
    listing: &'a Listing,
    listed: &'a Listed,
    person: Option<&'a Person>,
    anchors: Anchors,
) -> Socket<'a> {
    let facts = person.map(|person| &person.facts);
    let uid = facts.map_or(listed.socket.uid, |facts| facts.uid);
    let binder = listing.holders(listed).next().map(|person| person.facts.process);
    let cookie = &listed.socket.cookie;
    Socket {
        protocol: listed.socket.protocol,
        netns: listed.socket.netns.0,
        holder: Holder {
            pid: facts.map(|facts| facts.process.tgid),
            id: facts.map(|facts| facts.process),
            comm: facts.map_or("", |facts| &facts.comm),
            exe: facts.map_or("", |facts| &facts.exe),
            cmdline: facts.map_or(&[], |facts| &facts.cmdline),
            cmdline_cut: facts.is_some_and(|facts| facts.cmdline_cut),
            uid: uid.0,
            cgroup: facts.map_or("", |facts| &facts.cgroup),
            container: facts.and_then(|facts| facts.container.as_deref()),
            job: facts.and_then(|facts| facts.job.as_deref()),
            started: facts.map(|facts| anchors.rfc3339(facts.started())),
            lineage: facts.map(|facts| facts.lineage),
            parents: person.map_or(&[], |person| &person.parents),
            socket_cookie: *cookie,
            socket_cookies: std::slice::from_ref(cookie),
            address: listed.socket.address.to_string(),
            port: listed.socket.port,
            peer: listed.peer.map(|peer| peer.to_string()),
            outgoing: false,
            options: option_names(listed.socket.options),
            device: (listed.socket.options.device.0 != 0).then_some(listed.socket.options.device.0),
            state: listed.doing(),
            bound_at: None,
            released_at: None,
            accepted: None,
            inherited_from: binder.filter(|binder| facts.is_some_and(|facts| facts.process != *binder)),
        },
        user: listing.users.get(&uid).map(String::as_str),
        mptcp: listed.mptcp,
        tcp_state: listed.state,
        queued: listed.queued,
        expires_ms: listed.expires_ms,
        options_known: listed.options_known,
        last_owner: listing.last_owners.get(&listed.socket.cookie).map(|owner| {
            let facts = listing.last_owner(*owner);
            LastOwner {
                pid: owner.tgid,
                id: *owner,
                comm: facts.map(|facts| facts.comm.as_str()),
                exe: facts.map(|facts| facts.exe.as_str()),
                ended: facts.is_none(),
            }
        }),
    }
}

fn victim<'a>(failed: &'a Failed, finding: &Finding, anchors: Anchors) -> Victim<'a> {
    let errno = finding.is_failure().then(|| failed.errno.to_string());
    Victim { holder: holder(&failed.holder, anchors), errno, call: failed.call }
}

/// The names of the options that are set.
#[must_use]
pub fn option_names(options: Options) -> Vec<&'static str> {
    let set = [
        (options.reuse_addr, "SO_REUSEADDR"),
        (options.reuse_port, "SO_REUSEPORT"),
        (options.v6_only, "IPV6_V6ONLY"),
        (options.device.0 != 0, "SO_BINDTODEVICE"),
    ];
    set.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect()
}

/// Writes `report`, and nothing else, as one document.
pub(super) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let clock = report.clock;
    let document = Document {
        schema: SCHEMA,
        host: &report.host,
        window: Window {
            start: clock.rfc3339(report.window.start),
            end: clock.rfc3339(report.window.end),
            complete: report.window.complete,
        },
        notices: &report.notices,
        findings: report
            .findings
            .iter()
            .map(|found| Shape { log: report.source_of(found), ..finding(found, clock) })
            .collect(),
        history: report.history.as_ref().map(|history| history.shape(clock)),
        notes: report
            .notes
            .iter()
            .map(|note| Note {
                at: clock.rfc3339(note.at),
                text: &note.text,
                pid: note.process.tgid,
                id: note.process,
            })
            .collect(),
        targets: report.targets.as_deref(),
        sockets: report.listing.as_ref().map(|listing| sockets(listing, clock)),
        stats: report.stats,
    };
    let mut buffered = io::BufWriter::new(out);
    let formatter = SafeJson(PrettyFormatter::new());
    document.serialize(&mut serde_json::Serializer::with_formatter(&mut buffered, formatter))?;
    buffered.write_all(b"\n")?;
    buffered.flush()
}
