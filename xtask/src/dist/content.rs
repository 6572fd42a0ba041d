//! What is in the packages, as their own tools tell it: every file that users are promised, with its mode, and no other.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::{DOCUMENTS, Dist, SHELLS, VERBS, rpm_folder};
use crate::shell;

/// Modes, as `ls` writes them, by path. All of it is root's.
type Files = BTreeMap<String, String>;

const PROGRAM: &str = "-rwxr-xr-x";
const PLAIN: &str = "-rw-r--r--";
const FOLDER: &str = "drwxr-xr-x";

/// Makers of lists of one format, mode, owner and path first, second and last on each line.
type Lister = fn(&Path) -> Command;

impl Dist {
    /// An error where one of the three packages is not what it should be.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let packages: [(String, Files, Lister); 3] = [
            (format!("{}.tar.gz", self.name()), self.archived(), tar),
            (self.deb_name(), self.installed("Debian"), deb),
            (self.rpm_name(), self.installed("Fedora"), rpm),
        ];
        for (name, expected, list) in packages {
            let listed = shell::output(&mut list(&self.folder.join(&name)))?;
            let found = files(&listed).with_context(|| name.clone())?;
            let missing: Vec<_> = expected.iter().filter(|(path, _)| !found.contains_key(*path)).collect();
            let wrong: Vec<_> =
                found.iter().filter(|(path, mode)| expected.get(*path) != Some(mode)).collect();
            if !missing.is_empty() || !wrong.is_empty() {
                bail!("{name}: missing {missing:?}, wrong or not expected {wrong:?}");
            }
            println!(
                "dist: {name}: {} files, {} bytes",
                found.len(),
                self.folder.join(&name).metadata()?.len()
            );
        }
        Ok(())
    }

    fn archived(&self) -> Files {
        let top = self.name();
        let pages = pages().map(|page| format!("man/{page}"));
        let completions = SHELLS.iter().map(|(_, name, _)| format!("completions/{name}"));
        let plain = pages.chain(completions).chain(documents());
        let plain = plain.map(|name| (format!("{top}/{name}"), PLAIN.to_owned()));
        plain.chain([(format!("{top}/bindwatch"), PROGRAM.to_owned())]).collect()
    }

    /// Where packages for this distribution put what the archive has.
    #[expect(clippy::unused_self, reason = "beside its sibling")]
    fn installed(&self, distribution: &str) -> Files {
        let debian = distribution == "Debian";
        let pages = pages().map(|page| format!("usr/share/man/man1/{page}.gz"));
        let completions = SHELLS
            .iter()
            .map(|(_, name, folder)| format!("{}/{name}", if debian { folder } else { rpm_folder(folder) }));
        let own: &[&str] = if debian { &["copyright", "changelog.Debian.gz"] } else { &[] };
        let documents = documents().chain(own.iter().map(|&name| name.to_owned()));
        let documents = documents.map(|name| format!("usr/share/doc/bindwatch/{name}"));
        let plain = pages.chain(completions).chain(documents).map(|name| (name, PLAIN.to_owned()));
        plain.chain([("usr/bin/bindwatch".to_owned(), PROGRAM.to_owned())]).collect()
    }
}

fn pages() -> impl Iterator<Item = String> {
    let verbs = VERBS.iter().map(|verb| format!("bindwatch-{verb}.1"));
    std::iter::once("bindwatch.1".to_owned()).chain(verbs)
}

fn documents() -> impl Iterator<Item = String> {
    let with = ["THIRD-PARTY.txt", "bindwatch.cdx.json"];
    DOCUMENTS.iter().map(|(_, name)| *name).chain(with).map(str::to_owned)
}

fn tar(file: &Path) -> Command {
    let mut tar = shell::command("tar");
    tar.args(["--list", "--verbose", "--gzip", "--file"]).arg(file);
    tar
}

fn deb(file: &Path) -> Command {
    let mut deb = shell::command("dpkg-deb");
    deb.arg("--contents").arg(file);
    deb
}

fn rpm(file: &Path) -> Command {
    let mut rpm = shell::command("rpm");
    let format = "[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\\n]";
    rpm.args(["--query", "--package", "--queryformat", format]).arg(file);
    rpm
}

