//! `/proc/PID/stat` (proc_pid_stat(5)), read where its one free-form field may hold anything.

/// Bit of [`Stat::flags`]: forked, and not executed a program since (`PF_FORKNOEXEC`, `include/linux/sched.h`).
const PF_FORKNOEXEC: u64 = 0x40;
/// Bit of [`Stat::flags`]: a thread of the kernel (`PF_KTHREAD`).
const PF_KTHREAD: u64 = 0x0020_0000;

/// What bindwatch needs of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat<'a> {
    /// Name; any byte but NUL can occur in it, parentheses and newlines too.
    pub comm: &'a [u8],
    /// State letter: `Z` and `X` have no files any more.
    pub state: u8,
    /// Parent, as it is now; 0 for none.
    pub ppid: u32,
    /// Session id.
    pub session: u32,
    /// `PF_…` flags.
    pub flags: u64,
    /// Start, clock ticks since boot.
    pub start: u64,
}

impl<'a> Stat<'a> {
    /// Reads the content of `/proc/PID/stat`; None when it is not what the kernel writes.
    #[must_use]
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let open = text.iter().position(|&b| b == b'(')?;
        // The fields after the name hold no parenthesis: the last one ends the name.
        let close = text.iter().rposition(|&b| b == b')')?;
        let comm = text.get(open + 1..close)?;
        // From field 3 on.
        let mut fields = text.get(close + 1..)?.split(|&b| b == b' ' || b == b'\n').filter(|f| !f.is_empty());
        let state = *fields.next()?.first()?;
        let ppid = number(fields.next()?)?;
        let session = number(fields.nth(1)?)?;
        let flags = number(fields.nth(2)?)?;
        let start = number(fields.nth(12)?)?;
        Some(Self {
            comm,
            state,
            ppid: u32::try_from(ppid).ok()?,
            session: u32::try_from(session).unwrap_or(0),
            flags,
            start,
        })
    }

    /// It was forked and runs its parent's program still.
    #[must_use]
    pub const fn runs_parents_program(&self) -> bool {
        self.flags & PF_FORKNOEXEC != 0
    }

    /// It is a thread of the kernel.
    #[must_use]
    pub const fn is_kernel(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }
}

/// A decimal number; -1 (a session outside the reader's PID namespace) is 0.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    if digits == b"-1" {
        return Some(0);
    }
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, &digit| {
        let digit = digit.checked_sub(b'0').filter(|d| *d < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    const TAIL: &str =
        " S 7 8 9 0 -1 4194624 99 0 0 0 0 0 0 0 20 0 1 0 150149 3133440 412 18446744073709551615\n";

    #[test]
    fn any_name_is_read() {
        for name in ["cat", "", "a b", ") R 1 1 1 (", "))", "x\ny", "\u{1b}[2J", "(sd-pam)"] {
            let text = format!("42 ({name}){TAIL}");
            let stat = Stat::parse(text.as_bytes()).unwrap();
            assert_eq!(stat.comm, name.as_bytes());
            assert_eq!((stat.state, stat.ppid, stat.session), (b'S', 7, 9), "{name:?}");
            assert_eq!((stat.flags, stat.start), (4_194_624, 150_149), "{name:?}");
            assert!(stat.runs_parents_program() && !stat.is_kernel());
        }
    }

    #[test]
    fn every_cut_of_it_is_refused_or_whole() {
        let text = format!("42 (a b){TAIL}");
        let start_ends = text.find("150149").unwrap() + "150149".len();
        for end in 0..text.len() {
            let stat = Stat::parse(text.as_bytes().get(..end).unwrap());
            assert!(stat.is_none_or(|stat| end >= start_ends - 5 && stat.ppid == 7), "cut at {end}");
        }
        assert_eq!(Stat::parse(b"1 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 many"), None);
        assert_eq!(Stat::parse(b")("), None);
    }

    #[test]
    fn numbers() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number(b"18446744073709551616"), None);
        assert_eq!(number(b"-1"), Some(0));
        assert_eq!(number(b"1x"), None);
        assert_eq!(number(b""), None);
    }
}
