//! Scenario 16: the conflist editor on configurations as they are found on nodes. Whatever is
//! not ours is compared byte by byte.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ovs_flow_gc::cli::conflist::{
    Change, Entry, Error, FileError, Inspection, Options, add_file, add_text, find_ours, find_ovs,
    inspect, inspect_file, remove_file, remove_text,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Whether our entry stands behind the OVS plugin, where it can work.
fn is_in_place(list: &Inspection) -> bool {
    list.ovs.is_some() && list.ovs < list.ours
}

/// Lists in which our entry can go, and the plugin that it belongs behind.
const LISTS: [(&str, usize); 8] = [
    ("10-ovs.conflist", 0),
    ("10-ovs-mirror.conflist", 0),
    ("10-antrea.conflist", 0),
    ("01-kube-ovn.conflist", 0),
    ("compact.conflist", 0),
    ("crlf.conflist", 0),
    ("tabs.conflist", 0),
    ("odd.conflist", 0),
];

const SINGLES: [&str; 3] =
    ["80-openshift-network-0.3.1.conf", "10-ovn-kubernetes.conf", "10-k-vswitch-0.3.1.conf"];

fn data(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/conflists").join(name);
    fs::read_to_string(path).unwrap()
}

fn none() -> Options {
    Options::default()
}

fn with(settings: Value) -> Options {
    let Value::Object(map) = settings else { panic!("settings are an object") };
    Options { after: None, entry: Entry(map), own_file: false }
}

fn add(text: &str) -> String {
    add_text(text, &none()).unwrap().text
}

fn types(text: &str) -> Vec<String> {
    inspect(text).unwrap().plugins
}

/// The list with our plugin taken out by somebody who knows nothing of bytes.
fn without_ours(text: &str) -> Value {
    let mut value: Value = serde_json::from_str(text).unwrap();
    let plugins = value["plugins"].as_array_mut().unwrap();
    plugins.retain(|p| p["type"] != "ovs-flow-gc");
    value
}

/// The pieces of `new` around what it has more than `old`.
fn inserted<'a>(old: &str, new: &'a str) -> &'a str {
    let more = new.len() - old.len();
    (0..=old.len())
        .filter(|at| old.is_char_boundary(*at))
        .filter(|at| new.is_char_boundary(*at) && new.is_char_boundary(at + more))
        .find(|at| new[..*at] == old[..*at] && new[at + more..] == old[*at..])
        .map(|at| &new[at..at + more])
        .expect("something besides one insertion changed")
}

#[test]
fn real_lists_change_by_one_insertion_and_come_back() {
    for (name, ovs) in LISTS {
        let text = data(name);
        let edit = add_text(&text, &none()).unwrap();
        assert!(edit.changed && !edit.converted, "{name}");
        inserted(&text, &edit.text);
        assert_eq!(types(&edit.text)[ovs + 1], "ovs-flow-gc", "{name}");
        assert_eq!(
            without_ours(&edit.text),
            serde_json::from_str::<Value>(&text).unwrap(),
            "{name}"
        );
        assert!(is_in_place(&inspect(&edit.text).unwrap()), "{name}");

        let again = add_text(&edit.text, &none()).unwrap();
        assert!(!again.changed && again.text == edit.text, "{name}: add twice");
        let back = remove_text(&edit.text).unwrap();
        assert!(back.changed);
        assert_eq!(back.text, text, "{name}: add, remove");
        assert!(!remove_text(&text).unwrap().changed, "{name}: remove what is not there");
    }
}

