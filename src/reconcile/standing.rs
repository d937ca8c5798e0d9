//! The register value that a port's classifier loads already while the port's ADD runs.
//!
//! The classifier may be overwritten before anybody scans the whole bridge: the pod dies
//! without a DEL and its port number goes to another pod. Nothing shows the value then.
//!
//! Guarantee: a value is taken only from entries that are not older than the sandbox and that
//! no restart of the switch can have restored.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use log::debug;

use super::input::{BridgeInput, learns};
use super::snapshot::{NodeSnapshot, switch_started};
use super::socket_of;
use crate::config::{Config, NetworkState};
use crate::judge::Survey;
use crate::model::attachment::{Attachment, Register, RegisterHow};
use crate::model::flow::Flow;
use crate::openflow::{AskedDump, Connection, Error, Filter, Opening};
use crate::ovsdb::Snapshot;
use crate::util::clock::{BootTime, Deadline, Stamp};

/// A connection to the bridge that a pod's port is likely to be on, begun before OVSDB has said
/// which one it is: the switch takes a millisecond to say hello. The bridge is the configured
/// one, or the only one that there is. `None`: the network learns no register values, or
/// nothing tells the bridge.
#[must_use]
pub fn connect_early(config: &Config, deadline: Deadline) -> Option<Opening> {
    if !learns(config) {
        return None;
    }
    let run_dir = config.ovs_run_dir();
    let path = match &config.bridge {
        Some(bridge) => socket_of(&run_dir, bridge).ok()?,
        None => {
            let entries = fs::read_dir(&run_dir).ok()?.flatten().map(|entry| entry.path());
            let mut sockets = entries.filter(|path| path.extension().is_some_and(|e| e == "mgmt"));
            sockets.next().filter(|_| sockets.next().is_none())?
        }
    };
    connect(&path, deadline)
}

fn connect(path: &Path, deadline: Deadline) -> Option<Opening> {
    let soon = Deadline::after(AT_MOST.min(deadline.left().ok()?));
    Connection::begin(path, soon).ok()
}

/// A value that is not known costs less than a pod that waits for a busy switch.
const AT_MOST: Duration = Duration::from_millis(250);

/// A query for the entries of one port. It runs while ADD writes the record.
#[derive(Debug)]
pub struct PortScan {
    input: BridgeInput,
    ofport: u16,
    opening: Opening,
}

/// A [`PortScan`] that the switch works on.
#[derive(Debug)]
pub struct AskedPortScan {
    input: BridgeInput,
    connection: Connection,
    asked: AskedDump,
}

impl PortScan {
    /// Connects to the port's bridge, if [`connect_early`] has not. `None`: the network learns no
    /// register values, or the entries would not show whose they are.
    #[must_use]
    pub fn begin(
        record: &Attachment,
        state: &NetworkState,
        ovs: Snapshot,
        prefetch: Option<Opening>,
        deadline: Deadline,
    ) -> Option<Self> {
        let run_dir = state.config.ovs_run_dir();
        let (ofport, bridge) = (record.ofport?, record.bridge.as_deref()?);
        let now = Stamp::now();
        // Without a birth, or across a restart, an entry's age does not show for whom it was made.
        let born = record.born?;
        let restored = switch_started(&run_dir, now).is_some_and(|start| start > born);
        if !learns(&state.config) || restored {
            return None;
        }
        let mut node = NodeSnapshot::of(now, record.boot_id.clone(), Arc::new(ovs));
        let id = node.bridge_named(bridge)?;
        if node.bridge(id).is_some_and(|b| node.ovs.is_ovn(b)) {
            return None;
        }
        node.records.push(record.clone());
        node.networks.insert(record.key.network.clone(), state.clone());
        let input = BridgeInput::build(&node, id, &[], None);
        let path = socket_of(&run_dir, bridge).ok()?;
        let prefetch = prefetch.filter(|prefetch| prefetch.path() == path);
        let opening = prefetch.or_else(|| connect(&path, deadline))?;
        Some(Self { input, ofport, opening })
    }

    /// Whether the switch has said hello: asking waits for nothing then.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.opening.is_ready()
    }

    /// Asks for the port's entries, once the switch has said hello.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn ask(self) -> Result<AskedPortScan, Error> {
        let mut connection = self.opening.finish()?;
        let asked = connection.ask_dump(vec![Filter::in_port(self.ofport)])?;
        Ok(AskedPortScan { input: self.input, connection, asked })
    }
}

impl AskedPortScan {
    /// The one value that the port's own entries load; `None`: none, or several.
    ///
    /// # Errors
    /// Those of any exchange: part of an answer shows nothing.
    pub fn value(mut self) -> Result<Option<Register>, Error> {
        let mut survey = Survey::partial(&self.input.facts);
        let mut flow = Flow::default();
        self.connection.hear_dump(&self.asked, &mut |_, raw| {
            raw.decode(&mut flow)?;
            flow.made = BootTime::now() - raw.duration();
            survey.see(&flow);
            Ok(())
        })?;
        let value = survey.finish().live_registers.values().next().copied().flatten();
        debug!("register value that stands at ADD: {value:?}");
        Ok(value.map(|value| Register { value, how: RegisterHow::Learned }))
    }
}
