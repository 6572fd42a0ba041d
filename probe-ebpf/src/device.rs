//! Network devices by name: SO_BINDTODEVICE names one, and the kernel looks it up after the programs have run.

use aya_ebpf::helpers::generated;

use crate::branchless::{is_zero, when};
use crate::kernel::{Addr, offset};

/// IFNAMSIZ, without the zero at its end.
const NAME_MAX: u64 = 15;
/// Devices of a network namespace that are gone through. One behind them is not found.
const DEVICES_MAX: u32 = 128;

/// A name, and zeros behind it.
#[derive(Clone, Copy)]
pub struct Name(u64, u64);

impl Name {
    /// The name that `length` bytes at `at` hold, as the kernel takes it: up to a zero, and 15 bytes at most.
    #[inline(always)]
    pub fn of(at: Addr, length: u32) -> Self {
        let mut words = [0u64; 2];
        let length = if u64::from(length) > NAME_MAX { NAME_MAX as u32 } else { length };
        // SAFETY: at most fifteen bytes into sixteen; the helper checks the address.
        unsafe {
            generated::bpf_probe_read_kernel((&raw mut words).cast(), length, at.0 as *const _);
        }
        Self::up_to_zero(words[0], words[1])
    }

    /// Whatever lies behind the first zero is not the name's.
    #[inline(always)]
    fn up_to_zero(first: u64, second: u64) -> Self {
        Self(cut(first), cut(when(is_zero(has_zero(first)), second)))
    }

    /// No device.
    #[inline(always)]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Not 0 when one of the bytes is: the lowest bit that is set is the highest of the first such byte.
#[inline(always)]
fn has_zero(word: u64) -> u64 {
    word.wrapping_sub(0x0101_0101_0101_0101) & !word & 0x8080_8080_8080_8080
}

/// The bytes before the first zero, all where there is none. The first in memory is the lowest.
#[inline(always)]
fn cut(word: u64) -> u64 {
    let zeros = has_zero(word);
    word & ((zeros & zeros.wrapping_neg()) >> 7).wrapping_sub(1)
}

/// Number of the device of this name in a network namespace; 0 when there is none, or the name is one of its others
/// (`altname` in ip-link(8)). A function of its own, global: its loop is followed once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn device_named(net: u64, first: u64, second: u64) -> u64 {
    let head = net.wrapping_add(u64::from(offset!(net_devices)));
    let mut at = Addr(net).read::<u64>(offset!(net_devices));
    let mut i = 0;
    while i < DEVICES_MAX {
        if at == head {
            break;
        }
        let device = Addr(at.wrapping_sub(u64::from(offset!(dev_list))));
        let [low, high] = [device.read(offset!(dev_name)), device.read(offset!(dev_name).wrapping_add(8))];
        let name = Name::up_to_zero(low, high);
        if ((name.0 ^ first) | (name.1 ^ second)) == 0 {
            return u64::from(device.read::<u32>(offset!(dev_index)));
        }
        at = Addr(at).read(0);
        i += 1;
    }
    0
}

impl Name {
    /// Its number in the network namespace at `net`; None when it has none there.
    #[inline(always)]
    pub fn index(self, net: Addr) -> Option<u32> {
        match device_named(net.0, self.0, self.1) {
            0 => None,
            index => Some(index as u32),
        }
    }
}
