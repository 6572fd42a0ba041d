//! Kernels from distributions' mirrors: finds the newest package, fetches it, checks it, and keeps what a guest needs.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::apt::Apt;
use super::list::Kernel;
use crate::shell;

/// What a guest loads, each after what it needs. The rest of what bindwatch and the scenarios touch is in every image.
const MODULES: [&str; 7] =
    ["inet_diag", "tcp_diag", "udp_diag", "raw_diag", "mptcp_diag", "unix_diag", "veth"];

/// The file that says what was fetched; written last.
const RECORD: &str = "kernel.json";

/// A kernel at hand.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Fetched {
    /// Its packages.
    pub(crate) packages: Vec<Package>,
    /// Its release, as `uname -r` gives it.
    pub(crate) release: String,
    /// Its modules, in the order in which they load.
    pub(crate) modules: Vec<String>,
}

/// A package of a mirror.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Package {
    name: String,
    version: String,
    sha256: String,
    #[serde(skip)]
    depends: String,
}

impl Fetched {
    /// The version of its first package.
    pub(crate) fn version(&self) -> &str {
        self.packages.first().map_or("", |package| &package.version)
    }
}

/// Where a kernel is kept.
pub(crate) fn folder(kernel: &Kernel) -> PathBuf {
    shell::target_dir().join("vm/kernels").join(&kernel.name)
}

/// The kernel's image.
pub(crate) fn image(kernel: &Kernel) -> PathBuf {
    folder(kernel).join("vmlinuz")
}

/// Fetches a kernel, unless it is there; `update`: asks the mirrors whether there is a newer one.
pub(crate) fn fetch(kernel: &Kernel, update: bool) -> anyhow::Result<Fetched> {
    let folder = folder(kernel);
    let record = folder.join(RECORD);
    let known: Option<Fetched> =
        std::fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match known {
        Some(known) if !update => Ok(known),
        known => {
            let apt = Apt::update(&kernel.name, &kernel.from, &kernel.architecture)?;
            let packages = resolve(kernel, &apt)?;
            if let Some(known) = known
                && known.packages.iter().map(|package| &package.sha256).eq(packages.iter().map(|p| &p.sha256))
            {
                return Ok(known);
            }
            if folder.exists() {
                std::fs::remove_dir_all(&folder)?;
            }
            std::fs::create_dir_all(&folder)?;
            let fetched = unpack(&folder, packages, &apt)?;
            std::fs::write(&record, serde_json::to_vec_pretty(&fetched)?)?;
            Ok(fetched)
        }
    }
}

/// The newest package of the kernel's image, and those that it is completed by.
fn resolve(kernel: &Kernel, apt: &Apt) -> anyhow::Result<Vec<Package>> {
    let Some((before, after)) = kernel.image.split_once('*') else { bail!("{}: no *", kernel.image) };
    let pattern = format!("^{}[0-9].*{}$", before.replace('.', "\\."), after.replace('.', "\\."));
    let mut search = apt.command("apt-cache");
    let listed = shell::output(search.args(["search", "--names-only", &pattern]))?;
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    if names.is_empty() {
        bail!("no {} in {}", kernel.image, kernel.from.join(", "));
    }
    let newest = |packages: Vec<Package>| {
        packages.into_iter().max_by(|one, other| compare(&one.version, &other.version))
    };
    let newest_image = newest(of_names(apt, &names)?).context("apt shows no package")?;
    let depends = newest_image.depends.clone();
    let mut chosen = vec![newest_image];
    for name in depends.split([',', '|']).filter_map(|word| word.split_whitespace().next()) {
        if name.starts_with("linux-binary-") || name.starts_with("linux-modules-") {
            let part = newest(of_names(apt, &[name])?);
            chosen.push(part.with_context(|| format!("the image needs {name}, which is nowhere"))?);
        }
    }
    Ok(chosen)
}

