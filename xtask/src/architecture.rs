//! The machines that bindwatch is built for, and what it takes here to build for one, to start its programs and to boot its
//! kernels.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::shell;

/// A kind of machine.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// Its name for users, Rust and RPM: that of `uname -m`.
    pub(crate) name: &'static str,
    /// Debian's name of it.
    pub(crate) debian: &'static str,
    /// What is built: with glibc, and static.
    pub(crate) target: &'static str,
    /// How Debian's compilers and libraries for it are called.
    pub(crate) gnu: &'static str,
    /// Its C library for those who build on another machine, and the package of its compiler.
    pub(crate) cross: [&'static str; 2],
    /// The program loader of its libraries.
    pub(crate) loader: &'static str,
    /// What boots its kernels, and the package of that.
    pub(crate) guest: (&'static str, &'static str),
    /// What starts one of its programs on another machine.
    pub(crate) user: &'static str,
}

/// Every one.
static ALL: [Architecture; 2] = [
    Architecture {
        name: "x86_64",
        debian: "amd64",
        target: "x86_64-unknown-linux-gnu",
        gnu: "x86_64-linux-gnu",
        cross: ["libc6-dev-amd64-cross", "gcc-x86-64-linux-gnu"],
        loader: "/lib64/ld-linux-x86-64.so.2",
        guest: ("qemu-system-x86_64", "qemu-system-x86"),
        user: "qemu-x86_64",
    },
    Architecture {
        name: "aarch64",
        debian: "arm64",
        target: "aarch64-unknown-linux-gnu",
        gnu: "aarch64-linux-gnu",
        cross: ["libc6-dev-arm64-cross", "gcc-aarch64-linux-gnu"],
        loader: "/lib/ld-linux-aarch64.so.1",
        guest: ("qemu-system-aarch64", "qemu-system-arm"),
        user: "qemu-aarch64",
    },
];

impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Architecture {}

impl Architecture {
    /// By the name that users give.
    pub(crate) fn named(name: &str) -> anyhow::Result<&'static Self> {
        Self::find(|one| one.name == name, name)
    }

    /// By Debian's name.
    pub(crate) fn of_debian(name: &str) -> anyhow::Result<&'static Self> {
        Self::find(|one| one.debian == name, name)
    }

    /// That of this machine.
    pub(crate) fn host() -> anyhow::Result<&'static Self> {
        Self::named(std::env::consts::ARCH)
    }

    fn find(is: impl Fn(&Self) -> bool, name: &str) -> anyhow::Result<&'static Self> {
        let known = || ALL.iter().map(|one| one.name).collect::<Vec<_>>().join(" and ");
        ALL.iter()
            .find(|one| is(one))
            .with_context(|| format!("not {name}: bindwatch is built for {}", known()))
    }

    /// Whether it is that of this machine.
    pub(crate) fn is_host(&self) -> bool {
        self.name == std::env::consts::ARCH
    }

    /// Whether the Rust at hand has a standard library for it.
    pub(crate) fn has_std(&self) -> anyhow::Result<bool> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let sysroot = shell::output(shell::command(rustc).args(["--print", "sysroot"]))?;
        Ok(Path::new(&sysroot).join("lib/rustlib").join(self.target).join("lib").is_dir())
    }

    /// A command of cargo's that builds for it, below `target/static`.
    pub(crate) fn cargo(&self, words: &[&str]) -> Command {
        let mut cargo = shell::cargo();
        cargo.args(words).args(["--locked", "--target", self.target, "--target-dir"]).arg(static_dir());
        if !self.is_host() {
            let name = self.target.to_uppercase().replace('-', "_");
            cargo.env(format!("CARGO_TARGET_{name}_LINKER"), format!("{}-gcc", self.gnu));
        }
        cargo
    }

    /// Where [`Self::cargo`] leaves what it built.
    pub(crate) fn built(&self) -> std::path::PathBuf {
        static_dir().join(self.target)
    }

    /// Starts a static program that is built for it.
    pub(crate) fn start(&self, program: &Path) -> Command {
        if self.is_host() {
            return shell::command(program);
        }
        let mut emulated = shell::command(self.user);
        emulated.arg(program);
        emulated
    }

    /// An error where a program needs a loader: it is not static.
    pub(crate) fn must_be_static(program: &Path) -> anyhow::Result<()> {
        let headers =
            shell::output(shell::command("readelf").args(["--program-headers", "--wide"]).arg(program))?;
        if headers.contains("INTERP") {
            bail!("{} is not static", program.display());
        }
        Ok(())
    }
}

fn static_dir() -> std::path::PathBuf {
    shell::target_dir().join("static")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_names_and_another_is_an_error_that_names_them() {
        for (name, debian) in [("x86_64", "amd64"), ("aarch64", "arm64")] {
            let one = Architecture::named(name).unwrap();
            assert_eq!(one, Architecture::of_debian(debian).unwrap());
            assert_eq!(one.is_host(), one == Architecture::host().unwrap());
        }
        let error = Architecture::named("riscv64").unwrap_err().to_string();
        assert_eq!(error, "not riscv64: bindwatch is built for x86_64 and aarch64");
    }

    #[test]
    fn another_machines_programs_are_linked_and_started_by_tools_of_their_own() {
        let other = ALL.iter().find(|one| !one.is_host()).unwrap();
        let started = other.start(Path::new("/bin/true"));
        assert_eq!((started.get_program(), started.get_args().count()), (other.user.as_ref(), 1));
        assert!(other.cargo(&["build"]).get_envs().any(|(name, linker)| {
            name.to_string_lossy().ends_with("_UNKNOWN_LINUX_GNU_LINKER")
                && linker.is_some_and(|linker| linker == format!("{}-gcc", other.gnu).as_str())
        }));
        let host = Architecture::host().unwrap();
        assert_eq!(host.start(Path::new("/bin/true")).get_program(), "/bin/true");
        assert!(
            host.cargo(&["build"]).get_envs().all(|(name, _)| !name.to_string_lossy().ends_with("_LINKER"))
        );
    }
}
