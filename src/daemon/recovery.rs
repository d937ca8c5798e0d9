//! The state directory was removed while the daemon runs. The pods that run are recorded again,
//! so that their addresses are live tokens and their deaths are noticed.
//!
//! The configuration of each network is remembered: the daemon need not see the conflists. The
//! pods of a network are found again, as [`adopt`](crate::adopt) does it, because a pod that is
//! remembered may have ended since.

use std::collections::BTreeMap;
use std::time::Duration;

use log::{info, warn};

use super::{Shared, sweeper};
use crate::adopt::{Adoption, Error, Network};
use crate::config::NetworkState;
use crate::model::attachment::NetworkName;
use crate::store::{Registry, RegistrySnapshot};

/// What it takes to record the pods again.
#[derive(Debug, Default)]
pub(super) struct StateDirRecovery {
    networks: BTreeMap<NetworkName, Network>,
    /// When to look for pods: at once, and again when the removal of the directory must have ended.
    /// The last one comes first.
    due: Vec<Duration>,
}

/// How long `rm -r` may go on after it removed the daemon's lock file.
const REMOVING: Duration = Duration::from_secs(2);

impl StateDirRecovery {
    /// The directory was removed.
    pub(super) fn begin(&mut self, now: Duration) {
        self.due = vec![now.saturating_add(REMOVING), now];
    }

    /// When pods are looked for the next time, from now.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        self.due.last().map(|due| due.saturating_sub(now))
    }

    /// Remembers the networks of a snapshot. One that is not there any more stays remembered:
    /// `rm -r` removes them one after the other.
    pub(super) fn remember(&mut self, snapshot: &RegistrySnapshot) {
        for network in &snapshot.networks {
            if let Ok(Some(state)) = network.state::<NetworkState>() {
                let network = self.networks.entry(network.name.clone());
                network
                    .and_modify(|known| known.state.clone_from(&state))
                    .or_insert(Network { state, ours: false });
            }
        }
    }

    /// Records the pods that run, if that is due.
    ///
    /// # Errors
    /// If they cannot be recorded now; that stays due.
    pub(super) fn find(&mut self, registry: &Registry, shared: &Shared) -> Result<(), Error> {
        let now = shared.wakeup.now();
        if self.due.last().is_none_or(|due| *due > now) {
            return Ok(());
        }
        let adoption = Adoption {
            registry,
            run_dir: &shared.run_dir,
            networks: &self.networks,
            cache_dir: &shared.options.cache_dir,
            timeout: sweeper::TIMEOUT,
            dry_run: false,
            again: false,
        };
        let found = adoption.run()?;
        for record in &found.adopted {
            info!(
                "{} ({}, port {}) is recorded again",
                record.title(),
                record.key,
                record.port.as_deref().unwrap_or("unknown")
            );
        }
        self.due.pop();
        if !self.due.is_empty() {
            for skipped in &found.skipped {
                warn!("not recorded again: {skipped}");
            }
            info!("{} pods are known again", found.adopted.len());
        }
        Ok(())
    }
}
