//! The page that a report is, in a browser.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};

use scenarios::browser::Browser;
use scenarios::{Folder, Run};
use serde_json::json;

/// Keys by the numbers that browsers have for them.
const TAB: u32 = 9;
const ENTER: u32 = 13;

/// The page about stored logs: an error, and warnings with names that would like to be markup.
fn page(folder: &Folder) -> PathBuf {
    let golden = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    let (one, other) = (golden("co-bind.jsonl"), golden("refused.jsonl"));
    let said = Run::bindwatch(["report", "--format", "html"]).args([one, other]).outcome().expect(0).stdout;
    folder.write("report.html", said)
}

fn shown(kind: &str) -> String {
    format!(
        "[...document.querySelectorAll('article[data-severity={kind}]')].filter(a => a.offsetParent).length"
    )
}

fn button(label: &str) -> String {
    format!("[...document.querySelectorAll('nav button')].find(b => b.textContent.startsWith('{label}'))")
}

#[test]
fn a_page_is_clicked_through() {
    let folder = Folder::new();
    let mut browser = Browser::start(1000, 800);
    browser.opens(&page(&folder));

    // Errors can be put out of sight, and come back.
    let (errors, warnings) = (browser.evaluates(&shown("error")), browser.evaluates(&shown("warning")));
    assert!(errors.as_u64() > Some(0) && warnings.as_u64() > Some(0), "{errors} {warnings}");
    browser.clicks(&button("error"));
    assert_eq!(browser.evaluates(&shown("error")), 0);
    assert_eq!(browser.evaluates(&shown("warning")), warnings);
    assert_eq!(browser.evaluates(&format!("{}.ariaPressed", button("error"))), "false");
    browser.clicks(&button("error"));
    assert_eq!(browser.evaluates(&shown("error")), errors);

    // One story is opened by hand, all by the button.
    let open = "document.querySelectorAll('details[open]').length";
    let all = browser.evaluates("document.querySelectorAll('details').length");
    browser.clicks("document.querySelector('article details summary')");
    assert_eq!(browser.evaluates(open), 1);
    browser.clicks(&button("open all"));
    assert_eq!(browser.evaluates(open), all);
    browser.clicks(&button("close all"));
    assert_eq!(browser.evaluates(open), 0);

    // By the keyboard as well: each bar of the picture tells who it is, and a story opens.
    let mut bars = Vec::new();
    browser.evaluates("document.activeElement.blur(), window.scrollTo(0, 0)");
    for _ in 0..200 {
        browser.presses("Tab", TAB);
        let at = browser
            .evaluates("document.activeElement.tagName + ' ' + (document.activeElement.ariaLabel || '')");
        let at = at.as_str().unwrap_or_default().to_owned();
        if at == "SUMMARY " {
            browser.presses("Enter", ENTER);
            break;
        }
        bars.extend(at.strip_prefix("g ").map(str::to_owned));
    }
    assert!(bars.iter().any(|bar| bar.contains("held 127.0.0.3:9926")), "{bars:?}");
    assert_eq!(browser.evaluates(open), 1, "Enter opens it");
    // And without seeing: the picture is a table too.
    let table = browser.evaluates("document.querySelector('section table').textContent");
    assert!(table.as_str().is_some_and(|text| text.contains("node server.js (PID 4711)")), "{table}");

    // An option is not broken over two lines.
    let lines = "[...document.querySelectorAll('code.option')].map(c => c.getClientRects().length)";
    for width in [320, 400, 500, 640] {
        let size = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        browser.asks("Emulation.setDeviceMetricsOverride", &size);
        let lines = browser.evaluates(lines);
        let lines = lines.as_array().expect("options");
        assert!(!lines.is_empty() && lines.iter().all(|lines| *lines == 1), "{width}: {lines:?}");
        let wide = browser.evaluates("document.documentElement.scrollWidth");
        assert!(wide.as_u64() <= Some(width), "{width}: {wide}");
    }

    assert_eq!(browser.complaints(), Vec::<String>::new());
    let requests = browser.requests();
    assert!(requests.iter().all(|url| url.ends_with("/report.html")), "{requests:?}");
}

/// However long a name is, the picture shows its beginning, and the whole of it when the row is asked.
#[test]
fn names_fit_into_the_picture() {
    let folder = Folder::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/co-bind.jsonl");
    let name = "a-server-whose-name-is-long.js";
    let log = std::fs::read_to_string(golden).expect("a stored log").replace("server.js", name);
    let log = folder.write("long.jsonl", log);
    let said = Run::bindwatch(["report", "--format", "html"]).args([log]).outcome().expect(0).stdout;
    let page = folder.write("report.html", said);
    let mut browser = Browser::start(1000, 800);
    browser.opens(&page);
    let names = browser.evaluates(
        "[...document.querySelectorAll('svg g[role=img] text[text-anchor=end]')]\
         .map(t => [t.getBBox().x, t.textContent, t.parentNode.ariaLabel])",
    );
    let names = names.as_array().expect("names");
    assert!(!names.is_empty());
    for row in names {
        let (label, whole) = (row[1].as_str().expect("a label"), row[2].as_str().expect("a sentence"));
        assert!(row[0].as_f64() >= Some(0.0), "{label} begins at {}", row[0]);
        assert!(label.starts_with("node a-server") && whole.contains(name), "{label}: {whole}");
    }
}

#[test]
fn a_page_is_light_dark_and_on_paper() {
    let folder = Folder::new();
    let mut browser = Browser::start(1000, 800);
    browser.opens(&page(&folder));
    let colours =
        "(() => { const s = getComputedStyle(document.body); return s.backgroundColor + s.color; })()";
    let mut seen = Vec::new();
    for scheme in ["light", "dark"] {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.asks("Emulation.setEmulatedMedia", &features);
        seen.push(browser.evaluates(colours));
        let picture = browser.picture();
        assert!(picture.len() > 10_000, "a picture of the page");
        keep(&format!("{scheme}.png"), &picture);
    }
    assert_eq!(seen, ["rgb(255, 255, 255)rgb(27, 31, 36)", "rgb(20, 23, 27)rgb(230, 233, 237)"]);

    // On paper everything is open, and there is nothing to press.
    let printed = browser.asks("Page.printToPDF", &json!({}));
    let printed = printed["data"].as_str().expect("a PDF").to_owned();
    assert!(printed.starts_with("JVBERi0"), "a PDF, in base64");
    keep("paper.pdf", &printed);
    let closed = browser.evaluates("document.querySelectorAll('details:not([open])').length");
    assert_eq!(closed, 0, "printing opens them");
    browser.asks("Emulation.setEmulatedMedia", &json!({ "media": "print" }));
    assert_eq!(browser.evaluates("getComputedStyle(document.querySelector('nav')).display"), "none");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// For eyes: what it looked like, in base64, where somebody wants to see it.
fn keep(name: &str, picture: &str) {
    if let Some(folder) = std::env::var_os("BINDWATCH_TEST_PICTURES") {
        std::fs::write(PathBuf::from(folder).join(name).with_added_extension("base64"), picture)
            .expect("a file");
    }
}
