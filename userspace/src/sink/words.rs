//! The sentences: what happened and what to do about it, made in this one place from a finding.
//!
//! Every sentence is one line, and text from processes in it is escaped and cut: any sink may print it as it is, a sink
//! with a syntax of its own escapes for that.

mod denied;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

pub use denied::would_deny;

use crate::cli::duration_text;
use crate::clock::Anchors;
use crate::event::{BootTime, Protocol, TcpState, WaitOutcome};
use crate::ledger::finding::{Cause, Finding, Holder, Kind, PortRange, PortUser, Receives, Severity, Victim};
use crate::proc::label;
use crate::sink::escape;
use crate::sink::timeline::Span;

/// Processes that a sentence names; the rest are counted.
const NAMED_MAX: usize = 3;
/// Longest name of a process in a sentence, characters.
const NAME_CHARS: usize = 32;

/// Longest name of a job in a sentence, characters.
const JOB_CHARS: usize = 48;

/// `127.0.0.1:80`, `[::1]:80`.
#[must_use]
pub fn endpoint(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// Programs whose name says nothing: what they run does.
const INTERPRETERS: [&str; 12] =
    ["python", "node", "nodejs", "ruby", "perl", "php", "java", "bash", "sh", "dash", "deno", "bun"];

/// `nginx (PID 4711)`; of what an interpreter runs also the script: `node server.js (PID 4711)`; of what belongs to a job
/// that has a name, also that: `nginx (PID 4711 of suite_a)`.
#[must_use]
pub fn process(holder: &Holder) -> String {
    let script =
        script(holder).map_or_else(String::new, |script| format!(" {}", escape::cut(script, NAME_CHARS)));
    let of = job(holder).map_or_else(String::new, |job| format!(" of {job}"));
    format!("{}{script} (PID {}{of})", name(&holder.comm), holder.process.tgid)
}

/// The innermost name of the job, suite or test that a process belongs to, fit for a sentence.
#[must_use]
pub fn job(holder: &Holder) -> Option<String> {
    let innermost = holder.job.as_deref()?.rsplit(label::SEPARATOR).next()?;
    Some(escape::cut(innermost, JOB_CHARS).into_owned()).filter(|job| !job.is_empty())
}

/// The script or module that an interpreter runs, without its folder.
fn script(holder: &Holder) -> Option<&str> {
    let program = holder.exe.rsplit('/').next()?.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if !INTERPRETERS.contains(&program) {
        return None;
    }
    let mut arguments = holder.cmdline.iter().skip(1).map(String::as_str);
    loop {
        match arguments.next()? {
            // Code on the command line has no name.
            "-c" | "-e" | "--eval" => return None,
            "-m" => return arguments.next(),
            option if option.starts_with('-') => {}
            script => {
                return script.rsplit('/').next().filter(|name| !name.is_empty() && *name != holder.comm);
            }
        }
    }
}

/// The name of a process, fit for a sentence.
#[must_use]
pub fn name(comm: &str) -> String {
    if comm.is_empty() { "a process".to_owned() } else { escape::cut(comm, NAME_CHARS).into_owned() }
}

/// `error`, `warning`, `note`.
#[must_use]
pub const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

/// What a kind of finding means.
#[must_use]
pub const fn kind_meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::CoBind => "Unrelated processes hold live sockets on exactly the same endpoint",
        Kind::Handover => {
            "A newcomer of the same program took an endpoint over, and the older one stopped in time"
        }
        Kind::Shadow => "Unrelated processes hold overlapping endpoints",
        Kind::Refused => "A bind or listen was refused: the address is in use",
        Kind::Orphan => "A socket outlived what it belonged to",
        Kind::Exhausted => "No free port was left",
        Kind::Denied => "Enforcement refused a bind",
    }
}

/// A cause by its name in JSON.
#[must_use]
pub const fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Listener => "listener",
        Cause::Bound => "bound",
        Cause::TimeWait => "time-wait",
        Cause::HalfClosed => "half-closed",
        Cause::Orphan => "orphan",
        Cause::Restart => "restart",
        Cause::LostRace => "lost-race",
        Cause::Exclusive => "exclusive",
        Cause::OtherUser => "other-user",
    }
}

