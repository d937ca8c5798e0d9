//! What kubectl makes of a kustomization, also the kubectl 1.20 that Debian 12 has: its kustomize
//! knows no components, but patches alike. So for that one their patches are put into one
//! kustomization, and a test holds this equal to what a newer one makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::manifests::{array, at, run, yaml};

/// Where all of it is.
pub(crate) const DIRECTORY: &str = "conf/kubernetes";

/// Whether kubectl is 1.21 or newer.
pub(crate) fn knows_components() -> bool {
    static MINOR: OnceLock<u32> = OnceLock::new();
    let minor = *MINOR.get_or_init(|| {
        let version = run(Command::new("kubectl").args(["version", "--client", "-o", "json"]), "");
        let version: Value = serde_json::from_str(&version).unwrap();
        let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
        minor.trim_end_matches('+').parse().expect("kubectl's version")
    });
    minor >= 21
}

#[track_caller]
pub(crate) fn kubectl_kustomize(directory: &Path) -> Vec<Value> {
    let mut documents = yaml(&run(Command::new("kubectl").arg("kustomize").arg(directory), ""));
    // kubectl 1.20 leaves an empty document where one was deleted.
    documents.retain(|document| document.as_object().is_some_and(|fields| !fields.is_empty()));
    documents
}

/// The kustomization of a directory below [`DIRECTORY`], as kubectl renders it.
#[track_caller]
pub(crate) fn kustomize(directory: &str) -> Vec<Value> {
    if knows_components() {
        kubectl_kustomize(&at(DIRECTORY).join(directory))
    } else {
        flat(&Flat::of(&at(DIRECTORY).join(directory)))
    }
}

/// `base` or `uninstall` with these components.
#[track_caller]
pub(crate) fn variant(from: &str, components: &[&str]) -> Vec<Value> {
    if !knows_components() {
        return with_components_flat(from, components);
    }
    // A user's overlay, in a copy.
    let dir = TempDir::new().unwrap();
    run(Command::new("cp").arg("-a").arg(at(DIRECTORY)).arg(dir.path().join("copy")), "");
    let overlay = dir.path().join("copy/overlays/test");
    fs::create_dir(&overlay).unwrap();
    let components: Vec<String> =
        components.iter().map(|name| format!("../../components/{name}")).collect();
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [format!("../../{from}")],
        "components": components,
    });
    fs::write(overlay.join("kustomization.yaml"), kustomization.to_string()).unwrap();
    kubectl_kustomize(&overlay)
}

#[track_caller]
pub(crate) fn with_components_flat(from: &str, components: &[&str]) -> Vec<Value> {
    let mut all = Flat::of(&at(DIRECTORY).join(from));
    for component in components {
        all.take_in(&at(DIRECTORY).join("components").join(component));
    }
    flat(&all)
}

/// A kustomization and all that it takes in.
#[derive(Default)]
pub(crate) struct Flat {
    resources: Vec<PathBuf>,
    /// The text, and its target if it says one.
    patches: Vec<(String, Value)>,
    images: Vec<Value>,
}

impl Flat {
    pub(crate) fn of(directory: &Path) -> Self {
        let mut all = Self::default();
        all.take_in(directory);
        all
    }

    #[track_caller]
    fn take_in(&mut self, directory: &Path) {
        let file = directory.join("kustomization.yaml");
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let kustomization = &yaml(&text)[0];
        let known = ["apiVersion", "kind", "resources", "components", "patches", "images"];
        for key in kustomization.as_object().unwrap().keys() {
            assert!(known.contains(&key.as_str()), "{}: {key}", file.display());
        }
        for key in ["resources", "components"] {
            for path in array(&kustomization[key]) {
                let path = directory.join(path.as_str().unwrap());
                if path.is_dir() { self.take_in(&path) } else { self.resources.push(path) }
            }
        }
        for patch in array(&kustomization["patches"]) {
            let text = match patch["patch"].as_str() {
                Some(text) => text.to_owned(),
                None => {
                    fs::read_to_string(directory.join(patch["path"].as_str().unwrap())).unwrap()
                }
            };
            self.patches.push((text, patch["target"].clone()));
        }
        self.images.extend(array(&kustomization["images"]).iter().cloned());
    }
}

/// Documents in an order of their own, and what they list, too, but for words: kubectls differ in it.
pub(crate) fn sorted(documents: &[Value]) -> Vec<Value> {
    let mut documents: Vec<Value> = documents.iter().map(settled).collect();
    documents.sort_by_key(ToString::to_string);
    documents
}

fn settled(value: &Value) -> Value {
    match value {
        Value::Array(items) if items.iter().all(Value::is_object) => json!(sorted(items)),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.clone(), settled(value))).collect()
        }
        other => other.clone(),
    }
}

/// The same as one kustomization without components, rendered.
#[track_caller]
pub(crate) fn flat(all: &Flat) -> Vec<Value> {
    let dir = TempDir::new().unwrap();
    let put = |name: String, text: &str| {
        fs::write(dir.path().join(&name), text).unwrap();
        name
    };
    let mut resources = Vec::new();
    let mut daemon_set = String::new();
    for (index, file) in all.resources.iter().enumerate() {
        let text = fs::read_to_string(file).unwrap();
        for document in yaml(&text).iter().filter(|d| d["kind"] == "DaemonSet") {
            daemon_set = document["metadata"]["name"].as_str().unwrap().to_owned();
        }
        resources.push(put(format!("resource-{index}.yaml"), &text));
    }
    let (mut merged, mut edits) = (Vec::new(), Vec::new());
    for (index, (text, target)) in all.patches.iter().enumerate() {
        let patch = &yaml(text)[0];
        if let Some(steps) = patch.as_array() {
            if target["name"] == *daemon_set {
                edits.extend(steps.iter().cloned());
            }
            continue;
        }
        let mut patch = patch.clone();
        if target["kind"] == "DaemonSet" {
            // For whichever there is.
            patch["metadata"] = json!({ "name": daemon_set, "namespace": "ovs-flow-gc" });
        }
        merged.push(put(format!("patch-{index}.yaml"), &patch.to_string()));
    }
    let mut edited = Vec::new();
    if !edits.is_empty() {
        // Two that add to one list are a conflict to it, two steps of one are not.
        let target = json!({ "group": "apps", "version": "v1", "kind": "DaemonSet",
            "name": daemon_set, "namespace": "ovs-flow-gc" });
        let path = put("edits.yaml".to_owned(), &json!(edits).to_string());
        edited.push(json!({ "target": target, "path": path }));
    }
    let kustomization = json!({ "resources": resources, "patchesStrategicMerge": merged,
        "patchesJson6902": edited, "images": all.images });
    put("kustomization.yaml".to_owned(), &kustomization.to_string());
    kubectl_kustomize(dir.path())
}
