//! The licences of what is linked into the binary, as their texts ask for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::sbom;

/// How the names of files with licences and notices begin.
const NAMES: [&str; 4] = ["license", "licence", "copying", "notice"];

/// All of them; each text once, behind the crates that it is of.
pub(crate) fn text(metadata: &Value) -> anyhow::Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut out = String::from("bindwatch is linked of these crates, under these licences.\n\n");
    for package in sbom::linked(metadata)? {
        let field = |name: &str| sbom::at(package, name).as_str().unwrap_or_default();
        // Without a source it is a part of this repository.
        if sbom::at(package, "source").is_null() {
            continue;
        }
        let name = format!("{} {}", field("name"), field("version"));
        writeln!(out, "{name}: {}", field("license"))?;
        let Some(folder) = Path::new(field("manifest_path")).parent() else { continue };
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().to_lowercase();
            if NAMES.iter().any(|begin| file.starts_with(begin)) && entry.file_type()?.is_file() {
                let text = String::from_utf8_lossy(&std::fs::read(entry.path())?).into_owned();
                texts.entry(text).or_default().push(name.clone());
            }
        }
    }
    for (text, mut crates) in texts {
        crates.dedup();
        write!(out, "\n{}\n{}\n\n{}\n", "-".repeat(80), crates.join(", "), text.trim_end())?;
    }
    Ok(out)
}