/// What a cause means.
#[must_use]
pub const fn cause_meaning(cause: Cause) -> &'static str {
    match cause {
        Cause::Listener => "somebody listens there",
        Cause::Bound => "somebody is bound there, without listening",
        Cause::TimeWait => "only TIME_WAIT entries of ended connections are there",
        Cause::HalfClosed => "a connection there is not closed by both sides yet",
        Cause::Orphan => "a process still has it that outlived what it belonged to",
        Cause::Restart => "the previous instance of the same program was still on its way out",
        Cause::LostRace => "the port was found free, released, and taken by somebody else in between",
        Cause::Exclusive => "the holder did not set the option by which the newcomer wanted to share",
        Cause::OtherUser => "SO_REUSEPORT shares among sockets of one user only",
    }
}

/// What happened, in one sentence that a person can act on.
#[must_use]
pub fn summary(finding: &Finding, anchors: Anchors) -> String {
    let mut text = match finding.kind {
        Kind::CoBind => co_bind(finding, anchors),
        Kind::Handover => handover(finding),
        Kind::Shadow => shadow(finding),
        Kind::Refused => refused(finding, anchors),
        Kind::Orphan => orphan(finding),
        Kind::Exhausted => exhausted(finding),
        Kind::Denied => denied::sentence(finding),
    };
    if finding.uncertain {
        text.push_str(" (uncertain: events were lost, or a process could not be identified)");
    }
    text
}

fn place(finding: &Finding) -> String {
    format!("{} {}", finding.protocol, endpoint(finding.address, finding.port))
}

/// `a`, `a and b`, `a, b and c`, `a, b, c and 7 more`.
fn listed<'a>(holders: impl Iterator<Item = &'a Holder>) -> String {
    let all: Vec<&Holder> = holders.collect();
    // One more by name is shorter than "and 1 more".
    let named = if all.len() == NAMED_MAX + 1 { all.len() } else { NAMED_MAX };
    let mut parts: Vec<String> = all.iter().take(named).map(|holder| process(holder)).collect();
    if all.len() > named {
        parts.push(format!("{} more", all.len() - named));
    }
    match parts.split_last() {
        None => "nobody known".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

const fn traffic(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "connections",
        Protocol::Udp | Protocol::Udplite => "datagrams",
    }
}

/// `: connections went to either of them`, or nothing when it is not known.
fn received(finding: &Finding) -> String {
    let (what, went) = (traffic(finding.protocol), if finding.live { "go" } else { "went" });
    match finding.receives {
        None => String::new(),
        Some(Receives::Split) if finding.holders.len() == 2 => format!("; {what} {went} to either of them"),
        Some(Receives::Split) => format!("; {what} {went} to any of them"),
        Some(Receives::One(lineage)) => {
            let who = finding.holders.iter().find(|holder| holder.lineage == lineage);
            who.map_or_else(String::new, |who| format!("; all {what} {went} to {}", process(who)))
        }
    }
}

fn co_bind(finding: &Finding, anchors: Anchors) -> String {
    let how_long = finding.overlap.map_or_else(String::new, |ns| format!(" for {}", duration_text(ns)));
    // Seen at one instant only (`list`), nothing is known of its beginning.
    let since = match finding.last_seen > finding.first_seen {
        true => format!(" since {}", clock(anchors, finding.first_seen)),
        false => String::new(),
    };
    let when = if finding.live {
        format!("is shared by {} unrelated processes{since}", finding.holders.len())
    } else {
        format!("was shared by {} unrelated processes{how_long}", finding.holders.len())
    };
    format!("{} {when}: {}{}", place(finding), listed(finding.holders.iter()), received(finding))
}

fn handover(finding: &Finding) -> String {
    let within = finding.overlap.map_or_else(String::new, |ns| format!(" within {}", duration_text(ns)));
    match finding.holders.as_slice() {
        [old, .., new] => {
            format!(
                "{} took {} over from {}{within}, and nothing was lost",
                process(new),
                place(finding),
                process(old)
            )
        }
        _ => format!("{} was taken over{within}, and nothing was lost", place(finding)),
    }
}

fn shadow(finding: &Finding) -> String {
    let exact = |holder: &&Holder| holder.address == finding.address;
    let (inner, outer): (Vec<_>, Vec<_>) = finding.holders.iter().partition(exact);
    let Some(wide) = outer.first() else {
        return format!(
            "{} is overlapped by unrelated processes: {}",
            place(finding),
            listed(finding.holders.iter())
        );
    };
    let verb = |of: &[&Holder]| match (finding.live, of.len()) {
        (true, 0 | 1) => "holds",
        (true, _) => "hold",
        (false, _) => "held",
    };
    let (holds, hold) = (verb(&inner), verb(&outer));
    let how_long = finding.overlap.filter(|_| !finding.live);
    let how_long = how_long.map_or_else(String::new, |ns| format!(" for {}", duration_text(ns)));
    let inner = if inner.is_empty() { "somebody".to_owned() } else { listed(inner.into_iter()) };
    let who = match finding.receives {
        Some(Receives::One(lineage)) => finding.holders.iter().find(|holder| holder.lineage == lineage),
        Some(Receives::Split) | None => None,
    };
    let went = if finding.live { "go" } else { "went" };
    let target = endpoint(finding.address, finding.port);
    let received = who.map_or_else(String::new, |who| {
        format!("; {} to {target} {went} to {}", traffic(finding.protocol), process(who))
    });
    format!(
        "{inner} {holds} {}{how_long} while {}, unrelated, {hold} {}{received}",
        place(finding),
        listed(outer.iter().copied()),
        endpoint(wide.address, wide.port),
    )
}

fn attempts(finding: &Finding) -> String {
    if finding.count > 1 { format!(" in {} attempts", finding.count) } else { String::new() }
}

fn victim(victim: Option<&Victim>) -> String {
    victim.map_or_else(|| "a process".to_owned(), |victim| process(&victim.holder))
}

fn last_owner(finding: &Finding) -> String {
    finding.last_owner.as_ref().map_or_else(String::new, |owner| format!(" of {}", process(owner)))
}

fn refused(finding: &Finding, anchors: Anchors) -> String {
    let failed = match finding.victim.as_ref().map(|victim| victim.call) {
        Some("listen") => "listen on",
        _ => "bind",
    };
    let who = victim(finding.victim.as_ref());
    let after =
        finding.wait.map_or_else(String::new, |wait| format!(" after waiting {}", duration_text(wait.ns)));
    let (place, attempts) = (place(finding), attempts(finding));
    format!("{who} could not {failed} {place}{attempts}{after}: {}", refusal(finding, anchors))
}

/// What stands for the time of a bind that was not seen.
pub(crate) const fn unseen_start(holder: &Holder) -> &'static str {
    if holder.bound_unseen { "an unknown time" } else { "before the recording" }
}

