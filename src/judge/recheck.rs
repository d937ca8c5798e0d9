//! Does a verdict still hold? Between the dump and the commit the world goes on.
//!
//! Guarantee: a verdict holds only if nobody new owns, or may own, a token that it rests on.
//! Who vanished in between changes nothing: the verdict stood while they lived.

use std::collections::BTreeSet;

use super::guards::{is_in_another_vlan, looks_like_policy, may_pair, names_somebody_else};
use super::input::{Dead, DeadId, JudgeInput, Live, LiveRegister};
use super::tokens::is_older;
use super::{Learned, Reason, RegisterToken, Token, Verdict};
use crate::model::flow::Flow;
use crate::model::table::Table;

/// What became of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It holds.
    Holds,
    /// Its evidence is in flux: scan again.
    Unsettled,
    /// A token has a new owner.
    NewOwner,
}

/// What changed between two cases of one bridge with the same dead.
#[derive(Clone, Debug, Default)]
pub struct Recheck {
    /// Per dead attachment of the earlier case.
    dead: Table<DeadId, Change>,
    /// Port numbers that are new, have another owner, or are asked for by a row that did not.
    ports: BTreeSet<u16>,
    /// An interface waits for its number, and none did before.
    unassigned: bool,
    /// Who is arriving now and was not there before.
    arriving: Vec<Live>,
    /// Who was not there before and has a register value that nobody has told.
    untold: Vec<Live>,
}

/// What changed for one of the dead.
#[derive(Clone, Debug)]
struct Change {
    /// An address has a new owner, or it is not what it was.
    disturbed: bool,
    /// Somebody new has, or may have, its register value.
    register: bool,
    /// Its register values, and the tokens that they are computed from.
    bases: Vec<(RegisterToken, Token)>,
    /// It holds its addresses: whoever is arriving cannot have these.
    holds: Option<Dead>,
}

impl Change {
    /// Of the attachment itself.
    fn between(before: &Dead, bases: Vec<(RegisterToken, Token)>, after: Option<&Dead>) -> Self {
        let is_same = |after: &Dead| {
            (before.ofport, &before.previous_ofports, before.interface, &before.addresses)
                == (after.ofport, &after.previous_ofports, after.interface, &after.addresses)
                && before.network == after.network
        };
        Self {
            disturbed: !after.is_some_and(is_same),
            register: false,
            bases,
            holds: before.holds_addresses.then(|| before.clone()),
        }
    }
}

impl Recheck {
    /// Compares; both cases list the same dead in the same order.
    #[must_use]
    pub fn between(before: &JudgeInput, learned: &Learned, after: &JudgeInput) -> Self {
        let mut recheck = Self {
            dead: before
                .dead
                .map(|id, dead| Change::between(dead, learned.bases(id), after.dead.get(id))),
            unassigned: after.ports.unassigned && !before.ports.unassigned,
            ..Self::default()
        };
        for (number, row) in &after.ports.by_number {
            if before.ports.by_number.get(number) != Some(row) {
                recheck.ports.insert(*number);
            }
        }
        recheck.ports.extend(after.ports.requested.difference(&before.ports.requested));
        if before.live != after.live {
            let is_new = |live: &&Live| !before.live.values().any(|known| known == *live);
            for live in after.live.values().filter(is_new) {
                recheck.registers(before, learned, live.register);
                // Another process's scan may have learned the value of one we know.
                let same =
                    |known: &&Live| Live { register: live.register, ..(*known).clone() } == *live;
                if before.live.values().find(same).is_none() {
                    recheck.newly_alive(before, live);
                }
            }
        }
        recheck
    }

    fn newly_alive(&mut self, before: &JudgeInput, live: &Live) {
        self.ports.extend(live.ofport);
        self.arriving.extend(Some(live).filter(|live| live.is_arriving()).cloned());
        let untold = |live: &&Live| live.register == LiveRegister::Untold;
        self.untold.extend(Some(live).filter(untold).cloned());
        for (dead, change) in before.dead.values().zip(self.dead.values_mut()) {
            change.disturbed |= dead.addresses.iter().any(|a| live.addresses.contains(a));
        }
    }

