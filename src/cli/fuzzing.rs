//! Fuzz bodies: conflists, and what an operator types (see [`crate::fuzzing`]).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken promise is told by panicking"
)]

use clap::Parser as _;
use serde_json::{Map, Value};

use super::conflist::{Entry, Options, PLUGIN_TYPE, add_text, inspect, remove_text};
use super::{Command, ConflistCommand, Line, node};
use crate::store::JournalId;

/// A network configuration.
pub(crate) fn conflist(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let seen = inspect(text).inspect_err(|error| {
        assert!(error.to_string().len() < 2_000 + text.len() * 2, "{error}");
    });
    let removed = remove_text(text);
    let mut settings = Map::new();
    settings.insert("preset".to_owned(), "ovs-cni".into());
    for entry in [Entry::default(), Entry(settings)] {
        let after = seen.as_ref().ok().and_then(|seen| seen.plugins.first().cloned());
        for after in [None, after] {
            let options = Options { after, entry: entry.clone(), own_file: false };
            let Ok(edit) = add_text(text, &options) else { continue };
            let there = inspect(&edit.text).expect("what was added to can be read");
            let ours = there.ours.expect("it was added");
            assert_eq!(there.plugins[ours], PLUGIN_TYPE);
            assert_eq!(edit.changed, edit.text != text);
            let seen = seen.as_ref().expect("what cannot be read cannot be added to");
            assert_eq!((&there.name, &there.cni_version), (&seen.name, &seen.cni_version));
            // Once more changes nothing.
            let again = add_text(&edit.text, &options).unwrap();
            assert_eq!((again.changed, &again.text), (false, &edit.text));
            if edit.changed && !edit.converted {
                assert_eq!(there.plugins.len(), seen.plugins.len() + 1);
                // Every byte that is not ours is as it was.
                let back = remove_text(&edit.text).unwrap();
                assert_eq!(back.text, text);
                same_but_ours(text, &edit.text);
            }
        }
    }
    if let Ok(removed) = &removed {
        let left = inspect(&removed.text).expect("what was taken from can be read");
        assert!(left.ours.is_none() || !left.list, "{left:?}");
        assert!(removed.changed || removed.text == text);
        assert!(removed.text.len() <= text.len());
    }
    seen.is_ok()
}

/// All other plugins, and all else of the list, mean what they meant.
fn same_but_ours(before: &str, after: &str) {
    let (Ok(before), Ok(mut after)) =
        (serde_json::from_str::<Value>(before), serde_json::from_str::<Value>(after))
    else {
        panic!("one of them is no JSON");
    };
    let plugins = |value: &Value| value.get("plugins").and_then(Value::as_array).cloned();
    let ours = |plugin: &Value| plugin.get("type").and_then(Value::as_str) == Some(PLUGIN_TYPE);
    let kept: Option<Vec<Value>> =
        plugins(&after).map(|all| all.into_iter().filter(|plugin| !ours(plugin)).collect());
    assert_eq!(kept, plugins(&before));
    after["plugins"] = before["plugins"].clone();
    assert_eq!(after, before);
}

/// Arguments, each ended by a NUL: of the daemon if the first byte is odd.
pub(crate) fn arguments(data: &[u8]) -> bool {
    let Some((selector, rest)) = data.split_first() else { return false };
    let Ok(text) = std::str::from_utf8(rest) else { return false };
    let line = |name: &'static str| std::iter::once(name).chain(text.split('\0'));
    #[cfg(feature = "daemon")]
    if selector % 2 == 1 {
        return crate::daemon::options::Options::try_parse_from(line("ovs-flow-gcd")).is_ok();
    }
    let _ = selector;
    let Ok(line) = Line::try_parse_from(line("ovs-flow-gc")) else { return false };
    if let Command::Conflist(ConflistCommand::Add { entry, .. }) = line.command
        && let Ok(settings) = serde_json::from_str(&entry.settings)
    {
        let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ovs"}]}"#;
        let options = Options { after: entry.after, entry: Entry(settings), own_file: false };
        if let Ok(edit) = add_text(list, &options) {
            assert_eq!(remove_text(&edit.text).unwrap().text, list);
        }
    }
    true
}

/// An operation's id, which becomes a file's name.
pub(crate) fn journal_id(text: &str) -> bool {
    let Ok(id) = text.parse::<JournalId>() else { return false };
    assert_eq!(id.as_str(), text);
    assert!(text.len() <= 30 && text.starts_with(|c: char| c.is_ascii_digit()));
    assert!(text.bytes().all(|b| b.is_ascii_digit() || b"T.-".contains(&b)));
    true
}

/// A file that may name us: a configuration, or an entry of libcni's cache.
pub(crate) fn node_files(data: &[u8]) -> bool {
    node::fuzz(data)
}