/// Why a bind was refused, with who and since when.
fn refusal(finding: &Finding, anchors: Anchors) -> String {
    let holders = listed(finding.holders.iter());
    let first = finding.holders.first();
    let there = first.filter(|holder| holder.address != finding.address);
    let at = there
        .map_or_else(|| "there".to_owned(), |holder| format!("on {}", endpoint(holder.address, holder.port)));
    let it = there.map_or_else(|| "it".to_owned(), |holder| endpoint(holder.address, holder.port));
    let since = first.map_or_else(String::new, |holder| {
        let start = holder.bound_at.map(|time| clock(anchors, time));
        format!(" since {}", start.unwrap_or_else(|| unseen_start(holder).to_owned()))
    });
    let several = finding.holders.len() > 1;
    let (listen, hold) = if several { ("listen", "hold") } else { ("listens", "holds") };
    let owner = last_owner(finding);
    match finding.cause {
        Some(Cause::Listener) => format!("{holders} {listen} {at}{since}"),
        Some(Cause::Bound) => match first.and_then(|holder| Some((holder.peer?, holder.outgoing))) {
            Some((peer, true)) => {
                format!("{holders} {hold} {it} as the source of an outgoing connection to {peer}")
            }
            Some((peer, false)) => format!("{holders} {hold} a connection with {peer} there"),
            None if first.is_none() => "a socket is there, in whose hands is not known".to_owned(),
            None => format!("{holders} {hold} {it}{since}, without listening"),
        },
        Some(Cause::TimeWait) => {
            format!("no process holds it, but ended connections{owner} are still in TIME_WAIT there")
        }
        Some(Cause::HalfClosed) if first.is_some() => {
            format!("{holders} {hold} a connection there that is not wholly closed{}", which_side(finding))
        }
        Some(Cause::HalfClosed) => {
            let side = which_side(finding);
            format!("a connection{owner} there that no process has open is not wholly closed{side}")
        }
        Some(Cause::Orphan) => match first.and_then(|holder| holder.inherited_from) {
            Some(maker) => format!(
                "{holders} still {hold} {it}{since}, though PID {}, which made the socket, has ended",
                maker.tgid
            ),
            None => format!("{holders} still {hold} {it}{since}, though the job it belonged to has ended"),
        },
        Some(Cause::Restart) if first.is_some() => {
            format!("the previous instance, {holders}, had not let go of {it} yet")
        }
        Some(Cause::Restart) => format!("the previous instance{owner} had not let go of it yet"),
        Some(Cause::LostRace) => {
            let when = first.and_then(|holder| holder.bound_at);
            let when = when.map_or_else(String::new, |time| format!(" at {}", clock(anchors, time)));
            match first.and_then(|holder| holder.peer.filter(|_| holder.outgoing)) {
                Some(peer) => format!(
                    "it had this port and released it, and {holders} was given it as the source of an outgoing connection to {peer}, in between"
                ),
                None => {
                    format!("it had this port and released it, and {holders} took {it}{when}, in between")
                }
            }
        }
        Some(Cause::Exclusive) => format!("{holders} {hold} {it}{since} and did not agree to share"),
        Some(Cause::OtherUser) => {
            let theirs = first.map_or_else(String::new, |holder| format!(" of user {}", holder.uid.0));
            let own = finding.victim.as_ref();
            let own = own.map_or_else(String::new, |v| {
                format!(" ({} is of user {})", name(&v.holder.comm), v.holder.uid.0)
            });
            format!("{holders}{theirs} {hold} {it}{since}, and SO_REUSEPORT shares within one user only{own}")
        }
        None if first.is_some() => format!("{holders} {hold} {it}{since}"),
        None if !owner.is_empty() => format!("a socket{owner} is still there"),
        None => "it is in use, and by whom is not known".to_owned(),
    }
}

