//! The kernel's description of its types, as bytes.

use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZero;
use std::ops::Deref;
use std::ptr::NonNull;

use nix::libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Where it is (`CONFIG_DEBUG_INFO_BTF`).
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The bytes of [`VMLINUX`]: where they lie in the kernel (6.16), or read a page at a time, which takes ten times as long and room
/// for all of them.
pub(super) enum Types {
    /// Where they lie.
    Mapped { address: NonNull<c_void>, len: NonZero<usize> },
    /// A copy.
    Read(Vec<u8>),
}

impl Types {
    /// Those of the running kernel.
    ///
    /// # Errors
    /// Where it does not describe them.
    pub(super) fn of_kernel() -> io::Result<Self> {
        let mut file = File::open(VMLINUX)?;
        if let Some(mapped) = Self::map(&file) {
            return Ok(mapped);
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Self::Read(bytes))
    }

    /// None where it cannot be mapped (`btf_sysfs_vmlinux_mmap`, kernel/bpf/sysfs_btf.c).
    #[expect(unsafe_code, reason = "memory is mapped")]
    fn map(file: &File) -> Option<Self> {
        let len = NonZero::new(usize::try_from(file.metadata().ok()?.len()).ok()?)?;
        // SAFETY: a new mapping at an address of the kernel's choice, of a file that never changes and never gets shorter; nothing
        // else refers to it.
        let address =
            unsafe { mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0) }.ok()?;
        Some(Self::Mapped { address, len })
    }
}

impl Deref for Types {
    type Target = [u8];

    #[expect(unsafe_code, reason = "memory is mapped")]
    fn deref(&self) -> &[u8] {
        match self {
            // SAFETY: mapped as long as self lives, readable, and written by nobody.
            Self::Mapped { address, len } => unsafe {
                std::slice::from_raw_parts(address.cast::<u8>().as_ptr(), len.get())
            },
            Self::Read(bytes) => bytes,
        }
    }
}

impl Drop for Types {
    #[expect(unsafe_code, reason = "memory is mapped")]
    fn drop(&mut self) {
        if let Self::Mapped { address, len } = self {
            // SAFETY: mapped here, of this length, and borrowed by nobody any more.
            let _unmapped = unsafe { munmap(*address, len.get()) };
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn mapped_or_read_they_are_the_same() {
        let types = Types::of_kernel().unwrap();
        assert!(*types == *std::fs::read(VMLINUX).unwrap());
    }
}
