//! Where the parts of a network configuration are in its text.
//!
//! `serde_json` does the parsing: a borrowed `RawValue` is a slice of the text, so its
//! address tells its span.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::Error;

/// Larger than any configuration by a factor of a hundred.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// Byte offsets into the text.
pub(super) type Span = Range<usize>;

/// One `"key": value`.
pub(super) struct Member {
    pub(super) key: String,
    /// Of the key's opening quote.
    pub(super) start: usize,
    pub(super) value: Span,
}

/// A JSON object and where its members are.
pub(super) struct Object {
    pub(super) span: Span,
    pub(super) members: Vec<Member>,
}

/// One plugin of a list, or the single one.
pub(super) struct Plugin {
    pub(super) kind: String,
    pub(super) object: Object,
}

/// A list of plugins, or one without a list.
pub(super) enum Body {
    Single(Plugin),
    List { plugins: Vec<Plugin> },
}

/// A network configuration in its text.
pub(super) struct Document<'a> {
    pub(super) text: &'a str,
    pub(super) name: Option<String>,
    pub(super) cni_version: Option<String>,
    /// `cniVersions`, from which libcni takes the highest it knows.
    pub(super) offered: Vec<String>,
    /// What a meta plugin calls by itself.
    pub(super) delegates: Vec<String>,
    /// `loadOnlyInlinedPlugins`: the list has no plugins in files of their own.
    pub(super) only_inlined: bool,
    pub(super) body: Body,
}

impl<'a> Document<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Error> {
        check_text(text)?;
        let root = object(text, 0..text.len(), "")?;
        for key in ["name", "cniVersion", "plugins", "type"] {
            root.once(text, key, "")?;
        }
        let only_inlined = root.says_yes(text, "loadOnlyInlinedPlugins");
        let body = match root.get("plugins") {
            Some(array) => List { text, span: array.value.clone() }.plugins()?,
            None if root.get("type").is_some() => {
                let kind = kind_of(text, &root, "")?;
                Body::Single(Plugin { kind, object: object(text, 0..text.len(), "")? })
            }
            // Its plugins are files of their own.
            None if root.get("name").is_some() && !only_inlined => {
                Body::List { plugins: Vec::new() }
            }
            None => return Err(Error::NotANetwork),
        };
        Ok(Self {
            text,
            name: root.string(text, "name")?,
            cni_version: root.string(text, "cniVersion")?,
            offered: root.strings(text, "cniVersions"),
            delegates: delegates(text, &root),
            only_inlined,
            body,
        })
    }

    /// A plugin that has a file of its own: only its `type` counts.
    pub(super) fn plugin(text: &str) -> Result<Plugin, Error> {
        check_text(text)?;
        let object = object(text, 0..text.len(), "")?;
        Ok(Plugin { kind: kind_of(text, &object, "")?, object })
    }

    pub(super) fn plugins(&self) -> impl Iterator<Item = &Plugin> {
        match &self.body {
            Body::Single(plugin) => std::slice::from_ref(plugin).iter(),
            Body::List { plugins } => plugins.iter(),
        }
    }
}

impl Object {
    pub(super) fn get(&self, key: &str) -> Option<&Member> {
        self.members.iter().find(|m| m.key == key)
    }

    fn once(&self, text: &str, key: &str, field: &str) -> Result<(), Error> {
        match self.members.iter().filter(|m| m.key == key).nth(1) {
            Some(second) => {
                let (line, column) = position(text, second.start);
                Err(Error::DuplicateKey { field: join(field, key), line, column })
            }
            None => Ok(()),
        }
    }

    fn string(&self, text: &str, key: &str) -> Result<Option<String>, Error> {
        let Some(member) = self.get(key) else { return Ok(None) };
        match serde_json::from_str(slice(text, &member.value)) {
            Ok(string) => Ok(Some(string)),
            Err(_) => Err(wrong(text, key, "a string", member.value.start)),
        }
    }

