//! The DaemonSet and what belongs to it, as kubectl renders them.

use std::fs;
use std::path::Path;
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::manifests::{at, files, run, yaml};

const BASE: &str = "conf/kubernetes/base";
const COMPONENTS: &str = "conf/kubernetes/components";

#[track_caller]
fn kustomize(directory: &Path) -> Vec<Value> {
    let mut documents = yaml(&run(Command::new("kubectl").arg("kustomize").arg(directory), ""));
    // kubectl 1.20 leaves an empty document where one was deleted.
    documents.retain(|document| document.as_object().is_some_and(|fields| !fields.is_empty()));
    documents
}

/// The base with the patches of these components, in the words of the kustomize that kubectl 1.20
/// (Debian 12's) has: it knows no components, but patches alike.
fn variant(components: &[&str]) -> Vec<Value> {
    let dir = TempDir::new().unwrap();
    let mut resources = String::from("resources:\n");
    let mut patches = String::from("patchesStrategicMerge:\n");
    for file in files(BASE, "yaml") {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        if name != "kustomization.yaml" {
            fs::copy(&file, dir.path().join(&name)).unwrap();
            resources.push_str(&format!("  - {name}\n"));
        }
    }
    for component in components {
        for file in files(&format!("{COMPONENTS}/{component}"), "yaml") {
            let name = format!("{component}-{}", file.file_name().unwrap().to_str().unwrap());
            if !name.ends_with("kustomization.yaml") {
                fs::copy(&file, dir.path().join(&name)).unwrap();
                patches.push_str(&format!("  - {name}\n"));
            }
        }
    }
    if components.is_empty() {
        patches.clear();
    }
    fs::write(dir.path().join("kustomization.yaml"), resources + &patches).unwrap();
    kustomize(dir.path())
}

#[track_caller]
fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|d| d["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// In the schema and out again: what is unknown there would be lost.
#[track_caller]
fn fits<T: DeserializeOwned + Serialize>(document: &Value) {
    let typed: T = serde_json::from_value(document.clone()).unwrap();
    let again = serde_json::to_value(typed).unwrap();
    assert_eq!(&again, document, "the schema has other fields");
}

fn check_schema(documents: &[Value]) {
    for document in documents {
        match document["kind"].as_str().unwrap() {
            "DaemonSet" => fits::<DaemonSet>(document),
            "Namespace" => fits::<Namespace>(document),
            "ServiceAccount" => fits::<ServiceAccount>(document),
            "ClusterRole" => fits::<ClusterRole>(document),
            "ClusterRoleBinding" => fits::<ClusterRoleBinding>(document),
            other => panic!("{other}: not expected"),
        }
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    array(&pod["initContainers"]).iter().chain(array(&pod["containers"]))
}

#[track_caller]
fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    array(list).iter().find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

/// What holds for every container of ours on a node; `added` are its capabilities.
fn check_pod(pod: &Value, added: &[&str], host_network: bool) {
    for host in ["hostPID", "hostIPC"] {
        assert!(pod.get(host).is_none(), "{host}");
    }
    assert_eq!(pod.get("hostNetwork").is_some(), host_network);
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]), "every taint");
    assert_eq!(pod["securityContext"]["seccompProfile"], json!({ "type": "RuntimeDefault" }));
    assert_eq!(pod["securityContext"]["runAsUser"], 0);
    for container in containers(pod) {
        let mut capabilities = json!({ "drop": ["ALL"] });
        if !added.is_empty() {
            capabilities["add"] = json!(added);
        }
        let wanted = json!({
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": capabilities,
        });
        assert_eq!(container["securityContext"], wanted, "{}", container["name"]);
        let resources = &container["resources"];
        assert_eq!(resources["requests"], resources["limits"], "Guaranteed: {}", container["name"]);
        for resource in ["cpu", "memory"] {
            assert!(resources["limits"][resource].is_string(), "{resource}");
        }
        for mount in array(&container["volumeMounts"]) {
            named(&pod["volumes"], mount["name"].as_str().unwrap());
            let read_only = mount.get("readOnly") == Some(&json!(true));
            match mount["mountPath"].as_str().unwrap() {
                "/run/netns" => {
                    assert_eq!(mount["mountPropagation"], "HostToContainer");
                    assert!(read_only);
                }
                "/run/ovs-flow-gc" | "/host/opt/cni/bin" | "/host/etc/cni/net.d" => {
                    assert!(!read_only);
                }
                _ => assert!(read_only, "{mount}"),
            }
        }
    }
    for volume in array(&pod["volumes"]) {
        assert!(volume["hostPath"]["type"].is_string(), "{volume}: nothing is taken on trust");
    }
}

