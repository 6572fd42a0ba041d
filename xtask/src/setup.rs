//! `cargo xtask setup`: installs what is missing, says what and why, and does nothing the second time.
//!
//! Each verb that needs something calls its own part only.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::architecture::Architecture;
use crate::folders;
use crate::shell;
use crate::toolchain::{LINKER_VERSION, Toolchain};

/// Version of cargo-deny that `deny.toml` is written for.
const DENY_VERSION: &str = "0.20.2";

/// What a verb needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// A Rust that builds for BPF, and its linker.
    Toolchain,
    /// What `check` runs besides the toolchain.
    Check,
    /// The programs that the scenarios start.
    Test,
    /// The larger ones, of `test --real`.
    Real,
    /// The peers of `bench`.
    Bench,
    /// What boots other kernels.
    Guests,
    /// What boots kernels of this machine.
    GuestsOf(&'static Architecture),
    /// What packages are made with.
    Dist,
    /// What builds for this machine on another, and starts what was built.
    Cross(&'static Architecture),
}

/// A program that a Debian package brings.
struct Program {
    name: &'static str,
    package: &'static str,
    why: &'static str,
}

/// Debian's browser without a window.
const BROWSER: &str = "chromium-headless-shell";
/// Others that do as well; GitHub's runners have one, and no package of Debian's.
const BROWSERS: [&str; 3] = ["chromium", "google-chrome", "chrome"];

const PROGRAMS: [Program; 18] = [
    Program { name: "python3", package: "python3", why: "scenario: workers of multiprocessing" },
    Program { name: "node", package: "nodejs", why: "scenario: workers of node:cluster" },
    Program { name: "ip", package: "iproute2", why: "network namespaces of the scenarios" },
    Program { name: "setpriv", package: "util-linux", why: "scenarios as another user" },
    Program { name: "sudo", package: "sudo", why: "scenario: the command of a run is the caller's" },
    Program { name: "setcap", package: "libcap2-bin", why: "scenario: a program with capabilities" },
    Program { name: "unshare", package: "util-linux", why: "scenarios on a full disk" },
    Program { name: "bpftool", package: "bpftool", why: "to see that no program is left attached" },
    Program { name: "tmux", package: "tmux", why: "scenario: the live screen in a terminal" },
    Program { name: "zstd", package: "zstd", why: "scenario: a compressed log" },
    Program { name: BROWSER, package: BROWSER, why: "scenario: a report's page in a browser" },
    Program { name: "nginx", package: "nginx", why: "scenario: workers of one server share on purpose" },
    Program { name: "haproxy", package: "haproxy", why: "scenario: a reload is not a co-bind" },
    Program { name: "unbound", package: "unbound", why: "scenario: two resolvers on one port" },
    Program { name: "dnsmasq", package: "dnsmasq-base", why: "scenario: two resolvers on one port" },
    Program {
        name: "avahi-daemon",
        package: "avahi-daemon",
        why: "scenario: multicast is shared on purpose",
    },
    Program { name: "systemd-socket-activate", package: "systemd", why: "scenario: an activated server" },
    Program { name: "gunicorn", package: "gunicorn", why: "scenario: pre-forked workers" },
];

/// What `check` runs.
const CHECK: [Program; 1] = [Program { name: "ruby", package: "ruby", why: "reads the Vagrantfile" }];

/// What `dist` runs.
const DIST: [Program; 3] = [
    Program { name: "dpkg-deb", package: "dpkg", why: "makes the .deb" },
    Program { name: "rpmbuild", package: "rpm", why: "makes the .rpm" },
    Program { name: "readelf", package: "binutils", why: "looks whether the binary is static" },
];

/// What `vm` runs, and what it puts into a guest.
const GUESTS: [Program; 9] = [
    Program { name: "busybox", package: "busybox-static", why: "shell of a guest" },
    Program { name: "xz", package: "xz-utils", why: "unpacks kernels" },
    Program { name: "zstd", package: "zstd", why: "unpacks kernels" },
    Program { name: "dpkg-deb", package: "dpkg", why: "unpacks kernels" },
    Program { name: "dash", package: "dash", why: "goes into a guest" },
    Program { name: "ip", package: "iproute2", why: "goes into a guest" },
    Program { name: "setpriv", package: "util-linux", why: "goes into a guest" },
    Program { name: "unshare", package: "util-linux", why: "goes into a guest" },
    Program { name: "bpftool", package: "bpftool", why: "goes into a guest" },
];

/// What bindwatch is compared with.
const PEERS: [Program; 5] = [
    Program { name: "bpftrace", package: "bpftrace", why: "bench: binds by tracepoints" },
    Program { name: "ss", package: "iproute2", why: "bench: who listens" },
    Program { name: "jq", package: "jq", why: "bench: counting a log's lines" },
    Program { name: "lsof", package: "lsof", why: "bench: who listens" },
    Program { name: "strace", package: "strace", why: "bench: binds by stopping who binds" },
];

/// Installs all parts.
pub(crate) fn all(quiet: bool) -> anyhow::Result<()> {
    let installed = parts(&[Part::Toolchain, Part::Check, Part::Test, Part::Guests, Part::Dist])?;
    if !installed && !quiet {
        println!("setup: everything is there");
    }
    Ok(())
}

/// Installs what is missing of these parts; true when something was.
pub(crate) fn parts(parts: &[Part]) -> anyhow::Result<bool> {
    let mut installed = false;
    if parts.contains(&Part::Guests) {
        installed |= apt_install(&missing(&GUESTS))?;
    }
    if parts.contains(&Part::Dist) {
        installed |= apt_install(&missing(&DIST))?;
    }
    for part in parts {
        match part {
            Part::GuestsOf(architecture) => {
                let (name, package) = architecture.guest;
                installed |= apt_install(&missing(&[Program { name, package, why: "boots other kernels" }]))?;
            }
            Part::Cross(architecture) if !architecture.is_host() => installed |= cross(architecture)?,
            _ => {}
        }
    }
    if parts.contains(&Part::Test) {
        installed |= programs()?;
        installed |= folders::install_python()?;
    }
    if parts.contains(&Part::Bench) {
        installed |= apt_install(&missing(&PEERS))?;
    }
    if parts.contains(&Part::Real) {
        installed |= folders::install_real()?;
    }
    if parts.contains(&Part::Toolchain) {
        installed |= toolchain()?;
    }
    if parts.contains(&Part::Check) {
        installed |= apt_install(&missing(&CHECK))?;
        installed |= cargo_install("cargo-deny", DENY_VERSION, "licences and sources of dependencies")?;
    }
    Ok(installed)
}

/// The packages of those programs that are not there; says which and why.
fn missing(programs: &[Program]) -> Vec<&'static str> {
    let mut packages = Vec::new();
    let another = |program: &&Program| {
        program.name == BROWSER && BROWSERS.iter().any(|browser| which(browser).is_some())
    };
    let is_missing = |program: &&Program| which(program.name).is_none() && !another(program);
    for program in programs.iter().filter(is_missing) {
        println!("setup: {} is missing ({})", program.name, program.why);
        if !packages.contains(&program.package) {
            packages.push(program.package);
        }
    }
    // Ubuntu has bpftool in a package of the kernel's tools.
    if packages.contains(&"bpftool") && !has_candidate("bpftool") {
        packages.retain(|package| *package != "bpftool");
        packages.push("linux-tools-generic");
    }
    packages
}

