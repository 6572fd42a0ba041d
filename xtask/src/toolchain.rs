//! Which Rust can build for BPF here.
//!
//! The BPF targets need a `core`. Two kinds of toolchain have one: a rustup nightly with `rust-src`, which builds it, and
//! Debian's `rustc-web` with `libstd-rust-web-dev-bpf`, which ships it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::shell;

/// The target the probe is built for.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// The linker: this version borrows the LLVM of an installed Rust toolchain, and needs LLVM 22.
pub(crate) const LINKER_VERSION: &str = "0.10.3";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// A toolchain that can build for BPF.
pub(crate) enum Toolchain {
    /// rustup's nightly, with the sources of the standard library.
    Nightly {
        /// Its sysroot.
        sysroot: PathBuf,
    },
    /// Debian's `rustc-web`, run by the cargo at hand.
    Debian,
}

impl Toolchain {
    /// Every toolchain that is there, the preferred one first.
    pub(crate) fn installed() -> Vec<Self> {
        let mut found = Vec::new();
        let sysroot =
            shell::output(shell::command("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]));
        if let Ok(sysroot) = sysroot {
            let sysroot = PathBuf::from(sysroot);
            if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
                found.push(Self::Nightly { sysroot });
            }
        }
        if Path::new("/usr/lib/rustlib").join(TARGET).is_dir() && Path::new(DEBIAN_RUSTC).is_file() {
            found.push(Self::Debian);
        }
        found
    }

    /// The toolchain that `wanted` describes, else the preferred one.
    pub(crate) fn choose(wanted: Option<&str>) -> anyhow::Result<Self> {
        let mut installed = Self::installed();
        if let Some(at) = installed.iter().position(|one| one.describe().ok().as_deref() == wanted) {
            return Ok(installed.swap_remove(at));
        }
        installed.into_iter().next().context(
            "no Rust here can build for BPF: run `cargo xtask setup`, or \
             `rustup toolchain install nightly --component rust-src`",
        )
    }

    /// Compiler, LLVM and linker in one line: two builds with the same line give the same bytes.
    pub(crate) fn describe(&self) -> anyhow::Result<String> {
        let compiler = shell::output(self.rustc().arg("--version"))?;
        let linker = shell::output(shell::command("bpf-linker").arg("--version")).with_context(|| {
            format!(
                "bpf-linker is missing: run `cargo install bpf-linker --version {LINKER_VERSION} --locked`"
            )
        })?;
        Ok(format!("{compiler}, {linker} with {}", self.llvm()?.0))
    }

    /// `cargo build` for the BPF target with everything the toolchain needs; the caller adds what to build.
    pub(crate) fn cargo_build(&self) -> anyhow::Result<Command> {
        let mut flags =
            vec!["-Clinker=bpf-linker".to_owned(), "-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()];
        // Line information holds paths: without these, two checkouts would give two objects.
        let root = shell::root();
        for (from, to) in
            [(root.as_path(), "bindwatch"), (&cargo_home()?, "cargo"), (&self.core_sources()?, "rust")]
        {
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        }
        let mut command = match self {
            Self::Nightly { .. } => {
                let mut command = shell::command("rustup");
                command.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
                command
            }
            Self::Debian => {
                let mut command = shell::cargo();
                // aya-ebpf asks for `asm_experimental_arch`, which only a nightly gives unasked.
                command.arg("build").env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        command.args(["--release", "--target", TARGET]);
        // For the target alone: procedural macros and build scripts run here and are linked as usual.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("RUSTC_WRAPPER");
        command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", flags.join(" "));
        command.env("CARGO_INCREMENTAL", "0");
        command.env("LD_LIBRARY_PATH", self.llvm()?.1);
        Ok(command)
    }

    fn rustc(&self) -> Command {
        match self {
            Self::Nightly { sysroot } => shell::command(sysroot.join("bin/rustc")),
            Self::Debian => shell::command(DEBIAN_RUSTC),
        }
    }

    fn core_sources(&self) -> anyhow::Result<PathBuf> {
        Ok(match self {
            Self::Nightly { sysroot } => sysroot.join("lib/rustlib/src/rust"),
            Self::Debian => {
                let version = shell::output(self.rustc().arg("--version"))?;
                let number = version.split(' ').nth(1).unwrap_or_default();
                PathBuf::from(format!("/usr/src/rustc-{number}"))
            }
        })
    }

    /// The libLLVM that bpf-linker is given, and its folder. Left alone it takes the first of `PATH`.
    fn llvm(&self) -> anyhow::Result<(String, PathBuf)> {
        let sysroot = match self {
            Self::Nightly { sysroot } => sysroot.clone(),
            Self::Debian => {
                PathBuf::from(shell::output(shell::command("rustc").args(["--print", "sysroot"]))?)
            }
        };
        let folder = sysroot.join("lib");
        let files =
            std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let mut names: Vec<String> = files
            .filter_map(|file| file.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("libLLVM.so"))
            .collect();
        names.sort_unstable();
        match names.pop() {
            Some(name) => Ok((name, folder)),
            None => bail!("no libLLVM in {} for bpf-linker: install Rust with rustup", folder.display()),
        }
    }
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cargo"))
}
