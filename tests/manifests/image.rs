//! The image, by buildah, of two stand-ins: static binaries that every Debian has.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::manifests::{at, run, text, yaml};
use crate::rig::{Datapath, Runtime, Setup};

/// `build.sh`, with a storage in `dir`, into `dir/image.tar`; what it printed.
#[track_caller]
fn build(dir: &Path, umask: &str, tag: &[&str]) -> String {
    let place = |name: &str| dir.join(name).display().to_string();
    let storage = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        place("graph"),
        place("run")
    );
    fs::write(place("storage.conf"), storage).unwrap();
    for binary in ["plugin", "daemon"] {
        fs::copy("/bin/busybox", place(binary)).unwrap();
    }
    run(
        Command::new("sh")
            .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
            .arg(at("conf/image/build.sh"))
            .args(tag)
            .args(["--archive", &place("image.tar")])
            .args(["--plugin", &place("plugin"), "--daemon", &place("daemon")])
            .env("CONTAINERS_STORAGE_CONF", place("storage.conf")),
        "",
    )
}

/// The kubelet's runtime knows an image by its whole name: what `ctr images import` makes of the
/// archive has to be the name in the manifests.
#[test]
fn an_imported_archive_is_the_image_that_the_manifests_name() {
    let rendered = yaml(&text("conf/kubernetes/rendered/default.yaml"));
    let daemon_set = rendered.iter().find(|document| document["kind"] == "DaemonSet").unwrap();
    let wanted = daemon_set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap();

    let node = Setup::new().datapath(Datapath::Dummy).up("image_import");
    let runtime = Runtime::start(&node);
    assert!(!runtime.has_image(wanted));
    let dir = TempDir::new().unwrap();
    let archive = dir.path().join("image.tar").display().to_string();
    let import = || {
        let words = ["-n", "k8s.io", "images", "import", "--snapshotter", "native", &archive];
        runtime.ctr(&words).ok();
        fs::remove_file(&archive).unwrap();
    };
    let said = build(dir.path(), "022", &[]);
    assert!(said.contains(&format!("{wanted}: ")), "{said}");
    import();
    crate::rig::eventually("CRI finds the image", || runtime.has_image(wanted));

    // A name without a registry is one of this machine's.
    let said = build(dir.path(), "022", &["--tag", "ovs-flow-gc"]);
    assert!(said.contains("localhost/ovs-flow-gc:latest: "), "{said}");
    import();
    crate::rig::eventually("CRI finds it", || runtime.has_image("localhost/ovs-flow-gc:latest"));
    assert!(!runtime.has_image("ovs-flow-gc:latest"), "a short name is another one's to CRI");
}

#[test]
fn the_image_holds_two_binaries_and_a_link_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    let built = |name: &str, umask: &str| -> Value {
        // Another time, another umask: the same image.
        let said = build(dir.path(), umask, &["--tag", "ovs-flow-gc:test"]);
        assert!(said.contains("localhost/ovs-flow-gc:test: "), "{said}");
        fs::create_dir(place(name)).unwrap();
        run(Command::new("tar").args(["-xf", &place("image.tar"), "-C", &place(name)]), "");
        fs::remove_file(place("image.tar")).unwrap();
        let index = fs::read(dir.path().join(name).join("index.json")).unwrap();
        serde_json::from_slice(&index).unwrap()
    };
    let index = built("image", "022");
    let again = built("again", "077");
    assert_eq!(index["manifests"][0]["digest"], again["manifests"][0]["digest"]);

    let json = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(dir.path().join("image").join(path)).unwrap()).unwrap()
    };
    let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
    let manifest = json(&blob(&index["manifests"][0]["digest"]));
    let config = json(&blob(&manifest["config"]["digest"]));
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/ovs-flow-gcd"]));
    assert_eq!(config["config"]["User"], "0:0");

    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1);
    let layer = dir.path().join("image").join(blob(&layers[0]["digest"]));
    let list = run(Command::new("tar").arg("-tvzf").arg(layer), "");
    let mut entries: Vec<String> = list
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let mode = words.next().unwrap().to_owned();
            format!("{mode} {}", words.skip(4).collect::<Vec<_>>().join(" "))
        })
        .collect();
    entries.sort();
    let wanted = [
        "-rwxr-xr-x ovs-flow-gc",
        "-rwxr-xr-x ovs-flow-gcd",
        "drwxr-xr-x run/",
        "drwxr-xr-x var/",
        "lrwxrwxrwx var/run -> ../run",
    ];
    assert_eq!(entries, wanted);
}
