//! The register value that a port's classifier loads already while the port's ADD runs.
//!
//! The classifier may be overwritten before anybody looks at the whole bridge: the pod dies
//! without a DEL and its port number goes to another pod. Nothing shows the value then.
//!
//! Guarantee: a value is taken only from entries that are not older than the sandbox and that
//! no restart of the switch can have restored.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::debug;

use super::scene::{Scene, learns};
use super::socket_of;
use super::world::{World, switch_started};
use crate::attachment::{Attachment, Register, RegisterHow};
use crate::clock::{Deadline, Stamp};
use crate::config::NetworkState;
use crate::openflow::{AskedDump, Connection, Error, Filter, Opening};
use crate::ovsdb::Snapshot;
use crate::stale::Survey;

/// A value that is not known costs less than a pod that waits for a busy switch.
const AT_MOST: Duration = Duration::from_millis(250);

/// A look at the entries of one port. It runs while ADD writes the record.
#[derive(Debug)]
pub struct PortScan {
    scene: Scene,
    ofport: u16,
    opening: Opening,
}

/// A [`PortScan`] that the switch works on.
#[derive(Debug)]
pub struct AskedPortScan {
    scene: Scene,
    connection: Connection,
    asked: AskedDump,
    since: Instant,
}

impl PortScan {
    /// Connects to the port's bridge. `None`: the network learns no register values, or the
    /// entries would not show whose they are.
    #[must_use]
    pub fn begin(
        record: &Attachment,
        state: &NetworkState,
        ovs: Snapshot,
        deadline: Deadline,
    ) -> Option<Self> {
        let run_dir = state.config.ovs_run_dir();
        let (ofport, bridge) = (record.ofport?, record.bridge.as_deref()?);
        let now = Stamp::now();
        // Without a birth, or across a restart, an entry's age does not show for whom it was made.
        let age = record.born?.until(now);
        let restored = switch_started(&run_dir, now).is_some_and(|start| start.until(now) < age);
        if !learns(&state.config) || restored {
            return None;
        }
        let index = ovs.bridges.iter().position(|b| b.name == bridge)?;
        if ovs.bridges.get(index).is_some_and(|b| ovs.is_ovn(b)) {
            return None;
        }
        let mut world = World::of(now, record.boot_id.clone(), Arc::new(ovs));
        world.records.push(record.clone());
        world.networks.insert(record.key.network.clone(), state.clone());
        let scene = Scene::build(&world, index, &[], None);
        let soon = Deadline::after(AT_MOST.min(deadline.left().ok()?));
        let opening = Connection::begin(&socket_of(&run_dir, bridge).ok()?, soon).ok()?;
        Some(Self { scene, ofport, opening })
    }

    /// Asks for the port's entries, once the switch has said hello.
    ///
    /// # Errors
    /// Those of any exchange.
    pub fn ask(self) -> Result<AskedPortScan, Error> {
        let mut connection = self.opening.finish()?;
        let since = Instant::now();
        let asked = connection.ask_dump(vec![Filter::in_port(self.ofport)])?;
        Ok(AskedPortScan { scene: self.scene, connection, asked, since })
    }
}

impl AskedPortScan {
    /// The one value that the port's own entries load; `None`: none, or several.
    ///
    /// # Errors
    /// Those of any exchange: part of an answer shows nothing.
    pub fn value(mut self) -> Result<Option<Register>, Error> {
        let mut survey = Survey::partial(&self.scene.case);
        let since = self.since;
        self.connection.hear_dump(&self.asked, &mut |_, _, flow| {
            flow.duration = flow.duration.saturating_sub(since.elapsed());
            survey.see(flow);
        })?;
        let value = survey.finish().live_registers.first().copied().flatten();
        debug!("register value that stands at ADD: {value:?}");
        Ok(value.map(|value| Register { value, how: RegisterHow::Learned }))
    }
}
