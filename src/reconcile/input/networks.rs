//! Each network's rules.

use super::BridgeInput;
use crate::judge::input::{Network, NetworkIndex};
use crate::model::attachment::NetworkName;
use crate::reconcile::NodeSnapshot;

impl BridgeInput {
    /// The network's place in the input: it is added if it is not there.
    pub(super) fn network(&mut self, node: &NodeSnapshot, name: &NetworkName) -> NetworkIndex {
        if let Some(index) = self.networks.iter().position(|n| n == name) {
            return index;
        }
        let state = node.network(name);
        let config = &state.config;
        self.facts.networks.push(Network {
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
        self.networks.push(name.clone());
        self.networks.len() - 1
    }
}
