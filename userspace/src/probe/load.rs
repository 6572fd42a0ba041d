//! Loading and attaching.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use bindwatch_probe::abi::config::{ABSENT, Offsets};
use bindwatch_probe::abi::policy::related_by;
use bindwatch_probe::abi::{ABI_SYMBOL, ABI_VERSION, RING_BYTES, RING_KEPT, only_conflicts};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::chroot;

use super::btf::with_functions;
use super::guard::{GuardLink, census, guard_programs};
use super::hooks::{Attach, HOOKS, Hook, Need, OF_SHARED_PORTS};
use super::offsets::{Listings, Resolved};
use super::preload::{detach_together, load, load_together};
use super::refusal::{chain, io_error, reason};
use super::standing::Rules;
use super::{Backend, ProbeError, backend, offsets, surroundings, syscall, tracefs};
use crate::ledger::RelatedBy;
use crate::{cgroup2, wire};

/// The compiled probe; `cargo xtask build-ebpf` makes it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../probe/bindwatch.bpf.o");

/// The trace events of system calls: what [`Backend::Tracepoint`] is made of.
const SYSCALLS: &str = "syscalls";

/// Of no use where the end of the call tells as much: any beginning that is watched slows every system call.
const SYS_ENTER_CONNECT: &str = "sys_enter_connect";

/// Those of io_uring.
const IO_URING: &str = "io_uring";

/// aya-log's level global: 0 is off, 4 is debug.
const LOG_LEVEL_SYMBOL: &str = "AYA_LOG_LEVEL";

/// Entries of the maps that nobody reads when only some programs are attached; some are allocated up front.
const UNUSED_ENTRIES: u32 = 128;

/// A directory in which there is no `sys/kernel/btf/vmlinux`.
const TYPES_DIRECTORY: &str = "/sys/kernel/btf";

/// How to load.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Size of the event ring, bytes; a power of two.
    pub ring_bytes: u32,
    /// Attach what tells errnos.
    pub errno: bool,
    /// What tells them; None: the best that this kernel takes.
    pub backend: Option<Backend>,
    /// Let the programs' own diagnostics through.
    pub diagnostics: bool,
    /// Make room for what the guard decides with ([`Probe::guard`]), and what it is to do.
    pub guard: Guarding,
    /// By which rule it decides who is related.
    pub related_by: RelatedBy,
    /// Tell only binds on ports that another socket has as well, and calls that fail.
    pub only_conflicts: bool,
    /// Attach these programs of [`HOOKS`] and no others, each of which is needed then. None attaches all.
    pub only: Option<&'static [&'static str]>,
}

/// What is done about binds that conflict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guarding {
    /// Nothing: the guard is not loaded.
    #[default]
    Off,
    /// They are told.
    DryRun,
    /// They are refused.
    Deny,
    /// They are refused before they have a port, where the kernel cannot do better ([`super::Denial`]).
    Check,
}

impl Options {
    fn wants(&self, hook: &Hook) -> bool {
        self.only.is_none_or(|only| only.contains(&hook.name))
    }

    /// Whether something is attached that only tracefs tells the id of.
    fn wants_tracefs(&self) -> bool {
        HOOKS.iter().any(|hook| {
            self.wants(hook)
                && matches!(hook.attach, Attach::Tracepoint(_))
                && (self.errno || !matches!(hook.need, Need::Errno(_)))
        })
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ring_bytes: RING_BYTES,
            errno: true,
            backend: None,
            diagnostics: false,
            guard: Guarding::Off,
            related_by: RelatedBy::Lineage,
            only_conflicts: false,
            only: None,
        }
    }
}

/// A program that is not attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which.
    pub hook: &'static str,
    /// Why.
    pub reason: String,
    /// What is not seen without it.
    pub costs: &'static str,
}

/// A program that is not attached, and is not missed, or is for what few kernels have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needless {
    /// Which.
    pub hook: &'static str,
    /// Why nothing is missed, or what the kernel has not.
    pub reason: String,
    /// What is not seen without it.
    pub costs: Option<&'static str>,
}

