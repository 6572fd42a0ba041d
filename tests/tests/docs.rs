//! The documents speak of the program as it is.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::path::Path;

use scenarios::Run;

/// The verbs that `bindwatch --help` lists.
fn verbs() -> BTreeSet<String> {
    let help = Run::bindwatch(["--help"]).outcome().expect(0).stdout;
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let verbs = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned));
    verbs.filter(|verb| !verb.is_empty() && verb != "help").collect()
}

/// The verbs that a text uses: the word after `bindwatch` in code.
fn used(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for after in text.split("bindwatch ").skip(1) {
        let word: String = after.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        let end = after.get(word.len()..).and_then(|rest| rest.chars().next());
        // In prose the name is a noun; in code, after ` or $ or &&, it is the program.
        if !word.is_empty() && !word.starts_with('-') && end.is_none_or(|c| " `\n\\".contains(c)) {
            found.insert(word);
        }
    }
    found
}

/// Everything in a Markdown text that is code, one piece a line.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            code.push_str(line);
            code.push('\n');
        } else {
            for piece in line.split('`').skip(1).step_by(2) {
                code.push_str(piece);
                code.push('\n');
            }
        }
    }
    code
}

#[test]
fn the_readme_names_every_verb_and_no_document_invents_one() {
    let verbs = verbs();
    assert!(verbs.contains("record") && verbs.len() >= 5, "{verbs:?}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("README.md");
    let missing: Vec<_> = verbs.difference(&used(&code(&readme))).cloned().collect();
    assert!(missing.is_empty(), "README.md does not show {missing:?}");

    let documents = std::fs::read_dir(root.join("docs")).expect("docs/").flatten().map(|entry| entry.path());
    for document in documents.chain([root.join("README.md")]) {
        if document.extension().is_some_and(|extension| extension == "md") {
            let text = std::fs::read_to_string(&document).expect("a document");
            let invented: Vec<_> = used(&code(&text)).difference(&verbs).cloned().collect();
            assert!(invented.is_empty(), "{} uses {invented:?}", document.display());
        }
    }
}
