//! `cargo xtask build-ebpf`: the probe from its sources, and whether the checked-in object is what they give.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};

use crate::setup::{self, Part};
use crate::shell::root;
use crate::toolchain::{TARGET, Toolchain};
use crate::{object_file, shell};

const PACKAGE: &str = "bindwatch-probe";
const BINARY: &str = "bindwatch-bpf";
const OBJECT: &str = "userspace/probe/bindwatch.bpf.o";
/// Beside the object: what it was built from and with.
const ORIGIN: &str = "userspace/probe/bindwatch.bpf.origin";

/// What an object was built from and with.
#[derive(PartialEq, Eq)]
struct Origin {
    sources: String,
    toolchain: String,
}

impl Origin {
    fn read() -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(root().join(ORIGIN))
            .with_context(|| format!("{ORIGIN} cannot be read: run `cargo xtask build-ebpf`"))?;
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.map(str::to_owned).with_context(|| format!("{ORIGIN} has no line \"{name}: …\""))
        };
        Ok(Self { sources: field("sources")?, toolchain: field("toolchain")? })
    }

    fn text(&self) -> String {
        format!("sources: {}\ntoolchain: {}\n", self.sources, self.toolchain)
    }
}

/// Builds the object and puts it in its place.
pub(crate) fn build_and_store() -> anyhow::Result<()> {
    setup::parts(&[Part::Toolchain])?;
    let toolchain = Toolchain::choose(Origin::read().ok().as_ref().map(|origin| origin.toolchain.as_str()))?;
    let object = build(&toolchain, Warnings::Shown)?;
    let origin = Origin { sources: digest_sources()?, toolchain: toolchain.describe()? };
    let place = root().join(OBJECT);
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    std::fs::write(&place, &object).with_context(|| format!("cannot write {OBJECT}"))?;
    std::fs::write(root().join(ORIGIN), origin.text()).with_context(|| format!("cannot write {ORIGIN}"))?;
    println!("{OBJECT}: {} bytes, {}", object.len(), origin.toolchain);
    Ok(())
}

/// Builds the object elsewhere and compares.
pub(crate) fn check() -> anyhow::Result<()> {
    const REMEDY: &str = "run `cargo xtask build-ebpf` and commit userspace/probe/";
    let stored =
        std::fs::read(root().join(OBJECT)).with_context(|| format!("{OBJECT} cannot be read: {REMEDY}"))?;
    let origin = Origin::read()?;
    let toolchain = Toolchain::choose(Some(&origin.toolchain))?;
    let built = build(&toolchain, Warnings::Refused)?;
    if origin.sources != digest_sources()? {
        bail!("{OBJECT} is older than probe-ebpf/: {REMEDY}");
    }
    let here = toolchain.describe()?;
    if here != origin.toolchain {
        // Another compiler gives other bytes from the same sources; they were compiled above, and are the recorded ones.
        println!(
            "{OBJECT}: sources unchanged since it was built; bytes not compared, it was built by another toolchain\n  \
             there: {}\n  here:  {here}",
            origin.toolchain
        );
        return Ok(());
    }
    if stored != built {
        let at = stored.iter().zip(&built).take_while(|(one, other)| one == other).count();
        bail!(
            "{OBJECT} ({} bytes) is not what its sources give ({} bytes, first difference at byte {at}): {REMEDY}",
            stored.len(),
            built.len()
        );
    }
    println!("{OBJECT}: {} bytes, as its sources give", stored.len());
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Warnings {
    Shown,
    Refused,
}

/// Compiles the probe and returns the object, without debug sections.
fn build(toolchain: &Toolchain, warnings: Warnings) -> anyhow::Result<Vec<u8>> {
    let folder = shell::target_dir().join("bpf");
    let mut cargo = toolchain.cargo_build()?;
    cargo.args(["--quiet", "--locked", "--package", PACKAGE, "--bin", BINARY, "--features", "programs"]);
    cargo.arg("--target-dir").arg(&folder);
    // Not by `-D warnings`: a flag more is another crate hash, and another order of what is linked.
    let said = shell::run_heard(&mut cargo)?;
    if warnings == Warnings::Refused && said.lines().any(|line| line.starts_with("warning")) {
        bail!("the probe compiles with warnings");
    }
    let file = folder.join(TARGET).join("release").join(BINARY);
    let linked = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    object_file::without_dwarf(&linked)
}

/// SHA-256 over the names and contents of everything in `probe-ebpf/` that the compiler reads.
fn digest_sources() -> anyhow::Result<String> {
    let mut files = vec![PathBuf::from("probe-ebpf/Cargo.toml")];
    list_rust(Path::new("probe-ebpf/src"), &mut files)?;
    files.sort();
    let mut listing = Vec::new();
    for file in files {
        let content =
            std::fs::read(root().join(&file)).with_context(|| format!("cannot read {}", file.display()))?;
        writeln!(listing, "{} {}", file.display(), content.len())?;
        listing.extend_from_slice(&content);
    }
    let mut child = shell::command("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("sha256sum cannot be started: install coreutils")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&listing).context("sha256sum stopped reading")?;
    }
    let output = child.wait_with_output().context("sha256sum did not end")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
}

fn list_rust(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(root().join(folder))
        .with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list_rust(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
