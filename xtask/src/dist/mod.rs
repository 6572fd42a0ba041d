//! `cargo xtask dist`: what users get. One static binary with the probe in it, as an archive, a .deb and an .rpm, with
//! its bill of materials and checksums.
//!
//! The same commit, toolchain and tools give the same bytes: times are the commit's, and no path of this machine is in it.

mod content;
mod licenses;
mod sbom;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::architecture::Architecture;
use crate::setup::{self, Part};
use crate::shell;

/// The largest that the binary may be, bytes.
const SIZE_MAX: u64 = 12 << 20;
/// Verbs with a manual page of their own.
const VERBS: [&str; 12] = [
    "run", "top", "record", "report", "explain", "list", "check", "enforce", "enroll", "doctor", "mark",
    "stop",
];
/// Shells, what their completions are called, and where packages keep them.
const SHELLS: [(&str, &str, &str); 3] = [
    ("bash", "bindwatch", "usr/share/bash-completion/completions"),
    ("zsh", "_bindwatch", "usr/share/zsh/vendor-completions"),
    ("fish", "bindwatch.fish", "usr/share/fish/vendor_completions.d"),
];
/// Licences and documents that go with the binary: from, and the name there.
const DOCUMENTS: [(&str, &str); 5] = [
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("probe-ebpf/LICENSE-GPL-2.0", "LICENSE-GPL-2.0.probe"),
    ("README.md", "README.md"),
    ("docs/CHANGELOG.md", "CHANGELOG.md"),
];
/// In one line, for package managers.
const SUMMARY: &str = "see every socket bind, and who shared, took or held which port";

/// What everything is made of.
struct Dist {
    /// For which machine.
    architecture: &'static Architecture,
    folder: PathBuf,
    binary: PathBuf,
    version: String,
    /// Time of the commit, seconds since 1970.
    epoch: String,
    /// Who answers for the packages, as `Name <address>`: who made the commit.
    maintainer: String,
}

/// Runs the verb: for the machines that `--target` names, or for this one.
pub(crate) fn dist(words: &[&str]) -> anyhow::Result<()> {
    let architectures = targets(words)?;
    let parts: Vec<Part> = architectures.iter().map(|one| Part::Cross(one)).chain([Part::Dist]).collect();
    setup::parts(&parts)?;
    let folder = shell::target_dir().join("dist");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    for architecture in architectures {
        make(architecture, &folder)?;
    }
    let line = "sha256sum bindwatch* > SHA256SUMS && cat SHA256SUMS";
    shell::run(shell::command("sh").current_dir(&folder).args(["-ec", line]))
}

fn targets(words: &[&str]) -> anyhow::Result<Vec<&'static Architecture>> {
    let mut targets = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--target" => {
                let target = Architecture::named(words.next().context("--target needs a value")?)?;
                if !targets.contains(&target) {
                    targets.push(target);
                }
            }
            other => bail!("no such option: {other}"),
        }
    }
    if targets.is_empty() {
        targets.push(Architecture::host()?);
    }
    Ok(targets)
}

/// Everything of one machine.
fn make(architecture: &'static Architecture, folder: &Path) -> anyhow::Result<()> {
    let binary = build(architecture)?;
    let metadata = sbom::metadata(architecture.target)?;
    let version = sbom::version(&metadata)?;
    let epoch = shell::output(shell::command("git").args(["log", "-1", "--format=%ct"]))?;
    let maintainer = shell::output(shell::command("git").args(["log", "-1", "--format=%an <%ae>"]))?;
    let (epoch, maintainer) = (epoch.trim().to_owned(), maintainer.trim().to_owned());
    let dist = Dist { architecture, folder: folder.to_owned(), binary, version, epoch, maintainer };
    dist.packages(&metadata)
}

