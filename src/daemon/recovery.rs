//! The state directory was removed under us. Whoever runs is recorded again, so that their
//! addresses are live tokens and their deaths are noticed.
//!
//! What a network was configured to is remembered: the daemon need not see the conflists. Who is
//! in it is found out again, as [`adopt`](crate::adopt) does, because what is remembered of a pod
//! may be of before its end.

use std::collections::BTreeMap;
use std::time::Duration;

use log::{info, warn};

use super::{Shared, sweeper};
use crate::adopt::{Adoption, Error, Network};
use crate::config::NetworkState;
use crate::model::attachment::NetworkName;
use crate::store::{Registry, RegistrySnapshot};

/// What it takes to find them.
#[derive(Debug, Default)]
pub(super) struct StateDirRecovery {
    networks: BTreeMap<NetworkName, Network>,
    /// When to look for them, on the bell's clock: at once, and again when whoever removes them
    /// must have come to an end.
    due: Vec<Duration>,
}

/// How long `rm -r` may go on after it took our lock away.
const REMOVING: Duration = Duration::from_secs(2);

impl StateDirRecovery {
    /// The directory was removed.
    pub(super) fn happened(&mut self, now: Duration) {
        self.due = vec![now.saturating_add(REMOVING), now];
    }

    /// When they are looked for, from now.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        self.due.last().map(|due| due.saturating_sub(now))
    }

    /// What is recorded of the networks. One that is not there any more is remembered: `rm -r`
    /// takes them away one after the other.
    pub(super) fn remember(&mut self, registry_snapshot: &RegistrySnapshot) {
        for network in &registry_snapshot.networks {
            if let Ok(Some(state)) = network.state::<NetworkState>() {
                let network = self.networks.entry(network.name.clone());
                network
                    .and_modify(|known| known.state.clone_from(&state))
                    .or_insert(Network { state, ours: false });
            }
        }
    }

    /// Records the pods that run, if that is to be done.
    ///
    /// # Errors
    /// If they cannot be recorded now; it is still to be done.
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
