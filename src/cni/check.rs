//! CHECK: the record is there, and the port is on the switch as recorded.

use super::{Failure, Request};
use crate::config::database_socket;
use crate::ovsdb::{Client, Ofport, Wanted, find_port};
use crate::store::Registry;
use crate::util::clock::Deadline;

pub(super) fn run(request: &Request) -> Result<(), Failure> {
    let key = request.key()?;
    let root = &request.config.state_dir;
    let missing = || Failure::NoRecord(root.clone());
    let registry = Registry::open_existing(root)?.ok_or_else(missing)?;
    let record = registry.get(&key)?.ok_or_else(missing)?;
    let Some(port) = record.port.clone() else {
        return Err(Failure::Differs {
            what: "port",
            now: "unknown".to_owned(),
            recorded: "nothing (ADD found none)".to_owned(),
        });
    };
    let deadline = Deadline::after(request.config.timeout());
    let wanted = Wanted {
        host_interfaces: vec![port.as_str()],
        bridge: record.bridge.as_deref(),
        ..Wanted::of_key(&record.key, request.netns.as_deref())
    };
    let snapshot = Client::connect(&database_socket(&request.config.ovs_run_dir()), deadline)
        .and_then(|mut client| client.find(&wanted))
        .map_err(|failed| Failure::Switch(failed.to_string()))?;
    let found = find_port(&snapshot, &wanted)
        .filter(|found| found.interface.name == port)
        .ok_or(Failure::PortGone { port })?;
    let differs = |what, now: String, recorded: String| Failure::Differs { what, now, recorded };
    if record.bridge.as_deref() != Some(found.bridge.name.as_str()) {
        let recorded = record.bridge.unwrap_or_default();
        return Err(differs("bridge", found.bridge.name.clone(), recorded));
    }
    match (found.interface.ofport, record.ofport) {
        (Ofport::Number(now), Some(recorded)) if now == recorded => Ok(()),
        (now, recorded) => {
            let now = match now {
                Ofport::Number(now) => now.to_string(),
                Ofport::Failed => "-1 (the switch cannot open the device)".to_owned(),
                Ofport::Unassigned => "not assigned yet".to_owned(),
            };
            Err(differs(
                "ofport",
                now,
                recorded.map_or_else(|| "none".to_owned(), |n| n.to_string()),
            ))
        }
    }
}
