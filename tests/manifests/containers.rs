//! The containers of the manifests, run by the real containerd as a kubelet has it run them: their
//! image, arguments, mounts and security context are read from what kubectl renders. The kubelet's
//! part (the types of hostPath, the order, the probes) is not here.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    Capability, ContainerConfig, ContainerMetadata, ImageSpec, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerSecurityContext, Mount, MountPropagation, SecurityProfile,
};
use serde_json::{Value, json};

use crate::manifests::array;
use crate::manifests::kustomize::variant;
use crate::rig::{Datapath, Node, Runtime, Setup};

fn words(list: &Value) -> Vec<String> {
    array(list).iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// The first init container of the rendered DaemonSet. `/opt`, `/etc` and `/var/lib` are the
/// node's where containerd is; the state directory is elsewhere.
#[track_caller]
fn first_container(documents: &[Value], node: &Node) -> ContainerConfig {
    let daemon_set = documents.iter().find(|document| document["kind"] == "DaemonSet").unwrap();
    let pod = &daemon_set["spec"]["template"]["spec"];
    let container = &pod["initContainers"][0];
    let host_path = |mount: &Value| {
        let volume = array(&pod["volumes"]).iter().find(|v| v["name"] == mount["name"]).unwrap();
        match volume["hostPath"]["path"].as_str().unwrap() {
            "/run/ovs-flow-gc" => node.state_dir.display().to_string(),
            path => path.to_owned(),
        }
    };
    let mounts = array(&container["volumeMounts"]).iter().map(|mount| {
        let propagation = match mount["mountPropagation"].as_str() {
            None => MountPropagation::PropagationPrivate,
            Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
            Some(other) => panic!("{other}"),
        };
        Mount {
            container_path: mount["mountPath"].as_str().unwrap().to_owned(),
            host_path: host_path(mount),
            readonly: mount["readOnly"] == true,
            propagation: propagation.into(),
            ..Mount::default()
        }
    });
    let env = array(&container["env"]).iter().map(|variable| KeyValue {
        key: variable["name"].as_str().unwrap().to_owned(),
        value: variable["value"].as_str().unwrap().to_owned(),
    });
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "it".to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: image_of(documents), ..ImageSpec::default() }),
        command: words(&container["command"]),
        args: words(&container["args"]),
        envs: env.collect(),
        mounts: mounts.collect(),
        linux: Some(LinuxContainerConfig {
            security_context: Some(security_context(pod, container)),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    }
}

fn security_context(pod: &Value, container: &Value) -> LinuxContainerSecurityContext {
    let context = &container["securityContext"];
    let id = |key: &str| pod["securityContext"][key].as_i64().map(|value| Int64Value { value });
    let profile = ProfileType::RuntimeDefault.into();
    LinuxContainerSecurityContext {
        capabilities: Some(Capability {
            add_capabilities: words(&context["capabilities"]["add"]),
            drop_capabilities: words(&context["capabilities"]["drop"]),
            ..Capability::default()
        }),
        privileged: context["privileged"] == true,
        run_as_user: id("runAsUser"),
        run_as_group: id("runAsGroup"),
        readonly_rootfs: context["readOnlyRootFilesystem"] == true,
        no_new_privs: context["allowPrivilegeEscalation"] == false,
        seccomp: Some(SecurityProfile { profile_type: profile, ..SecurityProfile::default() }),
        ..LinuxContainerSecurityContext::default()
    }
}

fn image_of(documents: &[Value]) -> String {
    let daemon_set = documents.iter().find(|document| document["kind"] == "DaemonSet").unwrap();
    let container = &daemon_set["spec"]["template"]["spec"]["initContainers"][0];
    container["image"].as_str().unwrap().to_owned()
}

