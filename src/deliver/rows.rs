//! Whose a row of OVSDB is that a dead pod's DEL would take: plugins find it by its name.

use std::net::IpAddr;

use super::caches::CachedFile;
use crate::model::attachment::Attachment;
use crate::model::flow::MacAddr;
use crate::ovsdb::{Interface, Ofport, Port, marks, same_netns};

/// What a dead pod's DEL may take.
pub(super) struct Taken<'a> {
    file: &'a CachedFile,
    record: Option<&'a Attachment>,
    addresses: Vec<IpAddr>,
    macs: Vec<MacAddr>,
    devices: Vec<&'a str>,
}

impl<'a> Taken<'a> {
    pub(super) fn of(file: &'a CachedFile, record: Option<&'a Attachment>) -> Self {
        let mut devices = file.host_interfaces();
        devices.extend(record.and_then(|record| record.port.as_deref()));
        let (addresses, macs) = (file.addresses(), file.macs());
        Self { file, record, addresses, macs, devices }
    }

    /// Why a row stands against the DEL: it has the name of the dead's port, or marks with an
    /// address of the dead, and is not shown to be the dead's own.
    pub(super) fn stopped_by(&self, bridge: &str, port: &Port, it: &Interface) -> Option<String> {
        let marks = marks(port, it).unwrap_or_default();
        let key = &self.file.cached.key;
        let own_netns =
            |netns: &str| self.file.sandboxes().iter().any(|own| same_netns(netns, own));
        let own = marks.container_id.as_deref() == Some(key.container.as_str())
            || marks.netns.as_deref().is_some_and(own_netns);
        if own {
            return None;
        }
        let works = it.ofport.number().is_some() && it.ifindex != Some(0);
        let address = marks.ips.iter().any(|ip| self.addresses.contains(&ip.to_canonical()))
            || marks.mac.is_some_and(|mac| self.macs.contains(&mac));
        let is_bridge = it.name == bridge;
        let named = [&it.name, &port.name].iter().any(|name| self.devices.contains(&name.as_str()));
        let named = named && !is_bridge;
        let marked = marks.container_id.is_some() || marks.netns.is_some();
        if works && address || named && (marked || self.names_another(port, it)) {
            return Some(format!("port {} is marked as another's", port.name));
        }
        (named && !self.has_row(it))
            .then(|| format!("nothing shows that port {} is its own", port.name))
    }

    /// Whether marks of no CNI that we know, or a machine's, name another pod.
    fn names_another(&self, port: &Port, interface: &Interface) -> bool {
        let (name, namespace) =
            (self.file.cached.arg("K8S_POD_NAME"), self.file.cached.arg("K8S_POD_NAMESPACE"));
        port.external_ids.iter().chain(&interface.external_ids).any(|(key, value)| {
            let key = key.replace('_', "-");
            match key.as_str() {
                "iface-id" => name.is_empty() || !value.contains(name),
                "vm-uuid" | "vm-id" => true,
                _ if key.ends_with("pod-name") => value != name,
                _ if key.ends_with("pod-namespace") => value != namespace,
                _ => false,
            }
        })
    }