/// `, in CLOSE_WAIT: the other side has closed it, this one has not`
fn which_side(finding: &Finding) -> String {
    let Some(state) = finding.tcp_state else { return String::new() };
    let (name, side) = match state {
        TcpState::CloseWait => ("CLOSE_WAIT", "the other side has closed it, this one has not"),
        TcpState::FinWait1 => ("FIN_WAIT1", "this side has closed it, the other has not answered"),
        TcpState::FinWait2 => ("FIN_WAIT2", "this side has closed it, the other has not"),
        TcpState::LastAck => ("LAST_ACK", "both sides have closed it, the last answer is outstanding"),
        TcpState::Closing => ("CLOSING", "both sides have closed it, an answer is outstanding"),
        _ => return String::new(),
    };
    format!(", in {name}: {side}")
}

fn orphan(finding: &Finding) -> String {
    let several = finding.holders.len() > 1;
    let verb = match (finding.live, several) {
        (false, _) => "still held",
        (true, false) => "still holds",
        (true, true) => "still hold",
    };
    if let Some(owner) = &finding.last_owner {
        let its = place(finding);
        let all = listed(finding.holders.iter());
        return format!("{all} {verb} {its}, inherited from {}, which had ended", process(owner));
    }
    if let Some(cgroup) = &finding.removed_cgroup {
        let (all, its, cgroup) = (listed(finding.holders.iter()), place(finding), escape::line(cgroup));
        return format!("{all} {verb} {its}, though the cgroup it was bound in, {cgroup}, was removed");
    }
    let belonged = if several { "they belonged to" } else { "it belonged to" };
    let lasted = finding.last_seen.since(finding.first_seen);
    let how_long =
        if lasted > 0 && !finding.live { format!(" for {}", duration_text(lasted)) } else { String::new() };
    format!(
        "{} {verb} {}{how_long} after what {belonged} had ended",
        listed(finding.holders.iter()),
        place(finding)
    )
}

