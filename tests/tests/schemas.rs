//! Reports that other programs read, by the schemas that those programs have.

use std::path::Path;

use scenarios::{Folder, Run, python, schemas};

/// SARIF by the schema of its standard, JUnit by that of Jenkins (`junit-10.xsd`), which pytest is held to as well.
#[test]
fn reports_are_valid_by_their_schemas() {
    const CHECK: &str = "
import json, sys, jsonschema, xmlschema
folder, *written = sys.argv[1:]
sarif = json.load(open(folder + '/sarif-2.1.0-rtm.5.json'))
junit = xmlschema.XMLSchema(folder + '/junit-10.xsd')
for report in written:
    if report.endswith('.sarif'):
        jsonschema.validate(json.load(open(report)), sarif)
    else:
        junit.validate(report)
print(len(written))
";
    let (folder, schemas) = (Folder::new(), schemas());
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut written = Vec::new();
    for name in ["clean", "co-bind", "refused", "torn", "lost"] {
        let log = golden.join(name).with_extension("jsonl");
        for format in ["sarif", "junit"] {
            let report = Run::bindwatch(["report", "--format", format]).args([&log]).outcome().expect(0);
            written.push(folder.write(&format!("{name}.{format}"), report.stdout));
        }
    }
    let check = Run::new(python("python3")).args(["-c", CHECK]).args([&schemas]).args(written);
    assert_eq!(check.outcome().expect(0).stdout.trim(), "10");
}
