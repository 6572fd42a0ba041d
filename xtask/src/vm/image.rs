//! What a guest boots into: static programs, the tools that tests start, and a first process that runs them.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::cpio::Archive;
use super::list::Kernel;
use super::packages::{self, Fetched};
use super::tools::{Files, Tools};
use crate::architecture::Architecture;
use crate::shell;

/// Programs that tests start, with the libraries they need. The rest is busybox's.
const TOOLS: [&str; 9] = ["bpftool", "dash", "env", "ip", "nsenter", "setpriv", "sleep", "unshare", "zstd"];

/// The program that is alone in a guest with bindwatch: its first process.
pub(crate) const ALONE: &str = "first";

/// By which word of the kernel's command line it gets the name of a backend: the kernel makes a variable of it.
pub(crate) const BACKEND: &str = "BINDWATCH_TEST_BACKEND";

/// Actors, beside the test programs.
const ACTORS: [&str; 7] = ["actor", "bench", "denier", "oldkernel", "panics", "racers", "storm"];

/// Files that programs expect.
const FILES: [(&str, &str); 4] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/var/empty:/bin/false\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
];

/// The programs of a guest.
pub(crate) struct Programs {
    /// What they run on.
    pub(crate) architecture: &'static Architecture,
    bindwatch: PathBuf,
    actors: PathBuf,
    /// Test programs, by the name that their scenarios go by.
    tests: Vec<(&'static str, PathBuf)>,
    /// Whether they need libraries.
    linked: bool,
}

impl Programs {
    /// Builds them as users get them: static.
    pub(crate) fn build(architecture: &'static Architecture) -> anyhow::Result<Self> {
        // With a target named, as it is here, the flags are not for build scripts.
        let cargo = |verb: &[&str]| {
            let mut cargo = architecture.cargo(verb);
            cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
            cargo
        };
        println!("vm: building static programs for {}", architecture.name);
        let mut release = cargo(&["build", "--quiet", "--release", "--package", "bindwatch"]);
        shell::run(release.env("CARGO_PROFILE_RELEASE_LTO", "off"))?;
        let scenarios = ["--package", "scenarios", "--features", "guest"];
        let mut bins = cargo(&["build", "--quiet", "--profile", "guest", "--bins"]);
        shell::run(bins.args(scenarios))?;
        let actors = architecture.built().join("guest");
        let mut tests = cargo(&["test", "--no-run", "--profile", "guest", "--test", "guest"]);
        let guest = test_program(tests.args(scenarios))?;
        Ok(Self {
            architecture,
            bindwatch: architecture.built().join("release/bindwatch"),
            tests: vec![("guest", guest), (ALONE, actors.join(ALONE))],
            actors,
            linked: false,
        })
    }

    /// Takes those that `cargo xtask test` has built, with their libraries: minutes less to compile. What is about being
    /// static is not among their tests.
    pub(crate) fn as_tested() -> anyhow::Result<Self> {
        println!("vm: building the test program of guests");
        let (release, debug) = (shell::target_dir().join("release"), shell::target_dir().join("debug"));
        shell::run(shell::cargo().args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--package",
            "bindwatch",
        ]))?;
        let mut tests = shell::cargo();
        tests.args(["test", "--quiet", "--locked", "--workspace", "--no-run", "--test", "guest"]);
        let tested = test_program(tests.args(["--features", "scenarios/guest"]))?;
        let guest = shell::target_dir().join("vm/guest");
        std::fs::create_dir_all(shell::target_dir().join("vm"))?;
        shell::run(shell::command("strip").arg("-o").arg(&guest).arg(&tested))?;
        Ok(Self {
            architecture: Architecture::host()?,
            bindwatch: release.join("bindwatch"),
            actors: debug,
            tests: vec![("guest", guest)],
            linked: true,
        })
    }

    /// Every program.
    fn files(&self) -> Vec<PathBuf> {
        let actors = ACTORS.iter().map(|actor| self.actors.join(actor));
        let tests = self.tests.iter().map(|(_, file)| file.clone());
        std::iter::once(self.bindwatch.clone()).chain(actors).chain(tests).collect()
    }

    /// What tells this build of bindwatch from any other.
    pub(crate) fn digest(&self) -> anyhow::Result<String> {
        let sum = shell::output(shell::command("sha256sum").arg("--").arg(&self.bindwatch))?;
        sum.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
    }

    /// Every test: its program, and its name there.
    pub(crate) fn list(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut all = Vec::new();
        for (program, file) in &self.tests {
            let listed = shell::output(self.architecture.start(file).args(["--list", "--format", "terse"]))?;
            let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
            all.extend(names.map(|name| (*program, name.to_owned())));
        }
        Ok(all)
    }
}

