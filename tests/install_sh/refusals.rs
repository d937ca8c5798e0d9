//! What is wrong is said before anything is written, and where the binary comes from.

use std::fs;
use std::process::Command;

use super::{BARE, BINARY, LIST, Node, said};

#[test]
fn what_add_would_refuse_changes_nothing() {
    let node = Node::new();
    node.put("root/etc/cni/net.d/07-old.conflist", &LIST.replace("0.4.0", "0.2.0"));
    let before = node.files();
    let file = |name: &str| node.at("root/etc/cni/net.d").join(name).display().to_string();
    let none = file("10-none.conflist");
    let (bridge, old) = (file("05-bridge.conflist"), file("07-old.conflist"));
    for (words, code, wanted) in [
        (vec!["--conflist", &none], 1, "10-none.conflist"),
        (vec!["--conflist", &bridge], 1, "no Open vSwitch plugin"),
        (vec!["--conflist", &old], 1, "cniVersion"),
        (vec!["--settings", "{"], 2, "not a JSON object"),
        (vec!["--settings", r#"{"lingerSecond": 3}"#], 2, "did you mean \"lingerSeconds\"?"),
        (vec!["--settings", r#"{"mode": 1}"#], 2, "every ADD would fail, so nothing is written"),
        (vec!["--preset", "calico"], 2, "is none of \"ovs-cni\""),
        (vec!["--preset", "ovn", "--settings", r#"{"preset": "antrea"}"#], 2, "both name a preset"),
        (vec!["--no-conflist", "--preset", "ovn"], 2, "cannot be used with"),
    ] {
        let (status, text) = node.run("install", &[&["--binary", BINARY], &words[..]].concat());
        assert!(status == code && text.contains(wanted), "{words:?}: {status} {text}");
        assert_eq!(node.files(), before, "{words:?}");
        assert!(node.list() == LIST && node.log().is_empty(), "{words:?}");
    }
    let (status, text) = node.run("uninstall", &["--preset", "ovn"]);
    assert!(status == 2 && text.contains("--preset is for install"), "{text}");
}

#[test]
fn settings_and_a_preset_go_into_the_entry() {
    let node = Node::new();
    let words = ["--binary", BINARY, "--preset", "ovs-cni", "--settings", r#"{"mode": "observe"}"#];
    let (code, text) = node.run("install", &words);
    assert!(code == 0 && !text.contains("no preset was given"), "{text}");
    let entry = r#"{ "type": "ovs-flow-gc", "mode": "observe", "preset": "ovs-cni", "#;
    assert!(node.list().contains(entry), "{}", node.list());
    // As Open vSwitch is not in /run/openvswitch here.
    let directory = format!(r#""ovsRunDir": {:?} }}"#, node.ovs.dir.path());
    assert!(node.list().contains(&directory), "{}", node.list());
}

#[test]
fn a_preset_of_the_network_is_proposed_once() {
    for (kind, preset) in [("antrea", "antrea"), ("kube-ovn", "ovn"), ("ovs", "ovs-cni")] {
        let node = Node::new();
        let list = LIST.replace(r#""ovs""#, &format!("{kind:?}"));
        node.put("root/etc/cni/net.d/10-ovs.conflist", &list);
        let words = ["--binary", BINARY, "--settings", r#"{"mode": "observe"}"#];
        let (code, text) = node.run("install", &words);
        assert!(code == 0 && text.contains(&format!("there is one for {kind:?}")), "{text}");
        let (_, commands) = text.split_once("To have it: ").unwrap();
        let programs = std::path::Path::new(BINARY).parent().unwrap().display().to_string();
        let mut sh = Command::new("sh");
        sh.args(["-ec", commands]).env("PATH", format!("{programs}:/usr/bin:/bin"));
        let (code, text) = said(sh.output().unwrap());
        assert!(code == 0 && !text.contains("no preset was given"), "{text}");
        let list = node.list();
        for kept in [r#""mode": "observe""#, &format!(r#""preset": "{preset}""#)] {
            assert!(list.contains(kept), "{kept}: {list}");
        }
        let (code, text) = node.install();
        assert!(code == 0 && !text.contains("no preset was given"), "{text}");
    }
    let node = Node::new();
    node.put("root/etc/cni/net.d/10-ovs.conflist", &LIST.replace(r#""ovs""#, r#""my-ovs""#));
    let (code, text) = node.install();
    assert!(code == 0 && !text.contains("no preset was given"), "{text}");
}

/// As a release is unpacked: the binaries beside the script, and no source.
#[test]
fn the_binaries_beside_the_script_are_taken() {
    let node = Node::new();
    fs::create_dir(node.at("release")).unwrap();
    let repository = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::copy(repository.join("install.sh"), node.at("release/install.sh")).unwrap();
    let install = |options: &[&str]| {
        let mut sh = Command::new("sh");
        sh.arg(node.at("release/install.sh")).args(["install", "--prefix"]).arg(node.at("root"));
        sh.args(options).env("RIG", node.dir.path()).env("OVS_RUNDIR", node.ovs.dir.path());
        // The stand-in for systemctl, and no cargo.
        sh.env("PATH", format!("{}:/usr/bin:/bin", node.at("path").display()));
        sh.env("HOME", node.dir.path());
        said(sh.output().unwrap())
    };
    let (code, text) = install(&[]);
    assert!(code == 1 && text.contains("no ovs-flow-gc beside install.sh"), "{text}");
    // With the source beside it, but nothing to build it with.
    node.put("release/Cargo.toml", "");
    let (code, text) = install(&[]);
    assert!(code == 1 && text.contains("--binary FILE, or install Rust"), "{text}");
    fs::remove_file(node.at("release/Cargo.toml")).unwrap();
    assert_eq!(node.files(), BARE);

    fs::copy(BINARY, node.at("release/ovs-flow-gc")).unwrap();
    let (code, text) = install(&["--daemon"]);
    assert!(code == 1 && text.contains("no ovs-flow-gcd beside install.sh"), "{text}");
    assert_eq!(node.files(), BARE);
    fs::copy(node.at("daemon"), node.at("release/ovs-flow-gcd")).unwrap();
    let (code, text) = install(&["--daemon"]);
    assert!(code == 0 && node.daemon_unit().exists(), "{text}");
    node.assert_callable_if_named("from a release");
}

#[test]
fn who_would_call_the_binary_is_said_and_nothing_changed() {
    let node = Node::new();
    let check = || {
        let mut command = Command::new(BINARY);
        command.args(["self-uninstall", "--check", "--root"]).arg(node.at("root"));
        said(command.output().unwrap())
    };
    let nobody =
        "conflist: no file names ovs-flow-gc\npods: no runtime calls ovs-flow-gc for one\n";
    assert_eq!(check(), (0, nobody.to_owned()));
    node.install();
    // Directories of distributions are looked at, too.
    let k3s = "root/var/lib/rancher/k3s/agent/etc/cni/net.d/10-k3s.conflist";
    node.put(k3s, &node.list());
    node.put("root/var/lib/cni/multus/c1", r#"[{"plugins":[{"type":"ovs-flow-gc"}]}]"#);
    let before = (node.files(), node.list());
    let (code, text) = check();
    assert_eq!(code, 1, "{text}");
    for named in ["10-ovs.conflist", "10-k3s.conflist", "can neither start nor end"] {
        assert!(text.contains(named), "{named}: {text}");
    }
    assert_eq!((node.files(), node.list()), before);
    assert_eq!(node.uninstall().0, 3);
    let (code, text) = check();
    assert!(code == 3 && text.contains("at the end of 1 pod that began with it"), "{text}");
    assert!(text.contains("c1") && text.contains("NetworkAttachmentDefinitions"), "{text}");
    fs::remove_file(node.at("root/var/lib/cni/multus/c1")).unwrap();
    assert_eq!(check().0, 0);
    assert!(node.binary().exists());
}
