//! Rules that hold the documents to the code and to each other.

use std::path::Path;

use super::Problem;

/// Every `type` of a log line is described: each name in `Body::type_name` stands in the format's document as `` `name` ``.
pub(super) fn event_types(events: &str, path: &str, format: &str) -> Vec<Problem> {
    let names: Vec<&str> = events
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \"")?.1.strip_suffix("\","))
        .collect();
    if names.is_empty() {
        return vec![Problem::new(path, 0, "no event types were found in the code: mend this rule")];
    }
    let named = |name: &str| {
        format.contains(&format!("`{name}`")) || format.contains(&format!("\"type\":\"{name}\""))
    };
    names
        .into_iter()
        .filter(|name| !named(name))
        .map(|name| Problem::new(path, 0, format!("does not describe the event type `{name}`")))
        .collect()
}

/// Links to files that are not there.
pub(super) fn links(path: &str, text: &str, root: &Path) -> Vec<Problem> {
    let mut problems = Vec::new();
    let folder = root.join(path).parent().map(Path::to_path_buf).unwrap_or_default();
    let mut fenced = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for after in line.split("](").skip(1) {
            let Some((target, _)) = after.split_once(')') else { continue };
            let target = target.split([' ', '#']).next().unwrap_or_default().trim_matches(['<', '>']);
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !folder.join(target).exists() {
                problems.push(Problem::new(path, number, format!("links to {target}, which is not there")));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str =
        "match self {\n    Self::Bind(_) => \"bind\",\n    Self::BindFailed(_) => \"bind-failed\",\n}\n";

    #[test]
    fn an_event_type_without_a_description_is_named() {
        assert_eq!(event_types(EVENTS, "f.md", "`bind` and `bind-failed`"), []);
        let found = event_types(EVENTS, "f.md", "`bind-failed` alone");
        assert_eq!(found, [Problem::new("f.md", 0, "does not describe the event type `bind`")]);
    }

    #[test]
    fn a_rule_that_finds_nothing_to_check_says_so() {
        assert_eq!(event_types("", "f.md", "").len(), 1);
    }

    #[test]
    fn links_are_followed_from_the_document() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(
            links("src/x.md", "[a](tidy.rs) [b](tidy/docs.rs#x) [c](https://a.b/c) [d](#here)\n", root),
            []
        );
        assert_eq!(
            links("src/x.md", "see [a](gone.rs)\n", root),
            [Problem::new("src/x.md", 1, "links to gone.rs, which is not there")]
        );
        assert_eq!(links("src/x.md", "```\n[a](gone.rs)\n```\n", root), []);
    }
}
