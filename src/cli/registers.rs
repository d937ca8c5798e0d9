//! What a network's register values are worth (`reg0: "learn"`), for `doctor` and `explain`:
//! which part of the proof is missing, and what to set.

use crate::attachment::Attachment;
use crate::config::{NetworkState, Reg0, SharedValue};
use crate::logging::escape;

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
    if facts.register_shared {
        let found = match facts.register_sharers.first() {
            Some(SharedValue { value, by: [one, other] }) => format!(
                "{} and {} had {value:#x} while both lived: register values are no evidence",
                escape(&one.title),
                escape(&other.title)
            ),
            None => "two pods had one value while both lived: register values are no evidence"
                .to_owned(),
        };
        return Some(Proof { holds: false, found, remedy: SET });
    }
    if facts.register_told_apart {
        let found = "values are pods' own: two pods of one workload had different ones".to_owned();
        return Some(Proof { holds: true, found, remedy: "" });
    }
    let found = "no two pods of one workload had different values yet: a value may be a \
                 namespace's or a tenant's, and is no evidence";
    shown.then(|| Proof { holds: false, found: found.to_owned(), remedy: SET })
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
