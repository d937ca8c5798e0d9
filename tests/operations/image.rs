//! `self-install` and `self-uninstall`: what the containers of conf/kubernetes run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::operations::records;
use crate::rig::{Node, Outcome, Setup, eventually};

/// The node's directories as a container has them.
struct Image {
    node: Node,
}

impl Image {
    fn new(test: &str) -> Self {
        Self { node: Setup::new().without_gc().up(test) }
    }

    fn at(&self, path: &str) -> String {
        self.node.dir.join(path).display().to_string()
    }

    fn binary(&self) -> PathBuf {
        self.node.dir.join("host-bin/ovs-flow-gc")
    }

    fn list(&self) -> String {
        fs::read_to_string(self.node.conflist_path()).unwrap()
    }

    fn installing(&self) -> Vec<String> {
        let settings = json!({ "stateDir": self.node.state_dir }).to_string();
        let args = ["self-install", "--bin-dir", &self.at("host-bin")];
        let net = ["--net-dir", &self.at("etc/cni/net.d"), "--cache-dir", &self.at("var-lib/cni")];
        let entry = ["--after", "ovs-test-cni", "--settings", &settings];
        [&args[..], &net, &entry].concat().iter().map(ToString::to_string).collect()
    }

    fn install(&self) -> Outcome {
        let words = self.installing();
        self.node.admin(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// In a mount namespace of its own that has the node's directory of Open vSwitch elsewhere.
    fn install_in_a_container(&self, ovs_dir: Option<&str>) -> Outcome {
        let script = "mkdir -p $1 && mount --bind $OVS_RUNDIR $1 && export OVS_RUNDIR=$1 &&
            shift && exec \"$@\"";
        let seen = self.at("container/openvswitch");
        let plugin = self.node.plugin("ovs-flow-gc").display().to_string();
        let state = self.node.state_dir.display().to_string();
        let unshare = ["--mount", "sh", "-c", script, "sh", &seen, &plugin, "--state-dir", &state];
        let mut words: Vec<&str> = unshare.to_vec();
        let installing = self.installing();
        words.extend(installing.iter().map(String::as_str));
        words.extend(ovs_dir.iter().flat_map(|dir| ["--ovs-dir", dir]));
        self.node.run("unshare", &words)
    }

    /// Our entry.
    fn entry(&self) -> Value {
        let list: Value = serde_json::from_str(&self.list()).unwrap();
        let plugins = list["plugins"].as_array().unwrap();
        plugins.iter().find(|p| p["type"] == "ovs-flow-gc").cloned().unwrap_or_default()
    }

    fn uninstalling(&self) -> Vec<String> {
        let words = ["self-uninstall", "--bin-dir", "host-bin", "--net-dir", "etc/cni/net.d"];
        let more = ["--cache-dir", "var-lib/cni", "--crio-socket", "crio.sock"];
        let more = [&more[..], &["--crio-storage", "storage"]].concat();
        let place = |word: &&str| {
            if word.starts_with("--") || *word == "self-uninstall" {
                (*word).to_owned()
            } else {
                self.at(word)
            }
        };
        words.iter().chain(&more).map(place).collect()
    }

    fn uninstall(&self) -> Outcome {
        let words = self.uninstalling();
        self.node.admin(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

#[test]
fn the_image_installs_itself_once_and_takes_itself_off() {
    let image = Image::new("image");
    let old = image.node.run_pod("old");
    super::adopt::cache(&image.node, &old);
    let before = image.list();

    let text = image.install().ok();
    assert!(text.contains("1 pod adopted") && text.contains("added ovs-flow-gc"), "{text}");
    assert_eq!(text.matches("adopted").count(), 1, "said once: {text}");
    assert_eq!(image.entry()["ovsRunDir"], json!(image.node.run_dir));
    let meta = fs::metadata(image.binary()).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o755);
    let own = fs::read(image.node.plugin("ovs-flow-gc")).unwrap();
    assert!(fs::read(image.binary()).unwrap() == own, "not the binary that ran");
    assert_eq!(records(&image.node).len(), 1);

    // Settings that nobody asked about are the operator's own.
    let list = image.list().replace(image.node.run_dir.to_str().unwrap(), "/by/the/operator");
    fs::write(image.node.conflist_path(), &list).unwrap();
    let text = image.install().ok();
    assert!(text.contains("this one is there already"), "{text}");
    assert!(text.contains("ovs-flow-gc is there already") && image.list() == list, "{text}");

    // Another version is replaced whole; a copy that was cut off is cleared away.
    fs::write(image.binary(), "old").unwrap();
    fs::write(image.node.dir.join("host-bin/.ovs-flow-gc.new.self"), "half").unwrap();
    let text = image.install().ok();
    assert!(text.contains(": installed"), "{text}");
    assert_eq!(fs::read_dir(image.node.dir.join("host-bin")).unwrap().count(), 1);

    let text = image.uninstall().ok();
    assert!(text.contains("removed ovs-flow-gc") && text.contains("binary: "), "{text}");
    assert_eq!(image.list(), before);
    assert!(!image.binary().exists() && !image.node.state_dir.exists());
    let text = image.uninstall().ok();
    assert!(text.contains("not there"), "{text}");
}

/// The daemon's container does not start before the pods that are there are known: without their
/// records a sweep would not know what is theirs.
#[test]
fn without_open_vswitch_the_binary_is_there_and_the_entry_is_not() {
    let image = Image::new("image_no_ovs");
    let before = image.list();
    image.node.vswitchd.stop();
    image.node.ovsdb.stop();
    let outcome = image.install();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(image.binary().exists(), "binary first");
    assert_eq!(image.list(), before);
    image.node.ovsdb.start();
    image.node.vswitchd.start();
    image.install().ok();
    assert!(image.list().contains("\"ovs-flow-gc\""));
}

/// Who looks after one node reads status 3; a container that ends with it would never let its
/// daemon start.
#[test]
fn a_pod_that_cannot_be_recorded_is_told_and_stops_no_container() {
    let image = Image::new("image_not_adopted");
    let old = image.node.run_pod("old");
    super::adopt::cache(&image.node, &old);
    let results = image.node.dir.join("var-lib/cni/results");
    fs::create_dir_all(&results).unwrap();
    fs::write(results.join("podnet-torn-eth0"), "{").unwrap();
    let text = image.install().ok();
    assert!(text.contains("not adopted: ") && text.contains("torn"), "{text}");
    let words = image.installing();
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words.push("--adopt-may-fail");
    let outcome = image.node.admin(&words);
    assert_eq!(outcome.code, Some(3), "{outcome}");
}

/// The plugin runs on the node, so its entry must name the directory as the node does; a mount of
/// another one in a container says nothing of where the plugin would look.
#[test]
fn the_entry_names_the_directory_of_open_vswitch_as_the_node_does() {
    let image = Image::new("image_ovs_dir");
    let (before, run_dir) = (image.list(), image.node.run_dir.display().to_string());
    let outcome = image.install_in_a_container(None);
    assert_eq!(outcome.code, Some(1), "{outcome}");
    let text = outcome.to_string();
    assert!(text.contains("--ovs-dir") && text.contains(&run_dir), "{text}");
    assert!(!image.binary().exists() && image.list() == before, "nothing was done");

    image.install_in_a_container(Some(&run_dir)).ok();
    assert_eq!(image.entry()["ovsRunDir"], json!(run_dir));
    // As a runtime calls it: nobody tells it of OVS_RUNDIR.
    let mut request = image.entry();
    request["cniVersion"] = json!("1.1.0");
    request["name"] = json!("podnet");
    let file = image.at("request");
    fs::write(&file, request.to_string()).unwrap();
    let script = "unset OVS_RUNDIR; CNI_COMMAND=STATUS CNI_PATH=/ exec \"$0\" <\"$1\"";
    let plugin = image.binary().display().to_string();
    let status = image.node.run("sh", &["-c", script, &plugin, &file]);
    assert!(status.code == Some(0) && status.stderr.is_empty(), "{status}");
    // Once more; what is there names another directory only if somebody says so.
    image.install_in_a_container(Some(&run_dir)).ok();
    fs::remove_file(image.binary()).unwrap();
    let outcome = image.install_in_a_container(Some("/elsewhere"));
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(!image.binary().exists(), "nothing was done");
    assert_eq!(image.entry()["ovsRunDir"], json!(run_dir));
}

/// Nothing is read as two directories, or as one that ADD would refuse.
#[test]
fn a_directory_of_open_vswitch_is_said_once_and_is_absolute() {
    let image = Image::new("image_ovs_dir_bad");
    let before = image.list();
    let installing = image.installing();
    let words: Vec<&str> = installing.iter().map(String::as_str).collect();
    let relative = image.node.admin(&[&words[..], &["--ovs-dir", "run"]].concat());
    assert_eq!(relative.code, Some(2), "{relative}");
    assert!(relative.stderr.contains("ovsRunDir"), "{relative}");
    let settings = json!({ "ovsRunDir": "/one" }).to_string();
    let [words @ .., _, _] = &words[..] else { panic!("{words:?}") };
    let two = [words, &["--settings", &settings, "--ovs-dir", "/two"]].concat();
    let two = image.node.admin(&two);
    assert!(two.code == Some(2) && two.stderr.contains("/one"), "{two}");
    assert!(!image.binary().exists() && image.list() == before);
}

#[test]
fn whoever_is_still_called_stays() {
    let image = Image::new("image_called");
    let list = image.list();
    image.install().ok();
    // {"plugins":[{"type":"ovs"},{"type":"ovs-flow-gc"}]}
    let config = "eyJwbHVnaW5zIjpbeyJ0eXBlIjoib3ZzIn0seyJ0eXBlIjoib3ZzLWZsb3ctZ2MifV19";
    let results = image.node.dir.join("var-lib/cni/results");
    fs::create_dir_all(&results).unwrap();
    fs::write(results.join("net-c-eth0"), json!({ "config": config }).to_string()).unwrap();
    fs::write(results.join("net-d-eth0"), "").unwrap();
    // Two whose namespaces are gone; the sandbox of one is there, and it gets a DEL.
    let netns = image.node.dir.join("netns");
    fs::create_dir(&netns).unwrap();
    fs::create_dir_all(image.node.dir.join("storage/overlay-containers/known")).unwrap();
    for id in ["known", "over"] {
        let args = [["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", id]];
        let cached = json!({ "containerId": id, "netns": netns.join(id), "cniArgs": args,
            "config": config });
        fs::write(results.join(format!("net-{id}-eth0")), cached.to_string()).unwrap();
    }
    let multus = image.node.dir.join("etc/cni/net.d/00-multus.conf");
    fs::write(&multus, r#"{"type":"multus","delegates":[{"plugins":[{"type":"ovs-flow-gc"}]}]}"#)
        .unwrap();
    let _socket = UnixListener::bind(image.node.dir.join("crio.sock")).unwrap();

    let outcome = image.uninstall();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(outcome.to_string().contains("00-multus.conf"), "{outcome}");
    assert!(image.binary().exists() && image.node.state_dir.exists());
    fs::remove_file(multus).unwrap();

    let outcome = image.uninstall();
    assert_eq!(outcome.code, Some(3), "{outcome}");
    let text = outcome.to_string();
    assert!(text.contains("at the end of 2 pods that began with it"), "{outcome}");
    assert!(text.contains("default/known") && text.contains("net-c-eth0"), "{outcome}");
    assert!(!text.contains("default/over"), "{outcome}");
    assert!(image.binary().exists() && image.node.state_dir.exists());
    assert_eq!(image.list(), list, "the entry is out all the same");

    // Those whose end nobody told the cache of are not waited for.
    for file in ["net-c-eth0", "net-known-eth0"] {
        fs::remove_file(results.join(file)).unwrap();
    }
    fs::write(netns.join("over"), "").unwrap();
    assert_eq!(image.uninstall().code, Some(3), "its namespace is there");
    fs::remove_file(netns.join("over")).unwrap();
    fs::remove_dir_all(image.node.dir.join("storage")).unwrap();
    assert_eq!(image.uninstall().code, Some(3), "nobody sees its sandbox");
    // With containerd the cache says nothing: it calls what the file of now names.
    fs::remove_file(image.node.dir.join("crio.sock")).unwrap();
    image.uninstall().ok();
    assert!(!image.binary().exists());
}

/// libcni 1.3 takes in `NETWORK/*.conf` with the list: without the binary every ADD and DEL fails.
#[test]
fn an_entry_with_a_file_of_its_own_goes_before_the_binary() {
    let image = Image::new("image_drop_in");
    image.install().ok();
    let network = image.node.conflist_path().with_file_name("podnet");
    fs::create_dir(&network).unwrap();
    let own = network.join("50-ovs-flow-gc.conf");
    // Another plugin calls ours: no editor takes that out.
    let nested = r#"{"type":"meta","delegates":[{"type":"ovs-flow-gc"}]}"#;
    fs::write(&own, nested).unwrap();
    let outcome = image.uninstall();
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(outcome.to_string().contains("50-ovs-flow-gc.conf"), "{outcome}");
    assert!(image.binary().exists());

    fs::write(&own, r#"{"type":"ovs-flow-gc"}"#).unwrap();
    image.uninstall().ok();
    assert!(!own.exists() && network.exists() && !image.binary().exists());

    // Nobody takes in the files of a network that says so, nor those of no network.
    image.install().ok();
    let mut list: Value = serde_json::from_str(&image.list()).unwrap();
    list["loadOnlyInlinedPlugins"] = true.into();
    fs::write(image.node.conflist_path(), list.to_string()).unwrap();
    let old = network.with_file_name("old");
    fs::create_dir(&old).unwrap();
    for directory in [&network, &old] {
        fs::write(directory.join("50.conf"), r#"{"type":"ovs-flow-gc"}"#).unwrap();
    }
    image.uninstall().ok();
    assert!(network.join("50.conf").exists() && old.join("50.conf").exists());
    assert!(!image.binary().exists());
}

/// In a container the state directory is a mount, and the process the first of its namespace.
#[test]
fn a_mounted_state_directory_is_emptied_and_the_end_is_waited_for() {
    let image = Image::new("image_wait");
    image.node.limit_state_dir("1m");
    image.install().ok();
    assert!(fs::read_dir(&image.node.state_dir).unwrap().count() > 0);
    let mut words = image.uninstalling();
    words.push("--wait".to_owned());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let running = image.node.start_admin(&words);
    eventually("the binary goes", || !image.binary().exists());
    assert_eq!(fs::read_dir(&image.node.state_dir).unwrap().count(), 0);
    kill(Pid::from_raw(running.pid()), Signal::SIGTERM).unwrap();
    running.wait().ok();
}
