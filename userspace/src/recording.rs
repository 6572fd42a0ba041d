//! A live recording: what `record` and `run` have in common.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::cgroup2::Directory;
use crate::cli::{
    Cmdline, ErrnoSource, Events, FailOn, Globals, OnConflict, RecordingArgs, ReportTarget, WatchArgs,
};
use crate::clock::{self, Anchors};
use crate::commands::{UsageError, read_enough};
use crate::config::Config;
use crate::drive::Recorder;
use crate::enrich::Processes;
use crate::event::{Body, BootTime, Enforcement, EnforcementMode, Event, ProcessKey};
use crate::judge::Rules;
use crate::ledger::{Ledger, RelatedBy, Settings};
use crate::log::{self, Enforces, Header, Host, RefusedHook, Writer};
use crate::notes::{Arrived, NoteBox};
use crate::probe::seccomp::Listener;
use crate::probe::{ALLOW_RULES_MAX, Attached, Denial, Guarding, Hindrance, Options, release_memory};
use crate::sink::{self, Report, Window, escape};
use crate::source::live::Live;
use crate::wait::Outstanding;

/// A recording that runs.
pub struct Recording {
    live: Live,
    recorder: Recorder,
    events: Vec<Event>,
    diagnostics: Option<aya_log::EbpfLogger<&'static dyn ::log::Log>>,
    host: Host,
    clock: Anchors,
    start: BootTime,
    output: std::path::PathBuf,
    broken: bool,
    /// When the connections of shared listeners were last counted.
    counted: BootTime,
    enforces: Option<Enforces>,
    /// What is said where denying is not exact.
    early: Option<String>,
}

/// Least time between two counts of the connections of listeners that share, ns. Nobody is woken for them.
const COUNT_EVERY_NS: u64 = 2_000_000_000;

/// What a recording comes to.
pub struct Outcome {
    /// Everything that was found.
    pub report: Report,
    /// The log is not whole; this was said already.
    pub broken: bool,
    /// Findings, as they were when it ended.
    pub ledger: Ledger,
}

impl Recording {
    /// Attaches the probe, creates the log and takes the inventory. Once this returns nothing is missed.
    ///
    /// The probe comes first: an older log of the same name is not replaced by a recording that cannot be made.
    ///
    /// # Errors
    /// When the probe does not load, or the log cannot be created.
    pub fn begin(
        args: &RecordingArgs,
        guard: Guarding,
        config: &Config,
        globals: &Globals,
    ) -> anyhow::Result<Self> {
        let rules = Rules::resolve(&args.judge, config, Rules::default());
        if guard != Guarding::Off && rules.allow.len() > ALLOW_RULES_MAX {
            return Err(UsageError(format!(
                "there are {} allow rules, and binds can be denied by {ALLOW_RULES_MAX} of them: say more with each (a range of \
                 ports, a * in program), or leave some out",
                rules.allow.len()
            ))
            .into());
        }
        let (enforces, early) = enforces(guard, args)?;
        let guard = match &enforces {
            Some(Enforces { mode: EnforcementMode::Check, .. }) => Guarding::Check,
            _ => guard,
        };
        let settings = Settings::from(rules.clone());
        let related_by = settings.related_by;
        let only_conflicts = args.events == Events::Conflicts;
        if only_conflicts && matches!(args.on_conflict, OnConflict::Wait(_)) {
            return Err(UsageError(NO_WAITING.to_owned()).into());
        }
        let options = Options { related_by, only_conflicts, ..probe_options(&args.watch, guard, globals) };
        let processes = processes(&args.watch);
        let mut events = Vec::new();
        let mut live = Live::start(&options, processes, &settings, &mut events)?;
        let clock = Anchors::now();
        let start = BootTime(clock.boot_ns);
        let host = Host::of_this_machine();
        let header =
            Header { enforcement: enforces.clone(), ..header(&host, clock, live.attached(), &rules, args) };
        let writer = Writer::new(log::create(&args.output)?, &header, args.max_size)?;
        let mut recorder = Recorder::new(Some(writer), rules.into(), clock);
        recorder.take(&mut events);
        recorder.flush();
        release_memory();
        let diagnostics = if options.diagnostics { live.diagnostics() } else { None };
        let mut recording = Self {
            live,
            recorder,
            events,
            diagnostics,
            host,
            clock,
            start,
            output: args.output.clone(),
            broken: false,
            counted: start,
            enforces,
            early,
        };
        recording.say_failure();
        recording.say_refused(globals);
        Ok(recording)
    }