/// Every option of a container's command is one that the command has.
fn check_options(container: &Value) {
    let args = array(&container["args"]);
    let command = args[0].as_str().unwrap();
    let binary = env!("CARGO_BIN_EXE_ovs-flow-gc");
    let help = run(Command::new(binary).args([command, "--help"]), "");
    for arg in &args[1..] {
        let option = arg.as_str().unwrap().split('=').next().unwrap();
        assert!(
            help.contains(&format!("{option} ")) || help.contains(&format!("{option}\n")),
            "{option}: {help}"
        );
    }
}

fn pod_of(documents: &[Value]) -> &Value {
    &of_kind(documents, "DaemonSet")["spec"]["template"]["spec"]
}

fn setting(pod: &Value, name: &str) -> String {
    let daemon = named(&pod["containers"], "daemon");
    named(&daemon["env"], name)["value"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_base_needs_little_and_is_not_evicted() {
    let documents = kustomize(&at("conf/kubernetes"));
    assert_eq!(documents, kustomize(&at(BASE)), "the way in is the base");
    check_schema(&documents);
    let pod = pod_of(&documents);
    check_pod(pod, &[], false);
    assert_eq!(setting(pod, "OVS_FLOW_GC_LIVENESS"), "netns,kubernetes");
    check_options(&pod["initContainers"][0]);
    assert!(!pod.to_string().contains("preStop"), "docs/kubernetes.md says why");

    let daemon = named(&pod["containers"], "daemon");
    let node_name = &named(&daemon["env"], "NODE_NAME")["valueFrom"]["fieldRef"]["fieldPath"];
    assert_eq!(node_name, "spec.nodeName");
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        assert_eq!(daemon[probe]["httpGet"], json!({ "path": path, "port": "metrics" }));
    }
    let port = daemon["ports"][0]["containerPort"].as_u64().unwrap();
    assert_eq!(setting(pod, "OVS_FLOW_GC_LISTEN"), format!("0.0.0.0:{port}"));

    let daemon_set = of_kind(&documents, "DaemonSet");
    let labels = &daemon_set["spec"]["template"]["metadata"]["labels"];
    for (key, value) in daemon_set["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&labels[key], value);
    }
}

#[test]
fn the_api_server_lets_it_read_pods_and_write_events_and_nothing_else() {
    let documents = variant(&[]);
    let role = of_kind(&documents, "ClusterRole");
    let rules = json!([
        { "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"] },
        { "apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"] },
    ]);
    assert_eq!(role["rules"], rules);
    let account = of_kind(&documents, "ServiceAccount");
    let binding = of_kind(&documents, "ClusterRoleBinding");
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["name"], account["metadata"]["name"]);
    assert_eq!(binding["subjects"][0]["namespace"], account["metadata"]["namespace"]);
    let pod = pod_of(&documents);
    assert_eq!(pod["serviceAccountName"], account["metadata"]["name"]);
    assert_eq!(pod["automountServiceAccountToken"], true);
    assert_eq!(account["automountServiceAccountToken"], false, "for whoever else uses it");
}

