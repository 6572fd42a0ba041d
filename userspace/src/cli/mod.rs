//! The command line: one struct a verb, validated into plain values. What the values mean is the commands' business.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "docstrings are the help here, and have addresses such as [::1]"
)]

mod address;
mod choice;
mod quantity;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub use address::{Place, Target};
pub use choice::{
    Backend, Background, Cmdline, Color, ErrnoSource, Events, FailOn, Format, OnConflict, ReportTarget, View,
    parse_kind, ports,
};
pub use quantity::{SPEEDS, duration, duration_text, ring_size, seconds, size, speed};

use crate::ledger::finding::Kind;

/// See every socket bind on this machine, and who shared, took or held which port.
#[derive(Debug, Parser)]
#[command(name = "bindwatch", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Examples:
  bindwatch run -- make test                run a test suite and say who fought over which port
  bindwatch report bindwatch.jsonl          what happened, from the log of a run
  bindwatch check 127.0.0.1:8080            is it free, and if not, who has it
  bindwatch doctor                          what this kernel and this user can do

Exit codes: 0 success, 1 findings or held, 2 wrong usage, 125 bindwatch itself failed; `run` ends with its command's status.")]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options that every verb has.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// How to print the result: text, json; of `report` also markdown, html, junit, sarif, github [default: text]
    #[arg(long, global = true, value_enum, hide_possible_values = true, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Say nothing but results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; repeat for still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// When to use colours; NO_COLOR is honoured
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
    /// Settings and allow rules [default: ./bindwatch.toml, then ~/.config/bindwatch/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Globals {
    /// Whether to colour what goes to `stream`.
    #[must_use]
    pub fn colored(&self, stream: &impl IsTerminal) -> bool {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        match self.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !no_color && !dumb && stream.is_terminal(),
        }
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a command, watch the machine meanwhile, report what happened to its ports
    Run(RunArgs),
    /// Write the event log until interrupted, stopped, or a time is over
    Record(RecordArgs),
    /// Tell what a log shows: findings with their evidence
    Report(ReportArgs),
    /// Tell the whole story of one address or endpoint: who held it when, and what failed there
    Explain(ExplainArgs),
    /// Show who holds which port now
    List(ListArgs),
    /// The live screen: what is wrong, who holds what, what just failed; also plays a log
    Top(TopArgs),
    /// Ask whether an address and port are free: exit 0 free, 1 held
    Check(CheckArgs),
    /// Deny conflicting binds of the processes in some cgroups, until it is stopped
    Enforce(EnforceArgs),
    /// Move processes into a cgroup in which conflicting binds are denied
    Enroll(EnrollArgs),
    /// Show what this kernel and this user can do, and how to get what is missing
    Doctor(DoctorArgs),
    /// Write a note (a suite starts, a phase ends) into the running recordings; any user
    Mark(MarkArgs),
    /// End the caller's running recording in order
    Stop(StopArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print a manual page (roff)
    Man(ManArgs),
    /// Inner stage of `run`: becomes the command.
    #[command(name = "__launch", hide = true)]
    Launch(TrailingArgs),
    /// Inner stage of `run`: cleans up should bindwatch be killed.
    #[command(name = "__janitor", hide = true)]
    Janitor(TrailingArgs),
}

/// How findings are judged: what `run`, `record`, `report` and `list` share. Unset values come from the
/// configuration file, then (for `report`) from the log's header, then from the defaults.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Judging")]
pub struct JudgeArgs {
    /// Who may share a port without a finding: holders with the same … [default: lineage]
    #[arg(long, value_name = "process|lineage|session|cgroup|user", value_enum, hide_possible_values = true)]
    pub related_by: Option<crate::judge::RelatedBy>,
    /// Sharing that is meant: program=NAME,cgroup=PATH,address=ADDRESS,port=PORT[-PORT], all of those given must match
    #[arg(long, value_name = "RULE")]
    pub allow: Vec<crate::judge::AllowRule>,
    /// How long an old instance may overlap its successor in a reload [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub handover: Option<Duration>,
    /// Exit with 1 on findings of these kinds, or of this severity and worse [default: none]
    #[arg(long, value_name = "KIND[,KIND…]|error|warning|none")]
    pub fail_on: Option<FailOn>,
}

/// How a live machine is watched: what `run`, `record`, `enforce` and `top` share.
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// How much of the arguments of processes to keep
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub cmdline: Cmdline,
    /// Do not mask what looks like a password, token or key
    #[arg(long)]
    pub show_secrets: bool,
    /// What tells how calls end, and with which errno
    #[arg(long, value_enum, default_value_t, value_name = "NAME", help_heading = "Probe")]
    pub backend: Backend,
    /// Where the errno of failed binds comes from; off: no syscall tracepoints, no errno
    #[arg(long, value_enum, default_value_t, value_name = "auto|off", hide_possible_values = true)]
    #[arg(help_heading = "Probe")]
    pub errno: ErrnoSource,
    /// Size of the buffer between kernel and bindwatch, a power of two from 64K to 1G
    #[arg(long, value_name = "SIZE", value_parser = ring_size, default_value = "16M", help_heading = "Probe")]
    pub ring_size: u32,
}