#[test]
fn the_entry_looks_like_its_neighbours() {
    let new = add(&data("10-ovs.conflist"));
    assert!(new.contains(
        "    },\n    {\n      \"type\": \"ovs-flow-gc\"\n    },\n    {\n      \"type\": \"portmap\""
    ));
    let new = add(&data("crlf.conflist"));
    assert!(new.contains("    },\r\n    {\r\n      \"type\": \"ovs-flow-gc\"\r\n    },\r\n"));
    let new = add(&data("tabs.conflist"));
    assert!(new.contains("\t\t},\n\t\t{\n\t\t\t\"type\": \"ovs-flow-gc\"\n\t\t},\n"));
    let new = add(&data("01-kube-ovn.conflist"));
    assert!(
        new.contains("        },\n        {\n            \"type\":\"ovs-flow-gc\"\n        },\n")
    );
    let new = add(&data("10-antrea.conflist"));
    assert!(new.contains(
        "        },\n        {\n            \"type\": \"ovs-flow-gc\"\n        }\n        ,\n"
    ));
    let new = add(&data("compact.conflist"));
    assert!(new.contains(r#"}},{"type":"ovs-flow-gc"},{"type":"tuning","#));
    let new = add(&data("odd.conflist"));
    let entry = "\n   },\n  {\"type\":\"ovs-flow-gc\"},\n  {\"type\":\"portmap\"";
    assert!(new.contains(entry), "{new}");
    let new = add(&data("10-ovs-mirror.conflist"));
    assert!(
        new.contains(
            " },\n        { \"type\": \"ovs-flow-gc\" },\n        { \"type\": \"ovs-mirror"
        )
    );
}

#[test]
fn settings_go_into_the_entry() {
    let options = with(json!({"preset": "antrea", "lingerSeconds": 60, "tables": [0, 10]}));
    for (name, _) in LISTS {
        let text = data(name);
        let edit = add_text(&text, &options).unwrap();
        let value: Value = serde_json::from_str(&edit.text).unwrap();
        assert_eq!(
            value["plugins"][1],
            json!({"type": "ovs-flow-gc", "preset": "antrea", "lingerSeconds": 60, "tables": [0, 10]}),
            "{name}"
        );
        assert!(!add_text(&edit.text, &options).unwrap().changed, "{name}");
        assert!(
            !add_text(&edit.text, &none()).unwrap().changed,
            "no settings asked for: any will do"
        );
        assert_eq!(remove_text(&edit.text).unwrap().text, text, "{name}");
    }
    let new = add_text(&data("10-ovs.conflist"), &with(json!({"mode": "observe"}))).unwrap().text;
    assert!(new.contains("      \"type\": \"ovs-flow-gc\",\n      \"mode\": \"observe\"\n    },"));
    let error = add_text(&new, &with(json!({"mode": "enforce"}))).unwrap_err();
    assert_eq!(
        error,
        Error::OtherSetting {
            key: "mode".into(),
            found: "\"observe\"".into(),
            asked: "\"enforce\"".into()
        }
    );
    let error = add_text(&data("10-ovs.conflist"), &with(json!({"type": "x"}))).unwrap_err();
    assert_eq!(error, Error::NotASetting { key: "type".into() });
}

/// IPAM of the whole cluster may give a dead pod's address to another node.
#[test]
fn the_scope_of_addresses_follows_the_ipam() {
    let entry = |ipam: Value, options: &Options| {
        let ovs = json!({"type": "ovs", "bridge": "br0", "ipam": ipam});
        let list = json!({"cniVersion": "1.0.0", "name": "n",
            "plugins": [{"type": "x", "ipam": {"type": "dhcp"}}, ovs, {"type": "portmap"}]});
        let edit = add_text(&list.to_string(), options).unwrap();
        assert!(!add_text(&edit.text, options).unwrap().changed && edit.changed);
        assert!(!add_text(&edit.text, &none()).unwrap().changed);
        let value: Value = serde_json::from_str(&edit.text).unwrap();
        let plugins = value["plugins"].as_array().unwrap();
        plugins.iter().find(|p| p["type"] == "ovs-flow-gc").unwrap().clone()
    };
    let bare = json!({"type": "ovs-flow-gc"});
    let cluster = json!({"type": "ovs-flow-gc", "addressScope": "cluster"});
    for ipam in ["whereabouts", "static", "dhcp", "calico-ipam"] {
        assert_eq!(entry(json!({"type": ipam}), &none()), cluster, "{ipam}");
    }
    let behind_portmap = Options { after: Some("portmap".into()), ..none() };
    assert_eq!(entry(json!({"type": "whereabouts"}), &behind_portmap), cluster);
    for ipam in [json!({"type": "host-local"}), json!({}), Value::Null] {
        assert_eq!(entry(ipam, &none()), bare);
    }
    for key in ["addressScope", "ipScope"] {
        let told = entry(json!({"type": "whereabouts"}), &with(json!({key: "node"})));
        assert_eq!(told, json!({"type": "ovs-flow-gc", key: "node"}));
    }
    let single = r#"{"cniVersion":"0.4.0","name":"n","type":"ovs","ipam":{"type":"whereabouts"}}"#;
    let value: Value = serde_json::from_str(&add(single)).unwrap();
    assert_eq!(value["plugins"][1], cluster);
}

#[test]
fn after_names_the_plugin_to_stand_behind() {
    let options = Options { after: Some("portmap".into()), ..none() };
    let text = data("10-antrea.conflist");
    let edit = add_text(&text, &options).unwrap();
    assert_eq!(types(&edit.text), ["antrea", "portmap", "ovs-flow-gc", "bandwidth"]);
    assert_eq!(remove_text(&edit.text).unwrap().text, text);

    let options = Options { after: Some("firewall".into()), ..none() };
    let new = add_text(&data("bridge.conflist"), &options).unwrap().text;
    assert_eq!(types(&new), ["bridge", "firewall", "ovs-flow-gc"]);

    let options = Options { after: Some("calico".into()), ..none() };
    let error = add_text(&text, &options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no plugin of type \"calico\" in it (its plugins: antrea, portmap, bandwidth)"
    );
}

#[test]
fn errors_say_what_is_there_and_what_to_do() {
    let error = add_text(&data("bridge.conflist"), &none()).unwrap_err().to_string();
    assert!(error.contains("bridge, firewall") && error.contains("--after"), "{error}");

    let error = add_text(&data("00-multus-kube-ovn.conf"), &none()).unwrap_err();
    assert_eq!(
        error,
        Error::MetaPlugin { meta: "multus".into(), delegates: vec!["kube-ovn".into()] }
    );

    for (name, found) in
        [("80-openshift-network.conf", Some("0.2.0".to_owned())), ("10-k-vswitch.conf", None)]
    {
        let error = add_text(&data(name), &none()).unwrap_err();
        assert!(error.to_string().contains("CNI_COMMAND=VERSION"), "{error}");
        assert_eq!(error, Error::Version { found }, "{name}");
    }

    let misplaced =
        r#"{"name":"n","cniVersion":"1.0.0","plugins":[{"type":"ovs-flow-gc"},{"type":"ovs"}]}"#;
    let error = add_text(misplaced, &none()).unwrap_err();
    assert_eq!(error, Error::WrongPlace { ours: 0, ovs_index: 1, ovs: "ovs".into() });
    let repaired = add(&remove_text(misplaced).unwrap().text);
    assert_eq!(types(&repaired), ["ovs", "ovs-flow-gc"]);

    let twice = r#"{"name":"n","plugins":[{"type":"ovs"}, {"type":"ovs-flow-gc"} ,{"type":"ovs-flow-gc"}, {"type":"x"}]}"#;
    assert_eq!(add_text(twice, &none()).unwrap_err(), Error::Repeated { count: 2 });
    assert_eq!(
        remove_text(twice).unwrap().text,
        r#"{"name":"n","plugins":[{"type":"ovs"}, {"type":"x"}]}"#
    );

    let only = r#"{"name":"n","plugins":[{"type":"ovs-flow-gc"}]}"#;
    assert_eq!(remove_text(only).unwrap_err(), Error::OnlyOurs);
}

/// CNI 1.1 lists may offer several versions; libcni picks.
#[test]
fn one_version_that_fits_is_enough() {
    let text = r#"{"name":"n","cniVersion":"0.2.0","cniVersions":["0.2.0","1.0.0"],"plugins":[{"type":"ovs"}]}"#;
    assert_eq!(types(&add(text)), ["ovs", "ovs-flow-gc"]);
}

#[test]
fn a_list_edited_by_hand_loses_our_entry_only() {
    let text = "{\"plugins\": [\n  {\"type\": \"ovs\"}\n  , {\"mode\": \"observe\", \"type\": \"ovs\\u002dflow-gc\"}\n  , {\"type\": \"x\"}\n]}";
    assert_eq!(
        remove_text(text).unwrap().text,
        "{\"plugins\": [\n  {\"type\": \"ovs\"}\n  , {\"type\": \"x\"}\n]}"
    );
    let first = "{\"plugins\": [ {\"type\": \"ovs-flow-gc\"} , {\"type\": \"x\"} ]}";
    assert_eq!(remove_text(first).unwrap().text, "{\"plugins\": [ {\"type\": \"x\"} ]}");
}

#[test]
fn a_single_configuration_becomes_the_list_that_libcni_would_make_of_it() {
    for name in SINGLES {
        let text = data(name);
        let edit = add_text(&text, &none()).unwrap();
        assert!(edit.changed && edit.converted, "{name}");
        let old: Value = serde_json::from_str(&text).unwrap();
        let new: Value = serde_json::from_str(&edit.text).unwrap();
        assert_eq!(new["name"], old["name"], "{name}");
        assert_eq!(new["cniVersion"], old["cniVersion"], "{name}");
        // libcni gives a plugin the list's name and version.
        let mut plugin = new["plugins"][0].clone();
        plugin["name"] = new["name"].clone();
        plugin["cniVersion"] = new["cniVersion"].clone();
        assert_eq!(plugin, old, "{name}");
        assert_eq!(new["plugins"][1], json!({"type": "ovs-flow-gc"}), "{name}");
        assert_eq!(new.as_object().unwrap().len(), 3, "{name}");
    }
    assert_eq!(
        add(&data("80-openshift-network-0.3.1.conf")),
        "\n{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"openshift-sdn\",\n  \"plugins\": [\n    {\n      \"type\": \"openshift-sdn\"\n    },\n    {\n      \"type\": \"ovs-flow-gc\"\n    }\n  ]\n}\n"
    );
    assert!(add(&data("10-ovn-kubernetes.conf")).starts_with(
        r#"{"cniVersion":"0.4.0","name":"ovn-kubernetes","plugins":[{"type":"ovn-k8s-cni-overlay","ipam":{},"#
    ));
    assert!(add(&data("10-k-vswitch-0.3.1.conf")).contains(
        "\t\"plugins\": [\n\t\t{\n\t\t\t\"type\": \"k-vswitch-cni\",\n\t\t\t\"bridge\": \"k-vswitch0\",\n"
    ));
    let nameless = r#"{"cniVersion":"0.3.1","type":"ovs"}"#;
    let error = NetD::with(&[("1.conf", nameless)]).add("1.conf").unwrap_err();
    assert!(matches!(error, FileError::Text { source: Error::NoName, .. }), "{error}");
}

/// A directory of configurations.
struct NetD(TempDir);

impl NetD {
    fn with(files: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        let net_d = Self(dir);
        for (name, text) in files {
            net_d.put(name, text);
        }
        net_d
    }

    #[allow(clippy::disallowed_methods, reason = "a fixture: nobody reads it meanwhile")]
    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn add(&self, name: &str) -> Result<Change, FileError> {
        add_file(&self.path(name), &none()).map(|outcome| outcome.change)
    }

    fn remove(&self, name: &str) -> Result<Change, FileError> {
        remove_file(&self.path(name)).map(|outcome| outcome.change)
    }
}

#[test]
fn a_file_is_replaced_whole_with_its_mode_and_owner() {
    let text = data("10-ovs.conflist");
    let dir = NetD::with(&[("10-ovs.conflist", &text)]);
    let path = dir.path("10-ovs.conflist");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let _ = std::os::unix::fs::chown(&path, Some(1234), Some(4321)); // root only
    let before = fs::metadata(&path).unwrap();
    // Left behind by a call that was killed.
    dir.put(".10-ovs.conflist.ovs-flow-gc-tmp", "{");

    assert_eq!(dir.add("10-ovs.conflist").unwrap(), Change::Added);
    let after = fs::metadata(&path).unwrap();
    assert_ne!(before.ino(), after.ino(), "a runtime must never read half of it");
    let owner = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid());
    assert_eq!(owner(&before), owner(&after));
    assert_eq!(dir.names(), ["10-ovs.conflist"]);

    assert_eq!(dir.add("10-ovs.conflist").unwrap(), Change::AlreadyThere);
    assert_eq!(fs::metadata(&path).unwrap().ino(), after.ino(), "nothing to do: not touched");
    assert_eq!(dir.remove("10-ovs.conflist").unwrap(), Change::Removed);
    assert_eq!(dir.remove("10-ovs.conflist").unwrap(), Change::NotThere);
    assert_eq!(dir.read("10-ovs.conflist"), text);
}

#[test]
fn a_link_stays_a_link_and_its_target_is_edited() {
    let text = data("10-ovs.conflist");
    let elsewhere = NetD::with(&[("real.conflist", &text)]);
    let dir = NetD::with(&[]);
    symlink(elsewhere.path("real.conflist"), dir.path("10-ovs.conflist")).unwrap();
    assert_eq!(dir.add("10-ovs.conflist").unwrap(), Change::Added);
    assert!(dir.path("10-ovs.conflist").is_symlink());
    assert_eq!(elsewhere.read("real.conflist"), add(&text));
    assert_eq!(elsewhere.names(), ["real.conflist"]);
    assert_eq!(dir.remove("10-ovs.conflist").unwrap(), Change::Removed);
    assert_eq!(elsewhere.read("real.conflist"), text);
}

#[test]
fn a_single_conf_becomes_a_conflist_and_comes_back() {
    for name in SINGLES {
        let text = data(name);
        let dir = NetD::with(&[(name, &text), ("99-other.conf", "{}")]);
        fs::set_permissions(dir.path(name), fs::Permissions::from_mode(0o600)).unwrap();
        let list = format!("{name}list");
        let kept = format!("{name}.ovs-flow-gc-orig");

        let outcome = add_file(&dir.path(name), &none()).unwrap();
        assert_eq!(outcome.path, dir.path(&list));
        assert_eq!(outcome.change, Change::Converted { original: dir.path(&kept) });
        assert_eq!(dir.names(), [kept.as_str(), list.as_str(), "99-other.conf"]);
        assert_eq!(fs::metadata(dir.path(&list)).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(dir.read(&kept), text);

        // Under either name it is the same network.
        assert_eq!(dir.add(name).unwrap(), Change::AlreadyThere);
        assert_eq!(dir.add(&list).unwrap(), Change::AlreadyThere);

        let outcome =
            remove_file(&dir.path(if name.starts_with('1') { name } else { &list })).unwrap();
        assert_eq!(outcome.path, dir.path(name));
        assert_eq!(outcome.change, Change::Restored { list: dir.path(&list) });
        assert_eq!(dir.names(), [name, "99-other.conf"]);
        assert_eq!(dir.read(name), text);
        assert_eq!(dir.remove(name).unwrap(), Change::NotThere);
    }
}

#[test]
fn a_conf_that_is_a_link_comes_back_as_one() {
    let text = data("10-ovn-kubernetes.conf");
    let elsewhere = NetD::with(&[("ovn.conf", &text)]);
    let dir = NetD::with(&[]);
    symlink(elsewhere.path("ovn.conf"), dir.path("10-ovn.conf")).unwrap();
    dir.add("10-ovn.conf").unwrap();
    assert_eq!(dir.names(), ["10-ovn.conf.ovs-flow-gc-orig", "10-ovn.conflist"]);
    dir.remove("10-ovn.conf").unwrap();
    assert!(dir.path("10-ovn.conf").is_symlink());
    assert_eq!(
        (dir.names(), elsewhere.names()),
        (vec!["10-ovn.conf".into()], vec!["ovn.conf".into()])
    );
    assert_eq!(dir.read("10-ovn.conf"), text);
}

#[test]
fn an_edited_list_is_not_thrown_away_for_the_original() {
    let dir = NetD::with(&[("10-ovn.conf", &data("10-ovn-kubernetes.conf"))]);
    dir.add("10-ovn.conf").unwrap();
    let edited = dir.read("10-ovn.conflist").replace("\"logLevel\":\"4\"", "\"logLevel\":\"5\"");
    dir.put("10-ovn.conflist", &edited);
    let original = dir.path("10-ovn.conf.ovs-flow-gc-orig");
    assert_eq!(dir.remove("10-ovn.conflist").unwrap(), Change::RemovedFromEdited { original });
    assert_eq!(dir.read("10-ovn.conflist"), edited.replace(",{\"type\":\"ovs-flow-gc\"}", ""));
    assert_eq!(dir.add("10-ovn.conflist").unwrap(), Change::Added);
}

/// Killed between the two renames, either way: both files are there, `.conf` is in force.
#[test]
fn a_conversion_that_was_cut_short_is_finished_by_the_next_call() {
    let text = data("10-ovn-kubernetes.conf");
    let both = || NetD::with(&[("10-ovn.conf", &text), ("10-ovn.conflist", &add(&text))]);

    let dir = both();
    assert!(matches!(dir.add("10-ovn.conf").unwrap(), Change::Converted { .. }));
    assert_eq!(dir.names(), ["10-ovn.conf.ovs-flow-gc-orig", "10-ovn.conflist"]);

    for name in ["10-ovn.conf", "10-ovn.conflist"] {
        let dir = both();
        assert!(matches!(dir.remove(name).unwrap(), Change::Restored { .. }), "{name}");
        assert_eq!(dir.names(), ["10-ovn.conf"], "{name}");
        assert_eq!(dir.read("10-ovn.conf"), text);
    }
}

/// Daemons of OVS CNIs write their `.conf` again when they start.
#[test]
fn a_conf_written_anew_is_converted_anew() {
    let dir = NetD::with(&[("10-ovn.conf", &data("10-ovn-kubernetes.conf"))]);
    dir.add("10-ovn.conf").unwrap();
    let newer = data("10-ovn-kubernetes.conf").replace("\"logLevel\":\"4\"", "\"logLevel\":\"5\"");
    dir.put("10-ovn.conf", &newer);
    assert!(matches!(dir.add("10-ovn.conf").unwrap(), Change::Converted { .. }));
    assert_eq!(dir.read("10-ovn.conflist"), add(&newer));
    dir.remove("10-ovn.conf").unwrap();
    assert_eq!(dir.names(), ["10-ovn.conf"]);
    assert_eq!(dir.read("10-ovn.conf"), newer);
}

#[test]
fn a_name_that_is_taken_or_would_change_the_order_is_refused() {
    let text = data("10-ovn-kubernetes.conf");
    let dir = NetD::with(&[("10-ovn.conf", &text), ("10-ovn.conflist", &data("10-ovs.conflist"))]);
    assert!(matches!(dir.add("10-ovn.conf"), Err(FileError::Taken { .. })));
    assert_eq!(dir.read("10-ovn.conf"), text);

    let dir = NetD::with(&[("10-ovn.json", &text), ("10-ovn.d.conf", &text)]);
    let error = dir.add("10-ovn.json").unwrap_err();
    assert!(
        matches!(&error, FileError::Order { between, .. } if between.ends_with("10-ovn.d.conf"))
    );
    assert_eq!(dir.names(), ["10-ovn.d.conf", "10-ovn.json"]);
}

#[test]
fn name_and_content_must_agree() {
    let dir = NetD::with(&[
        ("10-ovs.conf", &data("10-ovs.conflist")),
        ("20-ovn.conflist", &data("10-ovn-kubernetes.conf")),
    ]);
    assert!(matches!(dir.add("10-ovs.conf"), Err(FileError::ListInConf { .. })));
    assert!(matches!(dir.add("20-ovn.conflist"), Err(FileError::SingleInConflist { .. })));
    assert_eq!(dir.names(), ["10-ovs.conf", "20-ovn.conflist"]);
}

#[test]
fn bad_files_are_left_alone_and_named() {
    let dir = NetD::with(&[]);
    dir.put("latin.conflist", b"{\"name\": \"\xe4\"}");
    dir.put("empty.conflist", "");
    dir.put("torn.conflist", &data("10-ovs.conflist")[..200]);
    dir.put("nul.conflist", [0; 64]);
    dir.put("big.conflist", " ".repeat((1 << 20) + 1));
    fs::create_dir(dir.path("dir.conflist")).unwrap();
    nix::unistd::mkfifo(&dir.path("pipe.conflist"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("nowhere", dir.path("dangling.conflist")).unwrap();
    let names = dir.names();
    let text_error = |name: &str| {
        let error = dir.add(name).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(error.to_string(), dir.remove(name).unwrap_err().to_string());
        match error {
            FileError::Text { source, .. } => source,
            other => panic!("{name}: {other}"),
        }
    };
    assert_eq!(text_error("latin.conflist"), Error::NotUtf8 { offset: 10 });
    assert_eq!(text_error("empty.conflist"), Error::Empty);
    assert!(matches!(text_error("torn.conflist"), Error::Json { line: 11, .. }));
    assert_eq!(text_error("nul.conflist"), Error::Nul { line: 1, column: 1 });
    assert!(matches!(text_error("big.conflist"), Error::TooBig { .. }));
    for name in ["dir.conflist", "pipe.conflist"] {
        assert!(matches!(dir.add(name), Err(FileError::NotAFile { .. })), "{name}");
    }
    for name in ["dangling.conflist", "missing.conflist", "no/such/dir.conflist"] {
        assert!(matches!(dir.add(name), Err(FileError::Io { .. })), "{name}");
    }
    assert_eq!(dir.names(), names);
}

#[test]
fn the_first_file_with_an_ovs_plugin_is_found_in_the_runtimes_order() {
    let dir = NetD::with(&[
        ("20-ovs.conflist", &data("10-ovs.conflist")),
        ("10-bridge.conflist", &data("bridge.conflist")),
        ("05-torn.conflist", "{"),
        ("00-ovs.conflist.bak", &data("10-ovs.conflist")),
        ("9-ovn.conf", &data("10-ovn-kubernetes.conf")),
    ]);
    assert_eq!(find_ovs(dir.0.path()).unwrap(), Some(dir.path("20-ovs.conflist")));
    assert!(find_ours(dir.0.path()).unwrap().is_empty());
    dir.add("20-ovs.conflist").unwrap();
    dir.add("9-ovn.conf").unwrap();
    let ours = find_ours(dir.0.path()).unwrap();
    assert_eq!(ours, [dir.path("20-ovs.conflist"), dir.path("9-ovn.conflist")]);
    assert!(matches!(find_ovs(Path::new("/no/such/net.d")), Err(FileError::Io { .. })));
}

/// Two admins, one file: no temporary file is shared, nothing is lost.
/// libcni 1.3: a list takes in `NETWORK/*.conf`, by name and behind its own plugins.
#[test]
fn plugins_in_files_of_their_own_belong_to_the_list() {
    let list = r#"{"cniVersion":"1.0.0","name":"net"}"#;
    let dir = NetD::with(&[("10-net.conflist", list)]);
    fs::create_dir(dir.path("net")).unwrap();
    let seen = || inspect_file(&dir.path("10-net.conflist"));
    assert!(matches!(seen(), Err(FileError::Text { source: Error::NoPlugins, .. })));

    dir.put("net/50-mine.conf", r#"{"type":"ovs-flow-gc","mode":"observe"}"#);
    dir.put("net/10-ovs.conf", r#"{"type":"ovs","bridge":"br1"}"#);
    dir.put("net/20-other.json", r#"{"type":"portmap"}"#);
    fs::create_dir(dir.path("net/30-directory.conf")).unwrap();
    let found = seen().unwrap();
    assert_eq!(found.plugins, ["ovs", "ovs-flow-gc"]);
    assert!(is_in_place(&found));
    assert_eq!(found.entry_file(&dir.path("10-net.conflist")), dir.path("net/50-mine.conf"));
    assert_eq!(find_ovs(dir.0.path()).unwrap(), Some(dir.path("10-net.conflist")));
    assert_eq!(find_ours(dir.0.path()).unwrap(), [dir.path("net/50-mine.conf")]);
    // A second entry would run twice a call.
    assert_eq!(dir.add("10-net.conflist").unwrap(), Change::AlreadyThere);
    let other = add_file(&dir.path("10-net.conflist"), &with(json!({"mode": "enforce"})));
    assert!(other.unwrap_err().to_string().contains("another `mode` (\"observe\""));
    // Before the OVS plugin it is of no use there, either.
    fs::rename(dir.path("net/50-mine.conf"), dir.path("net/05-mine.conf")).unwrap();
    assert!(dir.add("10-net.conflist").unwrap_err().to_string().contains("but before ovs"));

    // A file that libcni cannot read is the whole list's.
    dir.put("net/60-bad.conf", r#"{"name":"net"}"#);
    assert!(seen().unwrap_err().to_string().contains("net/60-bad.conf"));
    fs::remove_file(dir.path("net/60-bad.conf")).unwrap();

    for only in [r#"true"#, r#""True""#] {
        let plugins = r#""plugins":[{"type":"bridge"}]"#;
        let list = format!(
            r#"{{"cniVersion":"1.0.0","name":"net","loadOnlyInlinedPlugins":{only},{plugins}}}"#
        );
        dir.put("10-net.conflist", &list);
        assert_eq!(seen().unwrap().plugins, ["bridge"]);
        assert!(find_ours(dir.0.path()).unwrap().is_empty());
    }
    // A single configuration takes in nothing.
    dir.put("20-one.conf", r#"{"cniVersion":"1.0.0","name":"net","type":"bridge"}"#);
    assert_eq!(inspect_file(&dir.path("20-one.conf")).unwrap().plugins, ["bridge"]);
}

#[test]
fn behind_an_ovs_plugin_with_a_file_of_its_own_the_entry_has_one_too() {
    let list = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"tuning"}]}"#;
    let dir = NetD::with(&[("10-net.conflist", list)]);
    fs::create_dir(dir.path("net")).unwrap();
    dir.put("net/10-ovs.conf", r#"{"type":"ovs","bridge":"br1","ipam":{"type":"whereabouts"}}"#);
    dir.put("net/20-last.conf", r#"{"type":"portmap"}"#);
    let file = dir.path("net/10-ovs.ovs-flow-gc.conf");
    let settings = with(json!({"mode": "observe"}));
    let add = || add_file(&dir.path("10-net.conflist"), &settings).unwrap().change;
    assert_eq!(add(), Change::DropInAdded { file: file.clone() });
    assert_eq!(add(), Change::AlreadyThere);
    assert_eq!(
        inspect_file(&dir.path("10-net.conflist")).unwrap().plugins,
        ["tuning", "ovs", "ovs-flow-gc", "portmap"]
    );
    let entry: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let cluster = json!({"type": "ovs-flow-gc", "mode": "observe", "addressScope": "cluster"});
    assert_eq!(entry, cluster);

    let gone = Change::DropInsRemoved { files: vec![file.clone()] };
    assert_eq!(dir.remove("10-net.conflist").unwrap(), gone);
    assert_eq!(dir.remove("10-net.conflist").unwrap(), Change::NotThere);
    // The same by the name of its own file; others' files stay.
    add();
    assert_eq!(dir.remove("net/10-ovs.ovs-flow-gc.conf").unwrap(), gone);
    assert_eq!(dir.remove("net/10-ovs.conf").unwrap(), Change::NotThere);
    assert_eq!(dir.read("10-net.conflist"), list);
    let left = fs::read_dir(dir.path("net")).unwrap().count();
    assert_eq!(left, 2);
}

/// An agent writes its list again and again. What is beside the list stays.
#[test]
fn an_entry_in_a_file_of_its_own_outlives_what_an_agent_writes() {
    let agents = data("10-ovs.conflist");
    let dir = NetD::with(&[("10-ovs.conflist", &agents)]);
    let list = dir.path("10-ovs.conflist");
    let name = inspect_file(&list).unwrap().name.unwrap();
    let file = dir.path(&format!("{name}/ovs-flow-gc.conf"));
    let options = Options { own_file: true, ..with(json!({"mode": "observe"})) };
    let add = || add_file(&list, &options).unwrap().change;
    assert_eq!(add(), Change::DropInAdded { file: file.clone() });
    assert_eq!(add(), Change::AlreadyThere);
    assert_eq!(dir.read("10-ovs.conflist"), agents, "not a byte of it is different");
    for _ in 0..2 {
        let seen = inspect_file(&list).unwrap();
        assert_eq!(seen.ours, Some(seen.plugins.len() - 1), "behind the list's own plugins");
        assert_eq!(find_ours(dir.0.path()).unwrap(), std::slice::from_ref(&file));
        dir.put("10-ovs.conflist", &agents);
    }
    let other = Options { own_file: true, ..with(json!({"mode": "enforce"})) };
    let refused = add_file(&list, &other).unwrap_err().to_string();
    assert!(refused.contains("ovs-flow-gc.conf") && refused.contains("observe"), "{refused}");
    let gone = Change::DropInsRemoved { files: vec![file.clone()] };
    assert_eq!(dir.remove("10-ovs.conflist").unwrap(), gone);
    assert!(!dir.path(&name).exists(), "the directory that was made is gone");

    // Another plugin has its place.
    fs::create_dir(dir.path(&name)).unwrap();
    fs::write(&file, r#"{"type": "tuning"}"#).unwrap();
    let refused = add_file(&list, &options).unwrap_err().to_string();
    assert!(refused.contains("no entry of ours: rename it or take it away"), "{refused}");
    fs::remove_dir_all(dir.path(&name)).unwrap();

    // Where no runtime would read it, it is not made.
    let inlined = agents.replacen('{', r#"{"loadOnlyInlinedPlugins":true,"#, 1);
    dir.put("20-inlined.conflist", &inlined);
    dir.put("30-one.conf", r#"{"cniVersion":"1.0.0","name":"one","type":"ovs"}"#);
    dir.put("40-evil.conflist", agents.replacen(&name, "../x", 1));
    for (file, why) in [
        ("20-inlined.conflist", "loadOnlyInlinedPlugins"),
        ("30-one.conf", "only a .conflist"),
        ("40-evil.conflist", "cannot have a file of its own"),
    ] {
        let refused = add_file(&dir.path(file), &options).unwrap_err().to_string();
        assert!(refused.contains(why), "{file}: {refused}");
    }
    let names: Vec<_> =
        fs::read_dir(dir.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    // A list that has it already keeps it where it is.
    dir.put("10-ovs.conflist", &add_text(&agents, &with(json!({}))).unwrap().text);
    assert_eq!(
        add_file(&list, &Options { own_file: true, ..none() }).unwrap().change,
        Change::AlreadyThere
    );
}

#[test]
fn calls_at_the_same_time_do_not_tear_the_file() {
    let text = data("10-ovs.conflist");
    let dir = NetD::with(&[("10-ovs.conflist", &text)]);
    let path = dir.path("10-ovs.conflist");
    let added = add(&text);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..25 {
                    if worker % 2 == 0 { add_file(path, &none()) } else { remove_file(path) }
                        .unwrap();
                }
            });
        }
        for _ in 0..500 {
            let seen = fs::read_to_string(&path).unwrap();
            assert!(seen == text || seen == added);
        }
    });
    dir.remove("10-ovs.conflist").unwrap();
    assert_eq!(dir.read("10-ovs.conflist"), text);
    assert_eq!(dir.names(), ["10-ovs.conflist"]);
}

/// The examples in `conf/` are what `add` would have made of them.
#[test]
fn the_examples_are_in_order() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/conflists");
    let mut seen = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let inspection = inspect(&text).unwrap();
        assert_eq!(inspection.ours, inspection.ovs.map(|at| at + 1), "{}", path.display());
        assert!(!add_text(&text, &none()).unwrap().changed, "{}", path.display());
        let removed = remove_text(&text).unwrap().text;
        assert!(add_text(&removed, &none()).unwrap().changed, "{}", path.display());

        let value: Value = serde_json::from_str(&text).unwrap();
        let preset = value["plugins"][inspection.ours.unwrap()]["preset"].as_str();
        let fits = match inspection.plugins[inspection.ovs.unwrap()].as_str() {
            "ovs" => Some("ovs-cni"),
            "antrea" => Some("antrea"),
            "openshift-sdn" => Some("openshift-sdn"),
            "ovn-k8s-cni-overlay" | "kube-ovn" => Some("ovn"),
            "k-vswitch-cni" => Some("k-vswitch"),
            _ => None,
        };
        assert_eq!(preset, fits, "{}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 6);
}

/// White space that JSON allows between tokens.
fn space() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(String::new()),
        2 => Just(" ".to_owned()),
        2 => "\n {0,6}",
        1 => "\r\n\t{0,3}",
        1 => "[ \t\r\n]{0,4}",
    ]
}

/// A JSON value as somebody may have typed it.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("true".to_owned()),
        Just("null".to_owned()),
        Just("1.50e1".to_owned()),
        Just("-0".to_owned()),
        Just("12345678901234567890123".to_owned()),
        Just("\"plugins\"".to_owned()),
        Just("\"\\u00e4\\\"]}{\\\\\"".to_owned()),
        "[a-zäé\u{1f980}]{0,6}".prop_map(|s| format!("\"{s}\"")),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec((space(), inner.clone(), space()), 0..4).prop_map(|items| {
                let items: Vec<String> =
                    items.into_iter().map(|(a, v, b)| format!("{a}{v}{b}")).collect();
                format!("[{}]", items.join(","))
            }),
            (proptest::collection::vec(("[a-z]{1,5}", inner), 0..4), space()).prop_map(
                |(members, s)| {
                    let members: Vec<String> = members
                        .into_iter()
                        .map(|(k, v)| format!("{s}\"{k}\"{s}:{s}{v}{s}"))
                        .collect();
                    format!("{{{}}}", members.join(","))
                }
            ),
        ]
    })
}

/// An object with these members and some others, in any order.
fn object(own: Vec<(&'static str, BoxedStrategy<String>)>) -> impl Strategy<Value = String> {
    let keys: Vec<&'static str> = own.iter().map(|(k, _)| *k).collect();
    let values: Vec<BoxedStrategy<String>> = own.into_iter().map(|(_, v)| v).collect();
    let others = proptest::collection::vec(("x[a-z]{0,4}", value()), 0..3);
    (values, others, [space(), space(), space(), space()]).prop_flat_map(
        move |(values, others, [open, before, after, comma])| {
            let own = keys.iter().map(|k| (*k).to_owned()).zip(values);
            let members: Vec<String> =
                own.chain(others).map(|(k, v)| format!("\"{k}\"{before}:{after}{v}")).collect();
            Just(members).prop_shuffle().prop_map(move |members| {
                format!("{{{open}{}{comma}}}", members.join(&format!("{comma},{open}")))
            })
        },
    )
}

fn plugin(kind: &'static str) -> BoxedStrategy<String> {
    object(vec![("type", Just(format!("\"{kind}\"")).boxed())]).boxed()
}

/// A list of up to three plugins before the OVS plugin and three behind it.
fn conflist() -> impl Strategy<Value = String> {
    let some = || proptest::collection::vec(plugin("portmap"), 0..4);
    let plugins =
        (some(), plugin("ovs"), some(), space(), space()).prop_map(|(a, ovs, b, s, t)| {
            let items: Vec<String> = a.into_iter().chain([ovs]).chain(b).collect();
            format!("[{s}{}{t}]", items.join(&format!("{t},{s}")))
        });
    let list = object(vec![
        ("plugins", plugins.boxed()),
        ("name", Just("\"net\"".to_owned()).boxed()),
        ("cniVersion", Just("\"0.3.1\"".to_owned()).boxed()),
    ]);
    (space(), list, space()).prop_map(|(a, list, b)| format!("{a}{list}{b}"))
}

fn single() -> impl Strategy<Value = String> {
    let conf = object(vec![
        ("type", Just("\"ovs\"".to_owned()).boxed()),
        ("name", Just("\"net\"".to_owned()).boxed()),
        ("cniVersion", Just("\"0.3.1\"".to_owned()).boxed()),
    ]);
    (space(), conf, space()).prop_map(|(a, conf, b)| format!("{a}{conf}{b}"))
}

proptest! {
    #[test]
    fn add_then_remove_is_the_identity(text in conflist(), observe: bool) {
        let options = if observe { with(json!({"mode": "observe", "tables": [1]})) } else { none() };
        let edit = add_text(&text, &options).unwrap();
        let ovs = inspect(&text).unwrap().ovs.unwrap();
        prop_assert_eq!(inspect(&edit.text).unwrap().ours, Some(ovs + 1));
        prop_assert_eq!(without_ours(&edit.text), serde_json::from_str::<Value>(&text).unwrap());
        inserted(&text, &edit.text);
        prop_assert_eq!(&add_text(&edit.text, &options).unwrap().text, &edit.text);
        prop_assert_eq!(remove_text(&edit.text).unwrap().text, text);
    }

    #[test]
    fn a_single_configuration_keeps_its_meaning(text in single()) {
        let edit = add_text(&text, &none()).unwrap();
        let old: Value = serde_json::from_str(&text).unwrap();
        let mut plugin = without_ours(&edit.text)["plugins"][0].clone();
        plugin["name"] = json!("net");
        plugin["cniVersion"] = json!("0.3.1");
        prop_assert_eq!(plugin, old);
        prop_assert!(is_in_place(&inspect(&edit.text).unwrap()));
    }

    #[test]
    fn any_text_is_an_answer_or_an_error(text in ".{0,200}", cut in 0usize..400) {
        let _ = inspect(&text);
        let whole = data("odd.conflist");
        let cut = (0..=cut.min(whole.len())).rev().find(|at| whole.is_char_boundary(*at)).unwrap();
        let piece = &whole[..cut];
        let _ = (inspect(piece), add_text(piece, &none()), remove_text(piece));
    }
}

/// What a `spec.config` is after `conflist VERB -`: status, standard output, standard error.
fn stream(words: &[&str], text: impl AsRef<[u8]>) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ovs-flow-gc"))
        .arg("conflist")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses its options does not read.
    let _ = child.stdin.take().unwrap().write_all(text.as_ref());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Nothing but the configuration is printed.
fn streamed(words: &[&str], text: &str) -> String {
    let (code, out, err) = stream(words, text);
    assert_eq!((code, err.as_str()), (0, ""), "{words:?} of {text}");
    out
}

const ADD: [&str; 2] = ["add", "-"];
const REMOVE: [&str; 2] = ["remove", "-"];

/// ovs-cni's with a trunk, keys that nobody knows, and no line break at its end (jsonpath's).
const NAD_SINGLE: &str = "{ \"cniVersion\": \"0.3.1\",\n    \"name\": \"trunk-net\",\n    \"type\": \"ovs\",\n    \
     \"bridge\": \"br1\",\n    \"x-team\": {\"owner\": \"ran\", \"mtu\": 9000.0},\n    \
     \"trunk\": [ {\"id\":42}, { \"minID\" : 1000, \"maxID\":1010 } ],\n    \
     \"capabilities\": {\"mac\": true, \"ips\": true},\n    \"ipam\": {\"type\": \"whereabouts\", \
     \"range\": \"10.9.0.0/24\"}\n}";

#[test]
fn a_single_spec_config_becomes_a_list_with_every_value_as_it_was() {
    let out = streamed(&ADD, NAD_SINGLE);
    for kept in [
        r#""cniVersion": "0.3.1","#,
        r#""trunk": [ {"id":42}, { "minID" : 1000, "maxID":1010 } ],"#,
        r#""x-team": {"owner": "ran", "mtu": 9000.0},"#,
        r#""capabilities": {"mac": true, "ips": true},"#,
    ] {
        assert!(out.contains(kept), "{kept}: {out}");
    }
    let (old, new): (Value, Value) =
        (serde_json::from_str(NAD_SINGLE).unwrap(), serde_json::from_str(&out).unwrap());
    assert_eq!(new["name"], "trunk-net");
    let mut ovs = old.clone();
    ovs.as_object_mut().unwrap().retain(|key, _| key != "name" && key != "cniVersion");
    let ours = json!({"type": "ovs-flow-gc", "addressScope": "cluster"});
    assert_eq!(new["plugins"], json!([ovs, ours]), "whereabouts gives to the whole cluster");
    assert!(out.ends_with('}'), "no line break is added: {out:?}");
    // As a file.
    let net = NetD::with(&[("net.conf", NAD_SINGLE)]);
    net.add("net.conf").unwrap();
    assert_eq!(net.read("net.conflist"), out);

    assert_eq!(streamed(&ADD, &out), out, "once is enough");
    let back = streamed(&REMOVE, &out);
    assert_eq!(types(&back), ["ovs"], "it stays a list, of one");
    assert_eq!(streamed(&REMOVE, &back), back);
    assert_eq!(streamed(&ADD, &back), out);

    // Multus gives a configuration without a name that of its object.
    let out = streamed(&ADD, r#"{"cniVersion":"0.3.1","type":"ovs","bridge":"br1"}"#);
    let list = r#"{"cniVersion":"0.3.1","plugins":[{"type":"ovs","bridge":"br1"},{"type":"ovs-flow-gc"}]}"#;
    assert_eq!(out, list);
}

#[test]
fn a_list_in_spec_config_comes_back_to_the_byte() {
    for (name, _) in LISTS {
        let text = data(name);
        let out = streamed(&ADD, &text);
        assert_eq!(out, add(&text), "{name}");
        assert_eq!(streamed(&REMOVE, &out), text, "{name}");
    }
    let settings = r#"{"mode": "observe"}"#;
    let text = data("10-ovs.conflist");
    let out = streamed(&["add", "-", "--settings", settings], &text);
    assert!(out.contains(r#""mode": "observe""#), "{out}");
    let (code, out, err) = stream(&ADD, data("10-ovs.conflist").replace("\"ovs\"", "\"mine\""));
    assert!(code == 1 && out.is_empty() && err.contains("--after TYPE"), "{err}");
    let mine = data("10-ovs.conflist").replace("\"ovs\"", "\"mine\"");
    assert!(streamed(&["add", "-", "--after", "mine"], &mine).contains("ovs-flow-gc"));
}

#[test]
fn what_cannot_be_edited_prints_nothing_and_says_why() {
    let whole =
        json!({"kind": "NetworkAttachmentDefinition", "spec": {"config": "{}"}}).to_string();
    let bad: [(&[u8], &str); 7] = [
        (b"", "empty"),
        (b"{\"a\":", "not valid JSON"),
        (whole.as_bytes(), "`spec.config` alone"),
        (b"{\"name\":\"n\"}", "no plugins"),
        (b"{\"name\":\"n\",\"type\":\"ovs\"}", "cniVersion"),
        (b"{\"cniVersion\":\"0.3.1\",\"name\":\"n\",\"type\":\"sriov\"}", "no Open vSwitch plugin"),
        (b"\xff", "not UTF-8"),
    ];
    for (text, why) in bad {
        let (code, out, err) = stream(&ADD, text);
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.starts_with("ovs-flow-gc: standard input: ") && err.contains(why), "{err}");
    }
    let (code, out, err) = stream(&ADD, vec![b' '; (1 << 20) + 1]);
    assert!(code == 1 && out.is_empty() && err.contains("too much"), "{err}");
    let settings = ["add", "-", "--settings", r#"{"obsrve": true}"#];
    let (code, out, err) = stream(&settings, NAD_SINGLE);
    assert!(code == 2 && out.is_empty() && err.contains("obsrve"), "{err}");
    let (code, out, err) = stream(&REMOVE, r#"{"name":"n","plugins":[{"type":"ovs-flow-gc"}]}"#);
    assert!(code == 1 && out.is_empty() && err.contains("the only plugin"), "{err}");
}

/// What `docs/multus.md` shows is what the command does.
#[test]
fn the_documented_object_is_edited_as_it_says() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/multus.md"));
    let page = page.unwrap();
    let configs: Vec<String> = page
        .split("  config: |-\n")
        .skip(1)
        .map(|rest| {
            let block = rest.split("\n```").next().unwrap();
            let lines: Vec<&str> =
                block.lines().map(|line| line.strip_prefix("    ").unwrap()).collect();
            lines.join("\n")
        })
        .collect();
    let [before, after] = &configs[..] else { panic!("{configs:#?}") };
    assert_eq!(&streamed(&ADD, before), after);
}
