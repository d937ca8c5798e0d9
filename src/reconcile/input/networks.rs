//! Each network's rules.

use super::BridgeInput;
use crate::judge::input::{Network, NetworkId};
use crate::model::attachment::NetworkName;
use crate::reconcile::NodeSnapshot;

impl BridgeInput {
    /// The network's place in the input: it is added if it is not there.
    pub(super) fn network(&mut self, node: &NodeSnapshot, name: &NetworkName) -> NetworkId {
        if let Some(id) = self.network_named(name) {
            return id;
        }
        let state = node.network(name);
        let config = &state.config;
        self.facts.networks.add(Network {
            tables: config.tables.clone(),
            cookie: config.cookie,
            cookie_mask: config.cookie_mask,
            match_port: config.evidence.port,
            match_ip: config.evidence.ip,
            match_mac: config.evidence.mac,
            register: config
                .register_rule(state.register.register_told_apart, state.register.register_shared),
            basis: state.register.register_basis.clone(),
            shown: state.register.shown().collect(),
            reap_dangling: config.reap_dangling,
        });
        self.networks.add(name.clone())
    }

    /// The place of a network that is in the input.
    pub(in crate::reconcile) fn network_named(&self, name: &NetworkName) -> Option<NetworkId> {
        self.networks.iter().find(|(_, known)| *known == name).map(|(id, _)| id)
    }
}
