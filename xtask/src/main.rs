//! Everything a developer of bindwatch runs, one verb a file: `cargo xtask VERB`.

mod build_ebpf;
mod object_file;
mod shell;
mod toolchain;

use std::process::ExitCode;

use anyhow::bail;

const HELP: &str = "\
usage: cargo xtask VERB

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
        ["build-ebpf"] => build_ebpf::write(),
        ["build-ebpf", "--check"] => build_ebpf::check(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => bail!("no such command: {}\n{HELP}", words.join(" ")),
    }
}
