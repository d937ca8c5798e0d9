//! What a network's register values are worth (`reg0: "learn"`), for `doctor` and `explain`:
//! which part of the proof is missing, and what to set.

use crate::config::{NetworkState, Reg0, SharedValue};
use crate::judge::{Basis, BasisFacts, ENOUGH_PORTS};
use crate::model::attachment::Attachment;
use crate::util::logging::escape;

/// What to set. Only an operator knows what a controller means by its values.
const SET: &str = "set reg0: \"pod\" if each pod has a value of its own, \"none\" or a preset if \
                   it is a namespace's or a tenant's";

/// What is known of a network's values.
pub(super) struct Proof {
    /// A dead pod's value may be evidence.
    pub(super) holds: bool,
    /// What was found out, or not.
    pub(super) found: String,
    /// What to do about it; empty: nothing.
    pub(super) remedy: &'static str,
}

/// `None`: values are not learned there, or no pod has shown one.
pub(super) fn proof<'r>(
    state: &NetworkState,
    records: impl IntoIterator<Item = &'r Attachment>,
) -> Option<Proof> {
    let facts = &state.register;
    if state.config.reg0 != Reg0::Learn || !state.config.evidence.register {
        return None;
    }
    let shown = records.into_iter().any(|record| record.register.is_some());
    let computed = |what: &str| Proof {
        holds: true,
        found: format!("values are computed: each is its pod's {what}"),
        remedy: "",
    };
    match facts.register_basis.found() {
        Some(Basis::Ipv4) => return Some(computed("own IPv4 address")),
        Some(Basis::Ofport) => return Some(computed("port number")),
        None => {}
    }
    if facts.register_shared {
        let found = facts.register_sharers.first().map_or_else(
            || {
                "two pods had one value while both lived: register values are no evidence"
                    .to_owned()
            },
            sharers,
        );
        return Some(Proof { holds: false, found, remedy: SET });
    }
    if facts.register_told_apart {
        let found = "values are pods' own: two pods of one workload had different ones".to_owned();
        return Some(Proof { holds: true, found, remedy: "" });
    }
    let found = format!(
        "no two pods of one workload had different values yet{}: a value may be a namespace's or a \
         tenant's, and is no evidence",
        by_port(&facts.register_basis)
    );
    shown.then_some(Proof { holds: false, found, remedy: SET })
}

/// Who had one value. A StatefulSet's next pod has the name of the one before.
fn sharers(SharedValue { value, by: [one, other] }: &SharedValue) -> String {
    let (one, other) = (escape(&one.title), escape(&other.title));
    if one == other {
        return format!(
            "two sandboxes of {one} had {value:#x} as if both lived: register values are no evidence"
        );
    }
    format!("{one} and {other} had {value:#x} while both lived: register values are no evidence")
}

/// How far it is shown that values are port numbers; empty: not at all.
fn by_port(basis: &BasisFacts) -> String {
    let ports = basis.ports.len();
    if ports == 0 || basis.not_ofport {
        return String::new();
    }
    format!(", and a value was its port's number for {ports} of the {ENOUGH_PORTS} that it takes")
}

/// The same, as a line below a table of flows; empty if nothing is missing.
pub(super) fn line<'r>(
    state: &NetworkState,
    records: impl IntoIterator<Item = &'r Attachment>,
) -> String {
    match proof(state, records) {
        Some(Proof { holds: false, found, remedy }) => format!("register: {found}; {remedy}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sharer;
    use crate::judge::PortValue;
    use crate::model::row::RowId;

    /// A StatefulSet's pod that was replaced by force.
    #[test]
    fn each_pod_that_shared_a_value_is_named_once() {
        let text = |names: [&str; 2]| {
            let by = names.map(|name| {
                let key = crate::model::attachment::Key {
                    network: "podnet".parse().unwrap(),
                    container: name.parse().unwrap(),
                    ifname: "eth0".parse().unwrap(),
                };
                let now = crate::util::clock::Stamp { boot_ms: 1, wall_ms: 1 };
                Sharer::of(&Attachment::new(key, 1, "boot".to_owned(), now))
            });
            sharers(&SharedValue { value: 7, by })
        };
        let (same, two) = (text(["db-0", "db-0"]), text(["db-0", "db-1"]));
        assert_eq!(same.matches("db-0").count(), 1, "{same}");
        assert!(two.contains("db-0") && two.contains("db-1"), "{two}");
    }

    #[test]
    fn it_says_how_far_values_are_port_numbers() {
        let mut basis = BasisFacts::default();
        assert_eq!(by_port(&basis), "");
        for ofport in 1..4 {
            basis.ports.push(PortValue { row: RowId(1), ofport });
        }
        assert!(by_port(&basis).contains("3 of the 8"), "{}", by_port(&basis));
        basis.not_ofport = true;
        assert_eq!(by_port(&basis), "", "it will never be");
    }
}
