//! OVSDB's values (RFC 7047, section 5.1). A column that holds a set of one is sent as
//! the bare atom: one function reads both shapes, so no caller can forget one.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor,
};
use serde_json::{Value, json};

use crate::model::row::RowId;

/// One atom.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Atom {
    Text(String),
    Integer(i64),
    Real,
    Boolean,
    Row(RowId),
}

/// The value of a column.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Datum {
    /// A scalar, or a set of one.
    One(Atom),
    /// None, or several.
    Set(Vec<Atom>),
    Map(Vec<(Atom, Atom)>),
}

impl Datum {
    fn atoms(&self) -> &[Atom] {
        match self {
            Self::One(atom) => std::slice::from_ref(atom),
            Self::Set(atoms) => atoms,
            Self::Map(_) => &[],
        }
    }

    fn only(&self) -> Option<&Atom> {
        match self.atoms() {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The text, if this is exactly one text that is not empty.
    pub(super) fn text(&self) -> Option<String> {
        match self.only() {
            Some(Atom::Text(text)) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }

    /// The integer, if this is exactly one.
    pub(super) fn integer(&self) -> Option<i64> {
        match self.only() {
            Some(Atom::Integer(integer)) => Some(*integer),
            _ => None,
        }
    }

    /// Every integer in it.
    pub(super) fn integers(&self) -> impl Iterator<Item = i64> {
        self.atoms().iter().filter_map(|atom| match atom {
            Atom::Integer(integer) => Some(*integer),
            _ => None,
        })
    }

    /// The row, if this is exactly one.
    pub(super) fn row(&self) -> Option<RowId> {
        match self.only() {
            Some(Atom::Row(row)) => Some(*row),
            _ => None,
        }
    }

    /// All rows; `None` if something else is among them.
    pub(super) fn rows(&self) -> Option<Vec<RowId>> {
        if matches!(self, Self::Map(_)) {
            return None;
        }
        self.atoms()
            .iter()
            .map(|a| if let Atom::Row(row) = a { Some(*row) } else { None })
            .collect()
    }

    /// All texts; anything else is left out.
    pub(super) fn texts(&self) -> Vec<String> {
        let text = |a: &Atom| if let Atom::Text(text) = a { Some(text.clone()) } else { None };
        self.atoms().iter().filter_map(text).collect()
    }

    /// The map of texts; `None` if it is no such map.
    pub(super) fn text_map(&self) -> Option<BTreeMap<String, String>> {
        let Self::Map(pairs) = self else { return None };
        pairs
            .iter()
            .map(|pair| match pair {
                (Atom::Text(key), Atom::Text(value)) => Some((key.clone(), value.clone())),
                _ => None,
            })
            .collect()
    }
}

/// A row as the wire has it.
pub(super) fn row(id: RowId) -> Value {
    json!(["uuid", id.to_string()])
}

/// A set as the wire has it.
pub(super) fn set(members: impl IntoIterator<Item = Value>) -> Value {
    json!(["set", members.into_iter().collect::<Vec<_>>()])
}

/// A map of texts as the wire has it.
pub(super) fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    json!(["map", pairs.into_iter().map(|(k, v)| json!([k, v])).collect::<Vec<_>>()])
}

/// What stands before the value in a pair.
enum Tag {
    Uuid,
    Set,
    Map,
}

/// Reads a text without keeping it.
struct Text<T>(fn(&str) -> Result<T, String>);

impl<'de, T> DeserializeSeed<'de> for Text<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        self.0(text).map_err(E::custom)
    }
}

fn tag(text: &str) -> Result<Tag, String> {
    match text {
        "uuid" => Ok(Tag::Uuid),
        "set" => Ok(Tag::Set),
        "map" => Ok(Tag::Map),
        _ => Err(format!("unexpected tag {:?}", text.chars().take(40).collect::<String>())),
    }
}

/// Reads an atom; with `COMPOUND`, a set or a map as well.
struct Reader<const COMPOUND: bool>;

