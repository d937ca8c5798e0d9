//! Text in, text out.

use serde_json::{Map, Value};

use super::document::{Body, Document, Object, Plugin, Span, WHITESPACE, slice};
use super::error::Error;
use super::single;
use super::{CNI_VERSIONS, Entry, Options, PLUGIN_TYPE, ovs_plugin};

/// A configuration after the edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The whole text.
    pub text: String,
    /// Whether it differs from what came in.
    pub changed: bool,
    /// Whether a single plugin became a list on the way (and so needs a `.conflist`).
    pub converted: bool,
}

/// Puts our entry right behind the OVS plugin. Text that has it already comes back as it is;
/// a single plugin becomes a list of two.
///
/// # Errors
/// The text is no network configuration, holds no OVS plugin, has a cniVersion that we cannot
/// be called in, or has an entry of ours that is not what was asked for.
pub fn add_text(text: &str, options: &Options) -> Result<Edit, Error> {
    if let Some(key) =
        ["type", "name", "cniVersion"].into_iter().find(|k| options.entry.0.contains_key(*k))
    {
        return Err(Error::NotASetting { key: key.to_owned() });
    }
    let document = Document::parse(text)?;
    let types: Vec<String> = document.plugins().map(|p| p.kind.clone()).collect();
    let ovs = stand_behind(&document, &types, options)?;
    let attaches = document.plugins().nth(ovs_plugin(&types).unwrap_or(ovs));
    let conf = attaches.map_or("", |plugin| slice(text, &plugin.object.span));
    let entry = || with_scope(conf, &options.entry);
    match &document.body {
        Body::Single(_) => {
            check_version(&document)?;
            let list = single::as_list(&document);
            let text = insert(&Document::parse(&list)?, 0, &entry());
            Ok(Edit { text, changed: true, converted: true })
        }
        Body::List { plugins } => {
            let Some(at) = ours_behind(&types, ovs)? else {
                check_version(&document)?;
                let text = insert(&document, ovs, &entry());
                return Ok(Edit { text, changed: true, converted: false });
            };
            if let Some(plugin) = plugins.get(at) {
                same_settings(text, plugin, &options.entry)?;
            }
            Ok(Edit { text: text.to_owned(), changed: false, converted: false })
        }
    }
}

/// Takes every entry of ours out of a list. Text without one comes back as it is.
///
/// # Errors
/// The text is no network configuration, or nothing else is in it.
pub fn remove_text(text: &str) -> Result<Edit, Error> {
    let document = Document::parse(text)?;
    let types: Vec<String> = document.plugins().map(|p| p.kind.clone()).collect();
    let ours = indices(&types);
    if !ours.is_empty() && ours.len() == types.len() {
        return Err(Error::OnlyOurs);
    }
    let plugins: Vec<&Plugin> = document.plugins().collect();
    let mut out = text.to_owned();
    // From the back, so that the spans in front stay true.
    for (index, kind) in types.iter().enumerate().rev() {
        if kind != PLUGIN_TYPE {
            continue;
        }
        let span = |i: usize| plugins.get(i).map(|p| p.object.span.clone());
        let Some(own) = span(index) else { continue };
        let kept = (0..index).rev().find(|i| types.get(*i).is_some_and(|t| t != PLUGIN_TYPE));
        let cut = if kept.is_some() {
            // What `add` put in: the comma behind the plugin before, white space, the entry.
            let before = index.checked_sub(1).and_then(span).map_or(own.start, |s| s.end);
            before..own.end
        } else {
            let next = span(index + 1).map_or(own.end, |s| s.start);
            own.start..next
        };
        out.replace_range(cut, "");
    }
    let changed = out != text;
    Ok(Edit { text: out, changed, converted: false })
}

/// Where our entry is, if it is there: once, and behind the OVS plugin.
pub(super) fn ours_behind(types: &[String], ovs: usize) -> Result<Option<usize>, Error> {
    match *indices(types) {
        [] => Ok(None),
        [ours] if ours < ovs => {
            let kind = types.get(ovs).cloned().unwrap_or_default();
            Err(Error::WrongPlace { ours, ovs_index: ovs, ovs: kind })
        }
        [ours] => Ok(Some(ours)),
        ref more => Err(Error::Repeated { count: more.len() }),
    }
}

fn indices(types: &[String]) -> Vec<usize> {
    types.iter().enumerate().filter(|(_, t)| *t == PLUGIN_TYPE).map(|(i, _)| i).collect()
}

pub(super) fn stand_behind(
    document: &Document<'_>,
    types: &[String],
    options: &Options,
) -> Result<usize, Error> {
    let types = || types.to_vec();
    match &options.after {
        Some(after) => types()
            .iter()
            .position(|kind| kind == after && kind != PLUGIN_TYPE)
            .ok_or_else(|| Error::NoSuchPlugin { after: after.clone(), types: types() }),
        None => ovs_plugin(&types()).ok_or_else(|| {
            let meta = document.plugins().find(|p| p.kind.contains("multus"));
            match meta {
                Some(meta) => Error::MetaPlugin {
                    meta: meta.kind.clone(),
                    delegates: document.delegates.clone(),
                },
                None => Error::NoOvsPlugin { types: types() },
            }
        }),
    }
}

