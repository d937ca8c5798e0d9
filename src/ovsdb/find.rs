//! Which port is an attachment's. First hit wins; a step with two hits has
//! none, unless just one of them is on the configured bridge.

use super::marks::{DEFAULT_IFNAME, Marks, marks};
use super::snapshot::{Bridge, Interface, LOCAL, Ofport, Port, Snapshot, is_tunnel_or_patch};
use crate::model::attachment::{Attachment, Key};
use crate::model::flow::MacAddr;

/// What is known of an attachment whose port is looked for. Empty strings are absent.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// `CNI_CONTAINERID`.
    pub container_id: &'a str,
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
    /// `CNI_NETNS`.
    pub netns: Option<&'a str>,
    /// The pod's namespace and name.
    pub pod: Option<(&'a str, &'a str)>,
    /// Interfaces without a sandbox in prevResult.
    pub host_interfaces: Vec<&'a str>,
    /// The pod's own MACs.
    pub macs: &'a [MacAddr],
    /// The configured bridge. It decides between two hits and excludes none.
    pub bridge: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// By what no two attachments share: container, interface and network namespace.
    #[must_use]
    pub fn of_key(key: &'a Key, netns: Option<&'a str>) -> Self {
        Self {
            container_id: key.container.as_str(),
            ifname: key.ifname.as_str(),
            netns: netns.filter(|path| !path.is_empty()),
            ..Self::default()
        }
    }

    /// By everything that is known of a pod whose record is being made; the bridge is the
    /// configured one.
    #[must_use]
    pub fn of_pod(
        record: &'a Attachment,
        netns: Option<&'a str>,
        host_interfaces: &'a [String],
        bridge: Option<&'a str>,
    ) -> Self {
        Self {
            pod: record.pod.as_ref().map(|pod| (pod.namespace.as_str(), pod.name.as_str())),
            host_interfaces: host_interfaces.iter().map(String::as_str).collect(),
            macs: &record.macs,
            bridge,
            ..Self::of_key(&record.key, netns)
        }
    }
}

/// Writes into a record which port was found. A port may have no number yet. The device is left
/// to the caller: once the pod is dead, its device may be another pod's.
pub fn write_port(record: &mut Attachment, bridge: &Bridge, port: &Port, interface: &Interface) {
    record.bridge = Some(bridge.name.clone());
    record.port = Some(interface.name.clone());
    record.interface = Some(interface.id);
    record.see_port_vlans(&port.vlans);
    record.ofport = interface.ofport.number();
}

/// How a port was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// prevResult names it as the host's end.
    HostInterface,
    /// Its marks have the container id (and ifname).
    ContainerId,
    /// Its name has part of the container id (kube-ovn).
    PortName,
    /// Its marks have the netns and ifname.
    Netns,
    /// Its marks have the pod's namespace and name.
    Pod,
    /// Its marks have the MAC.
    Mac,
}

/// A port that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'s> {
    /// Its bridge.
    pub bridge: &'s Bridge,
    /// The port.
    pub port: &'s Port,
    /// Its interface.
    pub interface: &'s Interface,
    /// Which step found it.
    pub by: How,
}

/// A port that could be a pod's, and what its CNI says.
struct Candidate<'s> {
    bridge: &'s Bridge,
    port: &'s Port,
    interface: &'s Interface,
    /// None of them where the port has none: then only a name, or a MAC that somebody configured,
    /// can tell.
    marks: Marks,
}

/// The port of an attachment that is being ADDed.
#[must_use]
pub fn find_port<'s>(snapshot: &'s Snapshot, wanted: &Wanted<'_>) -> Option<Found<'s>> {
    let candidates = candidates(snapshot, wanted);
    [How::HostInterface, How::ContainerId, How::PortName, How::Netns, How::Pod, How::Mac]
        .into_iter()
        .find_map(|how| only(&candidates, wanted, how))
}

/// The port of an attachment that is DELeted without a record: by what is its own beyond
/// doubt, and never one that another record claims. Names and addresses of pods are given
/// to their successors, and prevResult may be missing.
#[must_use]
pub fn find_for_delete<'s>(
    snapshot: &'s Snapshot,
    wanted: &Wanted<'_>,
    is_claimed: impl Fn(&Interface) -> bool,
) -> Option<Found<'s>> {
    let mut candidates = candidates(snapshot, wanted);
    candidates.retain(|c| !is_claimed(c.interface));
    [How::ContainerId, How::PortName, How::Netns]
        .into_iter()
        .find_map(|how| only(&candidates, wanted, how))
}

fn candidates<'s>(snapshot: &'s Snapshot, wanted: &Wanted<'_>) -> Vec<Candidate<'s>> {
    let mut candidates = Vec::new();
    for (bridge, port, interface) in snapshot.interfaces() {
        // k-vswitch's prevResult lists the bridge first. A bond is an uplink.
        let could_be_a_pods = port.interfaces.len() == 1
            && !is_tunnel_or_patch(&interface.kind)
            && interface.ofport != Ofport::Number(LOCAL)
            && snapshot.bridge(&interface.name).is_none();
        if !could_be_a_pods {
            continue;
        }
        let marks = marks(port, interface).unwrap_or_default();
        // Another sandbox's, however well the rest fits: a StatefulSet's pod has its
        // predecessor's name and MAC.
        let container = marks.container_id.as_deref();
        if container.is_some_and(|id| !wanted.container_id.is_empty() && id != wanted.container_id)
        {
            continue;
        }
        candidates.push(Candidate { bridge, port, interface, marks });
    }
    candidates
}

