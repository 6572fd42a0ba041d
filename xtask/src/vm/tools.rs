//! The tools of a guest, which tests start: those of the machine at hand, or for a guest of another kind those of its
//! distribution's packages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::apt::Apt;
use super::list::Kernel;
use crate::architecture::Architecture;
use crate::shell;

/// The packages of what goes into a guest.
const PACKAGES: [&str; 7] =
    ["bpftool", "busybox-static", "coreutils", "dash", "iproute2", "util-linux", "zstd"];

/// Where they are.
pub(crate) struct Tools {
    architecture: &'static Architecture,
    /// The folder that packages were unpacked to; None: this machine's own.
    unpacked: Option<PathBuf>,
}

/// Files by their path in a guest.
pub(crate) type Files = BTreeMap<String, PathBuf>;

impl Tools {
    /// For this kernel's guest. Packages are fetched once for each kernel, from where it comes from itself.
    pub(crate) fn of(kernel: &Kernel) -> anyhow::Result<Self> {
        let architecture = kernel.architecture()?;
        if architecture.is_host() {
            return Ok(Self { architecture, unpacked: None });
        }
        let folder = shell::target_dir().join("vm/tools").join(&kernel.name);
        let stamp = folder.join("unpacked");
        let wanted = PACKAGES.join(" ");
        if !std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
            if folder.exists() {
                std::fs::remove_dir_all(&folder)?;
            }
            std::fs::create_dir_all(&folder)?;
            Apt::update(&kernel.name, &kernel.from, &kernel.architecture)?
                .with_dependencies(&PACKAGES, &folder)?;
            std::fs::write(&stamp, wanted)?;
        }
        Ok(Self { architecture, unpacked: Some(folder) })
    }

    /// A program.
    pub(crate) fn find(&self, name: &str) -> anyhow::Result<PathBuf> {
        let root = self.unpacked.as_deref().unwrap_or(Path::new("/"));
        let folders = ["usr/sbin", "sbin", "usr/bin", "bin"];
        let found = folders.iter().map(|folder| root.join(folder).join(name)).find(|file| file.is_file());
        found.with_context(|| format!("{name} is missing: run `cargo xtask setup`"))
    }

    /// Adds the libraries of a program, as its loader finds them.
    pub(crate) fn needed(&self, program: &Path, files: &mut Files) -> anyhow::Result<()> {
        match &self.unpacked {
            None => own(program, files),
            Some(root) => self.unpacked(root, program, files),
        }
    }

    fn unpacked(&self, root: &Path, program: &Path, files: &mut Files) -> anyhow::Result<()> {
        let Architecture { gnu, loader, .. } = self.architecture;
        let dynamic = shell::output(shell::command("readelf").args(["--dynamic", "--wide"]).arg(program))?;
        for name in dynamic.lines().filter_map(library) {
            // The loader is where programs say; the rest is in one folder, whether or not its release has merged `/lib` and `/usr`.
            let path = match loader.strip_suffix(name) {
                Some(_) => loader.trim_start_matches('/').to_owned(),
                None => format!("lib/{gnu}/{name}"),
            };
            if files.contains_key(&path) {
                continue;
            }
            let folders =
                [format!("usr/lib/{gnu}"), format!("lib/{gnu}"), "usr/lib".to_owned(), "lib".to_owned()];
            let found = folders.iter().map(|folder| root.join(folder).join(name)).find(|file| file.is_file());
            let Some(from) = found else { bail!("{}: no {name} in its packages", program.display()) };
            files.insert(path, from.clone());
            self.unpacked(root, &from, files)?;
        }
        Ok(())
    }
}

/// The library that a line of `readelf --dynamic` asks for.
fn library(line: &str) -> Option<&str> {
    line.contains("(NEEDED)").then(|| line.split_once('[')?.1.split_once(']').map(|(name, _)| name))?
}

/// Of a program of this machine.
fn own(program: &Path, files: &mut Files) -> anyhow::Result<()> {
    let listed = shell::output(shell::command("ldd").arg(program))?;
    for line in listed.lines() {
        if line.contains("not found") {
            bail!("{}: {}", program.display(), line.trim());
        }
        if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) {
            files.insert(path.trim_start_matches('/').to_owned(), PathBuf::from(path));
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_a_program_are_those_it_names() {
        let line = " 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]";
        assert_eq!(library(line), Some("libc.so.6"));
        assert_eq!(library(" 0x000000000000000c (INIT)               0x1000"), None);
    }

    #[test]
    fn unpacked_packages_give_the_libraries_that_the_loader_of_this_machine_finds() {
        let architecture = Architecture::host().unwrap();
        let program = Path::new("/proc/self/exe").canonicalize().unwrap();
        let (mut found, mut read) = (Files::new(), Files::new());
        let own = Tools { architecture, unpacked: None };
        own.needed(&program, &mut found).unwrap();
        // This machine's own root serves as what its packages hold.
        let unpacked = Tools { architecture, unpacked: Some(PathBuf::from("/")) };
        unpacked.needed(&program, &mut read).unwrap();
        let names = |files: &Files| -> Vec<String> {
            let name = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
            files.keys().map(name).collect()
        };
        let (mut found, mut read) = (names(&found), names(&read));
        found.sort_unstable();
        read.sort_unstable();
        assert!(read.contains(&"libc.so.6".to_owned()), "{read:?}");
        assert_eq!(found, read);
    }
}