fn programs() -> anyhow::Result<bool> {
    let mut packages = missing(&PROGRAMS);
    // `venv` is part of Python, but for Debian.
    if shell::output(shell::command("/usr/bin/python3").args(["-c", "import ensurepip"])).is_err() {
        println!("setup: python3-venv is missing (Python packages in a folder of their own)");
        packages.push("python3-venv");
    }
    apt_install(&packages)
}

/// The compiler, the libraries and the emulator that another machine's programs take.
fn cross(architecture: &Architecture) -> anyhow::Result<bool> {
    let linker = format!("{}-gcc", architecture.gnu);
    let [library, compiler] = architecture.cross;
    let mut packages = Vec::new();
    if which(&linker).is_none() || !Path::new("/usr").join(architecture.gnu).join("lib/libc.a").is_file() {
        println!("setup: {linker} or its C library is missing (builds for {})", architecture.name);
        packages.extend([compiler, library]);
    }
    if which(architecture.user).is_none() {
        println!("setup: {} is missing (starts what was built for {})", architecture.user, architecture.name);
        packages.push("qemu-user");
    }
    let mut installed = apt_install(&packages)?;
    if !architecture.has_std()? {
        println!("setup: rustup target add {}", architecture.target);
        shell::run(shell::command("rustup").args(["target", "add", architecture.target]))?;
        installed = true;
    }
    Ok(installed)
}