fn exhausted(finding: &Finding) -> String {
    let who = victim(finding.victim.as_ref());
    let mut text = match finding.destination {
        Some(to) => format!("{who} found no free local port to connect to {} {to}", finding.protocol),
        None => format!("{who} found no free {} port on {}", finding.protocol, finding.address),
    };
    text.push_str(&attempts(finding));
    if let Some(PortRange { low, high, ports, used: Some(used) }) = finding.range {
        text.push_str(&format!(": {used} of the {ports} ports from {low} to {high} were in use"));
        let users: Vec<String> = finding.users.iter().take(NAMED_MAX).map(port_user).collect();
        let named = finding.users.iter().take(NAMED_MAX).map(|user| u64::from(user.sockets + user.time_wait));
        let all = finding.users.iter().map(|user| u64::from(user.sockets + user.time_wait)).sum::<u64>();
        let others = u64::from(finding.others.sockets) + u64::from(finding.others.time_wait) + all
            - named.sum::<u64>();
        if !users.is_empty() {
            text.push_str(&format!(", by {}", users.join(", ")));
        }
        match (others, users.is_empty()) {
            (0, _) => {}
            (others, true) => {
                text.push_str(&format!(", by {} that nobody is known to own", plural(others, "socket")));
            }
            (others, false) => text.push_str(&format!(" and {} of others", plural(others, "socket"))),
        }
        return text;
    }
    // Writing to a String cannot fail.
    let _: Result<(), std::fmt::Error> = if finding.holders.is_empty() {
        write!(text, "; who has them is not known")
    } else {
        let verb = if finding.holders.len() > 1 { "use" } else { "uses" };
        write!(text, ": {} {verb} up the range", listed(finding.holders.iter()))
    };
    text
}

/// `curl (PID 4711, ended): 3 open and 1490 in TIME_WAIT`
#[must_use]
pub fn port_user(user: &PortUser) -> String {
    let ended = if user.ended { ", ended" } else { "" };
    let share = match (user.sockets, user.time_wait) {
        (open, 0) => format!("{open} open"),
        (0, left) => format!("{left} in TIME_WAIT"),
        (open, left) => format!("{open} open and {left} in TIME_WAIT"),
    };
    format!("{} (PID {}{ended}: {share})", name(&user.comm), user.process.tgid)
}

/// `at` as precise as telling times within `span` apart takes, UTC: `12:37:40`, `12:37:40.123`, and with the day when it
/// reaches into another one.
#[must_use]
pub fn time(anchors: Anchors, at: BootTime, span: Span) -> String {
    /// The shortest time that is told in whole seconds, ns.
    const SECONDS_FROM: u64 = 2_000_000_000;
    let text = anchors.rfc3339(at);
    let day = |at| anchors.rfc3339(at).get(..10).map(str::to_owned);
    let end = if span.length() < SECONDS_FROM { 23 } else { 19 };
    let start = if day(span.from) == day(span.to) && day(at) == day(span.from) { 11 } else { 0 };
    text.get(start..end).unwrap_or_default().replace('T', " ")
}

/// The time of day of `at`, UTC: `12:37:40`.
fn clock(anchors: Anchors, at: BootTime) -> String {
    anchors.rfc3339(at).get(11..19).unwrap_or_default().to_owned()
}

/// What to do about it.
#[must_use]
pub fn hint(finding: &Finding) -> String {
    let port = finding.port;
    match finding.kind {
        Kind::CoBind => {
            let program =
                finding.holders.first().map_or_else(|| "NAME".to_owned(), |holder| name(&holder.comm));
            let rule = escape::arguments(&[format!("program={program},port={port}")]);
            format!(
                "give each a port of its own, or leave out {} so that the second bind fails; sharing that is meant: --allow {rule}",
                sharing_option(finding)
            )
        }
        Kind::Handover => "nothing: this is a reload in good order".to_owned(),
        Kind::Shadow => format!(
            "use different ports, or bind both to specific addresses; what connects to {} reaches the most specific holder",
            endpoint(finding.address, port)
        ),
        Kind::Refused => refused_hint(finding),
        Kind::Orphan => {
            "end what a job starts before the job: stop its process group and wait for it, and let children \
                         not inherit sockets (SOCK_CLOEXEC)"
                .to_owned()
        }
        Kind::Exhausted => exhausted_hint(finding).to_owned(),
        Kind::Denied if finding.wait.is_some_and(|wait| wait.outcome == Some(WaitOutcome::Done)) => {
            "nothing: the port was free in time".to_owned()
        }
        Kind::Denied => "give it another port; sharing that is meant is allowed with --allow".to_owned(),
    }
}

