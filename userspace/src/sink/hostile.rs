//! Whatever bytes a process puts into its name, its arguments and its cgroup: no format lets them become anything but
//! text. The judges are parsers that know nothing of bindwatch.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use proptest::prelude::*;
use pulldown_cmark::{Event as Part, Options as Extensions, Parser, Tag};
use roxmltree::{Document, ParsingOptions};

use super::tests::{co_bind, refused, report};
use super::*;
use crate::ledger::finding::{Cause, Holder};

/// Pieces that mean something to somebody, and anything else.
fn text() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "::error title=x::y",
        "\n::add-mask::a\n",
        "##[error]",
        "##vso[task]",
        "%0A",
        "\r",
        "\u{1b}]0;x\u{7}",
        "|",
        "||",
        "`",
        "```",
        "\\|",
        "\\",
        "](http://evil)",
        "![](x)",
        "<script>alert(1)</script>",
        "</style>",
        "</failure>",
        "]]>",
        "<!--",
        "-->",
        "--",
        "&amp;",
        "&#64;",
        "&",
        "\"",
        "'",
        "' onload='x",
        "@everyone",
        "#1",
        "http://evil",
        "www.evil.com",
        "<http://evil>",
        "[a](1)",
        "**",
        "__",
        "~~",
        "$x$",
        "# h",
        "- l",
        "1. l",
        "1) l",
        "> q",
        "\u{202e}",
        "\u{0}",
        "\u{fffd}",
        "\u{feff}",
        "\t",
        "    ",
        "=====",
        "---",
        "{{",
        "a_b_c",
        "é世🦀",
        "x@y.zz",
        "]",
    ];
    let piece = prop_oneof![
        4 => prop::sample::select(PIECES).prop_map(str::to_owned),
        2 => any::<String>(),
        // Names are bytes; what is no UTF-8 in them comes in as U+FFFD.
        1 => prop::collection::vec(any::<u8>(), 0..24)
            .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

/// A report in which a process says `text` wherever it can.
fn saying(text: &str) -> Report {
    let say = |holder: &mut Holder| {
        holder.comm = text.to_owned();
        holder.exe = text.to_owned();
        holder.cmdline = vec![text.to_owned(), text.to_owned()];
        holder.cgroup = text.to_owned();
        holder.container = Some(text.to_owned());
        holder.job = Some(text.to_owned());
        holder.parents.iter_mut().for_each(|parent| parent.comm = text.to_owned());
    };
    let mut findings = vec![co_bind(), refused(Cause::Listener), refused(Cause::OtherUser)];
    for (number, finding) in (1..).zip(&mut findings) {
        finding.id = FindingId(number);
        finding.holders.iter_mut().for_each(say);
        finding.victim.iter_mut().for_each(|victim| say(&mut victim.holder));
    }
    let mut made = report(findings, true).of_log(text.to_owned());
    made.host.hostname = text.to_owned();
    made.host.kernel = text.to_owned();
    made.notice(text);
    made.notes.push(Remark {
        at: BootTime(21_000_000_000),
        text: text.to_owned(),
        process: ProcessKey { tgid: 1, start: 1 },
    });
    made
}

fn written(report: &Report, format: Format) -> String {
    let mut out = Vec::new();
    report.write(format, text::Style { colored: false, whole: true }, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// The names of a document's elements, in order.
fn elements(text: &str) -> Vec<String> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options)
        .unwrap_or_else(|error| panic!("{error}: {}", error.pos().row));
    document
        .descendants()
        .filter(roxmltree::Node::is_element)
        .map(|node| {
            let attributes: Vec<_> = node.attributes().map(|attribute| attribute.name().to_owned()).collect();
            format!("{} {}", node.tag_name().name(), attributes.join(" "))
        })
        .collect()
}

/// What Markdown makes of `text`: what is shown, and the names of everything that is more than text.
fn rendered(text: &str) -> (String, Vec<String>) {
    let extensions = Extensions::ENABLE_TABLES
        | Extensions::ENABLE_STRIKETHROUGH
        | Extensions::ENABLE_TASKLISTS
        | Extensions::ENABLE_FOOTNOTES
        | Extensions::ENABLE_MATH;
    let (mut shown, mut more) = (String::new(), Vec::new());
    for part in Parser::new_ext(text, extensions) {
        match part {
            Part::Text(text) | Part::Code(text) => shown.push_str(&text),
            Part::InlineHtml(html) if &*html == "<!-- -->" => {}
            Part::Start(Tag::CodeBlock(_)) => more.push("code block".to_owned()),
            Part::Start(tag) => {
                more.push(format!("{tag:?}").split(['(', ' ', '{']).next().unwrap_or_default().to_owned());
            }
            Part::End(_) => {}
            other => more.push(format!("{other:?}")),
        }
    }
    (shown, more)
}

proptest! {
    #[test]
    fn xml_and_html_keep_their_shape(text in text()) {
        let plain = saying("x");
        let hostile = saying(&text);
        for format in [Format::Junit, Format::Html] {
            let said = written(&hostile, format);
            // What is empty has no row of its own.
            if !text.is_empty() {
                prop_assert_eq!(elements(&said), elements(&written(&plain, format)), "{:?}", format);
            }
            prop_assert!(said.chars().all(|c| c == '\n' || escape::is_seen(c)));
        }
    }

    #[test]
    fn every_format_is_lines_of_what_can_be_seen(text in text()) {
        for format in Format::ALL {
            let said = written(&saying(&text), format);
            prop_assert!(said.chars().all(|c| c == '\n' || escape::is_seen(c)), "{:?}", format);
        }
    }

    #[test]
    fn json_says_what_was_meant(text in text()) {
        let document: serde_json::Value = serde_json::from_str(&written(&saying(&text), Format::Json)).unwrap();
        for holder in document["findings"].as_array().unwrap().iter().flat_map(|f| f["holders"].as_array().unwrap()) {
            prop_assert_eq!(&holder["comm"], &text);
            prop_assert_eq!(&holder["cgroup"], &text);
        }
    }

    #[test]
    fn xml_says_what_was_meant(text in text()) {
        let line = escape::line(&text).into_owned();
        for escaped in [junit::escaped(&text), html::escaped(&text)] {
            let xml = format!("<a b=\"{escaped}\">{escaped}</a>");
            let document = Document::parse(&xml).unwrap();
            prop_assert_eq!(document.root_element().attribute("b"), Some(line.as_str()));
            prop_assert_eq!(document.root_element().text().unwrap_or_default(), line.as_str());
        }
    }

    #[test]
    fn markdown_is_text_in_a_paragraph_and_in_a_table(text in text()) {
        let (line, escaped) = (escape::line(&text).into_owned(), markdown::escaped(&text));
        let (shown, more) = rendered(&format!("Hint: {escaped}\n"));
        let whole = format!("Hint: {line}");
        prop_assert_eq!(shown.trim_end(), whole.trim_end(), "{}", escaped);
        prop_assert_eq!(more, ["Paragraph"]);

        let (shown, more) = rendered(&format!("| a | b |\n|---|---|\n| x{escaped}z | y |\n"));
        prop_assert_eq!(shown, format!("abx{line}zy"), "{}", escaped);
        prop_assert_eq!(more, ["Table", "TableHead", "TableCell", "TableCell", "TableRow", "TableCell", "TableCell"]);

        // What GitHub makes links of after Markdown is taken apart.
        let bare = ["@e", "http:/", "www.", "##", " #1"];
        prop_assert!(bare.iter().all(|link| !escaped.contains(link)), "{}", escaped);
    }

    #[test]
    fn a_markdown_document_keeps_its_shape(text in text()) {
        let shape = |report: &Report| {
            let (_, mut more) = rendered(&written(report, Format::Markdown));
            more.retain(|part| !part.starts_with("Html("));
            more
        };
        prop_assert_eq!(shape(&saying(&text)), shape(&saying("x")));
    }

    #[test]
    fn a_workflow_command_is_one_line_and_one_command(text in text()) {
        let said = written(&saying(&text), Format::Github);
        prop_assert_eq!(said.lines().count(), written(&saying("x"), Format::Github).lines().count());
        for line in said.lines() {
            let (head, message) = line.strip_prefix("::").unwrap().split_once("::").unwrap();
            let (command, title) = head.split_once(" title=").unwrap();
            prop_assert!(["error", "warning", "notice"].contains(&command));
            prop_assert!(!title.contains([',', ':']), "{}", title);
            prop_assert!(!message.contains("\n") && !line.contains("##["), "{}", line);
            // Every percent sign is of an escape.
            for (at, _) in line.match_indices('%') {
                let escape = line.get(at..at + 3).unwrap_or_default();
                prop_assert!(["%25", "%0A", "%3A", "%2C"].contains(&escape), "{}", line);
            }
        }
    }

    #[test]
    fn no_format_begins_a_line_as_a_command_would(text in text()) {
        for format in [Format::Text, Format::Json, Format::Markdown, Format::Junit, Format::Sarif, Format::Html] {
            let said = written(&saying(&text), format);
            for line in said.lines() {
                prop_assert!(!line.trim_start().starts_with("::"), "{:?} {}", format, line);
                prop_assert!(!line.contains("##[") && !line.contains("##vso["), "{:?} {}", format, line);
            }
        }
    }

    #[test]
    fn sarif_messages_have_no_links_and_mean_what_was_said(text in text()) {
        let said = written(&saying(&text), Format::Sarif);
        let document: serde_json::Value = serde_json::from_str(&said).unwrap();
        let results = document["runs"][0]["results"].as_array().unwrap().clone();
        prop_assert_eq!(results.len(), 3);
        for result in results {
            let message = result["message"]["text"].as_str().unwrap();
            let mut before = ' ';
            for c in message.chars() {
                prop_assert!(!matches!(c, '[' | ']') || before == '\\', "{}", message);
                before = if before == '\\' { ' ' } else { c };
            }
            let uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].as_str().unwrap();
            prop_assert!(uri.chars().all(|c| c.is_ascii_alphanumeric() || "-._~/%".contains(c)), "{}", uri);
        }
    }
}
