//! The emulator of guests: this machine's, or a newer one of its distribution's backports where its own is slow. With QEMU 10
//! `holders` on Linux 6.1 takes 47 s where it took 84 with QEMU 7.2, on the same processors.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::apt::Apt;
use crate::architecture::Architecture;
use crate::shell;

/// The first version that is not slow.
const FAST: u32 = 10;

/// What the package of an emulator needs beside the libraries of the machine's own: firmware of its version.
const FIRMWARE: [&str; 2] = ["qemu-system-data", "seabios"];

/// The program that emulates these machines.
pub(super) fn of(architecture: &Architecture) -> anyhow::Result<PathBuf> {
    let (name, package) = architecture.guest;
    let own = shell::which(name).with_context(|| format!("{name} is missing: run `cargo xtask setup`"))?;
    if version(&own)? >= FAST {
        return Ok(own);
    }
    let codename = codename(&std::fs::read_to_string("/etc/os-release").unwrap_or_default());
    let Some(codename) = codename else { return Ok(own) };
    let folder = shell::target_dir().join("vm/emulator").join(architecture.name);
    let newer = folder.join("usr/bin").join(name);
    if version(&newer).is_ok() {
        return Ok(newer);
    }
    let fetched = fetch(&codename, package, &folder).and_then(|()| version(&newer));
    Ok(match fetched {
        Ok(_) => newer,
        Err(error) => {
            println!("vm: guests run slowly, as there is no newer {package} in backports: {error:#}");
            own
        }
    })
}

/// Unpacks what backports have of an emulator to a folder of its own. The machine's stays what it is.
fn fetch(codename: &str, package: &str, folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    let backports = format!("http://deb.debian.org/debian {codename}-backports");
    let machine = Architecture::host()?.debian;
    let apt = Apt::update("emulator", &[backports], machine)?;
    apt.unpack(folder, &[&[package], &FIRMWARE[..]].concat(), folder)
}

/// The release of Debian that this is; None where it is none.
fn codename(os_release: &str) -> Option<String> {
    let field = |name: &str| {
        let value = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim_matches('"').to_owned())
    };
    (field("ID")? == "debian").then(|| field("VERSION_CODENAME"))?
}

/// The main version of an emulator that can be started.
fn version(program: &Path) -> anyhow::Result<u32> {
    let said = shell::output(shell::command(program).arg("--version"))?;
    let number = said.split_once("version ").and_then(|(_, rest)| rest.split('.').next()?.parse().ok());
    let Some(number) = number else { bail!("{} gives no version", program.display()) };
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_has_its_backports() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(codename(text).as_deref(), Some("bookworm"));
        assert_eq!(codename("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n"), None);
        assert_eq!(codename(""), None);
    }
}