    fn registers(&mut self, before: &JudgeInput, learned: &Learned, register: LiveRegister) {
        for ((id, dead), change) in before.dead.iter().zip(self.dead.values_mut()) {
            let value = learned.dead_registers.get(id).copied().flatten().or(dead.register);
            change.register |= match register {
                LiveRegister::Is(theirs) => {
                    let computed = |(token, _): &(RegisterToken, Token)| token.value == theirs;
                    Some(theirs) == value || change.bases.iter().any(computed)
                }
                LiveRegister::Unknown => true,
                // Only what is not older than it may be its own.
                LiveRegister::Untold | LiveRegister::Absent => false,
            };
        }
    }

    /// The token that the verdict's register value is computed from.
    fn basis(&self, verdict: &Verdict) -> Option<Token> {
        let value = match verdict.reason {
            Reason::MatchesRegister { register } | Reason::SetsRegister { register } => register,
            Reason::NobodyHasBoth { with, .. } => with,
            _ => return None,
        };
        let bases = &self.dead.get(verdict.dead?)?.bases;
        bases.iter().find(|(known, _)| Token::Register(*known) == value).map(|(_, basis)| *basis)
    }

    /// Whether a verdict of the earlier case still holds.
    #[must_use]
    pub fn standing(&self, flow: &Flow, verdict: &Verdict) -> Standing {
        let basis = self.basis(verdict);
        let basis_port = basis.and_then(|basis| match basis {
            Token::Port(port) => Some(port),
            _ => None,
        });
        let change = verdict.dead.map(|dead| self.dead.get(dead));
        let owner = change.is_some_and(|change| change.is_none_or(|change| change.disturbed))
            || flow.matches.in_port.is_some_and(|port| self.ports.contains(&port))
            || basis_port.is_some_and(|port| self.ports.contains(&port))
            || flow.actions.outputs.iter().any(|port| self.ports.contains(port));
        if owner {
            return Standing::NewOwner;
        }
        let (by_port, by_register) = match verdict.reason {
            Reason::MatchesPort { .. } | Reason::DeliversToNobody { .. } => (true, false),
            Reason::Dangling { .. } => (true, false),
            Reason::MatchesRegister { .. } | Reason::SetsRegister { .. } => (false, true),
            Reason::NobodyHasBoth { with, .. } => (true, matches!(with, Token::Register(_))),
            _ => (false, false),
        };
        let holds = change.flatten().and_then(|change| change.holds.as_ref());
        let holds = holds.filter(|dead| !names_somebody_else(dead, flow, |_| false));
        let by_port = by_port || basis_port.is_some();
        let by_address = matches!(verdict.reason, Reason::MatchesAddress { .. })
            || matches!(basis, Some(Token::Address(_)));
        let policy = looks_like_policy(flow) || may_pair(flow);
        let free = |live: &Live| holds.is_none_or(|dead| is_in_another_vlan(dead, live));
        let may_be_own = |live: &Live| free(live) && (policy || !is_older(flow, live));
        let arriving = by_address && self.arriving.iter().any(may_be_own);
        let re_used =
            by_register && basis.is_none() && self.untold.iter().any(|l| !is_older(flow, l));
        let shared = change.flatten().is_none_or(|change| change.register);
        if arriving || re_used || (by_port && self.unassigned) || (by_register && shared) {
            return Standing::Unsettled;
        }
        Standing::Holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::testing::{self, ago};
    use crate::model::flow::Address;
    use crate::model::row::RowId;
    use crate::util::clock::BootTime;
    use std::time::Duration;

    fn ms_ago(ms: u64) -> BootTime {
        testing::now() - Duration::from_millis(ms)
    }

    fn address() -> Address {
        Address::Ip([10, 0, 0, 5].into())
    }

    fn input() -> JudgeInput {
        let dead = Dead {
            interface: Some(RowId(5)),
            addresses: vec![address()],
            born: None,
            died: ago(1),
            seen_alive: ago(1),
            lingered: false,
            ..testing::dead(5, &[])
        };
        JudgeInput { dead: vec![dead].into(), ..JudgeInput::default() }
    }

    fn newborn(ofport: u16, addresses: Vec<Address>, register: LiveRegister) -> Live {
        Live { addresses, register, born: None, ..testing::live(ofport, &[]) }
    }

    fn standing(after: &JudgeInput, reason: Reason, flow: &Flow) -> Standing {
        let verdict = Verdict { stale: true, reason, dead: Some(DeadId(0)) };
        Recheck::between(&input(), &Learned::default(), after).standing(flow, &verdict)
    }

    fn by_port() -> (Reason, Flow) {
        let mut flow = Flow::default();
        flow.matches.in_port = Some(5);
        (Reason::MatchesPort { port: Token::Port(5) }, flow)
    }

    #[test]
    fn nothing_new_and_it_holds() {
        let (reason, flow) = by_port();
        assert_eq!(standing(&input(), reason, &flow), Standing::Holds);
    }

    /// What a scan itself wrote down must not seem to be somebody new.
    #[test]
    fn workloads_that_are_not_asked_for_any_more_change_nothing() {
        let member = crate::model::workload::Member::by_name("ns", "web-7d4f8b9c6f-x2k9z");
        assert!(member.is_some());
        let (mut before, mut after) = (input(), input());
        before.live.push(Live { member, ..newborn(5, vec![address()], LiveRegister::Unknown) });
        after.live.push(newborn(5, vec![address()], LiveRegister::Unknown));
        let (reason, flow) = by_port();
        let verdict = Verdict { stale: true, reason, dead: Some(DeadId(0)) };
        let recheck = Recheck::between(&before, &Learned::default(), &after);
        assert_eq!(recheck.standing(&flow, &verdict), Standing::Holds);
    }

    /// In another VLAN, or shown to be a pod's port, it may have what it could not have before.
    #[test]
    fn a_vlan_that_changed_and_a_port_that_is_a_pods_by_now_end_it() {
        let reason = Reason::MatchesAddress { address: Token::Address(address()) };
        let live = newborn(9, vec![address()], LiveRegister::Absent);
        let before = || {
            let elsewhere = Live { vlans: vec![200], is_pod: false, ..live.clone() };
            JudgeInput { live: vec![elsewhere].into(), ..input() }
        };
        let verdict = Verdict { stale: true, reason, dead: Some(DeadId(0)) };
        let standing = |change: &dyn Fn(&mut Live)| {
            let mut after = before();
            change(&mut after.live[0]);
            let recheck = Recheck::between(&before(), &Learned::default(), &after);
            recheck.standing(&Flow::default(), &verdict)
        };
        assert_eq!(standing(&|_| {}), Standing::Holds);
        assert_eq!(standing(&|live| live.vlans = vec![100]), Standing::NewOwner);
        assert_eq!(standing(&|live| live.is_pod = true), Standing::NewOwner);
        assert_eq!(standing(&|live| live.number_since = Some(ago(0))), Standing::Holds);
    }

    #[test]
    fn a_number_given_to_somebody_else_ends_it() {
        let (reason, flow) = by_port();
        let mut after = input();
        after.ports.by_number.insert(5, RowId(9));
        assert_eq!(standing(&after, reason, &flow), Standing::NewOwner);
    }

    #[test]
    fn an_address_given_to_somebody_else_ends_it() {
        let reason = Reason::MatchesAddress { address: Token::Address(address()) };
        let mut after = input();
        after.live.push(newborn(9, vec![address()], LiveRegister::Absent));
        assert_eq!(standing(&after, reason, &Flow::default()), Standing::NewOwner);
        after.live.clear();
        after.live.push(newborn(9, vec![], LiveRegister::Absent));
        assert_eq!(standing(&after, reason, &Flow::default()), Standing::Holds);
    }

    #[test]
    fn somebody_who_is_arriving_may_have_any_address() {
        let reason = Reason::MatchesAddress { address: Token::Address(address()) };
        let mut after = input();
        let born = Some(ms_ago(50));
        let known = newborn(9, vec![], LiveRegister::Absent);
        after.live.push(Live { network: None, addresses_known: false, born, ..known });
        let aged = |ms| Flow { made: ms_ago(ms), ..Flow::default() };
        assert_eq!(standing(&after, reason, &aged(51)), Standing::Unsettled);
        assert_eq!(standing(&after, reason, &aged(52)), Standing::Holds);
        // It would not be installed again, however old it is.
        let mut member = aged(52);
        member.actions.conjunction = true;
        assert_eq!(standing(&after, reason, &member), Standing::Unsettled);
    }

    /// Its rule for the address of who is being DELeted names another source: that may be its own.
    #[test]
    fn who_holds_an_address_does_not_hold_the_rules_of_others_for_it() {
        let reason = Reason::MatchesAddress { address: Token::Address(address()) };
        let mut before = input();
        before.dead[0].holds_addresses = true;
        let mut after = before.clone();
        let born = Some(ms_ago(50));
        let known = newborn(9, vec![], LiveRegister::Absent);
        after.live.push(Live { network: None, addresses_known: false, born, ..known });
        let recheck = Recheck::between(&before, &Learned::default(), &after);
        let verdict = Verdict { stale: true, reason, dead: Some(DeadId(0)) };
        let mut flow = Flow::default();
        assert_eq!(recheck.standing(&flow, &verdict), Standing::Holds);
        let mac = Address::Mac(crate::model::flow::MacAddr([2, 0, 0, 0, 0, 9]));
        let source = crate::model::flow::Side::Source;
        flow.matches.addresses =
            vec![crate::model::flow::AddressMatch { address: mac, side: source }];
        assert_eq!(recheck.standing(&flow, &verdict), Standing::Unsettled);
    }

    #[test]
    fn a_register_value_counts_only_if_it_is_the_deads_or_unknown() {
        let reason = Reason::SetsRegister {
            register: Token::Register(RegisterToken { index: 0, mask: u32::MAX, value: 7 }),
        };
        let (mut before, flow) = (input(), Flow::default());
        before.dead[0].register = Some(7);
        for (register, want) in [
            (LiveRegister::Is(7), Standing::Unsettled),
            (LiveRegister::Unknown, Standing::Unsettled),
            (LiveRegister::Is(8), Standing::Holds),
            (LiveRegister::Absent, Standing::Holds),
        ] {
            let mut after = before.clone();
            after.live.push(newborn(9, vec![], register));
            let verdict = Verdict { stale: true, reason, dead: Some(DeadId(0)) };
            let recheck = Recheck::between(&before, &Learned::default(), &after);
            assert_eq!(recheck.standing(&flow, &verdict), want, "{register:?}");
        }
    }

    /// Nobody had the number, and by now a row asks for it.
    #[test]
    fn a_number_that_is_asked_for_is_not_nobodys() {
        let flow = by_port().1;
        let reason = Reason::Dangling { port: 5 };
        let mut after = input();
        after.ports.requested.insert(6);
        assert_eq!(standing(&after, reason, &flow), Standing::Holds);
        after.ports.requested.insert(5);
        assert_eq!(standing(&after, reason, &flow), Standing::NewOwner);
    }

    /// A port is plugged between the scan and the commit, and nobody recorded it: entries that are
    /// not older than it may be for the value that it was given.
    #[test]
    fn somebody_without_a_record_may_have_any_register_value() {
        let value = RegisterToken { index: 0, mask: u32::MAX, value: 7 };
        let reason = Reason::MatchesRegister { register: Token::Register(value) };
        let verdict = Verdict { stale: true, reason, dead: Some(DeadId(0)) };
        let mut before = input();
        before.dead[0].register = Some(7);
        let standing = |born: Option<u64>, register, ms| {
            let mut after = before.clone();
            let (born, port) = (born.map(ms_ago), newborn(9, vec![], register));
            after.live.push(Live { network: None, addresses_known: false, born, ..port });
            let flow = Flow { made: ms_ago(ms), ..Flow::default() };
            let recheck = Recheck::between(&before, &Learned::default(), &after);
            recheck.standing(&flow, &verdict)
        };
        let untold = LiveRegister::Untold;
        assert_eq!(standing(Some(50), untold, 51), Standing::Unsettled);
        assert_eq!(standing(Some(50), untold, 52), Standing::Holds);
        assert_eq!(standing(None, untold, 52), Standing::Unsettled, "a machine's");
        assert_eq!(standing(None, LiveRegister::Absent, 52), Standing::Holds, "an uplink");
    }

    #[test]
    fn a_port_without_a_number_unsettles_ports_only() {
        let (reason, flow) = by_port();
        let mut after = input();
        after.ports.unassigned = true;
        assert_eq!(standing(&after, reason, &flow), Standing::Unsettled);
        let reason = Reason::MatchesAddress { address: Token::Address(address()) };
        assert_eq!(standing(&after, reason, &Flow::default()), Standing::Holds);
    }
}