/// Builds the test program of guests by this command of cargo's, and says where it is.
fn test_program(cargo: &mut Command) -> anyhow::Result<PathBuf> {
    let messages = shell::output(cargo.arg("--message-format=json").stderr(Stdio::inherit()))?;
    executable(&messages, "guest").context("cargo names no test program guest")
}

/// What cargo calls the program of a test.
fn executable(messages: &str, test: &str) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_it = message.pointer("/target/name")?.as_str()? == test
            && message.pointer("/profile/test")?.as_bool()?;
        is_it.then(|| message.get("executable")?.as_str().map(PathBuf::from))?
    })
}

/// Writes what a kernel boots into, with this plan.
pub(crate) fn write(
    file: &Path,
    kernel: &Kernel,
    fetched: &Fetched,
    programs: &Programs,
    plan: &str,
) -> anyhow::Result<()> {
    let tools = Tools::of(kernel)?;
    let out = File::create(file).with_context(|| format!("{} cannot be written", file.display()))?;
    let mut archive = Archive::new(BufWriter::new(out));
    archive.console()?;
    archive.file("init", 0o755, include_bytes!("init.sh"))?;
    archive.file("plan", 0o644, format!("{}{plan}", include_str!("plan.sh")).as_bytes())?;
    for (path, content) in FILES {
        archive.file(path, 0o644, content.as_bytes())?;
    }
    archive.folder("root")?;
    for (at, module) in fetched.modules.iter().enumerate() {
        let from = packages::folder(kernel).join(format!("{module}.ko"));
        archive.copy(&format!("modules/{at:02}-{module}.ko"), &from)?;
    }
    archive.copy("bin/busybox", &tools.find("busybox")?)?;
    let mut libraries = Files::new();
    for name in TOOLS {
        let from = tools.find(name)?;
        tools.needed(&from, &mut libraries)?;
        archive.copy(&format!("usr/bin/{name}"), &from)?;
    }
    // busybox's shell runs its own programs, whatever `PATH` says.
    archive.link("usr/bin/sh", "dash")?;
    for file in programs.files().iter().filter(|_| programs.linked) {
        tools.needed(file, &mut libraries)?;
    }
    for (path, from) in &libraries {
        archive.copy(path, from)?;
    }
    archive.copy("t/bindwatch", &programs.bindwatch)?;
    // Where somebody in the guest looks for it.
    archive.link("usr/bin/bindwatch", "/t/bindwatch")?;
    for actor in ACTORS {
        archive.copy(&format!("t/{actor}"), &programs.actors.join(actor))?;
    }
    for (name, file) in programs.tests.iter().filter(|(name, _)| *name != ALONE) {
        archive.copy(&format!("t/deps/{name}"), file)?;
    }
    archive.finish()?;
    Ok(())
}

/// Writes a file system with nothing in it but bindwatch, a first process that starts it, and the two serial lines that they are
/// heard by: no folder besides `/dev`, no shell, no library, no module.
pub(crate) fn write_alone(file: &Path, programs: &Programs) -> anyhow::Result<()> {
    let out = File::create(file).with_context(|| format!("{} cannot be written", file.display()))?;
    let mut archive = Archive::new(BufWriter::new(out));
    archive.console()?;
    archive.serial(1)?;
    // The kernel starts `/init`; it starts itself by the name that its program has.
    let (_, first) = programs.tests.iter().find(|(name, _)| *name == ALONE).context("no first process")?;
    archive.copy("first", first)?;
    archive.link("init", "/first")?;
    archive.copy("bindwatch", &programs.bindwatch)?;
    archive.finish()?;
    Ok(())
}
