//! Node settings against disk pressure (docs/disk-pressure.md).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use crate::manifests::{text, yaml};

/// kubelet.config.k8s.io/v1beta1 as of Kubernetes 1.20 (staging/src/k8s.io/kubelet/config/v1beta1/
/// types.go), as far as it is used. A kubelet does not start with a field that it does not know.
const FIELDS: [&str; 17] = [
    "apiVersion",
    "kind",
    "evictionHard",
    "evictionSoft",
    "evictionSoftGracePeriod",
    "evictionMaxPodGracePeriod",
    "evictionMinimumReclaim",
    "evictionPressureTransitionPeriod",
    "imageGCHighThresholdPercent",
    "imageGCLowThresholdPercent",
    "imageMinimumGCAge",
    "containerLogMaxSize",
    "containerLogMaxFiles",
    "systemReserved",
    "kubeReserved",
    "enforceNodeAllocatable",
    "podPidsLimit",
];

fn percent(value: &Value) -> u64 {
    value.as_str().unwrap().strip_suffix('%').unwrap().parse().unwrap()
}

#[test]
fn the_kubelet_removes_garbage_before_pods_and_asks_before_it_shoots() {
    let config = &yaml(&text("conf/kubernetes/node/kubelet-config.yaml"))[0];
    for key in config.as_object().unwrap().keys() {
        assert!(FIELDS.contains(&key.as_str()), "{key}");
    }
    let keys = |field: &str| -> BTreeSet<String> {
        config[field].as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys("evictionSoft"), keys("evictionSoftGracePeriod"), "the kubelet insists");
    for signal in keys("evictionSoft") {
        let (soft, hard) = (&config["evictionSoft"][&signal], &config["evictionHard"][&signal]);
        if soft.as_str().unwrap().ends_with('%') {
            assert!(percent(soft) > percent(hard), "{signal}");
        }
    }
    let defaults =
        ["memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available"];
    for signal in defaults {
        assert!(keys("evictionHard").contains(signal), "{signal} would not be watched");
    }
    let (high, low) =
        (&config["imageGCHighThresholdPercent"], &config["imageGCLowThresholdPercent"]);
    let (high, low) = (high.as_u64().unwrap(), low.as_u64().unwrap());
    assert!(low < high && high < 100 - percent(&config["evictionSoft"]["imagefs.available"]));
}

#[test]
fn the_classes_are_ones_that_an_operator_may_make() {
    for document in yaml(&text("conf/kubernetes/node/priorityclasses.yaml")) {
        let class: PriorityClass = serde_json::from_value(document.clone()).unwrap();
        assert!(class.value <= 1_000_000_000, "{document}");
        assert_eq!(serde_json::to_value(class).unwrap(), document);
    }
}

#[test]
fn the_patch_for_open_vswitch_makes_it_guaranteed() {
    let patch = &yaml(&text("conf/kubernetes/node/ovs-critical.yaml"))[0];
    let template = &patch["spec"]["template"];
    let typed: PodTemplateSpec = serde_json::from_value(template.clone()).unwrap();
    assert_eq!(&serde_json::to_value(typed).unwrap(), template);
    for container in template["spec"]["containers"].as_array().unwrap() {
        assert_eq!(container["resources"]["requests"], container["resources"]["limits"]);
    }
    assert_eq!(template["spec"]["priorityClassName"], "system-node-critical");
}