fn toolchain() -> anyhow::Result<bool> {
    let mut installed = false;
    if Toolchain::installed().is_empty() {
        println!("setup: no Rust here can build for BPF");
        if has_candidate("libstd-rust-web-dev-bpf") {
            installed |= apt_install(&["rustc-web", "libstd-rust-web-dev-bpf"])?;
        } else {
            println!("setup: installing rustup's nightly with rust-src");
            shell::run(shell::command("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ]))?;
            installed = true;
        }
    }
    installed |= cargo_install("bpf-linker", LINKER_VERSION, "links the probe")?;
    Ok(installed)
}

/// Whether apt could install this package. Asks again after an update when the lists are empty.
fn has_candidate(package: &str) -> bool {
    let known = || {
        shell::output(shell::command("apt-cache").args(["policy", package])).is_ok_and(|policy| {
            policy.lines().any(|line| line.contains("Candidate:") && !line.contains("(none)"))
        })
    };
    known() || (apt_update().is_ok() && known())
}

fn apt_update() -> anyhow::Result<()> {
    require_root("apt-get update")?;
    shell::run(shell::command("apt-get").args(["update", "-qq"]))
}

fn apt_install(packages: &[&str]) -> anyhow::Result<bool> {
    if packages.is_empty() {
        return Ok(false);
    }
    let line = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    require_root(&line)?;
    if shell::which("apt-get").is_none() {
        bail!("no apt-get here: install {} with this system's package manager", packages.join(", "));
    }
    println!("setup: {line}");
    apt_update()?;
    let _services = KeepServicesStopped::new()?;
    let mut install = shell::command("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages);
    shell::run(install.env("DEBIAN_FRONTEND", "noninteractive"))?;
    for service in ["nginx", "haproxy", "unbound", "avahi-daemon"] {
        if packages.contains(&service) && Path::new("/run/systemd/system").is_dir() {
            // We want the program, not a server on port 80 from the next boot on.
            shell::run(shell::command("systemctl").args(["disable", "--quiet", service]))?;
        }
    }
    Ok(true)
}

/// While it lives, installed packages start no service: Debian's policy-rc.d, unless the machine has one of its own.
struct KeepServicesStopped(Option<PathBuf>);

impl KeepServicesStopped {
    fn new() -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let policy = PathBuf::from("/usr/sbin/policy-rc.d");
        if policy.exists() {
            return Ok(Self(None));
        }
        std::fs::write(&policy, "#!/bin/sh\nexit 101\n").context("cannot write /usr/sbin/policy-rc.d")?;
        let guard = Self(Some(policy.clone()));
        std::fs::set_permissions(&policy, std::fs::Permissions::from_mode(0o755))
            .context("cannot make /usr/sbin/policy-rc.d executable")?;
        Ok(guard)
    }
}

impl Drop for KeepServicesStopped {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(std::fs::remove_file) {
            eprintln!("setup: /usr/sbin/policy-rc.d could not be removed ({error}): remove it by hand");
        }
    }
}

fn cargo_install(name: &str, version: &str, why: &str) -> anyhow::Result<bool> {
    let has = |found: String| found.split_whitespace().any(|word| word == version);
    if shell::output(Command::new(name).arg("--version")).is_ok_and(has) {
        return Ok(false);
    }
    println!("setup: {name} {version} is missing ({why}): cargo install {name}@{version}");
    let mut install = shell::cargo();
    install.args(["install", "--quiet", "--locked", &format!("{name}@{version}")]);
    // Installed to run once or twice: minutes of optimising would not come back.
    install.env("CARGO_PROFILE_RELEASE_LTO", "off").env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    install.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    shell::run(&mut install)?;
    Ok(true)
}

fn require_root(line: &str) -> anyhow::Result<()> {
    if !shell::is_root()? {
        bail!("this needs root: run `sudo {line}`, then this command again");
    }
    Ok(())
}

/// Like [`shell::which`], and in the folders of administrators, which are not in everybody's `PATH`.
fn which(program: &str) -> Option<PathBuf> {
    let administrators = ["/usr/sbin", "/sbin"].map(|folder| Path::new(folder).join(program));
    shell::which(program).or_else(|| administrators.into_iter().find(|file| file.is_file()))
}
