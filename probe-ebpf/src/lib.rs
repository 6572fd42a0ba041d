//! The wire between the eBPF programs of bindwatch and its user space, defined once.
//!
//! The programs themselves are the binary of this package and compile for the BPF target only
//! (`cargo xtask build-ebpf`); this library is `no_std` and holds nothing but [`abi`].
#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
