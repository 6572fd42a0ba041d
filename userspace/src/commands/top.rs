//! `bindwatch top`: the live screen, a log that is played, and both as plain text.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{EXIT_FOUND, UsageError, read_enough, text_or_json};
use crate::cli::{Background, Format, Globals, TopArgs, View};
use crate::clock::{self, Anchors};
use crate::config::Config;
use crate::event::BootTime;
use crate::judge::Rules;
use crate::ledger::Settings;
use crate::log::Host;
use crate::probe;
use crate::recording::{probe_options, processes};
use crate::sink::text;
use crate::tui::filter::Filter;
use crate::tui::rows::{Query, Tab};
use crate::tui::theme::Theme;
use crate::tui::world::{Origin, World};
use crate::tui::{self, Feed, Player, batch};

/// Runs the verb.
pub(super) fn run(args: &TopArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    let format = text_or_json(globals)?;
    if args.replay.as_deref().is_some_and(|log| log == Path::new("-")) {
        let text = "a log from standard input cannot be played: one must be able to go back; give a file";
        return Err(UsageError(text.to_owned()).into());
    }
    let config = Config::load(globals.config.as_deref())?;
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
    let printing = args.batch
        || args.once
        || args.iterations.is_some()
        || globals.format.is_some()
        || !io::stdout().is_terminal()
        || dumb;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match (&args.replay, printing) {
        (Some(log), false) => {
            let (player, world) = opened(log, args, &config)?;
            runtime.block_on(tui::replay(player, world, &options(args, globals)))?;
            Ok(ExitCode::SUCCESS)
        }
        (None, false) => {
            let (feed, world) = started(args, globals, &config)?;
            runtime.block_on(tui::live(feed, world, &options(args, globals)))?;
            Ok(ExitCode::SUCCESS)
        }
        (Some(log), true) => {
            let (mut player, mut world) = opened(log, args, &config)?;
            let mut printer = Printer { args, globals, format, printed: 0 };
            print_log(&mut player, &mut world, &mut printer)?;
            Ok(verdict(&world, args, &config))
        }
        (None, true) => {
            let (feed, mut world) = started(args, globals, &config)?;
            let mut printer = Printer { args, globals, format, printed: 0 };
            runtime.block_on(print_live(feed, &mut world, &mut printer))?;
            Ok(verdict(&world, args, &config))
        }
    }
}

fn verdict(world: &World, args: &TopArgs, config: &Config) -> ExitCode {
    let fail_on = args.judge.fail_on.as_ref().or(config.fail_on.as_ref());
    let failed = fail_on.is_some_and(|fail_on| world.findings().any(|finding| fail_on.matches(finding)));
    if failed { ExitCode::from(EXIT_FOUND) } else { ExitCode::SUCCESS }
}

const fn tab(view: View) -> Tab {
    match view {
        View::Findings => Tab::Findings,
        View::Endpoints => Tab::Endpoints,
        View::Processes => Tab::Processes,
        View::Events => Tab::Events,
        View::Ports => Tab::Ports,
    }
}

fn options(args: &TopArgs, globals: &Globals) -> tui::Options {
    let light = match args.background {
        Background::Auto => None,
        Background::Dark => Some(false),
        Background::Light => Some(true),
    };
    let value = |name: &str| std::env::var(name).ok();
    tui::Options {
        theme: Theme::of_environment(&value, globals.colored(&io::stdout()), light, args.ascii),
        mouse: !args.no_mouse,
        tab: args.view.map(tab).unwrap_or_default(),
        filter: args.filter.clone(),
    }
}

/// Opens a log and puts it where the user wants to begin.
fn opened(log: &Path, args: &TopArgs, config: &Config) -> anyhow::Result<(Player, World)> {
    let mut player = Player::open(log, args.speed)?;
    let settings: Settings = Rules::resolve(&args.judge, config, player.rules()).into();
    player.learn(&settings)?;
    let origin = player.origin(args.watch.show_secrets);
    if let Some(at) = args.at {
        player.begin_at(at.resolve(origin.clock, origin.start));
    }
    Ok((player, World::new(origin, settings)))
}

