//! The eBPF programs of bindwatch. Built for `bpfel-unknown-none` by `cargo xtask build-ebpf`; see docs/hacking.md.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod bound;
mod branchless;
mod claimed;
mod crowd;
mod device;
mod emit;
mod guard;
mod kernel;
mod maps;
mod programs;
mod sock;
mod standing;
mod task;

/// The kernel offers some helpers to programs under a GPL-compatible licence only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: the programs hold no operation that can panic, and the verifier would refuse this loop.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