/// The files of a list. Folders must be open to all, and everything root's.
fn files(listed: &str) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, .., path] = words[..] else { bail!("{line}: not a mode, an owner and a path") };
        if !matches!(owner, "root/root" | "0/0") {
            bail!("{path} is {owner}'s");
        }
        match mode {
            FOLDER => {}
            folder if folder.starts_with('d') => bail!("{path}: a folder of mode {mode}"),
            mode => {
                let path = path.trim_start_matches("./").trim_start_matches('/');
                files.insert(path.to_owned(), mode.to_owned());
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::architecture::Architecture;
    use crate::dist::sbom;

    /// A program that prints its pages and completions as bindwatch does, and is quickly built.
    const PROGRAM: &str = "#!/bin/sh\nprintf '.TH %s\\n' \"$*\"\n";

    /// Packages of such a program, in a folder of this name.
    fn packaged(name: &str) -> Dist {
        let folder = shell::target_dir().join("dist-tests").join(name);
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).unwrap();
        let binary = folder.join("program");
        fs::write(&binary, PROGRAM).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o700)).unwrap();
        let architecture = Architecture::host().unwrap();
        let metadata = sbom::metadata(architecture.target).unwrap();
        let dist = Dist {
            architecture,
            folder,
            binary,
            version: sbom::version(&metadata).unwrap(),
            epoch: "1700000000".to_owned(),
            maintainer: "Somebody <somebody@example.org>".to_owned(),
        };
        dist.packages(&metadata).unwrap();
        dist
    }

    #[test]
    fn packages_have_what_is_promised_and_are_the_same_each_time() {
        let [one, other] = ["one", "other"].map(packaged);
        one.check().unwrap();
        for name in [format!("{}.tar.gz", one.name()), one.deb_name(), one.rpm_name()] {
            let bytes = |dist: &Dist| fs::read(dist.folder.join(&name)).unwrap();
            assert!(bytes(&one) == bytes(&other), "{name}: not the same bytes");
        }
        let field = |name: &str| {
            let mut deb = shell::command("dpkg-deb");
            shell::output(deb.arg("--field").arg(one.folder.join(one.deb_name())).arg(name)).unwrap()
        };
        assert_eq!(field("Package").trim(), "bindwatch");
        assert_eq!(field("Architecture").trim(), one.architecture.debian);
        assert_eq!(field("Depends").trim(), "", "it is static");
        let mut rpm = shell::command("rpm");
        rpm.args(["--query", "--package", "--queryformat", "%{NAME} %{ARCH} %{LICENSE}"]);
        let told = shell::output(rpm.arg(one.folder.join(one.rpm_name()))).unwrap();
        let expected = format!("bindwatch {} (MIT OR Apache-2.0) AND GPL-2.0-only", one.architecture.name);
        assert_eq!(told, expected);
        for dist in [one, other] {
            fs::remove_dir_all(dist.folder).unwrap();
        }
    }

    #[test]
    fn a_package_that_lacks_a_file_or_has_one_too_many_is_refused() {
        let dist = packaged("broken");
        let archive = dist.folder.join(format!("{}.tar.gz", dist.name()));
        let again = |line: &str| {
            let line = format!(
                "tar -xzf {0} && {line}; tar --owner=0 --group=0 -czf {0} {1}",
                archive.display(),
                dist.name()
            );
            shell::run(shell::command("sh").current_dir(&dist.folder).args(["-c", &line])).unwrap();
            dist.check().unwrap_err().to_string()
        };
        let lacking = again(&format!("rm {}/man/bindwatch-run.1", dist.name()));
        assert!(lacking.contains("missing") && lacking.contains("bindwatch-run.1"), "{lacking}");
        let more = again(&format!("touch {}/left-over", dist.name()));
        assert!(more.contains("left-over"), "{more}");
        let modes = again(&format!("chmod 600 {}/README.md", dist.name()));
        assert!(modes.contains("-rw-------"), "{modes}");
        fs::remove_dir_all(&dist.folder).unwrap();
    }

    #[test]
    fn everything_is_roots_and_folders_are_open() {
        assert_eq!(
            files("-rw-r--r-- 0/0 1 2026-01-01 00:00 ./a\ndrwxr-xr-x root/root /b\n").unwrap().len(),
            1
        );
        assert!(files("-rw-r--r-- 1000/1000 1 2026-01-01 00:00 ./a\n").is_err());
        assert!(files("drwx------ root/root 0 2026-01-01 00:00 ./a/\n").is_err());
    }
}