fn only<'s>(candidates: &[Candidate<'s>], wanted: &Wanted<'_>, by: How) -> Option<Found<'s>> {
    let hits: Vec<&Candidate<'s>> = candidates.iter().filter(|c| c.is_hit(wanted, by)).collect();
    let hit = match hits.as_slice() {
        [hit] => hit,
        several => {
            let mut here = several.iter().filter(|c| Some(c.bridge.name.as_str()) == wanted.bridge);
            let hit = here.next()?;
            if here.next().is_some() {
                return None;
            }
            hit
        }
    };
    Some(Found { bridge: hit.bridge, port: hit.port, interface: hit.interface, by })
}

impl Candidate<'_> {
    fn is_hit(&self, wanted: &Wanted<'_>, by: How) -> bool {
        let name = self.interface.name.as_str();
        let marks = &self.marks;
        match by {
            How::HostInterface => wanted.host_interfaces.contains(&name),
            How::ContainerId => {
                !wanted.container_id.is_empty()
                    && marks.container_id.as_deref() == Some(wanted.container_id)
                    && same_interface(marks, wanted)
            }
            How::PortName => is_kube_ovn_name(name, wanted),
            How::Netns => in_netns(marks, wanted) == Some(true) && same_interface(marks, wanted),
            How::Pod => {
                let pod = wanted.pod.filter(|(ns, name)| !ns.is_empty() && !name.is_empty());
                pod.is_some_and(|(namespace, name)| {
                    marks.pod_namespace.as_deref() == Some(namespace)
                        && marks.pod_name.as_deref() == Some(name)
                }) && in_netns(marks, wanted) != Some(false)
                    && same_interface(marks, wanted)
            }
            How::Mac => {
                let mac = marks.mac.or(self.port.mac);
                mac.is_some_and(|mac| has_mac(wanted, mac))
                    && in_netns(marks, wanted) != Some(false)
            }
        }
    }
}

fn has_mac(wanted: &Wanted<'_>, mac: MacAddr) -> bool {
    !mac.is_unusable() && wanted.macs.contains(&mac)
}

/// The marks are of this interface of the pod, not of another one: DEL of a pod's second
/// interface must not find its first. Where the CNI does not say, the MAC must.
fn same_interface(marks: &Marks, wanted: &Wanted<'_>) -> bool {
    match &marks.ifname {
        Some(ifname) => ifname == wanted.ifname,
        None => marks.mac.is_some_and(|mac| has_mac(wanted, mac)),
    }
}

/// Whether the marks are of this namespace, if both sides say which.
fn in_netns(marks: &Marks, wanted: &Wanted<'_>) -> Option<bool> {
    let wanted = wanted.netns.filter(|path| netns_key(path).next().is_some())?;
    Some(same_netns(marks.netns.as_deref()?, wanted))
}

/// Whether two spellings are of one namespace's path.
#[must_use]
pub fn same_netns(a: &str, b: &str) -> bool {
    netns_key(a).eq(netns_key(b))
}

/// `/run` and `/var/run` are one directory, and k-vswitch writes paths without slashes.
fn netns_key(path: &str) -> impl Iterator<Item = u8> {
    let bare = path.bytes().filter(|byte| *byte != b'/');
    let var = if bare.clone().take(6).eq(*b"varrun") { 3 } else { 0 };
    bare.skip(var)
}

/// The paths that a CNI may have seen this one as.
pub(super) fn netns_spellings(path: &str) -> Vec<String> {
    if path.is_empty() {
        return Vec::new();
    }
    let mut spellings = vec![path.to_owned()];
    if let Some(rest) = path.strip_prefix("/var/run/") {
        spellings.push(format!("/run/{rest}"));
    } else if let Some(rest) = path.strip_prefix("/run/") {
        spellings.push(format!("/var/run/{rest}"));
    }
    spellings
}

/// What kube-ovn calls the ports of a container's interface: the host's end of a veth, or
/// the internal port that it moves into the pod.
pub(super) fn kube_ovn_names(container_id: &str, ifname: &str) -> Vec<String> {
    let stem = if ifname == DEFAULT_IFNAME {
        container_id.get(..12).map(str::to_owned)
    } else {
        12usize
            .checked_sub(ifname.len())
            .filter(|most| *most > 0 && !ifname.is_empty())
            .and_then(|most| container_id.get(..most))
            .map(|id| format!("{id}_{ifname}"))
    };
    stem.map(|stem| vec![format!("{stem}_h"), format!("{stem}_c")]).unwrap_or_default()
}

fn is_kube_ovn_name(name: &str, wanted: &Wanted<'_>) -> bool {
    kube_ovn_names(wanted.container_id, wanted.ifname).iter().any(|n| n == name)
}

#[cfg(test)]
mod tests;