    /// Whether a row without marks is the dead's: the one that was recorded with the device that was
    /// recorded. Without a record one whose device is gone, as a veth goes with its namespace.
    fn has_row(&self, row: &Interface) -> bool {
        let gone = row.ofport == Ofport::Failed || row.ifindex == Some(0) || row.error.is_some();
        let Some((record, id)) = self.record.and_then(|r| Some((r, r.interface.as_ref()?))) else {
            return gone;
        };
        let same = |device: &crate::model::attachment::Device| {
            row.ifindex == Some(device.ifindex)
                && (device.mac.is_none() || row.mac_in_use == device.mac)
        };
        *id == row.id && (gone || record.device.as_ref().is_none_or(same))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attachment::Device;
    use crate::model::row::RowId;
    use crate::ovsdb::testing::{interface, port};
    use crate::util::clock::Stamp;

    const ANOTHERS: &str = "is marked as another's";
    const NOTHING_SHOWS: &str = "nothing shows";

    fn dead() -> CachedFile {
        let text = serde_json::json!({
            "kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "networkName": "podnet",
            "cniArgs": [["K8S_POD_NAMESPACE", "demo"], ["K8S_POD_NAME", "web"]],
            "result": {
                "interfaces": [
                    {"name": "br0"},
                    {"name": "veth1"},
                    {"name": "eth0", "mac": "0a:58:00:00:00:05", "sandbox": "/run/netns/gone"},
                ],
                "ips": [{"address": "10.0.0.5/24"}],
            },
        });
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("podnet-c1-eth0");
        crate::store::replace(&path, text.to_string().as_bytes()).unwrap();
        super::super::caches::Caches::read(&[dir.path().to_owned()]).files.remove(0)
    }

    fn record(file: &CachedFile, row: u128) -> Attachment {
        let key = file.cached.key.clone();
        let mut record = Attachment::new(key, 1, "boot".to_owned(), Stamp::now());
        record.interface = Some(RowId(row));
        record.device = Some(Device { ifindex: 7, mac: None });
        record
    }

    fn stopped(record: Option<&Attachment>, marks: &[(&str, &str)], row: &Interface) -> String {
        let port = port(row.id.0 + 100, marks, row.clone());
        let file = dead();
        Taken::of(&file, record).stopped_by("br0", &port, row).unwrap_or_default()
    }

    /// A row with the name of the dead's port.
    fn row(change: impl FnOnce(&mut Interface)) -> Interface {
        let mut row = interface(2, "veth1");
        change(&mut row);
        row
    }

    #[test]
    fn a_row_without_marks_is_the_deads_if_it_is_recorded_or_its_device_is_gone() {
        let file = dead();
        let works = row(|_| {});
        let failed = row(|row| {
            (row.ofport, row.ifindex) = (Ofport::Failed, None);
            row.error = Some("could not open network device".to_owned());
        });
        let vanished = row(|row| row.ifindex = Some(0));
        let arriving = row(|row| (row.ofport, row.ifindex) = (Ofport::Unassigned, None));
        let another_device = row(|row| row.ifindex = Some(8));
        let (own, other) = (record(&file, 2), record(&file, 3));
        for (what, record, row, is_own) in [
            ("works, no record", None, &works, false),
            ("arrives, no record", None, &arriving, false),
            ("failed, no record", None, &failed, true),
            ("vanished, no record", None, &vanished, true),
            ("recorded row and device", Some(&own), &works, true),
            ("recorded row, device gone", Some(&own), &failed, true),
            ("recorded row, another device", Some(&own), &another_device, false),
            ("recorded row arrives anew", Some(&own), &arriving, false),
            ("another row", Some(&other), &works, false),
            ("another row, device gone", Some(&other), &failed, false),
        ] {
            let why = stopped(record, &[], row);
            assert_eq!(why.is_empty(), is_own, "{what}: {why}");
            assert!(is_own || why.starts_with(NOTHING_SHOWS), "{what}: {why}");
        }
        assert_eq!(stopped(None, &[], &interface(9, "br0")), "", "the bridge's own");
        assert_eq!(stopped(None, &[], &interface(9, "veth2")), "", "another name");
    }

    #[test]
    fn marks_say_whose_a_row_is_before_its_record_and_its_device_do() {
        let own = record(&dead(), 2);
        let (works, gone) = (row(|_| {}), row(|row| row.ofport = Ofport::Failed));
        for marks in [
            &[("container-id", "c2")][..],
            &[("contNetns", "/run/netns/other")],
            &[("pod-name", "x"), ("pod-namespace", "demo")],
            &[("pod-name", "web"), ("pod-namespace", "other")],
        ] {
            for row in [&works, &gone] {
                assert!(stopped(Some(&own), marks, row).ends_with(ANOTHERS), "{marks:?}");
            }
        }
        for marks in [&[("container-id", "c1")][..], &[("contNetns", "/var/run/netns/gone")]] {
            for row in [&works, &gone] {
                assert_eq!(stopped(None, marks, row), "", "{marks:?}");
            }
        }
        let machine = |mac: &str, name: &str| {
            let mut row = interface(2, name);
            let ids = [("iface-id", "vm-1"), ("attached-mac", mac)];
            row.external_ids = ids.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
            row
        };
        assert!(stopped(Some(&own), &[], &machine("", "veth1")).ends_with(ANOTHERS));
        assert!(stopped(None, &[], &machine("0a:58:00:00:00:05", "tap1")).ends_with(ANOTHERS));
        assert_eq!(stopped(None, &[], &machine("0a:58:00:00:00:06", "tap1")), "");
        let at = |ip| [("container-id", "c2"), ("ip-address", ip)];
        assert!(stopped(None, &at("10.0.0.5"), &interface(4, "veth2")).ends_with(ANOTHERS));
        assert_eq!(stopped(None, &at("10.0.0.6"), &interface(4, "veth2")), "");
    }
}