#[test]
fn each_variant_changes_what_it_is_for_and_nothing_else() {
    let netns = variant(&["netns-only"]);
    check_schema(&netns);
    check_pod(pod_of(&netns), &[], false);
    assert_eq!(setting(pod_of(&netns), "OVS_FLOW_GC_LIVENESS"), "netns");
    assert_eq!(pod_of(&netns)["automountServiceAccountToken"], false);
    assert!(!netns.iter().any(|d| d["kind"].as_str().unwrap().starts_with("ClusterRole")));

    for (component, directory, socket) in [
        ("cri-containerd", "/run/containerd", "containerd.sock"),
        ("cri-crio", "/run/crio", "crio.sock"),
    ] {
        let documents = variant(&[component]);
        check_schema(&documents);
        let pod = pod_of(&documents);
        check_pod(pod, &[], false);
        assert_eq!(setting(pod, "OVS_FLOW_GC_LIVENESS"), "netns,cri,kubernetes");
        assert_eq!(setting(pod, "OVS_FLOW_GC_CRI_SOCKET"), format!("{directory}/{socket}"));
        // The daemon's alone.
        let mount = named(&named(&pod["containers"], "daemon")["volumeMounts"], "cri");
        assert_eq!(mount["mountPath"], directory);
        assert_eq!(mount["mountPropagation"], "HostToContainer");
        assert!(!pod["initContainers"].to_string().contains(directory));
        assert_eq!(setting(pod, "OVS_FLOW_GC_LISTEN"), "0.0.0.0:9477", "the rest is kept");
    }

    let documents = variant(&["dac-override"]);
    check_schema(&documents);
    check_pod(pod_of(&documents), &["DAC_OVERRIDE"], false);

    let documents = variant(&["selinux"]);
    check_schema(&documents);
    check_pod(pod_of(&documents), &[], false);
    let options = &pod_of(&documents)["securityContext"]["seLinuxOptions"];
    assert_eq!(options, &json!({ "type": "spc_t" }));

    let all = variant(&["cri-crio", "dac-override", "selinux"]);
    check_schema(&all);
    check_pod(pod_of(&all), &["DAC_OVERRIDE"], false);
}

/// As `kubectl apply -k` has them, where kubectl knows components (1.21 and newer).
#[test]
fn the_overlays_are_their_components() {
    let version = run(Command::new("kubectl").args(["version", "--client", "-o", "json"]), "");
    let version: Value = serde_json::from_str(&version).unwrap();
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default().to_owned();
    let minor: u32 = minor.trim_end_matches('+').parse().expect("kubectl's version");
    for overlay in files("conf/kubernetes/overlays", "yaml") {
        let components: Vec<String> = yaml(&fs::read_to_string(&overlay).unwrap())[0]["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c.as_str().unwrap().rsplit('/').next().unwrap().to_owned())
            .collect();
        for component in &components {
            assert!(at(COMPONENTS).join(component).is_dir(), "{component}");
        }
        if minor < 21 {
            println!("kubectl 1.{minor} has no components: {} was not rendered", overlay.display());
            continue;
        }
        let names: Vec<&str> = components.iter().map(String::as_str).collect();
        let rendered = kustomize(overlay.parent().unwrap());
        for document in variant(&names) {
            assert!(rendered.contains(&document), "{}: {document}", overlay.display());
        }
    }
    // What the test above and users patch are the same files.
    for component in files(COMPONENTS, "yaml") {
        if component.ends_with("kustomization.yaml") {
            let kustomization = &yaml(&fs::read_to_string(&component).unwrap())[0];
            let directory = component.parent().unwrap();
            let patches = array(&kustomization["patches"]).len();
            assert_eq!(fs::read_dir(directory).unwrap().count(), patches + 1, "{directory:?}");
        }
    }
}

#[test]
fn the_way_off_a_node_does_not_need_the_pod_network() {
    let documents = kustomize(&at("conf/kubernetes/uninstall"));
    check_schema(&documents);
    let pod = pod_of(&documents);
    check_pod(pod, &[], true);
    for container in containers(pod) {
        check_options(container);
    }
    let base = variant(&[]);
    let selector =
        |documents: &[Value]| of_kind(documents, "DaemonSet")["spec"]["selector"].clone();
    assert_ne!(selector(&documents), selector(&base), "neither takes the other's pods");
    assert_eq!(pod["initContainers"][0]["volumeMounts"], pod["containers"][0]["volumeMounts"]);
}