impl Needless {
    fn new(hook: &Hook, reason: &str) -> Self {
        Self { hook: hook.name, reason: reason.to_owned(), costs: None }
    }
}

/// What became of each program.
#[derive(Clone, Debug, Default)]
pub struct Attached {
    /// Names of the attached ones, in order.
    pub hooks: Vec<&'static str>,
    /// The others.
    pub refused: Vec<Refused>,
    /// Those that are not attached and miss nothing, or little.
    pub needless: Vec<Needless>,
    /// What tells how calls end; None with `--errno off`.
    pub backend: Option<Backend>,
    /// Better ones that this kernel does not take, and why.
    pub passed_over: Vec<(Backend, String)>,
}

impl Attached {
    /// Why a backend is not usable, where it is not.
    #[must_use]
    pub fn refusal(&self, backend: Backend) -> Option<&str> {
        if backend == Backend::Tracepoint {
            let refused = self.refused.iter().find(|refused| refused.hook == "sys_exit_bind");
            return refused.map(|refused| refused.reason.as_str());
        }
        self.passed_over.iter().find(|(passed, _)| *passed == backend).map(|(_, reason)| reason.as_str())
    }
}

/// The loaded probe. Dropping it detaches everything.
pub struct Probe {
    pub(super) ebpf: Ebpf,
    /// In which programs find the functions that they attach to, until all are attached.
    pub(super) types: Option<Btf>,
    /// What lists descriptors.
    pub(super) listings: Listings,
    /// The functions that carry calls out, as far as the kernel has them.
    pub(super) inside: backend::Found,
    /// What a program at the security modules' hook attaches to, where that exists.
    pub(super) lsm_function: Option<u32>,
    /// A 32-bit system call is told from others.
    pub(super) knows_compat: bool,
    /// io_uring of this kernel can bind (6.11).
    pub(super) binds_by_uring: bool,
    /// The end of a system call still knows its arguments: nothing needs to be attached to its beginning.
    pub(super) ends_know_arguments: bool,
    pub(super) attached: Attached,
    /// The programs of [`OF_SHARED_PORTS`] are still to be attached.
    waits_for_shared_ports: bool,
    pub(super) guarding: Guarding,
    /// The kernel's iterators take no lock.
    pub(super) plain_census: bool,
    pub(super) guard_links: Vec<GuardLink>,
    /// The recording's at the root of the hierarchy, by name. In the place of some the guard puts others.
    pub(super) root_links: Vec<(&'static str, OwnedFd)>,
    /// Where the hashes of paths begin that the guard compares.
    pub(super) seed: u64,
}

impl Probe {
    /// Loads the object, without attaching anything.
    ///
    /// # Errors
    /// Without privileges, without BTF, or on a kernel older than 5.8.
    pub fn load(options: &Options) -> Result<Self, ProbeError> {
        surroundings::mounted()?;
        if surroundings::in_user_namespace() {
            return Err(ProbeError::UserNamespace);
        }
        if !nix::unistd::geteuid().is_root() && !missing_capabilities().is_empty() {
            return Err(ProbeError::NotPermitted);
        }
        // Said before the kernel says it in its own way: that it does not know a function.
        if surroundings::lockdown().as_deref() == Some("confidentiality") {
            return Err(ProbeError::LockedDown);
        }
        // Beside each other, here and below: each takes some milliseconds, and neither needs what the other makes.
        let (resolved, loader) = std::thread::scope(|scope| {
            let loader = scope.spawn(loader);
            (offsets::resolve(), loader.join().ok().flatten())
        });
        let resolved = resolved?;
        let functions = resolved.functions();
        let Resolved { mut offsets, listings, inside, lsm_function, binds_by_uring } = resolved;
        let needed: &[u32] = match options.related_by {
            _ if options.guard == Guarding::Off => &[],
            RelatedBy::Lineage | RelatedBy::Process => &[],
            RelatedBy::Session => &[offsets.signal_session, offsets.pid_nr],
            RelatedBy::Cgroup => {
                &[offsets.task_cgroups, offsets.css_set_dfl_cgrp, offsets.cgroup_kn, offsets.kernfs_id]
            }
            RelatedBy::User => &[offsets.task_cred, offsets.cred_uid],
        };
        if needed.contains(&ABSENT) {
            let reason = "its types do not show what --related-by compares".to_owned();
            return Err(ProbeError::Guard { hook: "guard_bind4", reason });
        }
        if options.errno {
            tracefs::with(|visible| {
                if let Ok(path) = visible {
                    offsets::add_uring(&mut offsets, path);
                }
            });
        }
        let (ebpf, types) = std::thread::scope(|scope| {
            let types = scope.spawn(|| options.only.is_none().then(|| with_functions(&functions)));
            let loader = loader.unwrap_or_else(EbpfLoader::new);
            (load_object(loader, options, &offsets), types.join().ok().flatten())
        });
        Ok(Self {
            ebpf: ebpf?,
            types,
            listings,
            inside,
            binds_by_uring,
            lsm_function,
            knows_compat: offsets.task_status != ABSENT,
            ends_know_arguments: offsets.task_pt_regs != ABSENT,
            attached: Attached::default(),
            waits_for_shared_ports: options.only_conflicts && options.guard == Guarding::Off,
            guarding: options.guard,
            plain_census: false,
            guard_links: Vec::new(),
            root_links: Vec::new(),
            seed: Rules::seed(),
        })
    }

