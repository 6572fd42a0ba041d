//! Addresses that no other test uses, so that tests run at once.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

/// A loopback address of its own for the caller: `127.64.0.0/10`, by the process's id and a counter.
///
/// # Panics
/// When one test binary takes more than 253 of them.
#[must_use]
pub fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let host =
        u8::try_from(next).ok().filter(|host| *host < 254).expect("at most 253 addresses a test binary");
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 0x3f), low, host)
}

/// Several addresses of their own.
#[must_use]
pub fn loopbacks<const N: usize>() -> [Ipv4Addr; N] {
    std::array::from_fn(|_| loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_loopback_and_differ() {
        let [one, other] = loopbacks();
        assert!(one.is_loopback() && other.is_loopback());
        assert_ne!(one, other);
        assert!(!one.to_string().starts_with("127.0."), "the ordinary ones are other programs'");
    }
}