/// What `run` and `record` share.
#[derive(Clone, Debug, Args)]
pub struct RecordingArgs {
    /// The event log; compressed when the name ends in .zst
    #[arg(short, long, value_name = "LOG", default_value = "bindwatch.jsonl")]
    pub output: PathBuf,
    /// Write a report too; the format is taken from the file's name when not given
    #[arg(long, value_name = "[FORMAT=]FILE")]
    pub report: Vec<ReportTarget>,
    /// A file to create once everything is watched: nothing bound after it exists is missed
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// What to do about a bind of CMD that conflicts: report it, deny the bind, or let it wait until the endpoint is
    /// free (also one that would be refused)
    #[arg(long, value_name = "report|deny|wait=DURATION", default_value = "report")]
    pub on_conflict: OnConflict,
    /// Deny binds exactly or not at all: fail where the kernel can only deny them before they have a port, which two that
    /// race can both pass
    #[arg(long)]
    pub strict: bool,
    /// What to log: all, or only binds on ports that another socket has as well and calls that fail. Costs less, and finds
    /// the same but for causes that lie in the past
    #[arg(long, default_value_t, value_name = "all|conflicts")]
    pub events: Events,
    /// Keep the log below this size (16M, 1G): of its older events those go that nothing rests on
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// How to watch.
    #[command(flatten)]
    pub watch: WatchArgs,
    /// How to judge.
    #[command(flatten)]
    pub judge: JudgeArgs,
}

/// `run`
#[derive(Clone, Debug, Args)]
#[command(override_usage = "bindwatch run [OPTIONS] -- CMD [ARG]…")]
#[command(after_help = "Examples:
  bindwatch run -- make test
  bindwatch run --fail-on co-bind,exhausted -- pytest -n 8
  sudo bindwatch run -o ci.jsonl.zst --report json=ci.json -- npm test
  bindwatch run --ready-file /tmp/ready --user build -- ./suite.sh
  bindwatch run --on-conflict wait=10s -- ./restart-servers.sh