/// Builds the binary and looks at it.
fn build(architecture: &Architecture) -> anyhow::Result<PathBuf> {
    let home = std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo"));
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        format!("--remap-path-prefix={}=bindwatch", shell::root().display()),
        format!("--remap-path-prefix={}=cargo", home.context("neither CARGO_HOME nor HOME is set")?),
    ];
    println!("dist: building for {}", architecture.name);
    let mut cargo = architecture.cargo(&["build", "--quiet", "--profile", "dist", "--package", "bindwatch"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")).env_remove("RUSTFLAGS");
    shell::run(&mut cargo)?;
    let binary = architecture.built().join("dist/bindwatch");
    let size = std::fs::metadata(&binary)?.len();
    println!("dist: {size} bytes");
    if size > SIZE_MAX {
        bail!("{} has {size} bytes, more than {SIZE_MAX}", binary.display());
    }
    Architecture::must_be_static(&binary)?;
    Ok(binary)
}

impl Dist {
    /// Makes the packages, and looks whether all is in them.
    fn packages(&self, metadata: &serde_json::Value) -> anyhow::Result<()> {
        let name = self.name();
        let tree = self.folder.join(&name);
        self.fill(&tree, metadata)?;
        self.archive(&name)?;
        std::fs::copy(tree.join("bindwatch.cdx.json"), self.folder.join(format!("{name}.cdx.json")))?;
        let root = self.folder.join("root");
        self.install(&tree, &root)?;
        self.deb(&root)?;
        self.rpm(&root)?;
        for made in [&tree, &root] {
            std::fs::remove_dir_all(made)?;
        }
        self.check()
    }

    /// What the archive is called, and its folder.
    fn name(&self) -> String {
        format!("bindwatch-{}-{}-linux", self.version, self.architecture.name)
    }

    fn deb_name(&self) -> String {
        format!("bindwatch_{}-1_{}.deb", self.version, self.architecture.debian)
    }

    fn rpm_name(&self) -> String {
        format!("bindwatch-{}-1.{}.rpm", self.version, self.architecture.name)
    }

    /// The archive's content.
    fn fill(&self, tree: &Path, metadata: &serde_json::Value) -> anyhow::Result<()> {
        for folder in ["man", "completions"] {
            std::fs::create_dir_all(tree.join(folder))?;
        }
        std::fs::copy(&self.binary, tree.join("bindwatch"))?;
        let says = |words: &[&str]| shell::output(self.architecture.start(&self.binary).args(words));
        std::fs::write(tree.join("man/bindwatch.1"), says(&["man"])? + "\n")?;
        for verb in VERBS {
            std::fs::write(tree.join(format!("man/bindwatch-{verb}.1")), says(&["man", verb])? + "\n")?;
        }
        for (shell, name, _) in SHELLS {
            std::fs::write(tree.join("completions").join(name), says(&["completions", shell])? + "\n")?;
        }
        for (from, name) in DOCUMENTS {
            std::fs::copy(shell::root().join(from), tree.join(name))?;
        }
        std::fs::write(tree.join("THIRD-PARTY.txt"), licenses::text(metadata)?)?;
        let bill = sbom::cyclonedx(metadata, &self.binary, &self.epoch)?;
        std::fs::write(tree.join("bindwatch.cdx.json"), bill)?;
        Ok(())
    }

    /// `NAME.tar.gz`, of the folder `NAME`.
    fn archive(&self, name: &str) -> anyhow::Result<()> {
        let line = "tar --sort=name --mtime=\"@$2\" --owner=0 --group=0 --numeric-owner --mode=u+rw,go=u,go-w \
                    --format=gnu -cf - \"$1\" | gzip -9n > \"$1.tar.gz\"";
        let mut tar = shell::command("sh");
        shell::run(tar.current_dir(&self.folder).args(["-ec", line, "sh", name, &self.epoch]))
    }

    /// The files where packages put them.
    fn install(&self, tree: &Path, root: &Path) -> anyhow::Result<()> {
        let place = |from: &Path, to: &str, mode: &str| {
            let mut install = shell::command("install");
            shell::run(install.args(["-D", "--mode", mode]).arg(from).arg(root.join(to)))
        };
        place(&tree.join("bindwatch"), "usr/bin/bindwatch", "755")?;
        for (_, name, folder) in SHELLS {
            place(&tree.join("completions").join(name), &format!("{folder}/{name}"), "644")?;
        }
        for (_, name) in DOCUMENTS {
            place(&tree.join(name), &format!("usr/share/doc/bindwatch/{name}"), "644")?;
        }
        for name in ["THIRD-PARTY.txt", "bindwatch.cdx.json"] {
            place(&tree.join(name), &format!("usr/share/doc/bindwatch/{name}"), "644")?;
        }
        let mut pages: Vec<PathBuf> = std::fs::read_dir(tree.join("man"))?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()?;
        pages.sort();
        for page in pages {
            let name = page.file_name().context("a page")?.to_string_lossy().into_owned();
            let to = format!("usr/share/man/man1/{name}");
            place(&page, &to, "644")?;
            shell::run(shell::command("gzip").arg("-9n").arg(root.join(to)))?;
        }
        let line = "find \"$1\" -exec touch --no-dereference --date=\"@$2\" {} +";
        shell::run(shell::command("sh").args(["-ec", line, "sh"]).arg(root).arg(&self.epoch))
    }

    fn deb(&self, root: &Path) -> anyhow::Result<()> {
        // dpkg wants its own files in the tree.
        let tree = self.folder.join("deb");
        shell::run(shell::command("cp").arg("--archive").arg(root).arg(&tree))?;
        let documents = tree.join("usr/share/doc/bindwatch");
        std::fs::write(documents.join("copyright"), copyright()?)?;
        let date =
            shell::output(shell::command("date").args(["-uR", "--date", &format!("@{}", self.epoch)]))?;
        let changes = documents.join("changelog.Debian");
        std::fs::write(
            &changes,
            format!(
                "bindwatch ({}-1) unstable; urgency=medium\n\n  * What changed is in CHANGELOG.md.\n\n -- {}  {}\n",
                self.version,
                self.maintainer,
                date.trim()
            ),
        )?;
        shell::run(shell::command("gzip").arg("-9n").arg(&changes))?;
        std::fs::create_dir_all(tree.join("DEBIAN"))?;
        let kilobytes = shell::output(shell::command("du").args(["-sk", "--apparent-size"]).arg(root))?;
        let kilobytes = kilobytes.split_whitespace().next().unwrap_or("0");
        let control = format!(
            "Package: bindwatch\nVersion: {}-1\nArchitecture: {}\nMaintainer: {}\nInstalled-Size: {kilobytes}\nSection: net\nPriority: optional\nDescription: {SUMMARY}\n \
             Watches every bind of a machine by eBPF, and explains each port that was shared\n by accident or refused.\n",
            self.version, self.architecture.debian, self.maintainer
        );
        std::fs::write(tree.join("DEBIAN/control"), control)?;
        let sums = "cd \"$1\" && find usr -type f | LC_ALL=C sort | xargs md5sum > DEBIAN/md5sums && cd usr/share/doc/bindwatch && \
                    chmod 644 copyright changelog.Debian.gz ../../../../DEBIAN/* && chmod 755 ../../../../DEBIAN && cd ../../../.. && \
                    find . -exec touch --no-dereference --date=\"@$2\" {} +";
        shell::run(shell::command("sh").args(["-ec", sums, "sh"]).arg(&tree).arg(&self.epoch))?;
        let mut deb = shell::command("dpkg-deb");
        deb.args(["--root-owner-group", "-Zxz", "--build"]).arg(&tree);
        deb.arg(self.folder.join(self.deb_name()));
        shell::run(deb.env("SOURCE_DATE_EPOCH", &self.epoch))?;
        std::fs::remove_dir_all(&tree)?;
        Ok(())
    }

    fn rpm(&self, root: &Path) -> anyhow::Result<()> {
        let top = self.folder.join("rpm");
        std::fs::create_dir_all(&top)?;
        let completions: Vec<String> =
            SHELLS.iter().map(|(_, name, folder)| format!("/{}/{name}", rpm_folder(folder))).collect();
        let spec = format!(
            "Name: bindwatch\nVersion: {}\nRelease: 1\nSummary: {SUMMARY}\nLicense: (MIT OR Apache-2.0) AND GPL-2.0-only\n\
             Packager: {}\nAutoReqProv: no\n%description\nWatches every bind of a machine by eBPF, and explains each port that was shared by \
             accident or refused.\n%install\ncp --archive {root}/. %{{buildroot}}\n\
             if [ -d %{{buildroot}}/usr/share/zsh/vendor-completions ]; then \
             mv %{{buildroot}}/usr/share/zsh/vendor-completions %{{buildroot}}/usr/share/zsh/site-functions; fi\n\
             %files\n%attr(755,root,root) /usr/bin/bindwatch\n/usr/share/doc/bindwatch\n/usr/share/man/man1/*\n{}\n",
            self.version,
            self.maintainer,
            completions.join("\n"),
            root = root.display(),
        );
        let file = top.join("bindwatch.spec");
        std::fs::write(&file, spec)?;
        let mut build = shell::command("rpmbuild");
        let target = format!("{}-linux", self.architecture.name);
        build.args(["-bb", "--quiet", "--target", &target]).env("SOURCE_DATE_EPOCH", &self.epoch);
        for define in [
            &format!("_topdir {}", top.display()),
            &format!("_rpmdir {}", self.folder.display()),
            "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
            "_buildhost localhost",
            "use_source_date_epoch_as_buildtime 1",
            "clamp_mtime_to_source_date_epoch 1",
            "build_mtime_policy clamp_to_source_date_epoch",
            "__os_install_post %{nil}",
            "debug_package %{nil}",
            "_build_id_links none",
        ] {
            build.args(["--define", define]);
        }
        shell::run(build.arg(&file))?;
        std::fs::remove_dir_all(&top)?;
        Ok(())
    }
}

/// Where Fedora keeps what Debian keeps in this folder.
fn rpm_folder(folder: &str) -> &str {
    if folder.contains("zsh") { "usr/share/zsh/site-functions" } else { folder }
}

/// Debian's machine-readable summary of licences.
fn copyright() -> anyhow::Result<String> {
    let mit = std::fs::read_to_string(shell::root().join("LICENSE-MIT"))?;
    let indented: String = mit
        .lines()
        .map(|line| if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") })
        .collect();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: bindwatch\n\n\
         Files: *\nCopyright: the bindwatch developers\nLicense: MIT or Apache-2.0\nComment: third parties: see \
         THIRD-PARTY.txt. The program that runs in the kernel is under GPL-2.0-only: see LICENSE-GPL-2.0.probe.\n\n\
         License: MIT\n{indented}\nLicense: Apache-2.0\n See /usr/share/common-licenses/Apache-2.0.\n"
    ))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn targets_are_named_once_each_and_this_machine_is_the_default() {
        let names =
            |words: &[&str]| -> Vec<&str> { targets(words).unwrap().iter().map(|one| one.name).collect() };
        assert_eq!(names(&[]), [std::env::consts::ARCH]);
        let both = ["--target", "x86_64", "--target", "aarch64", "--target", "x86_64"];
        assert_eq!(names(&both), ["x86_64", "aarch64"]);
        for wrong in [&["--target"][..], &["--target", "mips"], &["aarch64"]] {
            assert!(targets(wrong).is_err(), "{wrong:?}");
        }
    }
}
