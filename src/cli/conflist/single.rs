//! A single plugin's configuration as a list of one, as libcni's `ConfListFromConf` makes it in
//! memory: name and version belong to the list, all the rest to the plugin.

use super::document::Body;
use super::document::{Document, Member, Object, slice};
use super::edit::{colon_before, last_line, space_before};

/// Keys that move up. libcni puts them back into what each plugin is given.
const OF_THE_LIST: [&str; 2] = ["cniVersion", "name"];

/// The list's text, in the manner of the file. A list comes back as it is.
pub(super) fn as_list(document: &Document<'_>) -> String {
    let text = document.text;
    let Body::Single(plugin) = &document.body else { return text.to_owned() };
    let object = &plugin.object;
    let (up, rest): (Vec<&Member>, Vec<&Member>) =
        object.members.iter().partition(|m| OF_THE_LIST.contains(&m.key.as_str()));
    let manner = Manner::of(text, object);
    let mut out = String::with_capacity(text.len() * 2);
    out.push_str(slice(text, &(0..object.span.start)));
    out.push('{');
    for member in up {
        out.push_str(&manner.line(1));
        out.push_str(slice(text, &(member.start..member.value.end)));
        out.push_str(&manner.comma());
    }
    out.push_str(&format!("{}\"plugins\"{}[", manner.line(1), manner.colon));
    out.push_str(&manner.line(2));
    out.push('{');
    for (index, member) in rest.into_iter().enumerate() {
        if index > 0 {
            out.push_str(&manner.comma());
        }
        out.push_str(&manner.line(3));
        out.push_str(&manner.deeper(slice(text, &(member.start..member.value.end))));
    }
    out.push_str(&manner.line(2));
    out.push('}');
    out.push_str(&manner.line(1));
    out.push(']');
    out.push_str(&manner.line(0));
    out.push('}');
    out.push_str(slice(text, &(object.span.end..text.len())));
    out
}

/// How the file is laid out.
struct Manner<'a> {
    /// Line break and indentation of the outermost brace; `None` for a file on one line.
    base: Option<&'a str>,
    /// One level.
    unit: &'a str,
    colon: &'a str,
}

impl<'a> Manner<'a> {
    fn of(text: &'a str, object: &Object) -> Self {
        let open = object.members.first().map_or("", |m| last_line(space_before(text, m.start)));
        let close = last_line(space_before(text, object.span.end.saturating_sub(1)));
        let colon = object.members.first().map_or(":", |m| colon_before(text, m.value.start));
        let base = if close.contains('\n') {
            close
        } else {
            open.get(..open.find('\n').map_or(0, |at| at + 1)).unwrap_or_default()
        };
        let pretty = open.contains('\n');
        // A closing brace that is indented like the members, or deeper, says nothing.
        let unit = open.strip_prefix(base).filter(|unit| !unit.is_empty()).unwrap_or("  ");
        Self { base: pretty.then_some(base), unit, colon }
    }

    fn line(&self, depth: usize) -> String {
        self.base.map(|base| format!("{base}{}", self.unit.repeat(depth))).unwrap_or_default()
    }

    fn comma(&self) -> String {
        let space = self.base.is_none() && self.colon.ends_with(' ');
        if space { ", ".to_owned() } else { ",".to_owned() }
    }

    /// Two levels further in. No JSON string holds a raw line break, so each is layout.
    fn deeper(&self, member: &str) -> String {
        match self.base {
            Some(_) => member.replace('\n', &format!("\n{}", self.unit.repeat(2))),
            None => member.to_owned(),
        }
    }
}
