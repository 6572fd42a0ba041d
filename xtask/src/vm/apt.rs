//! apt, for what a guest is made of: kernels, the tools in it, and the emulator.

use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::shell;

/// What mirrors sign with.
const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const UBUNTU_KEYS: &str = "/usr/share/keyrings/ubuntu-archive-keyring.gpg";

/// apt with sources of their own, apart from the machine's: it asks the mirrors, checks what they have signed, and fetches.
pub(super) struct Apt {
    folder: PathBuf,
    /// Debian's name of the architecture.
    architecture: String,
}

impl Apt {
    /// Asks mirrors what they have in their suites, each `MIRROR SUITE`, for an architecture. What is kept of it has a name.
    pub(super) fn update(name: &str, from: &[String], architecture: &str) -> anyhow::Result<Self> {
        let folder = shell::target_dir().join("vm/apt").join(name);
        let apt = Self { folder, architecture: architecture.to_owned() };
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(apt.folder.join(folder))?;
        }
        let keyring = |mirror: &str| match mirror {
            mirror if !mirror.contains("ubuntu") => DEBIAN_KEYS,
            _ => UBUNTU_KEYS,
        };
        let mut sources = String::new();
        for source in from {
            let Some((mirror, suite)) = source.split_once(' ') else {
                bail!("{source}: a mirror and a suite")
            };
            println!("vm: asking {mirror} what it has in {suite}, for {name}");
            let keys = keyring(mirror);
            // Debian has no package with Ubuntu's keys.
            let trust = if Path::new(keys).is_file() {
                format!("signed-by={keys}")
            } else {
                println!("vm: its signature is not checked: there is no {keys}");
                "trusted=yes".to_owned()
            };
            sources += &format!("deb [arch={architecture} {trust}] {mirror} {suite} main\n");
        }
        std::fs::write(apt.folder.join("sources.list"), sources)?;
        shell::run(apt.command("apt-get").args(["-qq", "update"]))?;
        Ok(apt)
    }

    pub(super) fn command(&self, program: &str) -> std::process::Command {
        let mut command = shell::command(program);
        let folder = self.folder.display();
        for option in [
            format!("Dir::State={folder}/state"),
            format!("Dir::Cache={folder}/cache"),
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            // A mirror that does not answer is asked again, and is then an error: what it had last time is not what is asked for.
            "Acquire::Retries=3".to_owned(),
            "APT::Update::Error-Mode=any".to_owned(),
            format!("APT::Architecture={}", self.architecture),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // The folder is not that of the user that apt would fetch as.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// Fetches packages and all that they depend on, as for a machine that has nothing, and unpacks
    /// them to a folder.
    pub(super) fn with_dependencies(&self, names: &[&str], to: &Path) -> anyhow::Result<()> {
        println!("vm: fetching {} for {}, and what they depend on", names.join(", "), self.architecture);
        let (nothing, archives) = (self.folder.join("nothing"), self.folder.join("cache/archives"));
        std::fs::write(&nothing, "")?;
        let mut install = self.command("apt-get");
        install.args([
            "-o",
            &format!("Dir::State::status={}", nothing.display()),
            "-o",
            "Debug::NoLocking=1",
        ]);
        install.args(["-qq", "-y", "--no-install-recommends", "--download-only", "install"]).args(names);
        shell::output(&mut install)?;
        extract(debs(&archives)?, to)
    }

    /// Fetches these packages into a folder, each a name or `NAME=VERSION`, without what they depend on, and unpacks them to
    /// another.
    pub(super) fn unpack(&self, folder: &Path, packages: &[&str], to: &Path) -> anyhow::Result<()> {
        shell::run(self.command("apt-get").args(["-qq", "download"]).args(packages).current_dir(folder))?;
        extract(debs(folder)?, to)
    }
}

/// The packages in a folder.
fn debs(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let files = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut files: Vec<PathBuf> = files.collect::<std::io::Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == "deb"));
    files.sort();
    Ok(files)
}

/// Unpacks packages, and removes their files.
fn extract(packages: Vec<PathBuf>, to: &Path) -> anyhow::Result<()> {
    for package in packages {
        shell::run(shell::command("dpkg-deb").arg("--extract").arg(&package).arg(to))?;
        std::fs::remove_file(&package)?;
    }
    Ok(())
}
