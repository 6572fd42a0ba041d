//! The bill of materials: every crate that is linked into the binary, as CycloneDX 1.5 (<https://cyclonedx.org>).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::shell;

/// What cargo knows of this workspace, for one target.
pub(crate) fn metadata(target: &str) -> anyhow::Result<Value> {
    let mut cargo = shell::cargo();
    cargo.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", target]);
    Ok(serde_json::from_str(&shell::output(&mut cargo)?)?)
}

/// The version of bindwatch.
pub(crate) fn version(metadata: &Value) -> anyhow::Result<String> {
    let bindwatch = linked(metadata)?.into_iter().find(|package| at(package, "name") == "bindwatch");
    bindwatch
        .and_then(|package| at(package, "version").as_str().map(str::to_owned))
        .context("bindwatch has no version")
}

/// The packages that the binary is linked of: bindwatch and its dependencies, those of builds and tests left out.
pub(crate) fn linked(metadata: &Value) -> anyhow::Result<Vec<&Value>> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let packages = at(metadata, "packages").as_array().context("no packages")?;
    let mut nodes = BTreeMap::new();
    for node in list(at(at(metadata, "resolve"), "nodes")) {
        let normal = list(at(&node, "deps")).into_iter().filter(|dependency| {
            list(at(dependency, "dep_kinds")).iter().any(|kind| at(kind, "kind").is_null())
        });
        let normal: Vec<String> = normal.filter_map(|d| at(&d, "pkg").as_str().map(str::to_owned)).collect();
        nodes.insert(at(&node, "id").as_str().unwrap_or_default().to_owned(), normal);
    }
    let first = packages.iter().find(|package| at(package, "name") == "bindwatch").context("no bindwatch")?;
    let mut open = vec![at(first, "id").as_str().unwrap_or_default().to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id.clone()) {
            open.extend(nodes.get(&id).into_iter().flatten().cloned());
        }
    }
    Ok(packages
        .iter()
        .filter(|package| at(package, "id").as_str().is_some_and(|id| seen.contains(id)))
        .collect())
}

/// The bill, as JSON. `epoch`: seconds since 1970.
pub(crate) fn cyclonedx(metadata: &Value, binary: &Path, epoch: &str) -> anyhow::Result<String> {
    let sums = checksums()?;
    let mut components = Vec::new();
    let mut main = Value::Null;
    for package in linked(metadata)? {
        let text = |field: &str| at(package, field).as_str().unwrap_or_default();
        let (name, version) = (text("name"), text("version"));
        let mut component = json!({
            "type": if name == "bindwatch" { "application" } else { "library" },
            "bom-ref": format!("pkg:cargo/{name}@{version}"),
            "name": name,
            "version": version,
            "licenses": [{ "expression": text("license").replace('/', " OR ") }],
            "purl": format!("pkg:cargo/{name}@{version}"),
        });
        if let Some(sum) = sums.get(&(name.to_owned(), version.to_owned())) {
            put(&mut component, "hashes", json!([{ "alg": "SHA-256", "content": sum }]));
        }
        if name == "bindwatch" {
            let sum = shell::output(shell::command("sha256sum").arg(binary))?;
            put(&mut component, "hashes", json!([{ "alg": "SHA-256", "content": sum.split(' ').next() }]));
            main = component;
        } else {
            components.push(component);
        }
    }
    if main.is_null() || components.is_empty() {
        bail!("cargo metadata names no dependencies of bindwatch");
    }
    let time = shell::output(shell::command("date").args(["-u", "+%FT%TZ", "--date", &format!("@{epoch}")]))?;
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "timestamp": time, "component": main },
        "components": components,
    });
    Ok(serde_json::to_string_pretty(&bill)? + "\n")
}

/// Checksums of crates, by name and version, from Cargo.lock.
fn checksums() -> anyhow::Result<BTreeMap<(String, String), String>> {
    let lock = std::fs::read_to_string(shell::root().join("Cargo.lock"))?;
    let packages = lock.split("[[package]]").filter_map(|package| {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))?;
            Some(line.trim_matches('"').to_owned())
        };
        Some(((field("name")?, field("version")?), field("checksum")?))
    });
    Ok(packages.collect())
}

/// A field; null where there is none.
pub(crate) fn at<'a>(value: &'a Value, field: &str) -> &'a Value {
    value.get(field).unwrap_or(&Value::Null)
}

/// Sets a field of an object.
fn put(object: &mut Value, field: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn what_only_builds_or_tests_is_not_linked() {
        let metadata = metadata("x86_64-unknown-linux-gnu").unwrap();
        let names: Vec<&str> = linked(&metadata).unwrap().iter().filter_map(|p| p["name"].as_str()).collect();
        for name in ["bindwatch", "bindwatch-probe", "aya", "serde", "libc"] {
            assert!(names.contains(&name), "{name}: {names:?}");
        }
        for name in ["proptest", "xtask", "scenarios", "tempfile"] {
            assert!(!names.contains(&name), "{name}");
        }
        let bill = cyclonedx(&metadata, Path::new("/proc/self/exe"), "0").unwrap();
        let bill: Value = serde_json::from_str(&bill).unwrap();
        assert_eq!(bill["metadata"]["timestamp"], "1970-01-01T00:00:00Z");
        let aya = bill["components"].as_array().unwrap().iter().find(|c| c["name"] == "aya").unwrap();
        assert_eq!(aya["hashes"][0]["content"].as_str().map(str::len), Some(64));
    }
}
