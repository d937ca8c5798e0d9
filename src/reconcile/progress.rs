//! How far a clean-up is, for a person who waits for it.

use std::sync::{Mutex, PoisonError};

/// The bridge that a clean-up is at.
#[derive(Debug, Default)]
pub struct Progress(Mutex<String>);

impl Progress {
    pub(super) fn at(&self, bridge: &str, index: usize, bridges: usize) {
        let nth = index.saturating_add(1);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            format!("bridge {bridge} ({nth} of {bridges})");
    }

    /// In words; empty: at none yet.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