Exit code: the command's own, 128+N when signal N ended it; 1 when it succeeded and --fail-on matched;
125 bindwatch failed, 126 the command cannot be executed, 127 it was not found.")]
pub struct RunArgs {
    /// What is recorded and how.
    #[command(flatten)]
    pub recording: RecordingArgs,
    /// What to call the command in findings, for example its suite [default: none]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Who the command runs as [default: the caller; under sudo, who called sudo]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// End what CMD leaves running: SIGTERM, and SIGKILL after 2 s. It is reported first
    #[arg(long)]
    pub kill_orphans: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// `record`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  sudo bindwatch record -o night.jsonl.zst --duration 8h
  sudo bindwatch record --ready-file /run/ready & …; bindwatch stop
  sudo bindwatch record --report json=findings.json --max-size 1G

Exit code: 0 when it was ended in order, 1 when --fail-on matched, 125 bindwatch failed.")]
pub struct RecordArgs {
    /// What is recorded and how.
    #[command(flatten)]
    pub recording: RecordingArgs,
    /// End by itself after this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
}

/// `report`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  bindwatch report bindwatch.jsonl
  bindwatch report --format json ci.jsonl.zst | jq '.findings[].summary'
  bindwatch report --fail-on error --kind co-bind --port 8000-8999 ci.jsonl
  ssh runner cat bindwatch.jsonl | bindwatch report -

Exit code: 0, or 1 when --fail-on matched; 125 when a log cannot be read.")]
pub struct ReportArgs {
    /// Logs to read; - is standard input
    #[arg(required = true, value_name = "LOG")]
    pub logs: Vec<PathBuf>,
    /// Do not mask what looks like a password, token or key
    #[arg(long)]
    pub show_secrets: bool,
    /// Only findings that last past this time (RFC 3339, or 30s: that long after the start of the log)
    #[arg(long, value_name = "TIME", help_heading = "Choosing findings")]
    pub since: Option<crate::clock::When>,
    /// Only findings that begin before this time
    #[arg(long, value_name = "TIME", help_heading = "Choosing findings")]
    pub until: Option<crate::clock::When>,
    /// Only findings of these kinds
    #[arg(long, value_name = "KIND[,KIND…]", value_delimiter = ',', value_parser = parse_kind)]
    #[arg(help_heading = "Choosing findings")]
    pub kind: Vec<Kind>,
    /// Only findings on this port, or in this range
    #[arg(long, value_name = "PORT[-PORT]", value_parser = ports, help_heading = "Choosing findings")]
    pub port: Option<std::ops::RangeInclusive<u16>>,
    /// Only findings with this process: a PID, or a part of its name or program path
    #[arg(long, value_name = "PID|NAME", help_heading = "Choosing findings")]
    pub process: Option<String>,
    /// How to judge.
    #[command(flatten)]
    pub judge: JudgeArgs,
}

/// `explain`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  bindwatch explain bindwatch.jsonl 127.0.0.1:8080
  bindwatch explain bindwatch.jsonl :5432 --at 12s
  bindwatch explain ci.jsonl.zst udp/127.0.0.1 --format json

Works while the recording still goes on. Numbers are those of the events in the log.

Exit code: 0, 125 when the log cannot be read.")]
pub struct ExplainArgs {
    /// The log; - is standard input
    #[arg(value_name = "LOG")]
    pub log: PathBuf,
    /// What to tell of: 127.0.0.1:80, [::1]:80, :80, tcp/…, udp/…; a bare address is every port on it
    #[arg(value_name = "ADDRESS[:PORT]")]
    pub target: Target,
    /// Also who held it then (RFC 3339, or 30s: that long after the start of the log)
    #[arg(long, value_name = "TIME")]
    pub at: Option<crate::clock::When>,
    /// Do not mask what looks like a password, token or key
    #[arg(long)]
    pub show_secrets: bool,
    /// How to judge.
    #[command(flatten)]
    pub judge: JudgeArgs,
}

/// `list`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  bindwatch list
  bindwatch list :8080 tcp/127.0.0.1
  bindwatch list --format json | jq '.sockets[] | select(.port == 8080)'
  bindwatch list --fail-on co-bind

An endpoint marked ! is shared by processes that have nothing to do with each other; = is shared otherwise.

Exit code: 0, or 1 when --fail-on matched.")]
pub struct ListArgs {
    /// Only these: 127.0.0.1:80, [::1]:80, :80, tcp/…, udp/…; a bare address is every port on it
    #[arg(value_name = "ADDRESS[:PORT]")]
    pub targets: Vec<Target>,
    /// Also sockets that are connected
    #[arg(short, long)]
    pub all: bool,
    /// Also what is left of ended connections (TIME_WAIT), with who opened them while a recording runs
    #[arg(long)]
    pub time_wait: bool,
    /// Do not mask what looks like a password, token or key
    #[arg(long)]
    pub show_secrets: bool,
    /// How to judge.
    #[command(flatten)]
    pub judge: JudgeArgs,
}

/// `top`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  sudo bindwatch top
  bindwatch top --replay ci.jsonl.zst --speed 4x --at 12:37:40
  sudo bindwatch top -b -n 10 -d 1 | grep co-bind
  sudo bindwatch top --once --format json --fail-on error

? lists the keys. Without a terminal to draw on it prints as with --batch.

Exit code: 0; 1 when --once or --batch ended and --fail-on matched; 125 bindwatch failed.")]
pub struct TopArgs {
    /// Play this log; needs no privileges
    #[arg(long, value_name = "LOG")]
    pub replay: Option<PathBuf>,
    /// How fast to play: 4x, 0.5x
    #[arg(long, value_name = "SPEED", value_parser = speed, default_value = "1x", requires = "replay")]
    pub speed: f64,
    /// Where to begin: a time (RFC 3339, or 12:37:40 of the log's first day), or 30s after the log's start; paused there
    #[arg(long, value_name = "TIME", requires = "replay")]
    pub at: Option<crate::clock::When>,
    /// Print without a terminal, again and again
    #[arg(short, long)]
    pub batch: bool,
    /// Print so often, then end
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub iterations: Option<u64>,
    /// Time between two prints
    #[arg(short, long, value_name = "SECS", value_parser = seconds, default_value = "2")]
    pub delay: Duration,
    /// Print once: the same as -b -n 1
    #[arg(long, conflicts_with = "iterations")]
    pub once: bool,
    /// The view to begin with [default: findings; when printing, endpoints]
    #[arg(
        long,
        value_enum,
        value_name = "findings|endpoints|processes|events|ports",
        hide_possible_values = true
    )]
    pub view: Option<View>,
    /// Show only what has these words: port, PID, address, program, cgroup, kind; !word leaves out
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    pub filter: String,
    /// Draw with ASCII only
    #[arg(long)]
    pub ascii: bool,
    /// Which colours can be read on the terminal's background
    #[arg(long, value_enum, default_value_t, value_name = "auto|dark|light", hide_possible_values = true)]
    pub background: Background,
    /// Leave the mouse to the terminal
    #[arg(long)]
    pub no_mouse: bool,
    /// How to watch.
    #[command(flatten)]
    pub watch: WatchArgs,
    /// How to judge.
    #[command(flatten)]
    pub judge: JudgeArgs,
}

