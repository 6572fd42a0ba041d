//! What a process belongs to, by its environment: the step of a CI job, the `--name` of a `run`, the test.
//!
//! Checked against the documentation of GitHub Actions, GitLab CI, Jenkins, Buildkite and pytest as of 2026. The values
//! are what somebody set: data.

/// The variable that hands the `--name` of a `run` on, with those of the runs around it.
pub const NAME: &str = "BINDWATCH_NAME";
/// What stands between the parts of a label.
pub const SEPARATOR: &str = " / ";
/// Longest label, characters.
const LABEL_CHARS: usize = 200;

/// CI systems: the variable that says that it is this one, and those that name the job and its step, with what stands
/// before each.
const SYSTEMS: [(&str, &[(&str, &str)]); 4] = [
    ("GITHUB_ACTIONS", &[("", "GITHUB_JOB"), (SEPARATOR, "GITHUB_ACTION")]),
    ("GITLAB_CI", &[("", "CI_JOB_NAME")]),
    ("JENKINS_URL", &[("", "JOB_NAME"), (" #", "BUILD_NUMBER"), (SEPARATOR, "STAGE_NAME")]),
    ("BUILDKITE", &[("", "BUILDKITE_LABEL"), (" #", "BUILDKITE_PARALLEL_JOB")]),
];
/// The variable in which pytest names the test that runs.
const PYTEST: &str = "PYTEST_CURRENT_TEST";

/// The label that an environment (variables that end with a NUL each) gives; None when it names nothing.
#[must_use]
pub fn of(environment: &[u8]) -> Option<String> {
    let value = |name: &str| {
        let mut variables = environment.split(|byte| *byte == 0);
        let value =
            variables.find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        Some(String::from_utf8_lossy(value).into_owned()).filter(|value| !value.is_empty())
    };
    let mut parts = Vec::new();
    if let Some((_, names)) = SYSTEMS.iter().find(|(mark, _)| value(mark).is_some()) {
        let mut job = String::new();
        for (before, name) in *names {
            if let Some(value) = value(name) {
                job.push_str(if job.is_empty() { "" } else { before });
                job.push_str(&value);
            }
        }
        parts.push(job);
    }
    parts.extend(value(NAME));
    // `tests/test_a.py::test_b (call)`: the phase is no part of its name.
    let test = value(PYTEST);
    parts.extend(test.map(|test| test.rsplit_once(" (").map_or(test.clone(), |(name, _)| name.to_owned())));
    parts.retain(|part| !part.is_empty());
    let label: String = parts.join(SEPARATOR).chars().take(LABEL_CHARS).collect();
    (!label.is_empty()).then_some(label)
}

/// The name of a `run` behind those of the runs that it is in.
#[must_use]
pub fn nested(name: &str) -> String {
    match std::env::var(NAME) {
        Ok(outer) if !outer.is_empty() => format!("{outer}{SEPARATOR}{name}"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(environment: &str) -> Option<String> {
        of(environment.replace(' ', "\0").replace('~', " ").as_bytes())
    }

    #[test]
    fn ci_systems_name_the_job_and_its_step() {
        let cases = [
            ("HOME=/ GITHUB_ACTIONS=true GITHUB_JOB=build GITHUB_ACTION=__run_2", "build / __run_2"),
            ("GITLAB_CI=true CI_JOB_NAME=rspec~1/3", "rspec 1/3"),
            ("JENKINS_URL=http://x JOB_NAME=shop/main BUILD_NUMBER=7 STAGE_NAME=Test", "shop/main #7 / Test"),
            ("BUILDKITE=true BUILDKITE_LABEL=tests BUILDKITE_PARALLEL_JOB=3", "tests #3"),
            ("BINDWATCH_NAME=Issue_135", "Issue_135"),
            (
                "GITLAB_CI=true CI_JOB_NAME=unit BINDWATCH_NAME=a~/~b PYTEST_CURRENT_TEST=t/test_a.py::test_b~(call)",
                "unit / a / b / t/test_a.py::test_b",
            ),
        ];
        for (environment, expected) in cases {
            assert_eq!(label(environment).as_deref(), Some(expected), "{environment}");
        }
    }

    #[test]
    fn what_names_nothing_has_no_label() {
        assert_eq!(label(""), None);
        assert_eq!(label("GITHUB_JOB=build"), None, "a variable by itself says nothing of a system");
        assert_eq!(label("GITHUB_ACTIONS=true"), None);
        assert_eq!(label("XBINDWATCH_NAME=a BINDWATCH_NAME="), None);
    }

    #[test]
    fn hostile_values_are_bounded() {
        let label = of(&[b"BINDWATCH_NAME=".as_slice(), &[0xff; 100_000]].concat());
        assert_eq!(label.map(|label| label.chars().count()), Some(LABEL_CHARS));
    }
}
