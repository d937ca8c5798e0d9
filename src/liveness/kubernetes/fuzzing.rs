//! Fuzz bodies: whatever an API server sends (see [`crate::fuzzing`]).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken promise is told by panicking"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::api::{Api, Failure};
use super::items::{Broken, Rest, Splitter};
use super::pod::Pod;
use super::view::{Pods, View};
use super::watch::Watcher;
use super::{Contact, Shared, Timing};
use crate::liveness::Liveness;
use crate::model::attachment::{Attachment, Key, Pod as Named};
use crate::util::clock::Stamp;

const NODE: &str = "n1";

/// The size of pieces, then a list of pods.
pub(crate) fn list(data: &[u8]) -> bool {
    let Some((piece, text)) = data.split_first() else { return false };
    let whole = split(text, text.len().max(1));
    let pieces = split(text, usize::from(*piece).max(1));
    let items = |read: &Result<(Vec<Vec<u8>>, Rest), Broken>| match read {
        Ok((items, _)) => Some(items.clone()),
        Err(_) => None,
    };
    assert_eq!(items(&whole), items(&pieces), "otherwise in pieces of {piece}");
    let Ok((items, _)) = whole else { return false };
    // What is no pod makes the list none.
    let pods: Result<Vec<Pod>, _> = items.iter().map(|item| serde_json::from_slice(item)).collect();
    let Ok(pods) = pods else { return false };
    // serde_json unwraps objects with this key, of its own accord.
    let magic = b"$serde_json::private::RawValue";
    if let Ok(value) = serde_json::from_slice::<Value>(text)
        && !text.windows(magic.len()).any(|window| window == magic)
    {
        let theirs = value["items"].as_array().into_iter().flatten().filter(|i| i.is_object());
        assert_eq!(items.len(), theirs.count(), "serde sees more or less");
    }
    let end = text.trim_ascii_end().len();
    for cut in (1..8).map(|n| end * n / 8).chain([end - 1]) {
        assert!(split(&text[..cut], 64).is_err(), "cut at {cut} and taken for complete");
    }
    let mut known = Pods::default();
    for pod in &pods {
        let seen = known.see(pod, NODE);
        assert!(seen.is_err() || pod.node() == NODE, "a pod of another node");
    }
    true
}

fn split(list: &[u8], piece: usize) -> Result<(Vec<Vec<u8>>, Rest), Broken> {
    let (mut splitter, mut items) = (Splitter::default(), Vec::new());
    for piece in list.chunks(piece) {
        splitter.feed::<Broken>(piece, &mut |item| {
            items.push(item.to_vec());
            Ok(())
        })?;
    }
    Ok((items, splitter.finish()?))
}

/// The size of pieces, then a watch. Whatever it says, nobody is dead by it alone.
pub(crate) fn watch(data: &[u8]) -> bool {
    let Some((piece, text)) = data.split_first() else { return false };
    let whole = follow(text, text.len().max(1));
    let pieces = follow(text, usize::from(*piece).max(1));
    assert_eq!(whole.is_ok(), pieces.is_ok(), "otherwise in pieces of {piece}");
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => {
            assert_eq!(whole, pieces);
            whole > 0
        }
        (Err(failure), _) | (_, Err(failure)) => {
            assert!(failure.to_string().len() < 2_000, "{failure}");
            false
        }
    }
}

fn follow(text: &[u8], piece: usize) -> Result<usize, Failure> {
    let shared = Arc::new(Shared {
        view: Mutex::new(View::new()),
        contact: Mutex::new(Contact { last: None, up: None }),
        on_change: Box::new(|| {}),
        up: Box::new(|_| {}),
        away: Duration::from_secs(1),
    });
    let api = Arc::new(Api::new(None, Duration::from_secs(1)));
    let (node, timing) = (NODE.to_owned(), Timing::default());
    let mut watcher = Watcher::new(api, node, timing, Arc::clone(&shared));
    let mut buffer = Vec::new();
    let mut read = Ok(());
    for piece in text.chunks(piece) {
        buffer.extend_from_slice(piece);
        read = watcher.lines(&mut buffer);
        if read.is_err() {
            break;
        }
    }
    let mut view = shared.view();
    let dead = |view: &View, uid: &str| {
        let now = Stamp { boot_ms: 10_000_000, wall_ms: 10_000_000 };
        matches!(view.judge(&record(uid), now, |_| true), Liveness::Dead(_))
    };
    let known = view.len();
    assert!(!dead(&view, "uid-1") && !dead(&view, "never shown"), "dead by a watch alone");
    view.list(Pods::default());
    assert!(!dead(&view, "uid-1") && !dead(&view, "never shown"), "dead by the first list");
    view.list(Pods::default());
    assert!(!dead(&view, "never shown"), "dead and never seen alive");
    read.map(|()| known)
}

fn record(uid: &str) -> Attachment {
    let key = Key {
        network: "podnet".parse().unwrap(),
        container: "c1".parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    };
    let made = Stamp { boot_ms: 1_000, wall_ms: 1_000 };
    let pod = Named { namespace: "ns".into(), name: "web".into(), uid: uid.to_owned() };
    Attachment { pod: Some(pod), ..Attachment::new(key, 1, "boot".to_owned(), made) }
}
