//! What a network was seen to do with its register, as it is written down.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::judge::BasisFacts;
use crate::model::attachment::{Attachment, Key};
use crate::model::workload::Member;
use crate::util::clock::Stamp;

/// More workloads than a node has pods.
const MOST_WORKLOADS: usize = 1000;
/// With so many pairs that shared a value nobody waits for the last one to be explained.
const MOST_SHARED: usize = 8;

/// What is known of a network's register values.
///
/// `registerDistinct`, which earlier releases wrote, is not read: pods of different workloads
/// counted for it, and these differ also where a value is a tenant's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RegisterFacts {
    /// Two pods of one workload had different values: they are not a group's.
    pub register_told_apart: bool,
    /// Two attachments had one value while both were alive: the register is a namespace's or a
    /// mark, not a pod's, also when only one pod is left.
    pub register_shared: bool,
    /// Which ones. Earlier releases did not write them: then it ends never.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub register_sharers: Vec<SharedValue>,
    /// What the first pod of each workload showed, until two are told apart: they may live one
    /// after the other.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub register_shown: BTreeMap<String, ShownValue>,
    /// Whether values are computed from a token of their pods.
    #[serde(skip_serializing_if = "BasisFacts::is_empty")]
    pub register_basis: BasisFacts,
}

/// What a workload's pod showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShownValue {
    /// The pod.
    pub pod: String,
    /// Its value. `None`: a value moved within a pod's life, so this workload proves nothing.
    pub value: Option<u32>,
}

/// One value that two attachments had while both were alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedValue {
    /// The value.
    pub value: u32,
    /// The two.
    pub by: [Sharer; 2],
}

/// One of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sharer {
    /// Who it is.
    #[serde(flatten)]
    pub key: Key,
    /// Which life of the key.
    pub generation: u64,
    /// What a person calls it.
    pub title: String,
    /// The boot that the stamps count from.
    pub boot_id: String,
    /// When its sandbox came to be, at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<Stamp>,
    /// When it was known to be dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub died: Option<Stamp>,
}

impl Sharer {
    /// As its record knows it.
    #[must_use]
    pub fn of(record: &Attachment) -> Self {
        Self {
            key: record.key.clone(),
            generation: record.generation,
            title: record.title(),
            boot_id: record.boot_id.clone(),
            born: record.born,
            died: record.died,
        }
    }

    fn is(&self, record: &Attachment) -> bool {
        self.key == record.key && self.generation == record.generation
    }

    /// Whether it was known to be dead before the other one came to be.
    fn is_before(&self, other: &Self) -> bool {
        let stamps = self.died.zip(other.born);
        self.boot_id == other.boot_id
            && stamps.is_some_and(|(died, born)| died.boot_ms < born.boot_ms)
    }
}

impl SharedValue {
    fn were_successive(&self) -> bool {
        let [one, other] = &self.by;
        one.is_before(other) || other.is_before(one)
    }

    fn is_by_the_same(&self, other: &Self) -> bool {
        let same = |a: &Sharer, b: &Sharer| a.key == b.key && a.generation == b.generation;
        let ([a, b], [c, d]) = (&self.by, &other.by);
        same(a, c) && same(b, d) || same(a, d) && same(b, c)
    }
}

