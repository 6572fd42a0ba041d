//! Every kind of finding and every cause has its section in the documentation.

#![expect(clippy::panic, reason = "tests fail by panicking")]

use bindwatch::ledger::finding::{Cause, Kind};

const DOCUMENT: &str = include_str!("../../docs/findings.md");

/// The section under a heading, up to the next one.
fn section(heading: &str) -> Option<&'static str> {
    let (_, rest) = DOCUMENT.split_once(&format!("\n{heading}\n"))?;
    Some(rest.split_once("\n#").map_or(rest, |(section, _)| section))
}

#[test]
fn every_kind_has_a_section() {
    for kind in Kind::ALL {
        let text = section(&format!("## {}", kind.name()));
        assert!(
            text.is_some_and(|text| text.trim().len() > 40),
            "docs/findings.md has no `## {}`",
            kind.name()
        );
        let row = format!("| `{}` | {} |", kind.name(), bindwatch::sink::words::severity(kind.severity()));
        assert!(DOCUMENT.contains(&row), "docs/findings.md lists no {row}");
    }
}

#[test]
fn every_cause_has_a_section_with_an_example() {
    for cause in Cause::ALL {
        let name = bindwatch::sink::words::cause(cause);
        let text = section(&format!("### {name}")).or_else(|| section(&format!("### {name} as the cause")));
        let text = text.unwrap_or_else(|| panic!("docs/findings.md has no `### {name}`"));
        assert!(text.contains("```text\nwarning refused: "), "`### {name}` has no example");
        assert!(DOCUMENT.contains(&format!("| `{name}` | ")), "docs/findings.md lists no `{name}`");
    }
}