/// The entry, with `addressScope: cluster` where the OVS plugin's IPAM is not host-local: it may
/// give a dead pod's address to another node. What the operator says of it goes before.
pub(super) fn with_scope(ovs: &str, asked: &Entry) -> Entry {
    let mut entry = asked.clone();
    let said = ["addressScope", "ipScope"].iter().any(|key| asked.0.contains_key(*key));
    let conf: Value = serde_json::from_str(ovs).unwrap_or_default();
    let ipam = conf.pointer("/ipam/type").and_then(Value::as_str).unwrap_or_default();
    if !said && !matches!(ipam, "" | "host-local") {
        entry.0.insert("addressScope".to_owned(), "cluster".into());
    }
    entry
}

/// Absent means 0.1.0 to every runtime; `cniVersions` is a choice of which libcni takes one.
pub(super) fn check_version(document: &Document<'_>) -> Result<(), Error> {
    let found = document.cni_version.as_deref();
    let mut offered = found.into_iter().chain(document.offered.iter().map(String::as_str));
    if offered.any(|v| CNI_VERSIONS.contains(&v)) {
        return Ok(());
    }
    Err(Error::Version { found: document.cni_version.clone() })
}

/// What was asked for is there; settings that nobody asked about are the operator's own.
pub(super) fn same_settings(text: &str, plugin: &Plugin, asked: &Entry) -> Result<(), Error> {
    let there: Map<String, Value> =
        serde_json::from_str(slice(text, &plugin.object.span)).unwrap_or_default();
    match asked.0.iter().find(|(key, value)| there.get(*key) != Some(value)) {
        None => Ok(()),
        Some((key, value)) => Err(Error::OtherSetting {
            key: key.clone(),
            found: there.get(key).map_or_else(|| "not set".to_owned(), Value::to_string),
            asked: value.to_string(),
        }),
    }
}

/// The text with our entry behind plugin `after`, in the manner of the file.
fn insert(document: &Document<'_>, after: usize, entry: &Entry) -> String {
    let text = document.text;
    let plugins: Vec<&Plugin> = document.plugins().collect();
    let Some(plugin) = plugins.get(after) else { return text.to_owned() };
    let style = Style::of(text, &plugin.object);
    let end = plugin.object.span.end;
    let separator = separator(text, &plugins, after, &style);
    let mut out = String::with_capacity(text.len() + 64);
    out.push_str(slice(text, &(0..end)));
    out.push(',');
    out.push_str(&separator);
    out.push_str(&style.entry(entry));
    out.push_str(slice(text, &(end..text.len())));
    out
}

/// The white space between two plugins.
fn separator(text: &str, plugins: &[&Plugin], after: usize, style: &Style<'_>) -> String {
    let leading =
        |index: usize| plugins.get(index).map(|p| space_before(text, p.object.span.start));
    let own = leading(after).unwrap_or_default();
    if own.contains('\n') {
        return last_line(own).to_owned();
    }
    // `[{`, `}, {`: the first of a list says nothing about how its plugins are parted.
    let other = if after > 0 { Some(own) } else { leading(after + 1) };
    match other {
        Some(space) => last_line(space).to_owned(),
        None if style.spaced() => " ".to_owned(),
        None => String::new(),
    }
}

/// How an object is written.
pub(super) struct Style<'a> {
    pub(super) open: &'a str,
    pub(super) colon: &'a str,
    pub(super) comma: &'a str,
    pub(super) close: &'a str,
}

impl<'a> Style<'a> {
    fn of(text: &'a str, object: &Object) -> Self {
        let inner: Span = object.span.start + 1..object.span.end.saturating_sub(1);
        let first = object.members.first();
        let open = first.map_or("", |m| slice(text, &(inner.start..m.start)));
        let colon = first.map_or(":", |m| colon_before(text, m.value.start));
        let comma = object.members.get(1).map(|m| space_before(text, m.start));
        let close = object.members.last().map_or("", |m| slice(text, &(m.value.end..inner.end)));
        let spaced = if colon.ends_with(' ') { " " } else { "" };
        Self {
            open: last_line(open),
            colon,
            comma: last_line(comma.unwrap_or(if open.contains('\n') { open } else { spaced })),
            // `{"a": 1,` with the brace on a line of its own: an entry on one line is one.
            close: if close.contains('\n') && !open.contains('\n') { "" } else { last_line(close) },
        }
    }

    fn spaced(&self) -> bool {
        self.colon.ends_with(' ')
    }

    pub(super) fn entry(&self, entry: &Entry) -> String {
        let Self { open, colon, comma, close } = self;
        let mut out = format!("{{{open}\"type\"{colon}\"{PLUGIN_TYPE}\"");
        for (key, value) in &entry.0 {
            out.push_str(&format!(",{comma}{}{colon}{value}", Value::from(key.as_str())));
        }
        out.push_str(close);
        out.push('}');
        out
    }
}

/// White space that ends at `at`.
pub(super) fn space_before(text: &str, at: usize) -> &str {
    let before = text.get(..at).unwrap_or_default();
    before.get(before.trim_end_matches(WHITESPACE).len()..).unwrap_or_default()
}

/// The colon that ends at `at`, and the white space around it.
pub(super) fn colon_before(text: &str, at: usize) -> &str {
    let before = text.get(..at).unwrap_or_default();
    let key =
        before.trim_end_matches(WHITESPACE).trim_end_matches(':').trim_end_matches(WHITESPACE);
    before.get(key.len()..).unwrap_or(":")
}

/// White space from its last line break on: blank lines are not a manner.
pub(super) fn last_line(space: &str) -> &str {
    let Some(at) = space.rfind('\n') else { return space };
    let head = space.get(..at).unwrap_or_default();
    space.get(head.strip_suffix('\r').unwrap_or(head).len()..).unwrap_or(space)
}
