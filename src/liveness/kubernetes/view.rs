//! What the API server has shown of this node's pods, and what follows. No I/O.
//!
//! Two things are observations, and a death takes one of each, or two lists:
//! - the *watch*: a list and every change since, without a gap;
//! - a *list*: complete, of this node only, not older than what the watch has shown.
//!
//! Both go by UID. What the watch alone says (a DELETED event, a phase) is a doubt, which has a
//! list asked for at once.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use crate::liveness::observations::{News, Observations, Seen, Shown};
use crate::liveness::{Liveness, LivenessReason};
use crate::model::attachment::Attachment;
use crate::util::clock::Stamp;

use super::api::Failure;
use super::pod::Pod;

/// The kubelet's limit is 110, a large one 500; ended pods are listed too, and the garbage
/// collector leaves up to 12,500 of them in a cluster.
const MOST_PODS: usize = 20_000;
/// A UID is 36 characters, a static pod's hash 32.
const LONGEST_UID: usize = 256;

/// One pod.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    ended: bool,
    /// The primary address is of IPv6; `None`: it has none yet.
    ipv6: Option<bool>,
    /// The static pod's UID, if this is its mirror.
    mirrored: Option<Box<str>>,
    /// Its owner and revision; empty: none that makes pods alike.
    workload: Box<str>,
}

/// This node's pods by UID, as one answer shows them.
#[derive(Debug, Default)]
pub(crate) struct Pods(HashMap<Box<str>, Known>);

impl Pods {
    /// Takes in a pod of a list or of a watch; one of another node is a lie, and an answer that
    /// holds one is no observation.
    pub(crate) fn see(&mut self, pod: &Pod, node: &str) -> Result<(), Failure> {
        let uid = check(pod, node)?;
        if self.0.len() >= MOST_PODS && !self.0.contains_key(uid) {
            return Err(Failure::TooMany(MOST_PODS));
        }
        let known = Known {
            ended: pod.has_ended(),
            ipv6: pod.ips().next().map(|ip| ip.is_ipv6()),
            mirrored: pod.mirrored().map(|uid| uid.chars().take(LONGEST_UID).collect()),
            workload: pod.workload().unwrap_or_default().into(),
        };
        self.0.insert(uid.into(), known);
        Ok(())
    }

    /// Mirrors are left out: see [`View::of_static`].
    fn shown(&self) -> impl Iterator<Item = Shown<'_>> {
        let pods = self.0.iter().filter(|(_, known)| known.mirrored.is_none());
        pods.map(|(uid, known)| Shown {
            id: uid,
            uid: "",
            seen: if known.ended { Seen::Ended(LivenessReason::PodEnded) } else { Seen::Alive },
        })
    }
}

fn check<'p>(pod: &'p Pod, node: &str) -> Result<&'p str, Failure> {
    if pod.node() != node {
        let theirs = pod.node().chars().take(80).collect();
        return Err(Failure::OtherNode { ours: node.to_owned(), theirs });
    }
    match pod.metadata.uid.as_str() {
        uid if (1..=LONGEST_UID).contains(&uid.len()) => Ok(uid),
        _ => Err(Failure::NoUid),
    }
}

/// The memory of the source.
#[derive(Debug)]
pub(crate) struct View {
    /// The watch.
    pods: Pods,
    /// The watch has no gap since the last list.
    unbroken: bool,
    /// Since then it showed somebody dead.
    doubtful: bool,
    seen: Observations,
}

impl View {
    pub(crate) fn new() -> Self {
        let seen = Observations::new(LivenessReason::PodGone);
        Self { pods: Pods::default(), unbroken: false, doubtful: false, seen }
    }

    /// A complete list came.
    pub(crate) fn list(&mut self, list: Pods) -> News {
        // A watch that shows nobody dead only repeats the list before it.
        let doubts = self.unbroken && self.doubtful;
        let before = if doubts { self.seen.complete(self.pods.shown()) } else { News::default() };
        self.pods = list;
        (self.unbroken, self.doubtful) = (true, false);
        let now = self.seen.complete(self.pods.shown());
        // What the list says of the watch's doubts is the last word.
        News { dead: before.dead + now.dead, wiped: before.wiped || now.wiped, ..now }
    }

