//! The image, by buildah, of two stand-ins: static binaries that every Debian has.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::manifests::{at, run};

#[test]
fn the_image_holds_two_binaries_and_a_link_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    // A storage of its own.
    let storage = format!(
        "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        place("graph"),
        place("run")
    );
    fs::write(place("storage.conf"), storage).unwrap();
    let built = |name: &str, umask: &str| -> Value {
        // Another time, another umask: the same image.
        for binary in ["plugin", "daemon"] {
            fs::copy("/bin/busybox", place(binary)).unwrap();
        }
        let said = run(
            Command::new("sh")
                .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
                .arg(at("conf/image/build.sh"))
                .args(["--tag", "ovs-flow-gc:test", "--archive", &place("image.tar")])
                .args(["--plugin", &place("plugin"), "--daemon", &place("daemon")])
                .env("CONTAINERS_STORAGE_CONF", place("storage.conf")),
            "",
        );
        assert!(said.contains("ovs-flow-gc:test: "), "{said}");
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
