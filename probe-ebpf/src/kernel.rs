//! Reading kernel memory at offsets that were resolved from BTF when bindwatch started.

use aya_ebpf::helpers::generated;
use bindwatch_probe::abi::ABI_VERSION;
use bindwatch_probe::abi::config::{ABSENT, BitField, Offsets};

/// Named after [`ABI_VERSION`]: the loader asks for the symbol of its own version and so refuses another object.
#[unsafe(no_mangle)]
static BINDWATCH_ABI_4: u32 = ABI_VERSION;

/// Filled by the loader before the programs are verified, so that the verifier sees constants.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets::NONE;

/// An address in the kernel, taken as a plain number. Only ever read through `bpf_probe_read_kernel`, which fails
/// softly on a bad address.
#[derive(Clone, Copy)]
pub struct Addr(pub u64);

/// The resolved offset of one field of [`Offsets`].
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: OFFSETS is initialised, never written, and lives as long as the program. The load is volatile
        // because the loader overrides the value that the compiler sees.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::OFFSETS.$field) }
    };
}
pub(crate) use offset;

/// Keeps the ABI symbol in the object: called once, where it costs least.
#[inline(always)]
pub fn keep_abi() -> u32 {
    // SAFETY: as for OFFSETS.
    unsafe { core::ptr::read_volatile(&raw const BINDWATCH_ABI_4) }
}

impl Addr {
    /// The object that a context pointer stands for.
    ///
    /// In cgroup programs the context (or `ctx->sk`) *is* the kernel's `struct sock`, but the verifier restricts what
    /// may be read through it. Spilled to the stack and read back, it is a number.
    #[inline(always)]
    pub fn of_pointer<T>(pointer: *const T) -> Self {
        let slot = pointer as u64;
        let mut number = 0u64;
        // SAFETY: reads eight bytes of our own stack into eight others.
        unsafe {
            generated::bpf_probe_read_kernel(
                (&raw mut number).cast(),
                size_of::<u64>() as u32,
                core::ptr::from_ref(core::hint::black_box(&slot)).cast(),
            );
        }
        Self(number)
    }

    /// The field at `offset`, or zero when the kernel does not have it or the address is bad.
    #[inline(always)]
    pub fn read<T: Copy + Default>(self, offset: u32) -> T {
        let mut value = T::default();
        if offset != ABSENT {
            // SAFETY: the helper checks the address, and writes zeros where it cannot be read: its result needs no
            // branch, and each branch doubles what the verifier of an older kernel has to follow. T is an integer or an
            // array of bytes, for which every pattern is a value.
            unsafe {
                generated::bpf_probe_read_kernel(
                    (&raw mut value).cast(),
                    size_of::<T>() as u32,
                    (self.0 + u64::from(offset)) as *const _,
                );
            }
        }
        value
    }

    /// The sixteen bytes at `offset`, or zeros. Two words, not an array of bytes: the compiler would clear that with a
    /// loop, and Linux 5.10 refuses a program when it cannot follow its loops in a million steps.
    #[inline(always)]
    pub fn read_16(self, offset: u32) -> [u8; 16] {
        if offset == ABSENT {
            return bytes_16(0, 0);
        }
        bytes_16(self.read(offset), self.read(offset + 8))
    }

    /// The pointer at `offset`.
    #[inline(always)]
    pub fn follow(self, offset: u32) -> Self {
        Self(self.read(offset))
    }

    /// The bit field, shifted down.
    #[inline(always)]
    pub fn bits(self, field: BitField) -> u32 {
        (u32::from(self.read::<u8>(field.byte)) >> (field.shift & 7)) & field.mask
    }
}

/// Sixteen bytes, as they lie in memory.
#[inline(always)]
pub fn bytes_16(first: u64, second: u64) -> [u8; 16] {
    // SAFETY: both are sixteen bytes of plain data.
    unsafe { core::mem::transmute([first, second]) }
}

/// `CLOCK_BOOTTIME` in ns (5.8).
#[inline(always)]
pub fn boottime() -> u64 {
    // SAFETY: takes no arguments.
    unsafe { generated::bpf_ktime_get_boot_ns() }
}
