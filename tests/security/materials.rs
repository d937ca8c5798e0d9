//! The bill of materials (`conf/image/sbom.sh`): valid, and whole by what Cargo itself says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn run(program: &str, args: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join(program));
    if !program.contains('/') {
        command = Command::new(program);
    }
    let output = command.args(args).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// "name version" of each crate that Cargo links into a release with these features.
fn linked(features: &str) -> BTreeSet<String> {
    let common = ["tree", "--locked", "--no-default-features", "--features", features];
    let how = ["--edges", "normal,no-proc-macro", "--prefix", "none", "--no-dedupe"];
    let tree = run(env!("CARGO"), &[&common[..], &how].concat());
    let crates = tree.lines().filter_map(|line| {
        let (name, rest) = line.split_once(" v")?;
        Some(format!("{name} {}", rest.split(' ').next()?))
    });
    crates.filter(|name| !name.starts_with("ovs-flow-gc ")).collect()
}

/// name and version to checksum, of Cargo.lock.
fn locked() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).unwrap();
    let mut checksums = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")))?;
            Some(line.trim_matches('"').to_owned())
        };
        let name = format!("{} {}", field("name").unwrap(), field("version").unwrap());
        checksums.insert(name, field("checksum").unwrap_or_default());
    }
    checksums
}

#[test]
fn the_bill_has_every_crate_that_is_linked() {
    let locked = locked();
    for (args, features) in [(&[][..], "daemon"), (&["--plugin"][..], "")] {
        let text = run("conf/image/sbom.sh", args);
        assert_eq!(run("conf/image/sbom.sh", args), text, "the same lock file, another bill");
        let bill: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&bill["bomFormat"], &bill["specVersion"]),
            (&"CycloneDX".into(), &"1.5".into())
        );
        assert_eq!(bill["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));
        let components = bill["components"].as_array().unwrap();
        let text = |component: &Value, key: &str| component[key].as_str().unwrap().to_owned();
        let mut required = BTreeSet::new();
        let mut refs: BTreeSet<String> = [text(&bill["metadata"]["component"], "bom-ref")].into();
        for component in components {
            let name = format!("{} {}", text(component, "name"), text(component, "version"));
            // A checksum and a licence each: nothing is from anywhere but the registry.
            assert_eq!(
                component["hashes"][0]["content"].as_str(),
                locked.get(&name).map(String::as_str)
            );
            assert!(component["licenses"][0]["expression"].is_string(), "{name}");
            assert!(refs.insert(text(component, "bom-ref")), "{name} twice");
            if component["scope"] == "required" {
                required.insert(name);
            }
        }
        assert_eq!(required, linked(features));
        for dependency in bill["dependencies"].as_array().unwrap() {
            let on = dependency["dependsOn"].as_array().unwrap();
            for one in on.iter().chain([&dependency["ref"]]) {
                assert!(refs.contains(one.as_str().unwrap()), "{one} is not in the bill");
            }
        }
        assert!(required.iter().all(|name| locked.contains_key(name)));
        println!(
            "bill of materials: {} crates linked, {} in all",
            required.len(),
            components.len()
        );
    }
}