    /// As libcni reads a flag: `true` or a string that says so.
    fn says_yes(&self, text: &str, key: &str) -> bool {
        let value = self.get(key).and_then(|m| serde_json::from_str(slice(text, &m.value)).ok());
        match value {
            Some(Value::Bool(yes)) => yes,
            Some(Value::String(word)) => word.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }

    fn strings(&self, text: &str, key: &str) -> Vec<String> {
        self.get(key)
            .and_then(|m| serde_json::from_str(slice(text, &m.value)).ok())
            .unwrap_or_default()
    }
}

struct List<'a> {
    text: &'a str,
    span: Span,
}

impl List<'_> {
    fn plugins(self) -> Result<Body, Error> {
        let array = slice(self.text, &self.span);
        let items: Vec<&RawValue> = serde_json::from_str(array)
            .map_err(|_| wrong(self.text, "plugins", "an array of plugins", self.span.start))?;
        let mut plugins = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let field = format!("plugins[{index}]");
            let object = object(self.text, span_of(self.text, item.get()), &field)?;
            let kind = kind_of(self.text, &object, &field)?;
            plugins.push(Plugin { kind, object });
        }
        Ok(Body::List { plugins })
    }
}

fn kind_of(text: &str, object: &Object, field: &str) -> Result<String, Error> {
    object.once(text, "type", field)?;
    let (line, column) = position(text, object.span.start);
    let missing = || Error::NoType { field: field.to_owned(), line, column };
    let member = object.get("type").ok_or_else(missing)?;
    match serde_json::from_str::<String>(slice(text, &member.value)) {
        Ok(kind) if kind.is_empty() => Err(missing()),
        Ok(kind) => Ok(kind),
        Err(_) => Err(wrong(text, &join(field, "type"), "a string", member.value.start)),
    }
}

/// What stands in `delegates`, by name or type: for a message only, so nothing is an error.
fn delegates(text: &str, root: &Object) -> Vec<String> {
    let Some(member) = root.get("delegates") else { return Vec::new() };
    let items: Vec<Value> = serde_json::from_str(slice(text, &member.value)).unwrap_or_default();
    let name = |item: &Value| {
        let field = item.get("name").or_else(|| item.get("type"))?;
        field.as_str().map(str::to_owned)
    };
    items.iter().filter_map(name).collect()
}

/// The whole text is valid JSON of bounded depth before anything is looked for in it.
fn check_text(text: &str) -> Result<(), Error> {
    let bytes = text.len() as u64;
    if bytes > MAX_BYTES {
        return Err(Error::TooBig { bytes, limit: MAX_BYTES });
    }
    if text.starts_with('\u{feff}') {
        return Err(Error::ByteOrderMark);
    }
    if let Some(at) = text.find('\0') {
        let (line, column) = position(text, at);
        return Err(Error::Nul { line, column });
    }
    if text.trim_ascii().is_empty() {
        return Err(Error::Empty);
    }
    match serde_json::from_str::<Value>(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            let full = error.to_string();
            let message = full.split(" at line ").next().unwrap_or(&full).to_owned();
            Err(Error::Json { message, line: error.line(), column: error.column() })
        }
    }
}

/// The object in `span`, which is known to be valid JSON.
fn object(text: &str, span: Span, field: &str) -> Result<Object, Error> {
    let start = skip(text, span.start, WHITESPACE);
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(slice(text, &span)) else {
        let field = if field.is_empty() { "." } else { field };
        return Err(wrong(text, field, "a JSON object", start));
    };
    let end = slice(text, &span).trim_end_matches(WHITESPACE).len() + span.start;
    let mut members: Vec<Member> = Vec::with_capacity(fields.0.len());
    let mut after = start + 1; // the opening brace
    for (key, raw) in fields.0 {
        let value = span_of(text, raw.get());
        let start = skip(text, after, SEPARATORS);
        after = value.end;
        members.push(Member { key, start, value });
    }
    Ok(Object { span: start..end, members })
}

pub(super) const WHITESPACE: &[char] = &[' ', '\t', '\n', '\r'];
const SEPARATORS: &[char] = &[' ', '\t', '\n', '\r', ','];

/// `text[span]`; spans come from this very text.
pub(super) fn slice<'a>(text: &'a str, span: &Span) -> &'a str {
    text.get(span.clone()).unwrap_or_default()
}