    /// A pod was added or modified. Whether that is a doubt: one that was alive has ended.
    pub(crate) fn changed(&mut self, pod: &Pod, node: &str) -> Result<bool, Failure> {
        let alive = |pods: &Pods| pods.0.get(pod.metadata.uid.as_str()).is_some_and(|k| !k.ended);
        let before = alive(&self.pods);
        self.pods.see(pod, node)?;
        let now = alive(&self.pods);
        if now && pod.mirrored().is_none() {
            self.seen.alive(&pod.metadata.uid);
        }
        self.doubtful |= before && !now;
        Ok(before && !now)
    }

    /// A pod was deleted. Whether that is a doubt.
    pub(crate) fn deleted(&mut self, pod: &Pod, node: &str) -> Result<bool, Failure> {
        let known = self.pods.0.remove(check(pod, node)?);
        let doubt = known.is_some_and(|known| known.mirrored.is_none());
        self.doubtful |= doubt;
        Ok(doubt)
    }

    /// Changes were missed: the watch is no observation until the next list.
    pub(crate) fn gap(&mut self) {
        self.unbroken = false;
    }

    /// The API server does not answer: nobody is judged until it does.
    pub(crate) fn away(&mut self) {
        self.seen.away();
        self.unbroken = false;
    }

    /// Another history began (etcd was restored): what was seen proves nothing.
    pub(crate) fn forget(&mut self) {
        self.seen.forget();
        self.pods = Pods::default();
        self.unbroken = false;
    }

    pub(crate) fn len(&self) -> usize {
        self.pods.0.len()
    }

    /// Whether the pods of this node that have addresses all have one of this family as the
    /// primary one, which is what `status.podIP` selects by.
    pub(crate) fn is_primary(&self, ip: &IpAddr) -> bool {
        let families: HashSet<bool> = self.pods.0.values().filter_map(|known| known.ipv6).collect();
        families.len() == 1 && families.contains(&ip.is_ipv6())
    }

    /// The workload of a pod of this node, as a record has it. A static pod's own UID is in no list.
    pub(crate) fn workload(&self, uid: &str) -> Option<&str> {
        self.pods.0.get(uid).map(|known| &*known.workload)
    }

    /// What follows for a record. `stopped` says whether its sandbox is known to be stopped.
    pub(crate) fn judge(
        &self,
        record: &Attachment,
        now: Stamp,
        stopped: impl FnOnce(&Attachment) -> bool,
    ) -> Liveness {
        let uid = record.pod.as_ref().map_or("", |pod| pod.uid.as_str());
        if uid.is_empty() {
            return Liveness::Unknown(LivenessReason::NeverSeen);
        }
        if let Some(life) = self.of_static(uid) {
            return life;
        }
        match self.seen.life(uid, "", record, now) {
            Liveness::Alive if self.pods.0.get(uid).is_none_or(|known| known.ended) => {
                Liveness::Unknown(LivenessReason::SeenOnce)
            }
            Liveness::Dead(LivenessReason::PodEnded) if !stopped(record) => {
                Liveness::Unknown(LivenessReason::SandboxMayRun)
            }
            life => life,
        }
    }

