//! Whether the daemon does its work: for /healthz, /readyz and systemd's watchdog.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::metrics::Server;

/// What is known of the sweeper.
#[derive(Debug, Default)]
pub struct Progress {
    /// When it was last seen at work, in milliseconds of [`Wakeup`](super::wakeup::Wakeup)'s time.
    beat: AtomicU64,
    /// It may be out of sight for so long.
    allowance: Duration,
    tried: AtomicBool,
    swept: AtomicBool,
    /// Whether OVS's daemons answered when they were last asked.
    ovsdb: AtomicBool,
    vswitchd: AtomicBool,
    /// No network is recorded: there is nothing to do on a switch.
    idle: AtomicBool,
    waits: AtomicBool,
    /// Since when sweeps have left nothing, in milliseconds, 1 at least; 0: the last one has.
    well: AtomicU64,
}

impl Progress {
    /// The sweeper may be out of sight for `allowance`.
    #[must_use]
    pub fn new(allowance: Duration) -> Self {
        Self { allowance, ..Self::default() }
    }

    /// The sweeper is at work.
    pub fn beat(&self, now: Duration) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.beat.store(now, Ordering::Relaxed);
    }

    /// The first sweep is over, however it went, or has to wait for another daemon.
    pub fn tried(&self) {
        self.tried.store(true, Ordering::Relaxed);
    }

    /// Whether the daemon has begun its work: OVS may be away when a node starts, and that is
    /// no reason to start the daemon again.
    #[must_use]
    pub fn started(&self) -> bool {
        self.tried.load(Ordering::Relaxed)
    }

    /// A sweep went well.
    pub fn swept(&self) {
        self.swept.store(true, Ordering::Relaxed);
    }

    /// Whether one of OVS's daemons answers.
    pub fn server(&self, server: Server, up: bool) {
        let flag = match server {
            Server::Ovsdb => &self.ovsdb,
            Server::Vswitchd => &self.vswitchd,
        };
        flag.store(up, Ordering::Relaxed);
    }

    /// The records were read, and whether they are of no network at all.
    pub fn idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// Whether a sweep has left nothing behind, and nobody has paused.
    pub fn well(&self, well: bool, now: Duration) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).max(1);
        let _ = self.well.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |since| match well {
            true if since > 0 => None,
            true => Some(now),
            false => Some(0),
        });
    }

    /// For how long that has been so; `None`: it is not.
    #[must_use]
    pub fn well_for(&self, now: Duration) -> Option<Duration> {
        let since = Some(self.well.load(Ordering::Relaxed)).filter(|since| *since > 0)?;
        Some(now.saturating_sub(Duration::from_millis(since)))
    }

    /// Another daemon has this state directory; whether that is new.
    pub fn waits(&self, waits: bool) -> bool {
        self.waits.swap(waits, Ordering::Relaxed) != waits
    }

    /// Whether the sweeper makes progress.
    ///
    /// # Errors
    /// How long it has been out of sight.
    pub fn healthy(&self, now: Duration) -> Result<(), String> {
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        let ago = now.saturating_sub(beat);
        if ago <= self.allowance {
            return Ok(());
        }
        Err(format!("the sweeper was last seen at work {} s ago", ago.as_secs()))
    }

    /// Whether it can do its work now: it has swept, and OVS answers. A node whose pods are not
    /// on a switch needs none: a rollout does not wait there for an OVS that may never come.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        let missing = if is(&self.waits) {
            "another daemon has the state directory: this one waits for it to end"
        } else if is(&self.idle) {
            return Ok(());
        } else if !is(&self.ovsdb) {
            "OVS has not answered: ovsdb-server"
        } else if !is(&self.vswitchd) {
            "OVS has not answered: ovs-vswitchd"
        } else if !is(&self.swept) {
            "no sweep has gone well yet"
        } else {
            return Ok(());
        };
        Err(missing.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweeper_out_of_sight_is_ill() {
        let progress = Progress::new(Duration::from_secs(10));
        assert_eq!(progress.healthy(Duration::from_secs(10)), Ok(()));
        let ill = progress.healthy(Duration::from_secs(11)).unwrap_err();
        assert!(ill.contains("11 s ago"), "{ill}");
        progress.beat(Duration::from_secs(11));
        assert_eq!(progress.healthy(Duration::from_secs(20)), Ok(()));
    }

    #[test]
    fn it_is_well_since_the_first_sweep_that_left_nothing() {
        let (progress, at) = (Progress::default(), Duration::from_secs);
        assert_eq!(progress.well_for(at(1)), None);
        progress.well(true, at(0));
        progress.well(true, at(50));
        assert_eq!(progress.well_for(at(60)).map(|since| since.as_secs()), Some(59));
        progress.well(false, at(61));
        assert_eq!(progress.well_for(at(62)), None);
        progress.well(true, at(70));
        assert_eq!(progress.well_for(at(71)), Some(at(1)));
    }

    #[test]
    fn ready_says_what_is_missing() {
        let progress = Progress::new(Duration::from_secs(10));
        assert!(progress.ready().unwrap_err().contains("ovsdb-server"));
        progress.server(Server::Ovsdb, true);
        assert!(progress.ready().unwrap_err().contains("ovs-vswitchd"));
        progress.server(Server::Vswitchd, true);
        assert!(progress.ready().unwrap_err().contains("no sweep"));
        progress.swept();
        assert!(!progress.started());
        progress.tried();
        assert!(progress.started());
        assert_eq!(progress.ready(), Ok(()));
        // OVS may go away later, and come back.
        for server in [Server::Ovsdb, Server::Vswitchd] {
            progress.server(server, false);
            assert!(progress.ready().unwrap_err().contains("OVS has not answered"));
            progress.idle(true);
            assert_eq!(progress.ready(), Ok(()), "nobody is on the switch");
            progress.idle(false);
            progress.server(server, true);
        }
        assert!(progress.waits(true) && !progress.waits(true));
        assert!(progress.ready().unwrap_err().contains("another daemon"));
    }
}
