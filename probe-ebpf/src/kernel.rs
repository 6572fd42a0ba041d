//! Reading kernel memory at offsets that were resolved from BTF when bindwatch started.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated;
use bindwatch_probe::abi::ABI_VERSION;
use bindwatch_probe::abi::config::{ABSENT, BitField, Offsets};

/// Named after [`ABI_VERSION`]: the loader asks for the symbol of its own version and so refuses another object.
#[unsafe(no_mangle)]
static BINDWATCH_ABI_6: u32 = ABI_VERSION;

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
    unsafe { core::ptr::read_volatile(&raw const BINDWATCH_ABI_6) }
}

impl Addr {
    /// The object that a context pointer stands for.
    ///
    /// In cgroup programs the context (or `ctx->sk`) *is* the kernel's `struct sock`, but the verifier restricts what
    /// may be read through it. Of a pointer whose bytes were swapped it says no more than that it is some number, where
    /// addresses need not be hidden (CAP_PERFMON); swapped back, it is the address. Kernel: `check_alu_op`, BPF_END.
    #[inline(always)]
    pub fn of_pointer<T>(pointer: *const T) -> Self {
        // Behind a box, or the compiler sees that both together do nothing.
        Self(core::hint::black_box((pointer as u64).swap_bytes()).swap_bytes())
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
        bits_of(self.read::<u8>(field.byte), field)
    }

    /// The first bytes of the object, read at once: a read costs as much as the next fifty bytes of it.
    #[inline(always)]
    pub fn read_front<const WORDS: usize>(self) -> Front<WORDS> {
        let mut words = MaybeUninit::<[u64; WORDS]>::uninit();
        // SAFETY: as in `read`: the helper fills all of it, whatever happens.
        let words = unsafe {
            generated::bpf_probe_read_kernel(
                words.as_mut_ptr().cast(),
                size_of::<[u64; WORDS]>() as u32,
                self.0 as *const _,
            );
            words.assume_init()
        };
        Front { of: self, words }
    }
}

/// A bit field of a byte that holds it, shifted down.
#[inline(always)]
pub fn bits_of(byte: u8, field: BitField) -> u32 {
    (u32::from(byte) >> (field.shift & 7)) & field.mask
}

/// The first bytes of an object of the kernel.
pub struct Front<const WORDS: usize> {
    of: Addr,
    words: [u64; WORDS],
}

impl<const WORDS: usize> Front<WORDS> {
    /// The field at `offset`, which lies on a multiple of its size; read on its own where it lies behind these bytes.
    #[inline(always)]
    pub fn get<T: Copy + Default>(&self, offset: u32) -> T {
        if offset as usize > size_of::<[u64; WORDS]>() - size_of::<T>() {
            return self.of.read(offset);
        }
        // SAFETY: within the words, and aligned, as T is an integer; the offset is a constant to the verifier.
        unsafe { (&raw const self.words).byte_add(offset as usize).cast::<T>().read() }
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