impl RegisterFacts {
    /// What pods of workloads showed, until two are told apart.
    pub fn shown(&self) -> impl Iterator<Item = (Member, Option<u32>)> + '_ {
        self.register_shown.iter().map(|(workload, shown)| {
            (Member { workload: workload.clone(), pod: shown.pod.clone() }, shown.value)
        })
    }

    /// Takes in what a pod of a workload showed; no value: it moved within its life.
    pub fn show(&mut self, member: &Member, value: Option<u32>) {
        if self.register_told_apart {
            return;
        }
        let Member { workload, pod } = member;
        let full = self.register_shown.len() >= MOST_WORKLOADS;
        match self.register_shown.get_mut(workload) {
            Some(shown) if value.is_none() || shown.value.is_none() || shown.value == value => {
                shown.value = shown.value.and(value);
            }
            Some(shown) if shown.pod == *pod => shown.value = None,
            Some(_) => self.told_apart(),
            None if !full => {
                let shown = ShownValue { pod: pod.clone(), value };
                self.register_shown.insert(workload.clone(), shown);
            }
            None => {}
        }
    }

    /// Two pods of one workload had different values.
    pub fn told_apart(&mut self) {
        self.register_told_apart = true;
        self.register_shown.clear();
    }

    /// Whether a workload's pods can still be told apart by their values.
    #[must_use]
    pub fn may_tell_apart(&self, workload: &str) -> bool {
        self.register_shown.get(workload).is_none_or(|shown| shown.value.is_some())
    }

    /// Two attachments had one value while both were alive, as far as anybody knows.
    pub fn share(&mut self, shared: SharedValue) {
        // Without witnesses it was known before there were any.
        let for_good = self.register_shared && self.register_sharers.is_empty();
        self.register_shared = true;
        let known = self.register_sharers.iter().any(|known| known.is_by_the_same(&shared));
        if !for_good && !known && self.register_sharers.len() < MOST_SHARED {
            self.register_sharers.push(shared);
        }
    }

    /// Ends the suspicions whose witnesses turned out to have lived one after the other, by what
    /// their records say now.
    pub fn reconsider<'r>(&mut self, records: impl Iterator<Item = &'r Attachment> + Clone) {
        if self.register_sharers.is_empty() {
            return;
        }
        for sharer in self.register_sharers.iter_mut().flat_map(|shared| &mut shared.by) {
            if let Some(record) = records.clone().find(|record| sharer.is(record)) {
                sharer.born = record.born.or(sharer.born);
                sharer.died = record.died.or(sharer.died);
            }
        }
        if self.register_sharers.len() < MOST_SHARED {
            self.register_sharers.retain(|shared| !shared.were_successive());
            self.register_shared = !self.register_sharers.is_empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(workload: &str, pod: &str) -> Member {
        Member { workload: workload.to_owned(), pod: pod.to_owned() }
    }

    fn told_apart(shown: &[(&str, &str, Option<u32>)]) -> bool {
        let mut facts = RegisterFacts::default();
        for (workload, pod, value) in shown {
            facts.show(&member(workload, pod), *value);
        }
        facts.register_told_apart
    }

    #[test]
    fn two_pods_of_one_workload_tell_values_apart_also_one_after_the_other() {
        assert!(told_apart(&[("w", "a", Some(1)), ("w", "b", Some(2))]));
        assert!(told_apart(&[("w", "a", Some(1)), ("w", "b", Some(1)), ("w", "c", Some(2))]));
        assert!(!told_apart(&[("w", "a", Some(1)), ("w", "b", Some(1))]));
        assert!(!told_apart(&[("v", "a", Some(1)), ("w", "b", Some(2))]), "two workloads");
        assert!(!told_apart(&[("w", "a", Some(1)), ("w", "a", Some(2))]), "one pod");
    }

    /// A label is changed, and the pod is given another group's value.
    #[test]
    fn a_workload_with_a_value_that_moved_proves_nothing_more() {
        let moved = [("w", "a", Some(1)), ("w", "a", Some(2)), ("w", "b", Some(1))];
        assert!(!told_apart(&moved));
        assert!(!told_apart(&[("w", "a", Some(1)), ("w", "b", None), ("w", "b", Some(2))]));
        assert!(!told_apart(&[("w", "b", None), ("w", "a", Some(1)), ("w", "b", Some(2))]));
        let mut facts = RegisterFacts::default();
        facts.show(&member("w", "a"), None);
        assert!(!facts.may_tell_apart("w") && facts.may_tell_apart("v"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut facts = RegisterFacts::default();
        for n in 0..2 * MOST_WORKLOADS {
            facts.show(&member(&format!("w{n}"), "a"), Some(1));
        }
        assert_eq!(facts.register_shown.len(), MOST_WORKLOADS);
        facts.show(&member("w0", "b"), Some(2));
        assert!(facts.register_told_apart && facts.register_shown.is_empty());
    }

    fn sharer(container: &str, born: Option<u64>, died: Option<u64>) -> Sharer {
        let at = |ms| Stamp { boot_ms: ms, wall_ms: ms };
        let key = Key {
            network: "podnet".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let mut record = Attachment::new(key, 1, "boot".to_owned(), at(1));
        (record.born, record.died) = (born.map(at), died.map(at));
        Sharer::of(&record)
    }

    fn record(sharer: &Sharer) -> Attachment {
        let mut record =
            Attachment::new(sharer.key.clone(), 1, sharer.boot_id.clone(), Stamp::now());
        (record.born, record.died) = (sharer.born, sharer.died);
        record
    }

    #[test]
    fn a_suspicion_ends_when_its_witnesses_were_successive() {
        let suspect = |one: &Sharer, other: &Sharer| {
            let mut facts = RegisterFacts::default();
            facts.share(SharedValue { value: 7, by: [one.clone(), other.clone()] });
            facts
        };
        let (a, b) = (sharer("a", Some(10), None), sharer("b", None, None));
        let mut facts = suspect(&a, &b);
        facts.reconsider([record(&a), record(&b)].iter());
        assert!(facts.register_shared, "both live");
        let mut late = facts.clone();
        late.reconsider([record(&sharer("a", Some(10), Some(60)))].iter());
        late.reconsider([record(&sharer("b", Some(50), None))].iter());
        assert!(late.register_shared, "a was not known to be dead when b came");
        facts.reconsider([record(&sharer("a", Some(10), Some(40)))].iter());
        assert!(facts.register_shared, "nobody knows when b came");
        facts.reconsider([record(&sharer("b", Some(50), None))].iter());
        assert_eq!(facts, RegisterFacts::default(), "a's end is remembered");
    }

    #[test]
    fn other_suspicions_and_those_without_witnesses_stay() {
        let (a, b) = (sharer("a", Some(10), Some(40)), sharer("b", Some(50), None));
        let shared = |one: &Sharer, other: &Sharer| SharedValue {
            value: 7,
            by: [one.clone(), other.clone()],
        };
        let mut old = RegisterFacts { register_shared: true, ..RegisterFacts::default() };
        old.share(shared(&a, &b));
        old.reconsider(std::iter::empty());
        assert!(old.register_shared && old.register_sharers.is_empty());
        let mut two = RegisterFacts::default();
        two.share(shared(&a, &b));
        two.share(shared(&b, &a));
        two.share(shared(&b, &sharer("c", Some(50), None)));
        assert_eq!(two.register_sharers.len(), 2, "the same two are one suspicion");
        two.reconsider(std::iter::empty());
        assert!(two.register_shared && two.register_sharers.len() == 1);
        let mut many = RegisterFacts::default();
        for n in 0..2 * MOST_SHARED {
            many.share(shared(&a, &sharer(&format!("c{n}"), Some(50), None)));
        }
        many.reconsider(std::iter::empty());
        assert!(many.register_shared, "not all of them are known");
    }

    /// An earlier release counted pods of different workloads.
    #[test]
    fn what_an_earlier_release_had_learned_proves_nothing() {
        let old = r#"{"registerDistinct": true, "registerShared": true}"#;
        let facts: RegisterFacts = serde_json::from_str(old).unwrap();
        assert!(!facts.register_told_apart && facts.register_shared);
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(text, r#"{"registerToldApart":false,"registerShared":true}"#);
    }
}