/// `check`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  bindwatch check 127.0.0.1:8080
  bindwatch check :5432 udp/:5353
  bindwatch check localhost:8080 --wait 30s && ./server

Exit code: 0 free, 1 held (says by whom), 124 the wait ran out.")]
pub struct CheckArgs {
    /// What to ask for: 127.0.0.1:80, [::1]:80, *:80, :80, localhost:80, tcp/…, udp/…; a bare address is every port on it
    #[arg(required = true, value_name = "ADDRESS[:PORT]")]
    pub targets: Vec<Target>,
    /// Wait until all are free, this long at most
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<Duration>,
    /// Ask for a bind with SO_REUSEADDR, which TIME_WAIT does not keep from its port
    #[arg(long)]
    pub reuse_addr: bool,
    /// Do not mask what looks like a password, token or key
    #[arg(long)]
    pub show_secrets: bool,
}

/// `enforce`
#[derive(Clone, Debug, Args)]
#[command(mut_arg("on_conflict", |arg| arg.hide(true)))]
#[command(after_help = "Examples:
  sudo bindwatch enforce --cgroup /sys/fs/cgroup/ci.slice
  sudo bindwatch enforce --dry-run --cgroup /ci.slice --duration 1h --report json=would.json
  sudo bindwatch enforce --pin --cgroup /ci.slice --duration 1s; sudo bindwatch enforce --unpin
  sudo bindwatch enforce --cgroup /ci.slice & sudo bindwatch enroll --cgroup /ci.slice $$

A bind that would share a port with an unrelated process fails with EADDRINUSE.
What this can promise is in docs/security.md.

Exit code: 0 when it was ended in order, 1 when --fail-on matched, 125 bindwatch failed.")]
pub struct EnforceArgs {
    /// Cgroups (cgroup2) whose processes, those in cgroups below included, may not share: directories, or paths as in
    /// /proc/PID/cgroup
    #[arg(long, required_unless_present = "unpin", num_args = 1.., value_name = "PATH")]
    pub cgroup: Vec<PathBuf>,
    /// Deny nothing: report what would have been denied
    #[arg(long)]
    pub dry_run: bool,
    /// Go on denying when bindwatch has ended, however it ended, until --unpin or a restart of the machine
    #[arg(long, conflicts_with = "dry_run")]
    pub pin: bool,
    /// End what --pin left in force, in these cgroups or, without --cgroup, in all
    #[arg(long, conflicts_with_all = ["pin", "dry_run"])]
    pub unpin: bool,
    /// What is recorded and how.
    #[command(flatten)]
    pub recording: RecordingArgs,
    /// End by itself after this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
}

/// `enroll`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  sudo bindwatch enroll --cgroup /ci.slice 4711 4712
  bindwatch enroll --cgroup /user.slice/tests $$

Sockets that a process made before stay outside; what it makes from then on is inside.

Exit code: 0 when all were moved, 125 when one is not there, not the caller's, or may not be moved.")]
pub struct EnrollArgs {
    /// The cgroup: its directory, or its path as in /proc/PID/cgroup
    #[arg(long, value_name = "PATH")]
    pub cgroup: PathBuf,
    /// Processes, by their PIDs
    #[arg(required = true, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pids: Vec<u32>,
}

/// `doctor`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  bindwatch doctor
  sudo bindwatch doctor --format json

Exit code: 0 when everything needed for `run` and `record` is there, 125 when not.")]
pub struct DoctorArgs {}

/// `mark`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  bindwatch mark suite checkout starts
  bindwatch mark \"$BATS_TEST_NAME\" || true

Returns when the note is in the log. Needs no privileges.

Exit code: 0, 125 when no recording runs in this network namespace.")]
pub struct MarkArgs {
    /// What to write, one line of at most 1024 bytes
    #[arg(required = true, trailing_var_arg = true, value_name = "TEXT")]
    pub text: Vec<String>,
}

/// `stop`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  bindwatch stop
  bindwatch stop --timeout 1m

Exit code: 0 when the recording has written its last line, 125 when there is none or it does not end.")]
pub struct StopArgs {
    /// How long to wait for the recording's last line
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub timeout: Duration,
}

/// `completions`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  bindwatch completions bash > /usr/share/bash-completion/completions/bindwatch
  bindwatch completions zsh > \"${fpath[1]}/_bindwatch\"
  bindwatch completions fish > ~/.config/fish/completions/bindwatch.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `man`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  bindwatch man | man -l -
  bindwatch man run > bindwatch-run.1")]
pub struct ManArgs {
    /// The verb; without it, the page of bindwatch itself
    #[arg(value_name = "VERB")]
    pub verb: Option<String>,
}

/// Arguments of an inner stage, as they are.
#[derive(Clone, Debug, Args)]
pub struct TrailingArgs {
    /// The arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}