    /// Denies conflicting binds in these cgroups from now on, or tells what it would deny; for a recording that began so.
    /// Once.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enforce(
        &mut self,
        cgroups: &[Directory],
        args: &RecordingArgs,
        config: &Config,
    ) -> anyhow::Result<()> {
        let settings = Rules::resolve(&args.judge, config, Rules::default()).into();
        let files = cgroups.iter().map(Directory::open).collect::<Result<Vec<_>, _>>()?;
        self.live.enforce(&files, &settings)?;
        let cgroups = cgroups.iter().map(|cgroup| cgroup.path().to_owned()).collect();
        let Some(Enforces { mode, .. }) = &self.enforces else { return Ok(()) };
        if let Some(early) = &self.early {
            say(early);
        }
        self.insert(Body::Enforcement(Enforcement { mode: *mode, cgroups }), &[])
    }

    /// Lets what is enforced outlive this process.
    ///
    /// # Errors
    /// When it cannot be pinned.
    pub fn pin(&mut self) -> anyhow::Result<()> {
        Ok(self.live.pin()?)
    }

    /// Lets binds and listens that arrive at `listener` wait for their endpoint, this long at most.
    ///
    /// # Errors
    /// When they cannot be taken in.
    pub fn hold(
        &mut self,
        listener: Listener,
        outstanding: Outstanding,
        longest: std::time::Duration,
    ) -> anyhow::Result<()> {
        Ok(self.live.hold(listener, outstanding, longest)?)
    }

    /// Leaves what waits to the kernel, and whatever would wait from now on.
    pub fn let_pass(&mut self) {
        self.live.let_pass(&mut self.events);
        self.recorder.take(&mut self.events);
    }

    /// Waits for what comes next and takes it.
    ///
    /// # Errors
    /// When the ring cannot be waited for or read.
    pub async fn turn(&mut self) -> anyhow::Result<()> {
        match self.recorder.next_due() {
            None => self.live.ready().await?,
            Some(due) => {
                let wait = std::time::Duration::from_nanos(due.since(clock::boot_now()));
                if let Ok(ready) = tokio::time::timeout(wait, self.live.ready()).await {
                    ready?;
                }
            }
        }
        self.live.drain(clock::boot_now(), &mut self.events)?;
        self.taken()
    }

    /// Takes everything that has come until now.
    ///
    /// # Errors
    /// When the ring cannot be read.
    pub fn drain(&mut self) -> anyhow::Result<()> {
        let now = clock::boot_now();
        while self.live.drain(now, &mut self.events)? {
            self.recorder.take(&mut self.events);
        }
        self.taken()
    }

    /// Judges and writes what was read, and does what is due.
    fn taken(&mut self) -> anyhow::Result<()> {
        if self.events.is_empty() {
            self.recorder.flush();
        }
        self.recorder.take(&mut self.events);
        let now = clock::boot_now();
        if now.since(self.counted) >= COUNT_EVERY_NS {
            self.counted = now;
            self.live.count(&self.recorder.ledger().shared(), &mut self.events);
            self.recorder.take(&mut self.events);
        }
        self.recorder.tick(now);
        self.recorder.flush_soon(now);
        if let Some(diagnostics) = &mut self.diagnostics {
            diagnostics.flush();
        }
        self.say_failure();
        Ok(())
    }

    /// Adds an event of bindwatch's own, behind everything that has come.
    ///
    /// # Errors
    /// As [`Recording::drain`].
    pub fn insert(&mut self, body: Body, names: &[ProcessKey]) -> anyhow::Result<()> {
        self.drain()?;
        self.live.insert(body, names, &mut self.events);
        self.recorder.take(&mut self.events);
        self.recorder.flush();
        Ok(())
    }

    /// Writes a note of a user, and answers them when it is in the log.
    ///
    /// # Errors
    /// As [`Recording::drain`].
    pub fn note(&mut self, notes: &mut NoteBox, arrived: Arrived) -> anyhow::Result<()> {
        let body = notes.judge(&arrived);
        let noted = matches!(body, Some(Body::Note(_)));
        if let Some(body) = body {
            self.insert(body, &[arrived.process()])?;
        }
        arrived.answer(noted);
        Ok(())
    }

    /// The log takes nothing more.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes the last events, ends the log, and makes the report.
    ///
    /// # Errors
    /// When the ring cannot be read.
    pub fn end(mut self, reason: &str, show_secrets: bool) -> anyhow::Result<Outcome> {
        self.drain()?;
        self.live.finish(&mut self.events);
        self.recorder.take(&mut self.events);
        let end = clock::boot_now();
        let Self { live, recorder, host, clock, start, output, mut broken, .. } = self;
        // The programs go first: nothing is held up by what is still to be written.
        drop(live);
        let (notices, notes) = (recorder.notices(), recorder.notes().to_vec());
        let (ledger, failure) = recorder.end(reason, end);
        if let Some(failure) = failure {
            say(&failure.to_string());
            broken = true;
        }
        let window = Window { start, end, complete: !broken };
        let mut report = sink::report_of(&ledger, host, clock, window, show_secrets)
            .of_log(output.to_string_lossy().into_owned())
            .with_notes(notes);
        notices.iter().for_each(|notice| report.notice(notice));
        Ok(Outcome { report, broken, ledger })
    }

    fn say_failure(&mut self) {
        if let Some(failure) = self.recorder.take_failure() {
            say(&failure.to_string());
            self.broken = true;
        }
        if self.recorder.take_full() {
            let log = self.output.display();
            say(&format!("the log {log} has reached its --max-size; what follows is judged, but not logged"));
        }
    }

    fn say_refused(&self, globals: &Globals) {
        if globals.verbose == 0 {
            return;
        }
        let Attached { hooks, refused, backend, passed_over, needless: _ } = self.live.attached();
        say(&format!("hooks in use: {}", hooks.join(", ")));
        if let Some(backend) = backend {
            say(&format!(
                "the ends of calls are told by the backend {}: {}",
                backend.name(),
                backend.tells()
            ));
        }
        for (backend, reason) in passed_over {
            say(&format!("the backend {} is not in use: {reason}", backend.name()));
        }
        for refused in refused {
            say(&format!("{} is not in use ({}): {}", refused.hook, refused.reason, refused.costs));
        }
    }
}

