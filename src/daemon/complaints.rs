//! What does not work at this time. Each complaint is about one object and ends when that object
//! has answered: a sweep that had nothing to do has asked no object.

use std::collections::BTreeMap;

use crate::reconcile::{Outcome, object};

/// Recording the pods that run, after the state directory was removed.
pub(super) const PODS: &str = "recording the pods that run";

/// Complaints by their objects: one of [`object`], [`PODS`], or a bridge.
#[derive(Debug, Default)]
pub(super) struct Complaints(BTreeMap<String, String>);

impl Complaints {
    /// Something is wrong with an object; whether this complaint is new.
    pub(super) fn add(&mut self, object: &str, what: &str) -> bool {
        self.0.insert(object.to_owned(), what.to_owned()).as_deref() != Some(what)
    }

    /// An object has answered; whether there was a complaint about it.
    pub(super) fn answered(&mut self, object: &str) -> bool {
        self.0.remove(object).is_some()
    }

    /// Whether there is one about this object.
    pub(super) fn is_about(&self, object: &str) -> bool {
        self.0.contains_key(object)
    }

    /// One that still stands.
    pub(super) fn first(&self) -> Option<&str> {
        self.0.values().next().map(String::as_str)
    }

    /// What a sweep has seen on the switch: the complaints that are news, and the objects that
    /// answer again. A `thorough` one has asked every bridge that matters.
    pub(super) fn seen(&mut self, outcome: &Outcome, thorough: bool) -> (Vec<String>, Vec<String>) {
        let (mut news, mut again) = (Vec::new(), Vec::new());
        if let Some((object, what)) = outcome.failed_in.zip(outcome.failed.as_deref()) {
            news.extend(self.add(object, what).then(|| what.to_owned()));
            return (news, again);
        }
        let asked = thorough || !outcome.targets.is_empty();
        if asked {
            for object in [object::OVSDB, object::SWITCH] {
                again.extend(self.answered(object).then(|| object.to_owned()));
            }
        }
        for bridge in &outcome.bridges {
            let object = bridge_object(&bridge.bridge);
            match &bridge.error {
                Some(what) => {
                    news.extend(self.add(&object, what).then(|| format!("{object}: {what}")))
                }
                None => again.extend(self.answered(&object).then_some(object)),
            }
        }
        if thorough {
            // Bridges that are gone, or that have no pods any more, never answer.
            let there: Vec<String> =
                outcome.bridges.iter().map(|bridge| bridge_object(&bridge.bridge)).collect();
            self.0.retain(|object, _| !object.starts_with("bridge ") || there.contains(object));
        }
        (news, again)
    }
}

fn bridge_object(name: &str) -> String {
    format!("bridge {name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::BridgeOutcome;

    fn bridge(name: &str, error: Option<&str>) -> BridgeOutcome {
        let error = error.map(str::to_owned);
        BridgeOutcome { bridge: name.to_owned(), error, ..BridgeOutcome::default() }
    }

    fn report(bridges: Vec<BridgeOutcome>) -> Outcome {
        Outcome { bridges, ..Outcome::default() }
    }

    #[test]
    fn a_sweep_that_asked_nobody_ends_no_complaint() {
        let mut complaints = Complaints::default();
        let away = Outcome {
            failed: Some("no OVSDB".to_owned()),
            failed_in: Some(object::OVSDB),
            ..Outcome::default()
        };
        let nothing = (vec![], vec![]);
        assert_eq!(complaints.seen(&away, true), (vec!["no OVSDB".to_owned()], vec![]));
        for _ in 0..5 {
            assert_eq!(complaints.seen(&report(vec![]), false), nothing, "nothing to do");
            assert_eq!(complaints.seen(&away, true), nothing, "no news");
        }
        assert_eq!(complaints.first(), Some("no OVSDB"));
        let again = vec![object::OVSDB.to_owned()];
        assert_eq!(complaints.seen(&report(vec![]), true), (vec![], again));
        assert_eq!(complaints.first(), None);
    }

    #[test]
    fn one_object_does_not_answer_for_another() {
        let mut complaints = Complaints::default();
        assert!(complaints.add(object::STATE_DIRECTORY, "full"));
        assert!(!complaints.add(object::STATE_DIRECTORY, "full"));
        let both = report(vec![bridge("br0", Some("hangs")), bridge("br1", Some("hangs"))]);
        assert_eq!(complaints.seen(&both, true).0, ["bridge br0: hangs", "bridge br1: hangs"]);
        let one = report(vec![bridge("br1", None)]);
        assert_eq!(complaints.seen(&one, false).1, ["bridge br1"]);
        assert!(complaints.is_about("bridge br0") && complaints.is_about(object::STATE_DIRECTORY));
        // A bridge that is not there any more has nothing to answer.
        assert_eq!(complaints.seen(&one, true), (vec![], vec![]));
        assert_eq!(complaints.first(), Some("full"));
        assert!(complaints.answered(object::STATE_DIRECTORY));
        assert!(!complaints.answered(object::STATE_DIRECTORY));
    }
}
