//! `addressScope: "cluster"`: has any running pod of the cluster this address?
//!
//! Guarantee: *nobody* is said only after a complete answer, of this moment (no version: the
//! server reads etcd, not a cache that may lag behind).
//!
//! `status.podIP` is a field selector of pods since 1.8 (kubernetes/kubernetes#50091) and
//! compares the text of the primary address alone (`pkg/registry/core/pod/strategy.go`,
//! `ToSelectableFields`: `podIPs[0]`). So it is used for IPv4 on a node whose pods all have an
//! IPv4 address first; for anything else every pod of the cluster is listed, page by page.
//!
//! Caveat: `status.podIPs` has the addresses of the pods' first interface. What Multus gives to
//! a further one is not in it: ask about `eth0` only (as `reconcile::in_question` does).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::mpsc;
use std::time::Duration;

use kube::core::params::ListParams;
use log::{debug, warn};

use super::{Api, Failure, Kubernetes};

/// Beyond, one list of all pods costs the server less than a request for each.
const FEW: usize = 8;
/// Pods a page: as client-go and kubectl ask.
const PAGE: u32 = 500;

impl Kubernetes {
    /// Those of these addresses that no pod of the cluster has, by a complete answer of the API
    /// server; none if there is no such answer within this time. Blocks: not for the runtime's own
    /// threads.
    #[must_use]
    pub fn free(&self, ips: &BTreeSet<IpAddr>, within: Duration) -> BTreeSet<IpAddr> {
        if ips.is_empty() {
            return BTreeSet::new();
        }
        let by_selector = ips.len() <= FEW
            && ips.iter().all(|ip| ip.is_ipv4() && self.shared.view().is_primary(ip));
        let (api, asked) = (self.api(), ips.clone());
        let (answer, wait) = mpsc::sync_channel(1);
        let task = self.runtime.spawn(async move {
            // Nobody waits any more: nothing to be done about it.
            let _ = answer.send(taken(&api, &asked, by_selector).await);
        });
        match wait.recv_timeout(within) {
            Ok(Ok(taken)) => return ips - &taken,
            Ok(Err(failure)) => warn!("kubernetes: nobody knows who has {ips:?}: {failure}"),
            Err(_) => {
                task.abort();
                debug!("kubernetes: no answer to who has {ips:?} within {within:?}");
            }
        }
        BTreeSet::new()
    }
}

/// Which of them somebody has.
async fn taken(
    api: &Api,
    asked: &BTreeSet<IpAddr>,
    by_selector: bool,
) -> Result<BTreeSet<IpAddr>, Failure> {
    let mut taken = BTreeSet::new();
    let selectors: Vec<Option<String>> = if by_selector {
        asked.iter().map(|ip| Some(format!("status.podIP={ip}"))).collect()
    } else {
        vec![None]
    };
    for field_selector in selectors {
        let params = ListParams { field_selector, limit: Some(PAGE), ..ListParams::default() };
        api.list(params, &mut |pod| {
            if !pod.has_ended() {
                taken.extend(pod.ips().filter(|ip| asked.contains(ip)));
            }
            Ok(())
        })
        .await?;
    }
    Ok(taken)
}