    /// A static pod lives by a file on the node: its mirror may be deleted by anybody, and is
    /// made anew. So here is one who may be alive, but never dead.
    fn of_static(&self, uid: &str) -> Option<Liveness> {
        let mut mirrors = self.pods.0.iter().filter(|(own, known)| {
            known.mirrored.as_deref().is_some_and(|hash| hash == uid || ***own == *uid)
        });
        let (_, mirror) = mirrors.next()?;
        if !self.seen.is_up() {
            return Some(Liveness::Unknown(LivenessReason::SourceAway));
        }
        Some(if mirror.ended {
            Liveness::Unknown(LivenessReason::SandboxMayRun)
        } else {
            Liveness::Alive
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attachment::{Key, Pod as PodRef};

    const DEAD: Liveness = Liveness::Dead(LivenessReason::PodGone);

    fn pod(uid: &str, phase: &str) -> Pod {
        of("n1", uid, phase, "")
    }

    fn of(node: &str, uid: &str, phase: &str, more: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"uid":"{uid}"{more}}},"spec":{{"nodeName":"{node}","x":[1]}},
                "status":{{"phase":"{phase}","podIP":"10.0.0.1"}}}}"#
        ))
        .unwrap()
    }

    fn mirror(uid: &str, phase: &str) -> Pod {
        let more = r#","annotations":{"a":"b","kubernetes.io/config.hash":"hash",
            "kubernetes.io/config.mirror":"hash"}"#;
        of("n1", uid, phase, more)
    }

    fn pods(uids: &[&str]) -> Pods {
        let mut pods = Pods::default();
        for uid in uids {
            pods.see(&pod(uid, "Running"), "n1").unwrap();
        }
        pods
    }

    fn life_at(view: &View, uid: &str, boot_ms: u64, stopped: bool) -> Liveness {
        let key = Key {
            network: "net".parse().unwrap(),
            container: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let at = |boot_ms| Stamp { boot_ms, wall_ms: boot_ms };
        let mut record = Attachment::new(key, 1, "boot".to_owned(), at(100_000));
        record.pod =
            Some(PodRef { namespace: "ns".into(), name: "web".into(), uid: uid.to_owned() });
        view.judge(&record, at(boot_ms), |_| stopped)
    }

    fn life(view: &View, uid: &str) -> Liveness {
        life_at(view, uid, 200_000, true)
    }

    fn seen(uids: &[&str]) -> View {
        let mut view = View::new();
        view.list(pods(uids));
        view
    }

    #[test]
    fn deleted_and_confirmed_by_a_list_is_dead() {
        let mut view = seen(&["a", "b"]);
        assert_eq!(life(&view, "a"), Liveness::Alive);
        assert!(view.deleted(&pod("a", "Running"), "n1").unwrap());
        assert_eq!(life(&view, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
        let news = view.list(pods(&["b"]));
        assert_eq!((news.dead, news.doubtful), (1, 0));
        assert_eq!((life(&view, "a"), life(&view, "b")), (DEAD, Liveness::Alive));
    }

    #[test]
    fn one_lie_kills_nobody_whoever_tells_it() {
        // The watch.
        let mut view = seen(&["a", "b"]);
        view.deleted(&pod("a", "Running"), "n1").unwrap();
        assert_eq!(view.list(pods(&["a", "b"])).dead, 0);
        assert_eq!(life(&view, "a"), Liveness::Alive);
        // A list; what the watch tells of it afterwards is the same lie.
        for short in [&["b"][..], &[]] {
            let mut view = seen(&["a", "b"]);
            view.list(pods(short));
            assert!(!life(&view, "a").is_dead());
            view.changed(&pod("b", "Running"), "n1").unwrap();
            assert!(!life(&view, "a").is_dead());
            assert_eq!(view.list(pods(&["a", "b"])).dead, 0);
            assert_eq!(life(&view, "a"), Liveness::Alive, "{short:?}");
        }
        // Two lists in a row, with or without a watch between them.
        for unbroken in [true, false] {
            let mut view = seen(&["a", "b"]);
            assert_eq!(view.list(pods(&["b"])).doubtful, 1);
            view.unbroken = unbroken;
            view.list(pods(&["b"]));
            assert_eq!(life(&view, "a"), DEAD);
        }
    }

    #[test]
    fn whom_only_the_watch_showed_was_seen_alive() {
        let mut view = seen(&["b", "c"]);
        view.changed(&pod("a", "Pending"), "n1").unwrap();
        assert_eq!(life(&view, "a"), Liveness::Alive);
        view.deleted(&pod("a", "Running"), "n1").unwrap();
        view.list(pods(&["b", "c"]));
        assert_eq!(life(&view, "a"), DEAD);
        // Also over a gap.
        view.changed(&pod("a2", "Running"), "n1").unwrap();
        view.gap();
        view.list(pods(&["b", "c"]));
        assert_eq!(life(&view, "a2"), Liveness::Unknown(LivenessReason::SeenOnce));
        view.list(pods(&["b", "c"]));
        assert_eq!(life(&view, "a2"), DEAD);
    }

    #[test]
    fn many_deletions_are_one_statement() {
        let mut view = seen(&["a", "b", "c"]);
        for uid in ["a", "b"] {
            view.deleted(&pod(uid, "Running"), "n1").unwrap();
        }
        assert_eq!(life(&view, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
        assert_eq!(view.list(pods(&["c"])).dead, 2);
    }

    #[test]
    fn a_gap_makes_the_watch_no_witness() {
        let mut view = seen(&["a", "b"]);
        view.deleted(&pod("a", "Running"), "n1").unwrap();
        view.gap();
        assert_eq!(view.list(pods(&["b"])).doubtful, 1);
        assert_eq!(life(&view, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
        view.list(pods(&["b"]));
        assert_eq!(life(&view, "a"), DEAD);
    }

    #[test]
    fn an_ended_pod_is_dead_when_its_sandbox_is_stopped() {
        for phase in ["Failed", "Succeeded"] {
            let mut view = seen(&["a", "b"]);
            assert!(view.changed(&pod("a", phase), "n1").unwrap());
            assert!(!view.changed(&pod("a", phase), "n1").unwrap(), "no news");
            assert_eq!(life(&view, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
            let mut list = pods(&["b"]);
            list.see(&pod("a", phase), "n1").unwrap();
            assert_eq!(view.list(list).dead, 1);
            assert_eq!(life(&view, "a"), Liveness::Dead(LivenessReason::PodEnded));
            let may_run = Liveness::Unknown(LivenessReason::SandboxMayRun);
            assert_eq!(life_at(&view, "a", 200_000, false), may_run);
        }
        for phase in ["Pending", "Running", "Unknown", ""] {
            let mut view = seen(&["a", "b"]);
            assert!(!view.changed(&pod("a", phase), "n1").unwrap());
            assert_eq!(life(&view, "a"), Liveness::Alive, "{phase}");
        }
    }

    #[test]
    fn who_was_never_seen_alive_and_the_young_are_not_judged() {
        let mut view = seen(&["b"]);
        let mut list = pods(&["b"]);
        list.see(&pod("old", "Failed"), "n1").unwrap();
        view.list(list);
        view.list(pods(&["b"]));
        for uid in ["old", "ctr", ""] {
            assert_eq!(life(&view, uid), Liveness::Unknown(LivenessReason::NeverSeen), "{uid}");
        }
        view.changed(&pod("a", "Running"), "n1").unwrap();
        view.list(pods(&["a", "b"]));
        view.deleted(&pod("a", "Running"), "n1").unwrap();
        view.list(pods(&["b"]));
        assert_eq!(life_at(&view, "a", 129_999, true), Liveness::Unknown(LivenessReason::Young));
        assert_eq!(life_at(&view, "a", 130_000, true), DEAD);
    }

    #[test]
    fn a_static_pod_is_known_by_both_uids_and_never_dead() {
        let mut view = seen(&["b"]);
        let mut list = pods(&["b"]);
        list.see(&mirror("api-uid", "Running"), "n1").unwrap();
        view.list(list);
        assert_eq!(
            (life(&view, "hash"), life(&view, "api-uid")),
            (Liveness::Alive, Liveness::Alive)
        );
        // Somebody deletes the mirror; the kubelet makes it anew with another UID.
        assert!(!view.deleted(&mirror("api-uid", "Running"), "n1").unwrap());
        view.list(pods(&["b"]));
        view.list(pods(&["b"]));
        for uid in ["hash", "api-uid"] {
            assert_eq!(life(&view, uid), Liveness::Unknown(LivenessReason::NeverSeen));
        }
        view.changed(&mirror("api-2", "Failed"), "n1").unwrap();
        assert_eq!(life(&view, "hash"), Liveness::Unknown(LivenessReason::SandboxMayRun));
    }

    #[test]
    fn another_node_s_pod_and_one_without_uid_spoil_the_answer() {
        let mut list = pods(&["a"]);
        let other = list.see(&of("n2", "x", "Running", ""), "n1");
        assert!(matches!(other, Err(Failure::OtherNode { theirs, .. }) if theirs == "n2"));
        assert!(matches!(list.see(&pod("", "Running"), "n1"), Err(Failure::NoUid)));
        let mut view = seen(&["a"]);
        assert!(view.changed(&of("n2", "a", "Failed", ""), "n1").is_err());
        assert!(view.deleted(&of("", "a", "Failed", ""), "n1").is_err());
        assert_eq!(life(&view, "a"), Liveness::Alive);
    }

    #[test]
    fn away_means_don_t_know_and_two_new_observations() {
        let mut view = seen(&["a", "b"]);
        view.deleted(&pod("a", "Running"), "n1").unwrap();
        view.away();
        for uid in ["a", "b"] {
            assert_eq!(life(&view, uid), Liveness::Unknown(LivenessReason::SourceAway));
        }
        view.list(pods(&["b"]));
        assert_eq!(life(&view, "a"), Liveness::Unknown(LivenessReason::SeenOnce));
        view.list(pods(&["b"]));
        assert_eq!(life(&view, "a"), DEAD);
        view.forget();
        view.list(pods(&["b"]));
        assert_eq!(life(&view, "a"), Liveness::Unknown(LivenessReason::NeverSeen));
    }

    #[test]
    fn a_workload_is_an_owner_and_a_revision() {
        let owned = |kind: &str, api: &str, more: &str, labels: &str| {
            let more = format!(
                r#","labels":{{{labels}}},"ownerReferences":[{{"apiVersion":"v1","kind":"Node",
                "name":"n1","uid":"n"}},{{"apiVersion":"{api}","kind":"{kind}","name":"db","uid":"o"
                {more}}}]"#
            );
            let mut view = View::new();
            view.changed(&of("n1", "a", "Running", &more), "n1").unwrap();
            view.workload("a").map(str::to_owned).unwrap()
        };
        let controller = r#","controller":true"#;
        let (hash, revision) =
            (r#""pod-template-hash":"7d4f8b""#, r#""controller-revision-hash":"db-5f""#);
        let both = format!("{hash},{revision}");
        for (kind, labels, want) in [
            ("ReplicaSet", hash, "ReplicaSet o 7d4f8b"),
            ("StatefulSet", revision, "StatefulSet o db-5f"),
            ("DaemonSet", &both, "DaemonSet o db-5f"),
            // The wrong label, none, or a kind that promises nothing of templates.
            ("StatefulSet", hash, ""),
            ("ReplicaSet", "", ""),
            ("ReplicaSet", r#""pod-template-hash":"""#, ""),
            ("Job", &both, ""),
            ("VirtualMachineInstance", &both, ""),
        ] {
            assert_eq!(owned(kind, "apps/v1", controller, labels), want, "{kind} {labels}");
        }
        assert_eq!(owned("StatefulSet", "apps/v1", "", revision), "", "not its controller");
        assert_eq!(
            owned("StatefulSet", "apps.kruise.io/v1", controller, revision),
            "",
            "not its kind"
        );
        let long = format!(r#""controller-revision-hash":"{}""#, "x".repeat(300));
        assert_eq!(owned("StatefulSet", "apps/v1", controller, &long), "", "no label is so long");
        let view = seen(&["b"]);
        assert_eq!((view.workload("b"), view.workload("a")), (Some(""), None));
    }

    #[test]
    fn a_family_is_primary_if_all_agree() {
        let four: IpAddr = "10.0.0.9".parse().unwrap();
        let six: IpAddr = "fd00::9".parse().unwrap();
        let mut view = View::new();
        assert!(!view.is_primary(&four), "nobody has an address");
        view.list(pods(&["a"]));
        assert!(view.is_primary(&four) && !view.is_primary(&six));
        let text = r#"{"metadata":{"uid":"s"},"spec":{"nodeName":"n1"},
            "status":{"podIPs":[{"ip":"fd00::1"},{"ip":"10.0.0.2"}]}}"#;
        view.changed(&serde_json::from_str(text).unwrap(), "n1").unwrap();
        assert!(!view.is_primary(&four) && !view.is_primary(&six));
    }
}