    /// Loads and attaches everything this kernel takes.
    ///
    /// # Errors
    /// As [`Probe::load`], and when a program of the core is refused.
    pub fn attach(options: &Options) -> Result<Self, ProbeError> {
        let mut probe = Self::load(options)?;
        let root = cgroup2::mount_point().ok_or(ProbeError::NoCgroup2)?;
        let cgroup = open_root(&root)?;
        let attached = if options.wants_tracefs() {
            tracefs::with(|visible| probe.attach_all(&cgroup, visible.err().as_deref(), options))
        } else {
            probe.attach_all(&cgroup, None, options)
        };
        attached.map_err(surroundings::plainly)?;
        Ok(probe)
    }

    /// Tries each program without leaving it attached: what `doctor` shows.
    ///
    /// # Errors
    /// As [`Probe::load`].
    pub fn try_all(options: &Options) -> Result<Attached, ProbeError> {
        let mut probe = Self::load(options)?;
        let root = cgroup2::mount_point().ok_or(ProbeError::NoCgroup2)?;
        let cgroup = open_root(&root)?;
        for backend in [Backend::Fexit, Backend::Kprobe] {
            match probe.try_backend(backend) {
                Ok(()) => probe.attached.backend = probe.attached.backend.or(Some(backend)),
                Err(reason) => probe.attached.passed_over.push((backend, reason)),
            }
        }
        probe.attached.backend = probe.attached.backend.or(Some(Backend::Tracepoint));
        tracefs::with(|visible| {
            let no_tracefs = visible.err();
            for hook in &HOOKS {
                if let Some(reason) = probe.needless(hook, false) {
                    probe.attached.needless.push(Needless::new(hook, reason));
                    continue;
                }
                let outcome = probe.attach_one(hook, &cgroup, no_tracefs.as_deref());
                probe.note(hook, outcome);
            }
        });
        probe.forget_types();
        if probe.attached.refused.iter().any(|refused| surroundings::is_by_lockdown(&refused.reason)) {
            return Err(ProbeError::LockedDown);
        }
        Ok(std::mem::take(&mut probe.attached))
    }

    /// What is attached and what is not.
    #[must_use]
    pub const fn attached(&self) -> &Attached {
        &self.attached
    }

    /// The programs' own diagnostics, forwarded to the `log` crate. None when the object was loaded without them.
    pub fn logger(&mut self) -> Option<EbpfLogger<&'static dyn log::Log>> {
        EbpfLogger::init(&mut self.ebpf).ok()
    }