impl Outcome {
    /// Writes the reports that were asked for. The first that fails is the error; the others are still written.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_reports(&self, targets: &[ReportTarget]) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        for target in targets {
            let written = self.write_report(target);
            if outcome.is_ok() {
                outcome = written;
            }
        }
        outcome
    }

    fn write_report(&self, target: &ReportTarget) -> anyhow::Result<()> {
        let write = || -> io::Result<()> {
            let mut file = log::create_private(&target.path)?;
            self.report.write(target.format, sink::text::Style { colored: false, whole: true }, &mut file)?;
            file.flush()
        };
        read_enough(write())
            .with_context(|| format!("the report {} cannot be written", target.path.display()))
    }

    /// Whether a finding matches `--fail-on`.
    #[must_use]
    pub fn fails(&self, fail_on: &FailOn) -> bool {
        self.report.findings().iter().any(|finding| fail_on.matches(finding))
    }
}

/// Removes a ready file that an earlier recording left: whoever waits for it must not go on before this one watches.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove_ready_file(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("the old ready file {} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

/// Creates the file that says that everything is watched.
///
/// # Errors
/// When it cannot be created.
pub fn create_ready_file(path: &Path) -> anyhow::Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .map(drop)
        .with_context(|| format!("the ready file {} cannot be created", path.display()))
}

/// One line on standard error.
pub fn say(line: &str) {
    // Nothing is left to do should standard error be closed.
    drop(writeln!(io::stderr(), "bindwatch: {}", escape::line(line)));
}

/// What the probe is asked for by the options of the command line.
#[must_use]
pub fn probe_options(watch: &WatchArgs, guard: Guarding, globals: &Globals) -> Options {
    Options {
        ring_bytes: watch.ring_size,
        errno: watch.errno == ErrnoSource::Auto,
        backend: watch.backend.forced(),
        diagnostics: globals.verbose >= 2,
        guard,
        related_by: RelatedBy::Lineage,
        only_conflicts: false,
        only: None,
    }
}

