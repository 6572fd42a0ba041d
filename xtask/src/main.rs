//! Everything a developer of bindwatch runs, one verb a file: `cargo xtask VERB`.

mod architecture;
mod bench;
mod build_ebpf;
mod capture;
mod check;
mod dist;
mod folders;
mod leftovers;
mod object_file;
mod setup;
mod shell;
mod test;
mod tidy;
mod toolchain;
mod vm;

use std::process::ExitCode;

use anyhow::bail;

const HELP: &str = "\
usage: cargo xtask VERB

  setup [--quiet]        install what the other verbs need and is missing, nothing twice
  check                  format, tidy, clippy, dependencies, and the probe against its sources
  test [--real] [FILTER] every test, the scenarios with real processes included; needs root. Without FILTER also those of
                         vm --quick, and with --real those whose programs are large to install
  vm [KERNEL…] [--all] [--target x86_64|aarch64]
                         the scenarios on stock kernels in QEMU, the oldest and the newest of tests/kernels.json for this
                         machine or another unless told which; --quick: the most telling scenarios, --backend B, --scenario S, --update: newer
                         packages, --append WORDS: for the kernel, --run LINE: of shell before scenarios,
                         --count: a guest's clock counts its instructions,
                         --broken: whether scenarios notice a backend that tells nothing, --guests N: at once,
                         --continue: only what has not passed yet, --join: or has by another build, --no-run: nothing,
                         --write: the table of docs/kernels.md
  dist [--target x86_64|aarch64]…
                         what users get, in target/dist: a static binary as .tar.gz, .deb and .rpm, its bill of materials
  capture                docs/top.svg, and the same as text, of the real program in tmux (after a release build)
  bench [--quick] [--json FILE] [P1…]
                         every goal, or those named, against its peers in turn, as a table; needs root
  bench compare OLD NEW  lays two runs' JSON side by side; fails where the new one is much worse
  log EVENTS FILE [SEED] a log of any length, as a busy CI machine would record it; .zst is compressed
  tidy                   the rules of docs/hacking.md alone
  build-ebpf [--check]   build the probe and put it to userspace/probe/bindwatch.bpf.o; --check only compares
";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["setup"] => setup::all(false),
        ["setup", "--quiet" | "-q"] => setup::all(true),
        ["check"] => check::check(),
        ["test"] => test::test(None, false),
        ["test", "--real"] => test::test(None, true),
        ["test", "--real", filter] | ["test", filter, "--real"] => test::test(Some(filter), true),
        ["test", filter] => test::test(Some(filter), false),
        ["vm", words @ ..] => vm::vm(&vm::Options::of(words)?),
        ["dist", words @ ..] => dist::dist(words),
        ["capture"] => capture::capture(),
        ["bench", "compare", old, new] => bench::compare(old, new),
        ["bench", rest @ ..] => bench::goals(rest),
        ["log", rest @ ..] => bench::log(rest),
        ["tidy"] => tidy::tidy(),
        ["build-ebpf"] => build_ebpf::build_and_store(),
        ["build-ebpf", "--check"] => build_ebpf::check(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => bail!("no such command: {}\n{HELP}", words.join(" ")),
    }
}