    fn attach_all(
        &mut self,
        cgroup: &File,
        no_tracefs: Option<&str>,
        options: &Options,
    ) -> Result<(), ProbeError> {
        let backend = match options.errno && options.only.is_none() {
            true => Some(self.attach_backend(options.backend)?),
            false => None,
        };
        let is_inside = backend.is_some_and(Backend::is_inside);
        let here = |hook: &Hook| {
            (options.errno || !matches!(hook.need, Need::Errno(_)))
                && self.needless(hook, is_inside).is_none()
                && (no_tracefs.is_none() || !matches!(hook.attach, Attach::Tracepoint(_)))
                // By itself: it names what it is attached to when it is loaded.
                && hook.attach != Attach::Lsm
        };
        let wanted = HOOKS.iter().filter(|hook| options.wants(hook) && here(hook));
        let hooks: Vec<&str> = wanted.map(|hook| hook.name).collect();
        // What takes longest first: of the guard, then what lists descriptors.
        let listings: Vec<_> = self.listings.first().into_iter().chain(census(self.guarding)).collect();
        let guard = guard_programs(self.guarding, &hooks);
        let names: Vec<&str> = guard
            .chain(listings.iter().rev().map(|listing| listing.program))
            .chain(hooks.iter().copied())
            .collect();
        load_together(&mut self.ebpf, &names, &listings, self.types.as_ref());
        for hook in HOOKS.iter().filter(|hook| options.wants(hook)) {
            if let Some(reason) = self.needless(hook, is_inside) {
                self.attached.needless.push(Needless::new(hook, reason));
                continue;
            }
            if !options.errno && matches!(hook.need, Need::Errno(_)) {
                self.note(hook, Err("switched off (--errno off)".to_owned()));
                continue;
            }
            if self.waits_for_shared_ports && OF_SHARED_PORTS.contains(&hook.name) {
                let reason = "attached when two sockets share a port";
                self.attached.needless.push(Needless::new(hook, reason));
                continue;
            }
            let outcome = self.attach_one(hook, cgroup, no_tracefs);
            if outcome.is_err() && is_inside && hook.attach == Attach::Tracepoint(IO_URING) {
                // Only which door it was is not known then.
                continue;
            }
            let needed = hook.need == Need::Core || options.only.is_some();
            if let (true, Err(reason)) = (needed, &outcome) {
                return Err(ProbeError::Core { hook: hook.name, reason: reason.clone() });
            }
            self.note(hook, outcome);
        }
        self.forget_types();
        Ok(())
    }

    /// Nothing is left to be found in them. That takes a millisecond, which is another thread's, where one can be had.
    fn forget_types(&mut self) {
        let types = self.types.take();
        let thread = std::thread::Builder::new().name("types".to_owned());
        let _ = thread.spawn(move || drop(types));
    }

    /// Two sockets share a port: attaches what tells how they go on ([`Options::only_conflicts`]). Whether that was still to be
    /// done: what became of them until now is not told.
    ///
    /// # Errors
    /// When the kernel refuses a program without which nothing can be recorded.
    pub fn attach_for_shared_ports(&mut self) -> Result<bool, ProbeError> {
        if !std::mem::take(&mut self.waits_for_shared_ports) {
            return Ok(false);
        }
        let root = cgroup2::mount_point().ok_or(ProbeError::NoCgroup2)?;
        let cgroup = open_root(&root)?;
        for hook in HOOKS.iter().filter(|hook| OF_SHARED_PORTS.contains(&hook.name)) {
            match self.attach_one(hook, &cgroup, None) {
                Err(reason) if hook.need == Need::Core => {
                    return Err(ProbeError::Core { hook: hook.name, reason });
                }
                Err(reason) => log::warn!("{} cannot be attached: {reason}", hook.name),
                Ok(()) => log::debug!("{} is attached", hook.name),
            }
        }
        Ok(true)
    }