/// Who learns what processes are, and keeps as much of their arguments as the command line allows.
#[must_use]
pub fn processes(watch: &WatchArgs) -> Processes {
    let mask = if watch.show_secrets { keep } else { crate::secrets::mask_arguments };
    Processes::new(watch.cmdline, mask)
}

/// Why not both.
const NO_WAITING: &str = "--on-conflict wait needs to know of every socket: --events all";

/// What is said where denying is not exact.
fn early(by: Hindrance) -> String {
    let what = match by {
        Hindrance::Kernel => "this kernel cannot deny a bind that has its port",
        Hindrance::Program => "it cannot be tried here whether a bind that has its port can be denied",
    };
    format!(
        "{what}: binds are denied before that, with EPERM, and of two that race for a port both can get it"
    )
}

/// How conflicting binds will be dealt with, which is tried; and what is to be said of it.
fn enforces(guard: Guarding, args: &RecordingArgs) -> anyhow::Result<(Option<Enforces>, Option<String>)> {
    let mode = match guard {
        Guarding::Off => return Ok((None, None)),
        Guarding::DryRun => EnforcementMode::DryRun,
        Guarding::Check => EnforcementMode::Check,
        Guarding::Deny => match Denial::of_this_kernel()? {
            Denial::Exact if matches!(args.on_conflict, OnConflict::Wait(_)) => EnforcementMode::Wait,
            Denial::Exact => EnforcementMode::Deny,
            Denial::Early { reason, by } if args.strict => {
                bail!("{}; --strict refuses that ({reason})", early(by))
            }
            Denial::Early { reason, by } => {
                let early = format!("{} ({reason})", early(by));
                let enforces = Enforces { mode: EnforcementMode::Check, reason: Some(reason) };
                return Ok((Some(enforces), Some(early)));
            }
        },
    };
    Ok((Some(Enforces { mode, reason: None }), None))
}

fn keep(_arguments: &mut [String]) {}

/// What a header keeps of how bindwatch was called, bytes: a command may be called with megabytes, and a line that is longer than
/// [`log::LINE_MAX`] is not read.
const COMMAND_LINE_MAX: usize = 64 << 10;

/// The first of these arguments that have `max` bytes together; the last of them may be cut.
fn at_most(arguments: Vec<String>, max: usize) -> Vec<String> {
    let (mut kept, mut left) = (Vec::new(), max);
    for mut argument in arguments {
        if left == 0 {
            break;
        }
        let ends = argument.char_indices().map(|(at, c)| at + c.len_utf8());
        let end = ends.take_while(|end| *end <= left).last().unwrap_or(0);
        argument.truncate(end);
        left = left.saturating_sub(end + 1);
        kept.push(argument);
    }
    kept
}

fn header(host: &Host, clock: Anchors, attached: &Attached, rules: &Rules, args: &RecordingArgs) -> Header {
    let refused = attached
        .refused
        .iter()
        .map(|refused| RefusedHook { hook: refused.hook.to_owned(), reason: refused.reason.clone() })
        .collect();
    let mut command_line: Vec<String> =
        std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    if !args.watch.show_secrets {
        crate::secrets::mask_arguments(&mut command_line);
    }
    if args.watch.cmdline != Cmdline::Full {
        command_line.truncate(2);
    }
    let command_line = at_most(command_line, COMMAND_LINE_MAX);
    Header {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: host.clone(),
        clock,
        command_line,
        hooks: attached.hooks.iter().map(|hook| (*hook).to_owned()).collect(),
        refused,
        backend: attached.backend.map(|backend| backend.name().to_owned()),
        rules: rules.clone(),
        cmdline: args.watch.cmdline.name().to_owned(),
        events: args.events.name().to_owned(),
        enforcement: None,
    }
}

#[cfg(test)]
mod tests {
    use super::at_most;

    #[test]
    fn a_long_command_line_is_cut() {
        let kept =
            |arguments: &[&str], max| at_most(arguments.iter().map(|one| (*one).to_owned()).collect(), max);
        assert_eq!(kept(&["run", "--", "é"], 100), ["run", "--", "é"]);
        assert_eq!(kept(&["run", "--", "sleep"], 10), ["run", "--", "sle"]);
        assert_eq!(kept(&["run", "éé", "x"], 7), ["run", "é"]);
        assert_eq!(kept(&["run", "", "", "", ""], 6), ["run", "", ""]);
    }
}
