//! Of a pod, the few fields that matter: a node's pods cost some hundred bytes each.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::value::RawValue;

/// No UID and no label's value is longer.
const LONGEST_NAME: usize = 63;

/// A pod as the API server writes it; whatever else it says is passed over.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Metadata {
    pub(crate) uid: String,
    pub(crate) resource_version: String,
    annotations: Option<Annotations>,
    labels: Option<Labels>,
    owner_references: Option<Vec<OwnerReference>>,
}

/// What controllers write on the pods of one template.
#[derive(Debug, Default, Deserialize)]
struct Labels {
    #[serde(rename = "pod-template-hash")]
    template: Option<String>,
    #[serde(rename = "controller-revision-hash")]
    revision: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OwnerReference {
    api_version: String,
    kind: String,
    uid: String,
    controller: Option<bool>,
}

/// What the kubelet writes on the mirror pod of a static one. The static pod's UID, which
/// `CNI_ARGS` has, is the hash; the mirror's own UID is another.
#[derive(Debug, Default, Deserialize)]
struct Annotations {
    #[serde(rename = "kubernetes.io/config.hash")]
    hash: Option<String>,
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

impl Pod {
    pub(crate) fn node(&self) -> &str {
        &self.spec.node_name
    }

    /// Failed (evicted, too) or Succeeded: for good, no container of it starts again.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Failed" | "Succeeded")
    }

    /// The static pod's UID, if this is a mirror.
    pub(crate) fn mirrored(&self) -> Option<&str> {
        let annotations = self.metadata.annotations.as_ref()?;
        annotations.mirror.as_deref().map(|mirror| annotations.hash.as_deref().unwrap_or(mirror))
    }

    /// The controller that made it, and the template: the same text for all pods that were made
    /// from one. Other kinds of owners do not promise that their pods are alike.
    pub(crate) fn workload(&self) -> Option<String> {
        let mut owners = self.metadata.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.controller == Some(true))?;
        let labels = self.metadata.labels.as_ref()?;
        let hash = match owner.kind.as_str() {
            _ if !owner.api_version.starts_with("apps/") => None,
            "ReplicaSet" => labels.template.as_deref(),
            "StatefulSet" | "DaemonSet" => labels.revision.as_deref(),
            _ => None,
        };
        let fits = |text: &&str| (1..=LONGEST_NAME).contains(&text.len());
        let (uid, hash) = (Some(owner.uid.as_str()).filter(fits)?, hash.filter(fits)?);
        Some(format!("{} {uid} {hash}", owner.kind))
    }

    /// Its addresses, the primary one first.
    pub(crate) fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let all = self.status.pod_ips.iter().flatten().map(|one| one.ip.as_str());
        std::iter::once(self.status.pod_ip.as_str()).chain(all).filter_map(|ip| ip.parse().ok())
    }
}

/// One line of a watch.
#[derive(Debug, Deserialize)]
pub(crate) struct Event<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: &'a str,
    #[serde(borrow)]
    pub(crate) object: &'a RawValue,
}

/// `metav1.Status`: why something was refused.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) message: String,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    causes: Option<Vec<Cause>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
}

impl Refusal {
    /// The server has not got as far as the version that was asked for.
    pub(crate) fn is_behind(&self) -> bool {
        let causes = self.details.as_ref().and_then(|d| d.causes.as_ref()).into_iter().flatten();
        // metav1.CauseTypeResourceVersionTooLarge; before 1.19 only the text.
        causes.into_iter().any(|cause| cause.reason == "ResourceVersionTooLarge")
            || self.message.contains("Too large resource version")
    }
}