/// The image's tree: `conf/image/build.sh` makes it so.
fn import_image(runtime: &Runtime<'_>, node: &Node, name: &str) {
    let tree = node.dir.join("image");
    fs::create_dir_all(tree.join("run")).unwrap();
    fs::create_dir_all(tree.join("var")).unwrap();
    symlink("../run", tree.join("var/run")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_ovs-flow-gc"), tree.join("ovs-flow-gc")).unwrap();
    runtime.import_image(name, &tree);
    crate::rig::eventually("CRI finds the image", || runtime.has_image(name));
}

/// Whether pods that are recorded are dead.
#[track_caller]
fn dead(node: &Node, pods: &[&str]) -> Vec<bool> {
    let list = node.admin(&["list", "--no-flows", "--json"]).json();
    let row = |pod: &&str| {
        let row = array(&list).iter().find(|row| row["pod"]["name"] == *pod);
        row.unwrap_or_else(|| panic!("{pod}: {list:#}"))["died"].is_object()
    };
    pods.iter().map(row).collect()
}

fn entry(node: &Node) -> Option<Value> {
    let list: Value =
        serde_json::from_str(&fs::read_to_string(node.conflist_path()).unwrap()).unwrap();
    array(&list["plugins"]).iter().find(|plugin| plugin["type"] == "ovs-flow-gc").cloned()
}

#[test]
fn the_init_container_installs_on_its_node_and_the_way_off_takes_it_away() {
    let node = Setup::new().datapath(Datapath::Dummy).without_gc().up("init_container");
    let plugin = node.plugin("ovs-flow-gc");
    fs::remove_file(&plugin).unwrap();
    fs::create_dir_all(&node.state_dir).unwrap();
    let before = fs::read_to_string(node.conflist_path()).unwrap();
    // Where the components have an example, as their users do.
    let settings = json!({ "stateDir": node.state_dir }).to_string();
    let run_dir = node.run_dir.display().to_string();
    let text = json!(variant("base", &["settings", "ovs-dir"])).to_string();
    let text = text.replace("/var/run/antrea/openvswitch", &run_dir);
    let text =
        text.replace("--settings={}", &format!("--settings={settings}").replace('"', "\\\""));
    let base: Vec<Value> = serde_json::from_str(&text).unwrap();

    let runtime = Runtime::start(&node);
    import_image(&runtime, &node, &image_of(&base));
    let old = runtime.run_sandbox("old");
    let pod = runtime.run_sandbox("ovs-flow-gcd");
    let config = first_container(&base, &node);

    // The volume alone was changed: the plugin would look in /run/openvswitch.
    let mut volume_only = config.clone();
    volume_only.args.retain(|arg| !arg.starts_with("--ovs-dir="));
    let (code, log) = runtime.run_container(&pod, volume_only);
    assert!(code == 1 && log.contains("--ovs-dir") && log.contains(&run_dir), "{code}: {log}");
    assert!(!plugin.exists() && entry(&node).is_none(), "{log}");

    let pod = runtime.run_sandbox("ovs-flow-gcd-again");
    let (code, log) = runtime.run_container(&pod, config);
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("3 pods adopted") && log.matches("adopted").count() == 1, "{log}");
    assert_eq!(entry(&node).unwrap()["ovsRunDir"], run_dir, "{log}");
    assert!(Path::new(&plugin).exists());
    // From now on the runtime calls it.
    let new = runtime.run_sandbox("new");
    assert_eq!(dead(&node, &["new", "old"]), [false, false]);
    runtime.stop_sandbox(&new);
    runtime.stop_sandbox(&old);
    assert_eq!(dead(&node, &["new", "old"]), [true, true], "DEL came");

    let off = first_container(&variant("uninstall", &[]), &node);
    let pod = runtime.run_sandbox("uninstall");
    let (code, log) = runtime.run_container(&pod, off);
    assert_eq!(code, 0, "{log}");
    assert!(!plugin.exists(), "{log}");
    assert_eq!(fs::read_to_string(node.conflist_path()).unwrap(), before);
    assert_eq!(fs::read_dir(&node.state_dir).unwrap().count(), 0, "{log}");
}