fn exhausted_hint(finding: &Finding) -> &'static str {
    let (open, left) = finding.users.iter().fold((0, 0), |(open, left), user| {
        (open + u64::from(user.sockets), left + u64::from(user.time_wait))
    });
    if left > open {
        "reuse connections instead of opening one for each request: the side that closes first keeps the port for a \
         minute (TIME_WAIT); more ports: sysctl net.ipv4.ip_local_port_range"
    } else if open > 0 {
        "close what is not needed, and reuse connections instead of opening one for each request; more ports: sysctl \
         net.ipv4.ip_local_port_range"
    } else {
        "reuse connections instead of opening one for each request; more ports: sysctl net.ipv4.ip_local_port_range"
    }
}

/// The option by which the holders of a co-bind share.
fn sharing_option(finding: &Finding) -> &'static str {
    let by_port = finding.holders.iter().any(|holder| holder.options.reuse_port);
    if finding.protocol != Protocol::Tcp && !by_port { "SO_REUSEADDR" } else { "SO_REUSEPORT" }
}

fn refused_hint(finding: &Finding) -> String {
    let target = endpoint(finding.address, finding.port);
    let wait = format!("bindwatch check {}/{target} --wait 30s", finding.protocol);
    let holder = finding.holders.first().map_or_else(|| "the holder".to_owned(), process);
    if let Some(PortRange { low, high, .. }) = finding.range {
        let port = finding.port;
        return format!(
            "the kernel gives ports {low} to {high} to outgoing connections: listen on one outside, or reserve it: sysctl -w net.ipv4.ip_local_reserved_ports={port} (with those that are set already)"
        );
    }
    match finding.cause {
        Some(Cause::HalfClosed) if finding.tcp_state == Some(TcpState::CloseWait) => format!(
            "let {holder} close connections that the other side has closed (a read gives 0 bytes), or end it"
        ),
        Some(Cause::Orphan) => format!(
            "end {holder}; let what starts it wait for its end, and let children not inherit sockets (SOCK_CLOEXEC)"
        ),
        Some(Cause::Listener | Cause::Bound) | None => {
            format!("stop {holder}, or use another port; port 0 lets the kernel choose a free one")
        }
        Some(Cause::TimeWait | Cause::HalfClosed) => format!(
            "set SO_REUSEADDR before bind(), in the server that had the port too, or wait until it is free: {wait}"
        ),
        Some(Cause::Restart) => format!("start the next instance when the previous one is gone: {wait}"),
        Some(Cause::LostRace) => {
            "do not look for a free port by binding and closing: bind port 0, keep that socket, and \
                                  tell others its number"
                .to_owned()
        }
        Some(Cause::Exclusive) => {
            "use different ports; to share, both must set SO_REUSEPORT before bind()".to_owned()
        }
        Some(Cause::OtherUser) => "run both as one user, or use different ports".to_owned(),
    }
}

/// `3 findings: 1 error, 2 warnings`.
#[must_use]
pub fn totals<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> String {
    let (mut errors, mut warnings, mut notes) = (0_u64, 0_u64, 0_u64);
    for finding in findings {
        match finding.kind.severity() {
            Severity::Error => errors += 1,
            Severity::Warning => warnings += 1,
            Severity::Note => notes += 1,
        }
    }
    let parts = [(errors, "error"), (warnings, "warning"), (notes, "note")];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0).map(|(count, word)| plural(count, word));
    let parts: Vec<_> = parts.collect();
    match errors + warnings + notes {
        0 => "no findings".to_owned(),
        count => format!("{}: {}", plural(count, "finding"), parts.join(", ")),
    }
}

/// `1 bind`, `2 binds`.
#[must_use]
pub fn plural(count: u64, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// `1 bind was`, `2 binds were`.
#[must_use]
pub fn were(count: u64, word: &str) -> String {
    format!("{} {}", plural(count, word), if count == 1 { "was" } else { "were" })
}

/// `1 bind is`, `2 binds are`.
#[must_use]
pub fn are(count: u64, word: &str) -> String {
    format!("{} {}", plural(count, word), if count == 1 { "is" } else { "are" })
}
