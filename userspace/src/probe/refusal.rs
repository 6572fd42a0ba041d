//! Why the kernel refused, on one line.

use aya::programs::ProgramError;

/// Why a program was refused, on one line: the last thing the verifier said, if it said something.
pub(super) fn reason(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        log::debug!("the verifier's log:\n{verifier_log}");
        let log = verifier_log.to_string();
        let said = last_said(&log);
        return if said.is_empty() { io_error.to_string() } else { format!("{io_error}: {said}") };
    }
    chain(error)
}

/// The verifier's complaint: its last line that is not about its own work.
fn last_said(log: &str) -> &str {
    const ABOUT_ITSELF: [&str; 3] = ["processed ", "verification time ", "stack depth "];
    log.lines()
        .rfind(|line| !line.is_empty() && !ABOUT_ITSELF.iter().any(|own| line.starts_with(own)))
        .unwrap_or("")
}

/// What went wrong and why, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}

/// The errno below an error, if there is one.
pub(super) fn io_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = at {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.raw_os_error();
        }
        at = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::last_said;

    #[test]
    fn the_verifiers_complaint_is_found_in_its_log() {
        let log = "94: (85) call bpf_get_current_pid_tgid#14\nunknown func bpf_get_current_pid_tgid#14\n\
                   verification time 9097 usec\nstack depth 32\nprocessed 77 insns (limit 1000000)\n";
        assert_eq!(last_said(log), "unknown func bpf_get_current_pid_tgid#14");
        assert_eq!(last_said(""), "");
    }
}