/// The packages of these names, in all versions.
fn of_names(apt: &Apt, names: &[&str]) -> anyhow::Result<Vec<Package>> {
    let shown = shell::output(apt.command("apt-cache").arg("show").args(names))?;
    Ok(shown.split("\n\n").filter_map(package).collect())
}

/// A stanza of a package index.
fn package(stanza: &str) -> Option<Package> {
    let field = |name: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
    };
    let name = field("Package")?;
    name.starts_with("linux-").then_some(())?;
    Some(Package {
        name,
        version: field("Version")?,
        sha256: field("SHA256")?,
        depends: field("Depends").unwrap_or_default(),
    })
}

/// Compares versions: runs of digits as numbers, the rest as text. Enough for those of kernels.
fn compare(one: &str, other: &str) -> Ordering {
    let parts = |version: &str| -> Vec<(String, u64)> {
        let mut parts = Vec::new();
        let mut rest = version;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (text, after) = rest.split_at(digits);
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            let (number, after) = after.split_at(end);
            parts.push((text.to_owned(), number.parse().unwrap_or(0)));
            rest = after;
        }
        parts
    };
    parts(one).cmp(&parts(other))
}

fn unpack(folder: &Path, packages: Vec<Package>, apt: &Apt) -> anyhow::Result<Fetched> {
    let tree = folder.join("unpacked");
    for package in &packages {
        println!("vm: fetching {} {}", package.name, package.version);
        let version = format!("{}={}", package.name, package.version);
        apt.unpack(folder, &[&version], &tree)?;
    }
    let mut files = Vec::new();
    walk(&tree, &mut files)?;
    let name = |file: &PathBuf| file.file_name().map(|name| name.to_string_lossy().into_owned());
    // `boot/vmlinuz-RELEASE`, or since forky `usr/lib/modules/RELEASE/vmlinuz`.
    let image = files
        .iter()
        .find_map(|file| match name(file)?.strip_prefix("vmlinuz")? {
            "" => Some((file, file.parent()?.file_name()?.to_string_lossy().into_owned())),
            release => Some((file, release.strip_prefix('-')?.to_owned())),
        })
        .context("no vmlinuz in the packages")?;
    std::fs::copy(image.0, folder.join("vmlinuz"))?;
    let mut modules = Vec::new();
    for module in MODULES {
        let names = [".ko", ".ko.xz", ".ko.zst"].map(|ending| format!("{module}{ending}"));
        let Some(file) = files.iter().find(|file| name(file).is_some_and(|name| names.contains(&name)))
        else {
            continue;
        };
        let plain = folder.join(format!("{module}.ko"));
        let unpack = match file.extension().and_then(|ending| ending.to_str()) {
            Some("xz") => "xz -dc",
            Some("zst") => "zstd -dcq",
            _ => "cat",
        };
        let line = format!("{unpack} \"$1\" > \"$2\"");
        shell::run(shell::command("sh").args(["-c", &line, "sh"]).arg(file).arg(&plain))?;
        modules.push(module.to_owned());
    }
    let (_, release) = image;
    std::fs::remove_dir_all(&tree)?;
    Ok(Fetched { packages, release, modules })
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_the_largest_number() {
        for (older, newer) in [
            ("5.10.223-1", "5.10.262-1"),
            ("6.12.94-1", "6.12.107-1"),
            ("6.1.192-1", "6.1.192-2"),
            ("5.15.0-25.25", "5.15.0-203.213"),
        ] {
            assert_eq!(compare(older, newer), Ordering::Less, "{older} {newer}");
            assert_eq!(compare(newer, newer), Ordering::Equal);
        }
    }

    #[test]
    fn a_stanza_is_a_package() {
        let text = "Package: linux-image-6.1.0-50-cloud-amd64\nVersion: 6.1.176-1\nFilename: pool/a.deb\nSHA256: 00ff";
        let found = package(text).unwrap();
        assert_eq!((found.version.as_str(), found.sha256.as_str()), ("6.1.176-1", "00ff"));
        assert!(package("Package: bash\nVersion: 1\nFilename: a\nSHA256: b").is_none());
    }
}
