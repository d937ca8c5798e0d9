//! Where things are in the state directory:
//!
//! ```text
//! /run/ovs-flow-gc/                      0700 root
//!   lock                                 flock, held for moments
//!   daemon.lock                          flock, held by the daemon for as long as it runs
//!   _daemon.sock                         where calls ask the daemon; no network's directory is called so
//!   _calls                               what calls of the plugin did, in numbers
//!   _seen                                who was seen alive, and when
//!   paused                               while it is there, nothing is deleted: who, why, until when
//!   deaths.json                          who seemed dead lately, for the mass-death guard
//!   _deliver/<network>-<containerID>-<ifname>  whose DEL is missing, and how far it came
//!   _deliver/_wanted                     a sweep found more of them
//!   _deliver/_delivered                  what deliveries did, in numbers, and the last of them
//!   journal/<operation>.jsonl            what was deleted; .pending while it is written
//!   <network>/config.json                the effective config and what was learned
//!   <network>/<containerID>:<ifname>.json              0600, one attachment
//!   <network>/dead/<containerID>:<ifname>.<generation>.json   tombstones
//!   …/*.corrupt                          moved aside, for people
//!   …/.*.tmp                             being written, or left by a crash
//! ```
//!
//! Names in a [`Key`] are safe by type: no `/`, no leading dot in a network or container
//! id, no `:` in either part.

use std::path::{Path, PathBuf};

use crate::model::attachment::{Attachment, Key, NetworkName};

pub(super) const LOCK: &str = "lock";
pub(super) const DAEMON: &str = "daemon.lock";
pub(super) const SOCKET: &str = "_daemon.sock";
pub(super) const CALLS: &str = "_calls";
pub(super) const SEEN: &str = "_seen";
pub(super) const DELIVER: &str = "_deliver";
pub(super) const WANTED: &str = "_wanted";
pub(super) const DELIVERED: &str = "_delivered";
pub(super) const PROBE: &str = "probe";
pub(super) const PAUSED: &str = "paused";
pub(super) const DEATHS: &str = "deaths.json";
pub(super) const JOURNAL: &str = "journal";
pub(super) const DEAD: &str = "dead";
pub(super) const CONFIG: &str = "config.json";
pub(super) const TEMPORARY: &str = ".tmp";
pub(super) const ASIDE: &str = ".corrupt";

/// A network's directory. One that is called like our own files gets a `_` in front, which
/// no network name can start with.
pub(super) fn network(root: &Path, name: &NetworkName) -> PathBuf {
    match name.as_str() {
        LOCK | DAEMON | PAUSED | DEATHS | JOURNAL => root.join(format!("_{name}")),
        name => root.join(name),
    }
}

/// The network whose directory is called so; `None` for what is not a network's.
pub(super) fn network_of(directory: &str) -> Option<NetworkName> {
    match directory.strip_prefix('_') {
        Some(name @ (LOCK | DAEMON | PAUSED | DEATHS | JOURNAL)) => name.parse().ok(),
        Some(_) => None,
        None if matches!(directory, LOCK | DAEMON | PAUSED | DEATHS | JOURNAL) => None,
        None => directory.parse().ok(),
    }
}

pub(super) fn config(root: &Path, name: &NetworkName) -> PathBuf {
    network(root, name).join(CONFIG)
}

/// An active record's file.
pub(super) fn active(root: &Path, key: &Key) -> PathBuf {
    network(root, &key.network).join(format!("{}:{}.json", key.container, key.ifname))
}

/// A tombstone's file.
pub(super) fn tombstone(root: &Path, key: &Key, generation: u64) -> PathBuf {
    let name = format!("{}:{}.{generation}.json", key.container, key.ifname);
    network(root, &key.network).join(DEAD).join(name)
}

pub(super) fn tombstone_of(root: &Path, a: &Attachment) -> PathBuf {
    tombstone(root, &a.key, a.generation)
}

/// What an active record's file name says.
pub(super) fn parse_active(network: &NetworkName, file: &str) -> Option<Key> {
    let (container, ifname) = file.strip_suffix(".json")?.split_once(':')?;
    Some(Key {
        network: network.clone(),
        container: container.parse().ok()?,
        ifname: ifname.parse().ok()?,
    })
}

/// What a tombstone's file name says. An ifname may hold dots: the last part is the
/// generation.
pub(super) fn parse_tombstone(network: &NetworkName, file: &str) -> Option<(Key, u64)> {
    let (name, generation) = file.strip_suffix(".json")?.rsplit_once('.')?;
    // One spelling only, or two files could be the same tombstone.
    let number: u64 = generation.parse().ok().filter(|n: &u64| n.to_string() == generation)?;
    Some((parse_active(network, &format!("{name}.json"))?, number))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::store) fn key(network: &str, container: &str, ifname: &str) -> Key {
        Key {
            network: network.parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: ifname.parse().unwrap(),
        }
    }

    #[test]
    fn networks_called_like_our_own_files_do_not_meet_them() {
        let root = Path::new("/r");
        for name in ["lock", "daemon.lock", "paused", "deaths.json", "journal"] {
            let network: NetworkName = name.parse().unwrap();
            let path = super::network(root, &network);
            assert_ne!(path, root.join(name));
            let directory = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(network_of(directory), Some(network));
            assert_eq!(network_of(name), None);
        }
        for not in [SOCKET, DELIVER, "_other", ".hidden", "..", "lost+found", "", "a b"] {
            assert_eq!(network_of(not), None, "{not:?}");
        }
    }

    #[test]
    fn tricks_in_names_never_reach_a_path() {
        for bad in ["", ".", "..", "../x", "a/b", "/etc", "a\0b", "a:b", ".a", "-a", "a b", "ä"] {
            assert!(bad.parse::<NetworkName>().is_err(), "{bad:?}");
            assert!(bad.parse::<crate::model::attachment::ContainerId>().is_err(), "{bad:?}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "a\0b", "a:b", "a b", "a\nb", "0123456789abcdef"]
        {
            assert!(bad.parse::<crate::model::attachment::IfName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_longest_names_fit_into_a_file_name() {
        let longest = key(&"n".repeat(200), &"c".repeat(200), &"i".repeat(15));
        let path = tombstone(Path::new("/r"), &longest, u64::MAX);
        let name = path.file_name().unwrap().len() + ASIDE.len() + ".99".len();
        assert!(name <= 255, "{name}");
    }

    #[test]
    fn other_spellings_of_a_tombstone_are_not_one() {
        let network = "net".parse().unwrap();
        for not in
            ["c:eth0.json", "c:eth0.007.json", "c:eth0.+7.json", "c:eth0.-1.json", "c.7.json"]
        {
            assert_eq!(parse_tombstone(&network, not), None, "{not}");
        }
    }

    proptest! {
        #[test]
        fn names_come_back(
            n in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,30}", c in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,70}",
            i in "[a-z0-9@._-]{1,15}", generation: u64,
        ) {
            prop_assume!(i != "." && i != "..");
            let key = key(&n, &c, &i);
            let root = Path::new("/r");
            let file = |p: PathBuf| p.file_name().unwrap().to_str().unwrap().to_owned();
            prop_assert_eq!(network_of(&file(network(root, &key.network))), Some(key.network.clone()));
            prop_assert_eq!(parse_active(&key.network, &file(active(root, &key))), Some(key.clone()));
            let tombstone = file(tombstone(root, &key, generation));
            prop_assert_eq!(parse_tombstone(&key.network, &tombstone), Some((key, generation)));
        }
    }
}
