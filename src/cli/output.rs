//! Text for people, JSON for machines; the one place that writes to standard output.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;

use super::screen::Text;
use super::{Context, Error, Exit};
use crate::model::attachment::Attachment;
use crate::util::logging::{self, escape};

/// The version of the layout of JSON (docs/json.md): another one if a key goes, or means something
/// else.
const SCHEMA: u32 = 1;

/// A cell's text, or a dash.
pub(super) fn or_dash(cell: Option<impl ToString>) -> String {
    cell.map_or_else(|| "-".to_owned(), |cell| cell.to_string())
}

/// A cell of several.
pub(super) fn list(items: &[impl ToString], between: &str) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    or_dash(Some(texts.join(between)).filter(|text| !text.is_empty()))
}

/// What attachments are sorted by: their pods' names.
pub(super) fn by_pod(attachment: &Attachment) -> [String; 2] {
    [attachment.title(), attachment.key.to_string()]
}

/// A number of things: `1 entry`, `2 entries`.
pub(crate) fn counted(count: impl Into<u64>, one: &str) -> String {
    let count = count.into();
    match one.strip_suffix('y') {
        _ if count == 1 => format!("1 {one}"),
        Some(stem) => format!("{count} {stem}ies"),
        None => format!("{count} {one}s"),
    }
}

/// As much of a container's id as tells it from others.
pub(crate) fn short(container: &str) -> String {
    container.chars().take(13).collect()
}

/// Prints a value: as JSON if asked for, else the text.
pub(crate) fn say(
    context: &Context,
    value: &impl Serialize,
    text: impl Into<Text>,
) -> Result<(), Error> {
    let mut all = if context.json {
        document(&serde_json::to_string_pretty(value)?)
    } else {
        text.into().as_str().trim_end().to_owned()
    };
    if !all.is_empty() {
        all.push('\n');
    }
    as_it_is(&all)
}

/// Makes of a value's JSON what every document is: an object with the version of its layout. What is
/// a list becomes its `items`.
fn document(json: &str) -> String {
    match json.strip_prefix('{') {
        Some(members) => format!("{{\n  \"schema\": {SCHEMA},{members}"),
        // No string has a line end in it.
        None => {
            let items = json.replace('\n', "\n  ");
            format!("{{\n  \"schema\": {SCHEMA},\n  \"items\": {items}\n}}")
        }
    }
}

/// Prints a text as it is, to the byte.
pub(crate) fn as_it_is(all: &str) -> Result<(), Error> {
    // In one piece: a reader of JSON gets all of it or nothing.
    let mut out = io::stdout().lock();
    out.write_all(all.as_bytes())?;
    Ok(out.flush()?)
}

/// An error, for a person.
pub(crate) fn complain(text: &str) {
    let line = if logging::is_json() {
        logging::event(log::Level::Error, text)
    } else {
        format!("ovs-flow-gc: {}\n", escape(text))
    };
    // If standard error is closed there is no other place to write to.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// The error that ends a command, on standard error: a line of JSON if JSON was asked for.
pub(super) fn fail(json: bool, error: &str, exit: Exit) {
    if !json {
        return complain(error);
    }
    let value = json!({"schema": SCHEMA, "error": error, "exitStatus": exit as u8});
    let _ = writeln!(io::stderr().lock(), "{value}");
}

/// An age as kubectl shows it: 42s, 7m, 3h, 12d.
pub(crate) fn ago(age: Duration) -> String {
    match age.as_secs() {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}
