//! Arithmetic where one would write conditions. A condition is a branch on this machine, and of the branches under a claim's
//! lock, dozens of slots times fifty, the verifier would follow every combination.

/// Hides a value from the compiler, which would make conditions of this arithmetic again. It keeps the order in which it is
/// written: taken apart and mixed, it would remember so much at a time that a claim does not fit on the stack.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: moves a register to itself. An empty one would have no line of its own, which the kernel refuses.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// 1 when it is 0, else 0.
#[inline(always)]
pub fn is_zero(value: u64) -> u64 {
    opaque((value | opaque(value.wrapping_neg())) >> 63 ^ 1)
}

/// As [`is_zero`], of a value below 2⁶³, for less: only 0 is above that when 1 is taken from it.
#[inline(always)]
pub fn is_none(value: u64) -> u64 {
    opaque(value.wrapping_sub(1) >> 63)
}

/// The other of 0 and 1.
#[inline(always)]
pub fn not(condition: u64) -> u64 {
    condition ^ 1
}

/// The first when `condition` is 1, the second when it is 0.
#[inline(always)]
pub fn select(condition: u64, first: u64, second: u64) -> u64 {
    let mask = opaque(condition.wrapping_neg());
    first & mask | second & !mask
}

/// The value when `condition` is 1, else 0. A product, of which the verifier knows nothing: what it knows of a value keeps
/// it from seeing that two paths have become one.
#[inline(always)]
pub fn when(condition: u64, value: u64) -> u64 {
    opaque(condition).wrapping_mul(value)
}

/// Reads a value here and now: the compiler would read what is used in a loop before it, and keep all of it on the stack.
#[inline(always)]
pub fn peek<T: Copy>(value: &T) -> T {
    // SAFETY: a reference is to something whole and live.
    unsafe { core::ptr::from_ref(value).read_volatile() }
}

/// Two jumps to where they are: the verifier remembers how it got to a place when it has seen two jumps since the last, and follows
/// nothing twice from a place that it remembers.
#[inline(always)]
pub fn remember() {
    #[cfg(target_arch = "bpf")]
    // SAFETY: goes on with what follows.
    unsafe {
        core::arch::asm!("goto +0", "goto +0", options(nomem, nostack, preserves_flags));
    }
}
