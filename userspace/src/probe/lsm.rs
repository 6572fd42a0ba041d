//! The program at the hook of the kernel's security modules: what no cgroup program is run for.

use aya::programs::Program;

use super::refusal::reason;
use super::{Probe, surroundings};

/// The hook, as programs are attached to it.
const HOOK: &str = "socket_setsockopt";
/// The function that stands for it, where BPF can be a security module (5.7, CONFIG_BPF_LSM).
pub(super) const FUNCTION: &str = "bpf_lsm_socket_setsockopt";

impl Probe {
    /// Loads and attaches it, where BPF is among the security modules: elsewhere the kernel takes it and never runs it.
    pub(super) fn attach_lsm(&mut self) -> Result<(), String> {
        if !self.knows_compat {
            return Err("32-bit system calls are not told apart on this processor".to_owned());
        }
        self.lsm_function.ok_or("this kernel has no BPF LSM (CONFIG_BPF_LSM)")?;
        if surroundings::security_modules().is_some_and(|modules| !modules.split(',').any(|one| one == "bpf"))
        {
            return Err("bpf is not among the security modules of this kernel (lsm=)".to_owned());
        }
        let (Some(Program::Lsm(program)), Some(types)) = (self.ebpf.program_mut(HOOK), &self.types) else {
            return Err("it is not in the object".to_owned());
        };
        program.load(HOOK, types).and_then(|()| program.attach().map(drop)).map_err(|error| reason(&error))
    }
}