fn skip(text: &str, from: usize, what: &[char]) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + (rest.len() - rest.trim_start_matches(what).len())
}

fn span_of(text: &str, part: &str) -> Span {
    let start = part.as_ptr().addr().wrapping_sub(text.as_ptr().addr());
    start..start.wrapping_add(part.len())
}

fn wrong(text: &str, field: &str, expected: &'static str, at: usize) -> Error {
    let (line, column) = position(text, at);
    Error::WrongType { field: field.to_owned(), expected, line, column }
}

fn join(field: &str, key: &str) -> String {
    if field.is_empty() { key.to_owned() } else { format!("{field}.{key}") }
}

/// 1-based line and column (in characters).
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// An object's members in order, doubles included: a `Value` would keep only the last.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(InOrder).map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_those_of_the_text() {
        let text = "\n {\"name\" : \"n\",\r\n \"pl\\u0075gins\": [ {\"type\":\"ovs\"} , {\"x\":1e2,\"type\":\"p\\u006frtmap\" } ] }\n";
        let document = Document::parse(text).unwrap();
        let plugins: Vec<(&str, &str)> =
            document.plugins().map(|p| (p.kind.as_str(), slice(text, &p.object.span))).collect();
        assert_eq!(
            plugins,
            [("ovs", "{\"type\":\"ovs\"}"), ("portmap", "{\"x\":1e2,\"type\":\"p\\u006frtmap\" }")]
        );
        let members = &document.plugins().nth(1).unwrap().object.members;
        let starts: Vec<&str> =
            members.iter().map(|m| slice(text, &(m.start..m.value.end))).collect();
        assert_eq!(starts, ["\"x\":1e2", "\"type\":\"p\\u006frtmap\""]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let error = |text: &str| Document::parse(text).err().unwrap();
        assert_eq!(error(" \n"), Error::Empty);
        assert_eq!(error("\u{feff}{}"), Error::ByteOrderMark);
        assert_eq!(error("{\n\0}"), Error::Nul { line: 2, column: 1 });
        assert_eq!(error("{}"), Error::NotANetwork);
        let inlined = "{\"name\":\"n\",\"loadOnlyInlinedPlugins\":\"True\"}";
        assert_eq!(error(inlined), Error::NotANetwork);
        assert!(matches!(error("{\"a\":1,}"), Error::Json { line: 1, .. }));
        assert!(matches!(error("{} x"), Error::Json { line: 1, column: 4, .. }));
        assert!(matches!(error("[1]"), Error::WrongType { field, .. } if field == "."));
        assert!(matches!(
            error("{\n \"plugins\": {}}"),
            Error::WrongType { field, line: 2, column: 13, .. } if field == "plugins"
        ));
        assert!(matches!(
            error("{\"plugins\": [1]}"),
            Error::WrongType { field, .. } if field == "plugins[0]"
        ));
        assert!(matches!(
            error("{\"plugins\": [{\"type\":\"a\"},{}]}"),
            Error::NoType { field, line: 1, column: 27 } if field == "plugins[1]"
        ));
        assert!(matches!(
            error("{\"plugins\":[],\n\"plugins\":[]}"),
            Error::DuplicateKey { field, line: 2, column: 1 } if field == "plugins"
        ));
        assert!(matches!(
            error("{\"plugins\":[{\"type\":\"a\",\"type\":\"b\"}]}"),
            Error::DuplicateKey { field, .. } if field == "plugins[0].type"
        ));
        assert!(matches!(
            error("{\"name\":7,\"type\":\"ovs\"}"),
            Error::WrongType { field, .. } if field == "name"
        ));
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = format!("{{\"type\":\"ovs\",\"x\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(
            matches!(Document::parse(&deep), Err(Error::Json { message, .. }) if message.contains("recursion"))
        );
    }

    #[test]
    fn a_megabyte_is_too_much() {
        let big = format!("{{\"type\":\"ovs\"}}{}", " ".repeat(1 << 20));
        assert!(matches!(Document::parse(&big), Err(Error::TooBig { .. })));
    }
}