    /// What else tells what a program would, if anything does.
    fn needless(&self, hook: &Hook, is_inside: bool) -> Option<&'static str> {
        if self.ends_know_arguments && hook.name == SYS_ENTER_CONNECT {
            return Some("the end of the call tells it on this kernel");
        }
        (is_inside && hook.attach == Attach::Tracepoint(SYSCALLS)).then_some("the backend tells it")
    }

    fn note(&mut self, hook: &Hook, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.attached.hooks.push(hook.name),
            Err(_) if hook.attach == Attach::Tracepoint(IO_URING) && !self.binds_by_uring => {
                self.attached.needless.push(Needless::new(hook, "this kernel cannot bind through io_uring"));
            }
            Err(reason) => {
                let (Need::Extra(costs) | Need::Errno(costs)) = hook.need else {
                    self.attached.refused.push(Refused {
                        hook: hook.name,
                        reason,
                        costs: "nothing can be recorded",
                    });
                    return;
                };
                if hook.attach == Attach::Lsm {
                    self.attached.needless.push(Needless { hook: hook.name, reason, costs: Some(costs) });
                } else {
                    self.attached.refused.push(Refused { hook: hook.name, reason, costs });
                }
            }
        }
    }

    fn attach_one(&mut self, hook: &Hook, cgroup: &File, no_tracefs: Option<&str>) -> Result<(), String> {
        if let (Attach::Tracepoint(_), Some(reason)) = (hook.attach, no_tracefs) {
            return Err(reason.to_owned());
        }
        log::debug!("loading {}", hook.name);
        if hook.attach == Attach::Lsm {
            return self.attach_lsm();
        }
        let program = self.ebpf.program_mut(hook.name).ok_or("it is not in the object")?;
        load(program, None).map_err(|error| reason(&error))?;
        if let Attach::Cgroup(attach_type) = hook.attach {
            let program = program.fd().map_err(|error| reason(&error))?;
            let link = syscall::link(program.as_fd(), cgroup, attach_type);
            self.root_links.push((hook.name, link.map_err(|error| error.to_string())?));
            return Ok(());
        }
        attach_to_event(program, hook).map_err(|error| reason(&error))
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        detach_together(&mut self.ebpf);
    }
}

