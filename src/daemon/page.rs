//! `/`: what `ovs-flow-gc status` shows, as a page. No script, nothing from elsewhere.

use std::fmt::Write;
use std::time::Duration;

use crate::cli::status::Status;
use crate::cli::{ago, short};
use crate::util::logging::is_plain;

/// The reader's own colours, light or dark. The page asks for itself every five seconds.
const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
    <meta name=\"viewport\" content=\"width=device-width\">\n\
    <meta http-equiv=\"refresh\" content=\"5\">\n<title>ovs-flow-gc</title>\n<style>\n\
    :root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }\n\
    body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem }\n\
    table { border-collapse: collapse; width: 100% }\n\
    th, td { text-align: left; overflow-wrap: anywhere; vertical-align: top; padding: .25rem .75rem .25rem 0;\n\
    border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent) }\n\
    .attention { border-left: .3rem solid #d33; padding-left: .7rem }\n\
    .well { border-left: .3rem solid #2a2; padding-left: .7rem }\n\
    </style></head><body>\n<h1>ovs-flow-gc</h1>\n";

/// The page; `Err`: why the records cannot be read.
pub(super) fn page(status: Result<Status, String>) -> String {
    let mut page = HEAD.to_owned();
    match status {
        Ok(status) => body(&mut page, &status),
        Err(why) => paragraph(&mut page, "attention", &why),
    }
    page.push_str("</body></html>\n");
    page
}

fn body(page: &mut String, status: &Status) {
    if status.attention.is_empty() {
        let well = status.well().replacen('a', "A", 1);
        paragraph(page, "well", &format!("{well}."));
    }
    status.attention.iter().for_each(|what| paragraph(page, "attention", what));
    let lines = status.lines();
    let lines = lines.iter().filter(|(name, _)| !["state", "", "waits"].contains(name));
    table(page, &[], lines.map(|(name, text)| vec![(*name).to_owned(), text.clone()]));
    page.push_str("<h2>Dead pods whose entries are left</h2>\n");
    if status.waiting.is_empty() {
        return paragraph(page, "well", "None.");
    }
    let rows = status.waiting.iter().map(|waiting| {
        let dead = waiting.dead_seconds.map(|seconds| ago(Duration::from_secs(seconds)));
        let dead = dead.unwrap_or_else(|| "-".to_owned());
        vec![waiting.pod.clone(), short(&waiting.container), dead, waiting.why.clone()]
    });
    table(page, &["Pod", "Container", "Dead for", "Why"], rows);
}

fn paragraph(page: &mut String, class: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "<p class=\"{class}\">{}</p>", escaped(text));
}

fn table(page: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    page.push_str("<table>\n");
    if !head.is_empty() {
        let cells: String = head.iter().map(|cell| format!("<th>{cell}</th>")).collect();
        let _ = writeln!(page, "<tr>{cells}</tr>");
    }
    for row in rows {
        let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
        let _ = writeln!(page, "<tr>{cells}</tr>");
    }
    page.push_str("</table>\n");
}

/// Names come from outside. Of characters that no line has, such as those that turn its direction
/// round, a question mark is left.
fn escaped(text: &str) -> String {
    let text: String = text.chars().map(|c| if is_plain(c) { c } else { '?' }).collect();
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::status::Waiting;

    #[test]
    fn names_from_outside_are_no_markup() {
        let daemon = json!({"bridges": [{"found": "<script>alert(1)</script> is followed"}]});
        let mut status = Status::read(None, Ok(daemon)).unwrap();
        status.waiting.push(Waiting {
            pod: "a\"<b>&".to_owned(),
            container: "c1".repeat(32),
            dead_seconds: Some(300),
            why: "it\u{1b}[31m\u{202e}waits".to_owned(),
        });
        let page = page(Ok(status));
        assert!(!page.contains("<script") && !page.contains("<b>"), "{page}");
        assert!(
            page.contains("<td>a&quot;&lt;b&gt;&amp;</td><td>c1c1c1c1c1c1c</td><td>5m</td>"),
            "{page}"
        );
        assert!(page.contains("<td>it?[31m?waits</td>"), "{page}");
        assert!(page.contains("no pod was ever recorded here"), "{page}");
        assert!(!page.contains("http://") && !page.contains("https://"), "nothing from elsewhere");
    }
}
