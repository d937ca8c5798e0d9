//! Notifies systemd (`Type=notify`, `WatchdogSec=`); does nothing where there is none.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::util::logging::escape;

/// The daemon works.
pub(super) fn ready(status: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(&escape(status))]);
}

/// What `systemctl status` shows.
pub(super) fn status(status: &str) {
    // Of what others said, perhaps: a line of its own would be another assignment.
    say(&[NotifyState::Status(&escape(status))]);
}

/// It ends.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// The sweeper makes progress.
pub(super) fn alive() {
    say(&[NotifyState::Watchdog]);
}

/// How often to say so: a third of `WatchdogSec=`.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|most| (most / 3).max(Duration::from_millis(10)))
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(failed) = sd_notify::notify(states) {
        log::debug!("could not notify systemd: {failed}");
    }
}