fn attach_to_event(program: &mut Program, hook: &Hook) -> Result<(), ProgramError> {
    match (program, hook.attach) {
        (Program::RawTracePoint(program), _) => program.attach(hook.name).map(drop),
        (Program::TracePoint(program), Attach::Tracepoint(category)) => {
            program.attach(category, hook.name).map(drop)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn load_object(
    loader: EbpfLoader<'static>,
    options: &Options,
    offsets: &Offsets,
) -> Result<Ebpf, ProbeError> {
    let level: u8 = if options.diagnostics { 4 } else { 0 };
    let words = wire::offset_words(offsets);
    let related_by = match options.related_by {
        RelatedBy::Lineage => related_by::LINEAGE,
        RelatedBy::Process => related_by::PROCESS,
        RelatedBy::Session => related_by::SESSION,
        RelatedBy::Cgroup => related_by::CGROUP,
        RelatedBy::User => related_by::USER,
    };
    let dry_run = u32::from(options.guard == Guarding::DryRun);
    let conflicts = match (options.only_conflicts, options.guard) {
        (false, _) => only_conflicts::NO,
        (true, Guarding::Off) => only_conflicts::YES,
        (true, _) => only_conflicts::WHOLE_ATTEMPTS,
    };
    let kept = u64::from(options.ring_bytes / RING_KEPT);
    let most = |kept| u64::from(options.ring_bytes) - kept;
    let (routine_most, process_most) = (most(kept), most(kept / 2));
    let mut loader: EbpfLoader<'_> = loader;
    loader
        // The object has no relocations against the kernel's types.
        .btf(None)
        .override_global(ABI_SYMBOL, &ABI_VERSION, true)
        .override_global("OFFSETS", words.as_slice(), true)
        .override_global("DRY_RUN", &dry_run, true)
        .override_global("RELATED_BY", &related_by, true)
        .override_global("ONLY_CONFLICTS", &conflicts, true)
        .override_global("ROUTINE_MOST", &routine_most, true)
        .override_global("PROCESS_MOST", &process_most, true)
        .override_global(LOG_LEVEL_SYMBOL, &level, false)
        .map_max_entries("RING", options.ring_bytes);
    if options.guard == Guarding::Off {
        // Made with the object, whether or not the guard is attached.
        for map in ["KIN", "CLAIMED", "CLAIMED_SETS", "CLAIMS", "PATTERNS", "PLACES", "SUPERVISORS"] {
            loader.map_max_entries(map, 1);
        }
    }
    if !options.only_conflicts {
        loader.map_max_entries("WATCHED", 1);
    }
    if options.only.is_some() {
        // Made with the object, whether or not a program uses them. A listen() makes an attempt of its thread, which
        // only the exit of the thread would remove.
        for map in
            ["ATTEMPTS", "CONNECT_OWNERS", "ACCEPTED", "URING_REQUESTS", "URING_SUBMITTERS", "URING_ATTEMPTS"]
        {
            loader.map_max_entries(map, UNUSED_ENTRIES);
        }
    }
    loader.load(OBJECT).map_err(|error| match io_error(&error) {
        Some(nix::libc::EPERM) => ProbeError::NotPermitted,
        _ => ProbeError::Object { reason: chain(&error) },
    })
}

/// A loader that has not read the kernel's types.
///
/// When it is made it reads and parses all of them, whether or not they are needed: more than half of the time that
/// everything else takes here. So it is made by a thread to which that file is not there: for a thread of its own, whose root
/// this changes. Where that cannot be done (CAP_SYS_CHROOT is missing) there is None, and one made elsewhere takes longer and
/// comes to the same.
fn loader() -> Option<EbpfLoader<'static>> {
    unshare(CloneFlags::CLONE_FS).and_then(|()| chroot(TYPES_DIRECTORY)).ok()?;
    Some(EbpfLoader::new())
}

pub(super) fn open_root(path: &Path) -> Result<File, ProbeError> {
    File::open(path).map_err(|source| ProbeError::Cgroup2 { path: path.display().to_string(), source })
}

/// The capabilities that this process would need and does not have, as users name them.
#[must_use]
pub fn missing_capabilities() -> Vec<&'static str> {
    const NEEDED: [(u32, &str); 3] = [(39, "CAP_BPF"), (38, "CAP_PERFMON"), (12, "CAP_NET_ADMIN")];
    const CAP_SYS_ADMIN: u32 = 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    // CAP_BPF and CAP_PERFMON are parts of CAP_SYS_ADMIN, and CAP_NET_ADMIN is not.
    let has = |cap: u32| bits & 1 << cap != 0 || cap != 12 && bits & 1 << CAP_SYS_ADMIN != 0;
    NEEDED.into_iter().filter(|(cap, _)| !has(*cap)).map(|(_, name)| name).collect()
}

/// Large blocks become mappings of their own, which go back to the kernel when they are freed, whichever thread had them.
/// glibc would raise that bound with the first of them (the kernel's types), and keep the next in the arena of a thread,
/// which [`release_memory`] does not reach (mallopt(3), `M_MMAP_THRESHOLD`).
#[expect(unsafe_code, reason = "there is no safe wrapper")]
pub fn map_large_blocks() {
    /// Bytes.
    #[cfg(target_env = "gnu")]
    const LARGE: nix::libc::c_int = 1 << 20;
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) sets a number of the allocator, under its lock; blocks that exist stay as they are.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives memory back that loading needed: the kernel's types are read as one large block, and what is freed would
/// otherwise stay with the process for good.
#[expect(unsafe_code, reason = "there is no safe wrapper")]
pub fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time; it only returns free pages to the kernel.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
