//! Takes a list from the API server apart while it comes in, so that a list of any length
//! costs the memory of one item.

use serde::de::{self, Deserialize, Deserializer};

/// A pod of this size is none: etcd refuses objects beyond 1.5 MiB.
const LARGEST_ITEM: usize = 4 << 20;
/// What is left of a list when its items are taken out.
const LARGEST_REST: usize = 1 << 20;

/// A list that cannot be believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// An item, or the list without its items, is larger than any the API server sends.
    #[error("the API server's list holds something larger than {0} bytes")]
    TooLarge(usize),
    /// Cut short, or not JSON, or not a list.
    #[error("the API server's list cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

/// Where the bytes go.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Part {
    /// The list without its items.
    #[default]
    Rest,
    /// Between the brackets of `items`, outside any item.
    Items,
    /// An item.
    Item,
}

/// Cuts `{…, "items": [ITEM, ITEM, …], …}` into items and a rest in which each item is a 0:
/// what serde then says of the rest holds for the whole, a list that was cut short is an error
/// and an item cannot hide in it.
#[derive(Default)]
pub(crate) struct Splitter {
    part: Part,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Where the last string of the rest begins and ends, and whether it is the key `items`.
    string: usize,
    key_is_items: bool,
    rest: Vec<u8>,
    item: Vec<u8>,
}

impl Splitter {
    /// Takes the next bytes; `each` is given every item that they complete.
    pub(crate) fn feed<E: From<Broken>>(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for byte in bytes {
            if self.byte(*byte)? {
                each(&self.item)?;
                self.item.clear();
            }
        }
        Ok(())
    }

    /// The rest, when all bytes came.
    pub(crate) fn finish(self) -> Result<Rest, Broken> {
        Ok(serde_json::from_slice(&self.rest)?)
    }

    /// Whether an item is complete now.
    fn byte(&mut self, byte: u8) -> Result<bool, Broken> {
        if self.part == Part::Items && byte == b'{' {
            (self.part, self.depth) = (Part::Item, 0);
            self.rest.push(b'0');
        }
        let (into, most) = match self.part {
            Part::Item => (&mut self.item, LARGEST_ITEM),
            Part::Rest | Part::Items => (&mut self.rest, LARGEST_REST),
        };
        if into.len() >= most {
            return Err(Broken::TooLarge(most));
        }
        into.push(byte);
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.part == Part::Rest {
                    self.string = self.rest.len() - 1;
                    self.key_is_items = false;
                }
            }
            b':' if self.part == Part::Rest && self.depth == 1 => {
                let key = self.rest.get(self.string..self.rest.len() - 1).unwrap_or_default();
                self.key_is_items = key.trim_ascii() == b"\"items\"";
            }
            b'[' if self.part == Part::Rest && self.depth == 1 && self.key_is_items => {
                self.part = Part::Items;
            }
            b']' if self.part == Part::Items => {
                (self.part, self.depth, self.key_is_items) = (Part::Rest, 1, false);
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                if self.part == Part::Item && self.depth == 0 {
                    self.part = Part::Items;
                    return Ok(true);
                }
            }
            _ => {}
        }
        Ok(false)
    }
}

/// A list without its items.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rest {
    pub(crate) kind: String,
    pub(crate) metadata: ListMeta,
    /// Nothing but zeros; `null` is Go's empty list. Where it is missing, it is no list.
    #[serde(rename = "items", deserialize_with = "zeros")]
    _items: (),
}

#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListMeta {
    #[serde(default)]
    pub(crate) resource_version: String,
    /// There is another page.
    #[serde(default, rename = "continue")]
    pub(crate) token: Option<String>,
}

fn zeros<'de, D: Deserializer<'de>>(from: D) -> Result<(), D::Error> {
    let items: Option<Vec<u8>> = Option::deserialize(from)?;
    if items.unwrap_or_default().iter().any(|item| *item != 0) {
        return Err(de::Error::custom("items holds something that is no object"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(list: &[u8], chunk: usize) -> Result<(Vec<String>, Rest), Broken> {
        let (mut splitter, mut items) = (Splitter::default(), Vec::new());
        for chunk in list.chunks(chunk) {
            splitter.feed::<Broken>(chunk, &mut |item| {
                items.push(String::from_utf8_lossy(item).into_owned());
                Ok(())
            })?;
        }
        Ok((items, splitter.finish()?))
    }

    const LIST: &str = r#"{"kind":"PodList", "metadata":{"resourceVersion":"7","continue":"x","items":[{"no":1}]},
        "items" : [ {"a":"}]\"","b":[{"items":[{}]}]}, {} ,{"c":"\\"}], "more":{"items":[]}}"#;

    #[test]
    fn items_come_one_by_one_however_the_bytes_are_cut() {
        for chunk in 1..LIST.len() {
            let (items, rest) = split(LIST.as_bytes(), chunk).unwrap();
            assert_eq!(items, [r#"{"a":"}]\"","b":[{"items":[{}]}]}"#, "{}", r#"{"c":"\\"}"#]);
            assert_eq!(rest.kind, "PodList");
            assert_eq!(rest.metadata.resource_version, "7");
            assert_eq!(rest.metadata.token.as_deref(), Some("x"));
        }
    }

    #[test]
    fn a_list_that_was_cut_short_anywhere_is_an_error() {
        for end in 0..LIST.len() {
            assert!(matches!(split(&LIST.as_bytes()[..end], 64), Err(Broken::Json(_))), "{end}");
        }
        assert!(split(format!("{LIST}{{}}").as_bytes(), 64).is_err());
    }

    #[test]
    fn nothing_hides_in_a_list() {
        let with = |items: &str| format!(r#"{{"kind":"PodList","metadata":{{}},{items}}}"#);
        for (items, count) in [
            (r#""items":[]"#, Some(0)),
            (r#""items":null"#, Some(0)),
            (r#""items":[{}]"#, Some(1)),
            (r#""items":[0]"#, Some(0)),
            (r#""nothing":[]"#, None),
            (r#""items":[1]"#, None),
            (r#""items":["a"]"#, None),
            (r#""items":[[{}]]"#, None),
            (r#""items":{}"#, None),
            (r#""items":[{}{}]"#, None),
            (r#""items":[{},]"#, None),
            (r#""items":[],"items":[{}]"#, None),
            (r#""\u0069tems":[{}]"#, None),
            (r#""other":"items","x":[{}],"items":[{}]"#, Some(1)),
        ] {
            let split = split(with(items).as_bytes(), 5).ok().map(|(items, _)| items.len());
            assert_eq!(split, count, "{items}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let endless = format!(r#"{{"items":[{{"a":"{}"#, "x".repeat(LARGEST_ITEM));
        assert!(matches!(split(endless.as_bytes(), 4096), Err(Broken::TooLarge(_))));
        let endless = format!(r#"{{"a":"{}"#, "x".repeat(LARGEST_REST));
        assert!(matches!(split(endless.as_bytes(), 4096), Err(Broken::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, text in r#"[\[\]{}":,items\\ 0]{0,60}"#) {
            let _ = split(&bytes, 7);
            // Where serde reads a list, so do we, with as many items.
            let ours = split(text.as_bytes(), 7).ok().map(|(items, _)| items.len());
            prop_assert!(ours.is_none() || serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }
}