/// Begins to watch.
fn started(args: &TopArgs, globals: &Globals, config: &Config) -> anyhow::Result<(Feed, World)> {
    let options = probe_options(&args.watch, probe::Guarding::Off, globals);
    let watch = args.watch.clone();
    let mut feed = Feed::start(options, move || processes(&watch))?;
    let clock = Anchors::now();
    let refused = feed.attached.refused.iter().map(|refused| format!("{}: {}", refused.hook, refused.reason));
    let origin = Origin {
        host: Host::of_this_machine(),
        clock,
        start: BootTime(clock.boot_ns),
        hooks: feed.attached.hooks.len(),
        refused: refused.collect(),
        show_secrets: args.watch.show_secrets,
        notices: Vec::new(),
    };
    let settings = Rules::resolve(&args.judge, config, Rules::default()).into();
    let mut world = World::new(origin, settings);
    world.take(&mut feed.first);
    Ok((feed, world))
}

/// What comes after something was printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    More,
    /// It was the last time.
    Nothing,
    /// Nobody reads on.
    Unread,
}

/// Prints what there is.
struct Printer<'a> {
    args: &'a TopArgs,
    globals: &'a Globals,
    format: Format,
    printed: u64,
}

impl Printer<'_> {
    /// Prints once.
    fn print(&mut self, world: &mut World, complete: bool) -> io::Result<Next> {
        let mut next = Next::Unread;
        read_enough(self.write(world, complete).map(|is_last| {
            next = if is_last { Next::Nothing } else { Next::More };
        }))?;
        Ok(next)
    }

    fn write(&mut self, world: &mut World, complete: bool) -> io::Result<bool> {
        world.refresh();
        let mut out = io::BufWriter::new(io::stdout().lock());
        if self.format == Format::Json {
            let style = text::Style { colored: false, whole: self.globals.verbose > 0 };
            world.report(complete).write(Format::Json, style, &mut out)?;
        } else {
            if self.printed > 0 {
                writeln!(out)?;
            }
            let query = Query {
                tab: self.args.view.map_or(Tab::Endpoints, tab),
                filter: Filter::parse(&self.args.filter),
                ..Query::default()
            };
            batch::screen(world, &query, &mut out)?;
        }
        out.flush()?;
        self.printed += 1;
        Ok(self.limit().is_some_and(|limit| self.printed >= limit))
    }

    fn limit(&self) -> Option<u64> {
        if self.args.once { Some(1) } else { self.args.iterations }
    }
}

/// Prints a log: once at `--at` or its end, else at every `--delay` of it.
fn print_log(player: &mut Player, world: &mut World, printer: &mut Printer<'_>) -> anyhow::Result<()> {
    let (clock, start) = (world.origin().clock, world.origin().start);
    let first = printer.args.at.map(|at| at.resolve(clock, start));
    if printer.limit() == Some(1) || (!printer.args.batch && printer.args.iterations.is_none()) {
        let complete = player.until(first, world);
        world.say(player.notices());
        printer.print(world, complete)?;
        return Ok(());
    }
    let step = u64::try_from(printer.args.delay.mul_f64(printer.args.speed).as_nanos()).unwrap_or(u64::MAX);
    let mut at = first.unwrap_or(start);
    loop {
        let complete = player.until(Some(at), world);
        world.say(player.notices());
        let next = printer.print(world, complete)?;
        if next == Next::Nothing || player.is_over() {
            return Ok(());
        }
        let after = |steps| BootTime(at.0.saturating_add(step.saturating_mul(steps)));
        if next == Next::Unread {
            // What was found is still to be told by the exit code: all that would have been shown.
            player.until(printer.limit().map(|limit| after(limit - printer.printed - 1)), world);
            return Ok(());
        }
        at = after(1);
    }
}

/// Prints what happens, every `--delay`, until it was printed often enough or somebody ends it.
async fn print_live(mut feed: Feed, world: &mut World, printer: &mut Printer<'_>) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    if printer.args.view == Some(View::Ports) {
        tui::count_ports(world);
    }
    if printer.print(world, true)? != Next::More {
        return Ok(());
    }
    let mut every = tokio::time::interval(printer.args.delay.max(Duration::from_millis(1)));
    every.tick().await;
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
            _ = every.tick() => {
                world.tick(clock::boot_now());
                if printer.args.view == Some(View::Ports) {
                    tui::count_ports(world);
                }
                if printer.print(world, true)? != Next::More {
                    return Ok(());
                }
            }
            came = feed.next() => match came {
                Some(mut events) => world.take(&mut events),
                None => return feed.stop(),
            },
        }
    }
}
