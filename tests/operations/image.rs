//! `self-install` and `self-uninstall`: what the containers of conf/kubernetes run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

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

    fn install(&self) -> Outcome {
        let settings = json!({ "stateDir": self.node.state_dir }).to_string();
        let args = ["self-install", "--bin-dir", &self.at("host-bin")];
        let net = ["--net-dir", &self.at("etc/cni/net.d"), "--cache-dir", &self.at("var-lib/cni")];
        let entry = ["--after", "ovs-test-cni", "--settings", &settings];
        self.node.admin(&[&args[..], &net, &entry].concat())
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
    assert!(text.contains("1 pods adopted") && text.contains("added ovs-flow-gc"), "{text}");
    let meta = fs::metadata(image.binary()).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o755);
    let own = fs::read(image.node.plugin("ovs-flow-gc")).unwrap();
    assert!(fs::read(image.binary()).unwrap() == own, "not the binary that ran");
    assert_eq!(records(&image.node).len(), 1);

    let list = image.list();
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
    assert!(text.contains("2 pods were started with the plugin"), "{outcome}");
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
    let mut list: serde_json::Value = serde_json::from_str(&image.list()).unwrap();
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