impl<'de, const COMPOUND: bool> Visitor<'de> for Reader<COMPOUND> {
    type Value = Datum;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if COMPOUND { "an OVSDB value" } else { "an OVSDB atom" })
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Datum, E> {
        Ok(Datum::One(Atom::Text(text.to_owned())))
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Datum, E> {
        Ok(Datum::One(Atom::Text(text)))
    }

    fn visit_i64<E: serde::de::Error>(self, integer: i64) -> Result<Datum, E> {
        Ok(Datum::One(Atom::Integer(integer)))
    }

    fn visit_u64<E: serde::de::Error>(self, integer: u64) -> Result<Datum, E> {
        let integer = i64::try_from(integer)
            .map_err(|_| E::custom(format_args!("integer {integer} is out of range")))?;
        Ok(Datum::One(Atom::Integer(integer)))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Datum, E> {
        Ok(Datum::One(Atom::Real))
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Datum, E> {
        Ok(Datum::One(Atom::Boolean))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Datum, A::Error> {
        let short = || A::Error::custom("an OVSDB value that ends too early");
        let datum = match seq.next_element_seed(Text(tag))?.ok_or_else(short)? {
            Tag::Uuid => {
                let id = Text(|text| text.parse::<RowId>().map_err(|e| e.to_string()));
                Datum::One(Atom::Row(seq.next_element_seed(id)?.ok_or_else(short)?))
            }
            Tag::Set if COMPOUND => {
                let mut atoms: Vec<Atom> = seq.next_element()?.ok_or_else(short)?;
                match atoms.pop() {
                    Some(only) if atoms.is_empty() => Datum::One(only),
                    last => {
                        atoms.extend(last);
                        Datum::Set(atoms)
                    }
                }
            }
            Tag::Map if COMPOUND => Datum::Map(seq.next_element()?.ok_or_else(short)?),
            Tag::Set | Tag::Map => {
                return Err(A::Error::custom(
                    "unexpected tag: a set or map where an atom should be",
                ));
            }
        };
        match seq.next_element::<IgnoredAny>()? {
            None => Ok(datum),
            Some(_) => Err(A::Error::custom("an OVSDB value with too many elements")),
        }
    }
}

impl<'de> Deserialize<'de> for Datum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader::<true>)
    }
}

impl<'de> Deserialize<'de> for Atom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(Reader::<false>)? {
            Datum::One(atom) => Ok(atom),
            Datum::Set(_) | Datum::Map(_) => Err(D::Error::custom("no atom")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Datum, serde_json::Error> {
        serde_json::from_str(text)
    }

    const ID: &str = r#"["uuid","1bba7323-f214-49f0-82a3-7998adef5aea"]"#;

    #[test]
    fn a_bare_atom_is_a_set_of_one() {
        assert_eq!(read("7").unwrap(), read(r#"["set",[7]]"#).unwrap());
        assert_eq!(read("-1").unwrap().integer(), Some(-1));
        assert_eq!(read(r#""x""#).unwrap().text().as_deref(), Some("x"));
        assert_eq!(read(r#"["set",["x"]]"#).unwrap().texts(), ["x"]);
        let id = read(ID).unwrap().row().unwrap();
        assert_eq!(read(&format!(r#"["set",[{ID}]]"#)).unwrap().rows().unwrap(), [id]);
        assert_eq!(serde_json::from_value::<Datum>(row(id)).unwrap().row(), Some(id));
    }

    #[test]
    fn empty_and_several_are_not_one() {
        assert_eq!(read(r#"["set",[]]"#).unwrap().integer(), None);
        assert_eq!(read(r#"["set",[1,2]]"#).unwrap().integer(), None);
        assert_eq!(read(r#""""#).unwrap().text(), None);
        assert_eq!(read(r#"["set",[]]"#).unwrap().rows(), Some(vec![]));
        assert_eq!(read(r#"["set",["x"]]"#).unwrap().rows(), None);
    }

    #[test]
    fn maps_of_texts() {
        let wire = map([("a", "1"), ("b", "")]);
        let read: Datum = serde_json::from_value(wire).unwrap();
        let read = read.text_map().unwrap();
        assert_eq!(read.get("a").unwrap(), "1");
        assert_eq!(read.get("b").unwrap(), "");
        let numbers: Datum = serde_json::from_str(r#"["map",[["a",1]]]"#).unwrap();
        assert_eq!(numbers.text_map(), None);
        assert_eq!(Datum::Set(vec![]).text_map(), None);
    }

    #[test]
    fn wrong_shapes_are_errors() {
        for (wrong, says) in [
            ("null", "invalid type"),
            ("{}", "invalid type"),
            ("[]", "ends too early"),
            (r#"["uuid"]"#, "ends too early"),
            (r#"["uuid","nope"]"#, "not a UUID"),
            (r#"["named-uuid","x"]"#, "unexpected tag"),
            (r#"["set",[["set",[]]]]"#, "unexpected tag"),
            (r#"["set",[1],2]"#, "too many"),
            (r#"["map",[["a"]]]"#, "invalid length"),
            (r#"["set",7]"#, "invalid type"),
            ("18446744073709551615", "out of range"),
            ("1e999", "number out of range"),
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{wrong}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in r#"(\[|\]|"set"|"map"|"uuid"|,|1|"x"|-|9e9|null|\{|\}){0,30}"#) {
            if let Ok(datum) = read(&text) {
                let _ = (datum.text(), datum.integer(), datum.rows(), datum.text_map());
            }
        }
    }
}
