//! What multus wrote down of each pod: `/var/lib/cni/multus/<containerID>`, a list with the
//! configuration of each network that it called for the pod (multus-cni, `saveDelegates`).

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::cached::of_multus;
use crate::model::attachment::ContainerId;
use crate::util::{base64, json, regular_file};

/// One network of a pod that multus called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delegate {
    /// The sandbox.
    pub container: String,
    /// Of the NetworkAttachmentDefinition, `NAMESPACE/NAME`; that of the network if it is a file's.
    pub name: String,
    /// The network's name in the configuration.
    pub network: String,
    pub config: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    #[serde(default)]
    name: String,
    /// The configuration, in base64.
    #[serde(default)]
    bytes: String,
}

/// Those of the pods that multus knows, if the runtime has its cached results in `dir`, or multus its
/// own. What is no list of multus is passed over.
pub(crate) fn delegates_of_multus(dir: &Path) -> Vec<Delegate> {
    let of_runtime = of_multus(dir);
    let directories = [of_runtime.parent(), dir.parent()].into_iter().flatten();
    let files = directories.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let mut found: Vec<Delegate> = files.flat_map(|file| of_file(&file.path())).collect();
    found.sort_by(|a, b| (&a.container, &a.name).cmp(&(&b.container, &b.name)));
    found
}

fn of_file(path: &Path) -> Vec<Delegate> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some(container) = name.filter(|name| name.parse::<ContainerId>().is_ok()) else {
        return Vec::new();
    };
    let text = regular_file::read(path).unwrap_or_default();
    let written: Vec<Written> = json::from_slice(&text).unwrap_or_default();
    written.into_iter().filter_map(|one| one.delegate(container)).collect()
}

impl Written {
    fn delegate(self, container: &str) -> Option<Delegate> {
        let config = String::from_utf8(base64::decode(&self.bytes)?).ok()?;
        let value: Value = json::from_slice(config.as_bytes()).ok()?;
        // Multus puts the name of the NetworkAttachmentDefinition in if there is none.
        let own = || self.name.rsplit('/').next().unwrap_or_default().to_owned();
        let network = value.get("name").and_then(Value::as_str).map_or_else(own, str::to_owned);
        Some(Delegate { container: container.to_owned(), name: self.name, network, config })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    /// As multus-cni 4.2 writes it: its configuration types, and `Bytes`.
    const WRITTEN: &str = r#"[{"Conf":{"cniVersion":"0.3.1","name":"cbr0","type":"flannel","ipam":{},"dns":{}},
        "ConfList":{"plugins":null},"Name":"cbr0","IsFilterV4Gateway":false,"IsFilterV6Gateway":false,
        "Bytes":"eyJuYW1lIjoiY2JyMCIsInR5cGUiOiJmbGFubmVsIn0="},
        {"Conf":{"ipam":{},"dns":{}},"ConfList":{"cniVersion":"0.4.0","name":"ovs-trunk","plugins":[]},
        "Name":"default/trunk","ifnameRequest":"net1","IsFilterV4Gateway":false,"IsFilterV6Gateway":false,
        "Bytes":"eyJuYW1lIjoib3ZzLXRydW5rIiwicGx1Z2lucyI6W3sidHlwZSI6Im92cyJ9LHsidHlwZSI6Im92cy1mbG93LWdjIn1dfQ=="},
        {"Name":"default/torn","Bytes":"?"},{}]"#;

    #[test]
    fn each_network_of_a_pod_is_told_and_what_is_no_list_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (results, multus) = (dir.path().join("results"), dir.path().join("multus"));
        fs::create_dir_all(multus.join("results")).unwrap();
        for (name, text) in [("c0ffee", WRITTEN), ("c0ffee2", "{}"), ("c0ffee3", "")] {
            File::create(multus.join(name)).unwrap().write_all(text.as_bytes()).unwrap();
        }
        nix::unistd::mkfifo(&multus.join("c0ffee4"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let found = delegates_of_multus(&results);
        let names: Vec<_> = found.iter().map(|d| (d.name.as_str(), d.network.as_str())).collect();
        assert_eq!(names, [("cbr0", "cbr0"), ("default/trunk", "ovs-trunk")]);
        assert!(found[1].config.contains("ovs-flow-gc") && found[1].container == "c0ffee");
        // With another cniDir, that one's results are named.
        assert_eq!(delegates_of_multus(&multus.join("results")), found);
        assert_eq!(delegates_of_multus(Path::new("/nonexistent/results")), []);
    }
}
