//! The digests that the page's policy is made of.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::process::{Command, Stdio};

use super::*;

/// SHA-256 in base64, by coreutils.
fn digest(text: &str) -> String {
    let mut child = Command::new("sh")
        .args(["-c", "sha256sum | cut -c1-64 | tr a-f A-F | basenc --base16 -d | base64 -w0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn the_policy_names_the_style_and_the_script_of_the_page() {
    assert_eq!(digest(STYLE), STYLE_DIGEST);
    assert_eq!(digest(SCRIPT), SCRIPT_DIGEST);
    // Either would end its element early.
    assert!(!STYLE.contains("</") && !SCRIPT.contains("</"));
}
