//! The DaemonSet and what belongs to it, as kubectl renders them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::manifests::kustomize::{
    DIRECTORY, Flat, flat, knows_components, kubectl_kustomize, kustomize, sorted, variant,
    with_components_flat,
};
use crate::manifests::{array, at, run, text, yaml};

/// Kinds that are not Kubernetes' own, and their versions.
const OTHERS: [(&str, &str); 3] = [
    ("PodMonitor", "monitoring.coreos.com/v1"),
    ("PrometheusRule", "monitoring.coreos.com/v1"),
    ("SecurityContextConstraints", "security.openshift.io/v1"),
];

/// The directories of `conf/kubernetes/NAME`.
fn names_in(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(at(DIRECTORY).join(directory)).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
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
            "NetworkPolicy" => fits::<NetworkPolicy>(document),
            other => {
                let version = document["apiVersion"].as_str().unwrap();
                assert!(OTHERS.contains(&(other, version)), "{other}: not expected");
            }
        }
    }
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
                "/run/ovs-flow-gc"
                | "/host/opt/cni/bin"
                | "/host/etc/cni/net.d"
                | "/host/etc/cni/multus/net.d" => {
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
    let documents = kustomize("");
    assert_eq!(documents, kustomize("base"), "the way in is the base");
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
    let documents = variant("base", &[]);
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
    let netns = variant("base", &["netns-only"]);
    check_schema(&netns);
    check_pod(pod_of(&netns), &[], false);
    assert_eq!(setting(pod_of(&netns), "OVS_FLOW_GC_LIVENESS"), "netns");
    assert_eq!(pod_of(&netns)["automountServiceAccountToken"], false);
    assert!(!netns.iter().any(|d| d["kind"].as_str().unwrap().starts_with("ClusterRole")));

    for (component, directory, socket) in [
        ("cri-containerd", "/run/containerd", "containerd.sock"),
        ("cri-crio", "/run/crio", "crio.sock"),
    ] {
        let documents = variant("base", &[component]);
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

    let documents = variant("base", &["dac-override"]);
    check_schema(&documents);
    check_pod(pod_of(&documents), &["DAC_OVERRIDE"], false);

    let documents = variant("base", &["selinux"]);
    check_schema(&documents);
    check_pod(pod_of(&documents), &[], false);
    let options = &pod_of(&documents)["securityContext"]["seLinuxOptions"];
    assert_eq!(options, &json!({ "type": "spc_t" }));

    let all = variant("base", &["cri-crio", "dac-override", "selinux"]);
    check_schema(&all);
    check_pod(pod_of(&all), &["DAC_OVERRIDE"], false);
}

/// What a volume is on the node.
#[track_caller]
fn host_path(pod: &Value, volume: &str) -> String {
    named(&pod["volumes"], volume)["hostPath"]["path"].as_str().unwrap().to_owned()
}

fn install_args(pod: &Value) -> Vec<&str> {
    array(&pod["initContainers"][0]["args"]).iter().map(|arg| arg.as_str().unwrap()).collect()
}

#[test]
fn a_component_about_the_plugin_gives_the_init_container_one_argument() {
    let base = variant("base", &[]);
    let usual = install_args(pod_of(&base));
    for (component, arg) in [("no-conflist", "--no-conflist"), ("settings", "--settings={}")] {
        let documents = variant("base", &[component]);
        check_schema(&documents);
        check_options(&pod_of(&documents)["initContainers"][0]);
        let mut wanted = usual.clone();
        wanted.push(arg);
        assert_eq!(install_args(pod_of(&documents)), wanted);
        // And nothing else.
        let mut rest = documents.clone();
        let at = rest.iter().position(|d| d["kind"] == "DaemonSet").unwrap();
        let args = &mut rest[at]["spec"]["template"]["spec"]["initContainers"][0]["args"];
        args.as_array_mut().unwrap().pop();
        assert_eq!(rest, base, "{component}");
    }
}

#[test]
fn directories_of_the_node_are_the_same_on_the_way_in_and_on_the_way_off() {
    for (component, bin, net) in [
        ("cni-dirs", "/opt/cni/bin", "/etc/cni/net.d"),
        ("k3s", "/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d"),
        ("openshift", "/var/lib/cni/bin", "/etc/kubernetes/cni/net.d"),
    ] {
        for (from, host_network) in [("base", false), ("uninstall", true)] {
            let documents = variant(from, &[component]);
            check_schema(&documents);
            let pod = pod_of(&documents);
            check_pod(pod, &[], host_network);
            for (volume, path) in [("cni-bin", bin), ("cni-conf", net)] {
                let wanted = json!({ "path": path, "type": "Directory" });
                assert_eq!(named(&pod["volumes"], volume)["hostPath"], wanted, "{component}");
            }
        }
    }
}

#[test]
fn another_directory_of_open_vswitch_is_mounted_and_told_to_the_plugin() {
    let base = variant("base", &[]);
    let here = setting(pod_of(&base), "OVS_RUNDIR");
    let init = &pod_of(&base)["initContainers"][0];
    assert_eq!(named(&init["env"], "OVS_RUNDIR")["value"], here);
    assert_eq!(host_path(pod_of(&base), "ovs"), here, "so nobody has to be told");

    let documents = variant("base", &["cri-crio", "ovs-dir"]);
    check_schema(&documents);
    let pod = pod_of(&documents);
    check_pod(pod, &[], false);
    check_options(&pod["initContainers"][0]);
    let told = format!("--ovs-dir={}", host_path(pod, "ovs"));
    assert_eq!(install_args(pod).last(), Some(&told.as_str()));
    assert_eq!(setting(pod, "OVS_RUNDIR"), here, "the mount is where it was");

    let documents = variant("base", &["cri-crio", "ovs-parent"]);
    check_schema(&documents);
    let pod = pod_of(&documents);
    check_pod(pod, &[], false);
    assert_eq!(host_path(pod, "run"), "/run");
    assert_eq!(install_args(pod).last(), Some(&"--ovs-dir=/run/openvswitch"));
    for container in containers(pod) {
        let mount = &named(&container["volumeMounts"], "run")["mountPath"];
        let seen = format!("{}/openvswitch", mount.as_str().unwrap());
        assert_eq!(named(&container["env"], "OVS_RUNDIR")["value"], seen);
    }
}

#[test]
fn prometheus_finds_the_port_and_is_let_in() {
    let names = ["pod-monitor", "prometheus-rule", "network-policy"];
    let documents = variant("base", &names);
    check_schema(&documents);
    let base = variant("base", &[]);
    assert_eq!(documents.len(), base.len() + names.len());
    assert!(base.iter().all(|document| documents.contains(document)), "added, nothing changed");
    let labels = &of_kind(&base, "DaemonSet")["spec"]["template"]["metadata"]["labels"];
    let port = &named(&pod_of(&base)["containers"], "daemon")["ports"][0]["name"];

    let monitor = &of_kind(&documents, "PodMonitor")["spec"];
    assert_eq!(&monitor["selector"]["matchLabels"], labels);
    assert_eq!(&monitor["podMetricsEndpoints"][0]["port"], port);
    // conf/prometheus and conf/grafana expect this job.
    assert_eq!(labels[monitor["jobLabel"].as_str().unwrap()], "ovs-flow-gc");
    let policy = &of_kind(&documents, "NetworkPolicy")["spec"];
    assert_eq!(&policy["podSelector"]["matchLabels"], labels);
    assert_eq!(&policy["ingress"][0]["ports"][0]["port"], port);
    let alerts = &yaml(&text("conf/prometheus/alerts.yaml"))[0];
    let rule = of_kind(&documents, "PrometheusRule");
    assert_eq!(&rule["spec"], alerts, "conf/kubernetes/render.sh makes it");
    for name in ["PodMonitor", "PrometheusRule", "NetworkPolicy"] {
        assert_eq!(of_kind(&documents, name)["metadata"]["namespace"], "ovs-flow-gc");
    }
}

/// The OpenShift variant's constraints allow what its pods ask for, and no more.
#[test]
fn openshift_allows_what_its_pods_ask_for() {
    let documents = kustomize("overlays/openshift");
    let constraints = of_kind(&documents, "SecurityContextConstraints");
    assert_eq!(constraints["groups"], json!(["system:serviceaccounts:ovs-flow-gc"]));
    assert_eq!(constraints["allowPrivilegedContainer"], false);
    let off = kustomize("overlays/openshift/uninstall");
    let mut added = BTreeSet::new();
    let mut volumes = BTreeSet::new();
    for pod in [pod_of(&documents), pod_of(&off)] {
        assert_eq!(pod["securityContext"]["seLinuxOptions"]["type"], "spc_t");
        for container in containers(pod) {
            let capabilities = &container["securityContext"]["capabilities"]["add"];
            added.extend(array(capabilities).iter().map(ToString::to_string));
        }
        let kinds = array(&pod["volumes"]).iter().flat_map(|v| v.as_object().unwrap().keys());
        volumes.extend(kinds.filter(|kind| *kind != "name").cloned());
        if pod["automountServiceAccountToken"] == true {
            volumes.insert("projected".to_owned());
        }
    }
    let words = |list: &Value| -> BTreeSet<String> {
        array(list).iter().map(ToString::to_string).collect()
    };
    assert_eq!(words(&constraints["allowedCapabilities"]), added);
    let volumes: BTreeSet<String> = volumes.iter().map(|v| json!(v).to_string()).collect();
    assert_eq!(words(&constraints["volumes"]), volumes);
    assert!(install_args(pod_of(&documents)).contains(&"--no-conflist"));
}

/// A name that nobody can own, in one place; `build.sh` builds it.
#[test]
fn every_container_has_the_image_that_is_named_in_one_place() {
    let image = &yaml(&text("conf/kubernetes/components/image/kustomization.yaml"))[0]["images"][0];
    let name = image["newName"].as_str().unwrap();
    assert!(name.split('/').next().unwrap().ends_with(".invalid"), "{name} may be somebody's");
    assert_eq!(image["newTag"], env!("CARGO_PKG_VERSION"));
    let wanted = format!("{name}:{}", image["newTag"].as_str().unwrap());
    for file in names_in("rendered") {
        let documents = yaml(&text(&format!("{DIRECTORY}/rendered/{file}")));
        for container in containers(pod_of(&documents)) {
            assert_eq!(container["image"], wanted, "{file}");
        }
    }
    assert!(text("docs/kubernetes.md").contains(&wanted), "the page's commands replace it");
    let help = run(Command::new(at("conf/image/build.sh")).arg("--help"), "");
    assert!(help.contains("components/image"), "{help}");
}

/// `kubectl apply -f` takes what `kubectl apply -k` would.
#[test]
fn the_rendered_files_are_what_the_script_makes() {
    let rendered = |name: &str| text(&format!("{DIRECTORY}/rendered/{name}"));
    let mut wanted = BTreeSet::new();
    for overlay in names_in("overlays") {
        for (name, directory) in [
            (format!("{overlay}.yaml"), format!("overlays/{overlay}")),
            (format!("{overlay}-uninstall.yaml"), format!("overlays/{overlay}/uninstall")),
        ] {
            let documents = yaml(&rendered(&name));
            check_schema(&documents);
            let said = "run conf/kubernetes/render.sh";
            let documents = sorted(&documents);
            assert!(documents == sorted(&kustomize(&directory)), "{name}: {said}");
            let flat = sorted(&flat(&Flat::of(&at(DIRECTORY).join(&directory))));
            assert!(documents == flat, "{name}: the tests' own way differs");
            wanted.insert(name);
        }
    }
    assert_eq!(names_in("rendered"), wanted.iter().cloned().collect::<Vec<_>>());
    let issue = ["default", "k3s", "multus", "netns-only", "openshift"];
    assert!(issue.iter().all(|name| wanted.contains(&format!("{name}.yaml"))));
    if !knows_components() {
        println!("this kubectl has no components: conf/kubernetes/render.sh was not run");
        return;
    }
    let dir = TempDir::new().unwrap();
    run(Command::new("cp").arg("-a").arg(at("conf")).arg(dir.path()), "");
    let copy = dir.path().join("conf/kubernetes");
    let again = copy.join("again");
    run(Command::new(copy.join("render.sh")).arg(&again), "");
    for name in &wanted {
        let made = fs::read_to_string(again.join(name)).unwrap();
        assert!(sorted(&yaml(&made)) == sorted(&yaml(&rendered(name))), "{name}");
        assert_eq!(made.lines().next(), rendered(name).lines().next(), "{name}");
    }
    let rule = "components/prometheus-rule/prometheusrule.yaml";
    let made = fs::read_to_string(copy.join(rule)).unwrap();
    assert_eq!(made, text(&format!("{DIRECTORY}/{rule}")), "run conf/kubernetes/render.sh");
}

/// What the tests do for a kubectl without components is what one with components does.
#[test]
fn components_are_the_same_without_a_kubectl_that_knows_them() {
    if !knows_components() {
        println!("this kubectl has no components to compare with");
        return;
    }
    for component in names_in("components") {
        for from in ["base", "uninstall"] {
            let only = match component.as_str() {
                // They patch what only the base has, or only the way off.
                "multus-dir" => "uninstall",
                "netns-only" | "cri-containerd" | "cri-crio" | "dac-override" | "ovs-dir"
                | "ovs-parent" | "deliver" => "base",
                _ => from,
            };
            if only == from {
                let real = sorted(&variant(from, &[&component]));
                let flat = sorted(&with_components_flat(from, &[&component]));
                assert!(flat == real, "{component}, {from}");
            }
        }
    }
}

/// A privileged container of its own. What the daemon has is as it is without it.
#[test]
fn what_delivers_is_privileged_and_the_daemon_is_not() {
    let documents = variant("base", &["deliver"]);
    check_schema(&documents);
    let is = |d: &&Value, name: &str| d["kind"] == "DaemonSet" && d["metadata"]["name"] == name;
    let daemon = documents.iter().find(|d| is(d, "ovs-flow-gcd")).unwrap();
    assert_eq!(daemon, of_kind(&variant("base", &[]), "DaemonSet"));
    let set = documents.iter().find(|d| is(d, "ovs-flow-gc-deliver")).unwrap();
    assert_ne!(
        set["spec"]["selector"], daemon["spec"]["selector"],
        "neither takes the other's pods"
    );
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(
        (&pod["hostPID"], &pod["automountServiceAccountToken"]),
        (&json!(true), &json!(false))
    );
    assert!(pod.get("volumes").is_none() && pod.get("serviceAccountName").is_none());
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["privileged"], true);
    let daemons = &daemon["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], daemons["image"], "the name that is written in one place");
    let mut words = vec!["ovs-flow-gc"];
    words.extend(array(&container["args"]).iter().map(|word| word.as_str().unwrap()));
    // As the page patches it.
    let more = [&words[..], &["--gc"]].concat();
    for words in [words, more] {
        ovs_flow_gc::cli::command().try_get_matches_from(words).unwrap();
    }
    for file in names_in("rendered") {
        let rendered = text(&format!("{DIRECTORY}/rendered/{file}"));
        assert!(!rendered.contains("ovs-flow-gc-deliver"), "{file}: only whoever asks has it");
    }
}

/// The variant of one's own that the page shows.
#[test]
fn the_overlay_of_the_page_is_rendered() {
    let page = text("docs/kubernetes.md");
    let dir = TempDir::new().unwrap();
    run(Command::new("cp").arg("-a").arg(at(DIRECTORY)).arg(dir.path().join("kubernetes")), "");
    let mut overlays = Vec::new();
    for block in page.split("```yaml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let Some(path) = block.lines().next().and_then(|line| line.strip_prefix("# conf/")) else {
            continue;
        };
        let file = dir.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, block).unwrap();
        overlays.push(file.parent().unwrap().to_owned());
    }
    assert_eq!(overlays.len(), 2, "the way in and the way off");
    if !knows_components() {
        println!("this kubectl has no components: the page's overlay was not rendered");
        return;
    }
    let check = |overlay: &Path, added: &[&str], host_network| {
        let documents = kubectl_kustomize(overlay);
        check_schema(&documents);
        check_pod(pod_of(&documents), added, host_network);
    };
    check(&overlays[0], &["DAC_OVERRIDE"], false);
    check(&overlays[1], &[], true);
}

#[test]
fn the_way_off_a_node_does_not_need_the_pod_network() {
    let documents = kustomize("uninstall");
    check_schema(&documents);
    let pod = pod_of(&documents);
    check_pod(pod, &[], true);
    for container in containers(pod) {
        check_options(container);
    }
    let base = variant("base", &[]);
    let selector =
        |documents: &[Value]| of_kind(documents, "DaemonSet")["spec"]["selector"].clone();
    assert_ne!(selector(&documents), selector(&base), "neither takes the other's pods");
    assert_eq!(pod["initContainers"][0]["volumeMounts"], pod["containers"][0]["volumeMounts"]);

    // A NetworkAttachmentDefinition without a configuration has it in a directory of multus'.
    let documents = variant("uninstall", &["multus-dir"]);
    check_schema(&documents);
    let pod = pod_of(&documents);
    check_pod(pod, &[], true);
    for container in containers(pod) {
        let directory = "/host/etc/cni/multus/net.d";
        assert!(container["args"].to_string().contains(&format!("--net-dir={directory}")));
        let mounts = container["volumeMounts"].to_string();
        assert!(mounts.contains(directory), "{mounts}");
    }
}
