//! What a verdict stands on, read again right before each commit.

use super::snapshot::Error;
use super::{CleanRequest, NodeSnapshot};
use crate::ovsdb::{Check, Client};
use crate::store::Version;

/// Where records and rows are read again.
pub(super) trait Evidence {
    /// Asks the database whether it has changed, and does not wait.
    fn ask(&mut self) -> Result<(), Error>;

    /// Whether nothing was written since this node was read: the answer to the last question.
    /// `version` is what its records count as.
    fn is_current(&mut self, node: &NodeSnapshot, version: Option<Version>) -> Result<bool, Error>;

    /// The node once more, with the time of before. `version` is what its records count as.
    fn read(
        &mut self,
        before: &NodeSnapshot,
        version: Option<Version>,
    ) -> Result<NodeSnapshot, Error>;
}

/// The state directory and the database of a clean-up.
pub(super) struct NodeEvidence<'a> {
    pub(super) request: &'a CleanRequest<'a>,
    pub(super) client: &'a mut Client,
    asked: Option<Check>,
}

impl<'a> NodeEvidence<'a> {
    pub(super) fn new(request: &'a CleanRequest<'a>, client: &'a mut Client) -> Self {
        Self { request, client, asked: None }
    }
}

impl Evidence for NodeEvidence<'_> {
    fn ask(&mut self) -> Result<(), Error> {
        self.asked = Some(self.client.ask_unchanged()?);
        Ok(())
    }

    fn is_current(&mut self, node: &NodeSnapshot, version: Option<Version>) -> Result<bool, Error> {
        let Some(asked) = self.asked.take() else { return Ok(false) };
        node.is_current(self.request.registry, version, self.client, asked)
    }

    fn read(
        &mut self,
        before: &NodeSnapshot,
        version: Option<Version>,
    ) -> Result<NodeSnapshot, Error> {
        let CleanRequest { registry, run_dir, .. } = self.request;
        let node = before.again(*registry, version, run_dir, self.client)?;
        Ok(self.request.with_overlay(node))
    }
}
