//! Whether a filter finds an entry, without asking the switch: the same decision as the switch's
//! (`match_rule` in `ofproto/ofproto.c`, `ofpact_outputs_to_port` in `lib/ofp-actions.c`).

use crate::openflow::codec::actions::{Action, Instruction, action, instruction};
use crate::openflow::codec::entry::Entry;
use crate::openflow::codec::filter::Filter;
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::oxm::{Oxm, registers, split};
use crate::openflow::codec::port;
use crate::openflow::codec::wire::Reader;
use crate::openflow::error::Malformed;

/// OVS itself follows no deeper lists of actions.
const DEEPEST: u8 = 100;

impl Filter {
    /// Whether a dump by this filter has this entry.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        let table = entry.table();
        self.table.map_or(table != TBL_INTERNAL, |wanted| wanted == table)
            && (entry.cookie() ^ self.cookie) & self.cookie_mask == 0
            && covers(entry.raw().tlvs(), &self.fields).unwrap_or(false)
            && self.out_port.is_none_or(|port| {
                outputs_to(entry.raw().instruction_bytes(), port).unwrap_or(false)
            })
    }
}

/// Whether a match is at least as specific as these fields: it compares each of their bits, with
/// the same value.
fn covers(tlvs: &[u8], wanted: &[u8]) -> Result<bool, Malformed> {
    let mut reader = Reader::new(wanted);
    while !reader.is_empty() {
        let field = Oxm::read(&mut reader)?;
        let covered = match registers(field.id).zip(field.number()) {
            // 1.5 shows two registers as one field.
            Some((at, (value, mask))) => {
                let mut parts = split(at, value, mask);
                let known = register_bits(tlvs)?;
                parts.all(|(index, value, mask)| {
                    let has = known.get(usize::from(index));
                    has.is_some_and(|has| has.1 & mask == mask && (has.0 ^ value) & mask == 0)
                })
            }
            None => has_field(tlvs, &field)?,
        };
        if !covered {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Value and mask of each register in a match.
fn register_bits(tlvs: &[u8]) -> Result<[(u32, u32); 16], Malformed> {
    let mut known = [(0, 0); 16];
    let mut reader = Reader::new(tlvs);
    while !reader.is_empty() {
        let field = Oxm::read(&mut reader)?;
        let Some((at, (value, mask))) = registers(field.id).zip(field.number()) else { continue };
        for (index, value, mask) in split(at, value, mask) {
            if let Some(register) = known.get_mut(usize::from(index)) {
                *register = (register.0 | value, register.1 | mask);
            }
        }
    }
    Ok(known)
}

fn has_field(tlvs: &[u8], wanted: &Oxm<'_>) -> Result<bool, Malformed> {
    let mut reader = Reader::new(tlvs);
    while !reader.is_empty() {
        let field = Oxm::read(&mut reader)?;
        if field.id == wanted.id && field.value.len() == wanted.value.len() {
            let bytes = field.value.iter().zip(wanted.value);
            let mut compared = bytes.zip(mask_of(&field).zip(mask_of(wanted)));
            return Ok(compared.all(|((has, want), (has_mask, want_mask))| {
                has_mask & want_mask == want_mask && (has ^ want) & want_mask == 0
            }));
        }
    }
    // A field of which nothing is compared asks for nothing.
    Ok(wanted.mask.is_some_and(|mask| mask.iter().all(|byte| *byte == 0)))
}

fn mask_of<'a>(field: &Oxm<'a>) -> impl Iterator<Item = u8> + use<'a> {
    let mask = field.mask;
    (0..field.value.len())
        .map(move |at| mask.map_or(0xff, |mask| mask.get(at).copied().unwrap_or_default()))
}

/// Whether instructions output to this port, as [`Filter::out_port`](field@Filter::out_port) has
/// it.
fn outputs_to(instructions: &[u8], wanted: u16) -> Result<bool, Malformed> {
    let mut reader = Reader::new(instructions);
    let mut found = false;
    while !reader.is_empty() {
        match instruction(&mut reader)? {
            Instruction::Apply(list) | Instruction::Write(list) => {
                found |= list_outputs_to(list, wanted, 0)?;
            }
            _ => {}
        }
    }
    Ok(found)
}

fn list_outputs_to(list: &[u8], wanted: u16, depth: u8) -> Result<bool, Malformed> {
    if depth > DEEPEST {
        return Ok(false);
    }
    let mut reader = Reader::new(list);
    let mut found = false;
    while !reader.is_empty() {
        found |= match action(&mut reader)? {
            Action::Output { port, .. } => port::from_wire(port) == Some(wanted),
            Action::Controller => wanted == OFPP_CONTROLLER,
            Action::Ct(ct) => list_outputs_to(ct.actions, wanted, depth.saturating_add(1))?,
            Action::Clone(list) => list_outputs_to(list, wanted, depth.saturating_add(1))?,
            _ => false,
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::openflow::Version;
    use crate::openflow::codec::entry::Head;
    use crate::openflow::codec::oxm::FieldId;
    use crate::openflow::testing::{GOLDEN_13, GOLDEN_15, hex};

    /// An entry with these fields and actions.
    fn entry(version: Version, tlvs: &[u8], actions: &str) -> Entry {
        let actions = hex(actions);
        let length = u16::try_from(actions.len() + 8).unwrap().to_be_bytes();
        let apply = [&[0, 4, length[0], length[1], 0, 0, 0, 0][..], &actions].concat();
        let head = Head { table: 3, priority: 5, cookie: 0x106, ..Head::default() };
        Entry::assemble(version, head, tlvs, &apply).unwrap()
    }

    fn with(tlvs: &str) -> Entry {
        entry(Version::V13, &hex(tlvs), "")
    }

    fn outputs(actions: &str, port: u16) -> bool {
        Filter::out_port(port).matches(&entry(Version::V13, &[], actions))
    }

    #[test]
    fn table_and_cookie() {
        let it = with("");
        assert!(Filter::default().matches(&it));
        assert!(Filter::table(3).matches(&it));
        assert!(!Filter::table(4).matches(&it));
        let cookie = |cookie, cookie_mask| Filter { cookie, cookie_mask, ..Filter::default() };
        assert!(cookie(6, 0xff).matches(&it));
        assert!(!cookie(6, u64::MAX).matches(&it));
        let head = Head { table: TBL_INTERNAL, ..Head::default() };
        let hidden = Entry::assemble(Version::V13, head, &[], &[]).unwrap();
        assert!(!Filter::default().matches(&hidden));
        assert!(Filter::table(TBL_INTERNAL).matches(&hidden));
    }

    #[test]
    fn golden_entries_in_either_form_of_a_register() {
        for (version, text) in [(Version::V13, GOLDEN_13), (Version::V15, GOLDEN_15)] {
            let golden = Entry::new(version, hex(text)).unwrap();
            let address = [10, 244, 1, 5];
            for (filter, found) in [
                (Filter::register(0, 0x1005, u32::MAX), true),
                (Filter::register(0, 5, 0xff), true),
                (Filter::register(0, 6, 0xff), false),
                (Filter::register(1, 0, u32::MAX), false),
                (Filter::register(1, 7, 0), true),
                (Filter::eth_type(ETH_TYPE_IP).exact(OXM_OF_IPV4_SRC, &address), true),
                (Filter::default().exact(OXM_OF_IPV4_DST, &address), false),
                (Filter::eth_type(ETH_TYPE_ARP), false),
                (Filter::in_port(5), false),
                (Filter::out_port(5), true),
                (Filter::out_port(6), false),
                (Filter { table: Some(9), ..Filter::out_port(5) }, false),
                (Filter::like(&golden), true),
            ] {
                assert_eq!(filter.matches(&golden), found, "{version} {filter:?}");
            }
        }
    }

    /// A masked address is not the address, and part of a register not the register.
    #[test]
    fn what_compares_less_is_not_found() {
        let source = Filter::default().exact(OXM_OF_IPV4_SRC, &[10, 244, 1, 5]);
        assert!(source.matches(&with("80001604 0af40105")));
        assert!(!source.matches(&with("80001708 0af40100 ffffff00")));
        assert!(!source.matches(&with("80001604 0af40106")));
        assert!(!source.matches(&with("80001804 0af40105")));
        let register = Filter::register(0, 5, u32::MAX);
        assert!(!register.matches(&with("00010108 00000005 000000ff")));
        assert!(Filter::register(0, 5, 0xf).matches(&with("00010108 00000005 000000ff")));
    }

    #[test]
    fn outputs_that_the_switch_sees() {
        let output = "00000010 00000005 0000 000000000000";
        assert!(outputs(output, 5));
        assert!(!outputs(output, 6));
        assert!(outputs("00000010 fffffffe 0000 000000000000", OFPP_LOCAL));
        // resubmit(5,), group:5
        assert!(!outputs("ffff0010 00002320 0001 0005 00000000", 5));
        assert!(!outputs("00160008 00000005", 5));
        // clone(output:5)
        let clone = format!("ffff0020 00002320 002a 000000000000 {output}");
        assert!(outputs(&clone, 5));
        let written = [&[0, 3, 0, 24, 0, 0, 0, 0][..], &hex(output)].concat();
        let written = Entry::assemble(Version::V13, Head::default(), &[], &written).unwrap();
        assert!(Filter::out_port(5).matches(&written));
    }

    /// A field, its value, and the bits of it that are compared.
    type Term = (FieldId, Vec<u8>, u32);

    fn any_term() -> impl Strategy<Value = Term> {
        let exact = prop_oneof![
            Just((OXM_OF_IN_PORT, 4)),
            Just((OXM_OF_IPV4_SRC, 4)),
            Just((OXM_OF_ARP_TPA, 4)),
            Just((OXM_OF_IPV6_ND_TARGET, 16)),
            Just((OXM_OF_ETH_DST, 6)),
        ];
        let exact = exact.prop_flat_map(|(id, width)| {
            let value = proptest::collection::vec(any::<u8>(), width);
            value.prop_map(move |value| (id, value, u32::MAX))
        });
        let register = (0..3_u8, 0..4_u32, 1..4_u32).prop_map(|(index, value, mask)| {
            let id = FieldId { number: index, ..NXM_NX_REG0 };
            (id, (value & mask).to_be_bytes().to_vec(), mask)
        });
        prop_oneof![exact, register]
    }

    fn filter(terms: &[Term]) -> Filter {
        terms.iter().fold(Filter::default(), |filter, (id, value, mask)| match <[u8; 4]>::try_from(
            value.as_slice(),
        ) {
            Ok(value) if *mask != u32::MAX => filter.masked(*id, u32::from_be_bytes(value), *mask),
            _ => filter.exact(*id, value),
        })
    }

    proptest! {
        /// Whatever an entry matches on, a filter for some of it finds the entry, and one for more
        /// of it does not. Another table or port is never found.
        #[test]
        fn a_filter_finds_what_is_at_least_as_specific(
            terms in proptest::collection::vec(any_term(), 0..5),
            some in 0..6_usize,
            more in any_term(),
        ) {
            let is_double = |(n, (id, ..)): (usize, &Term)| terms[..n].iter().any(|t| t.0 == *id);
            prop_assume!(!terms.iter().enumerate().any(is_double));
            let output = "00000010 00000005 0000 000000000000";
            let entry = entry(Version::V14, &filter(&terms).fields, output);
            let some: Vec<_> = terms.iter().take(some).cloned().collect();
            let found = |table, out_port| {
                Filter { table, out_port, ..filter(&some) }.matches(&entry)
            };
            prop_assert!(found(None, None) && found(Some(3), Some(5)));
            prop_assert!(!found(None, Some(6)) && !found(Some(9), None));
            // One more field that the entry does not have, or not with this value.
            if !terms.iter().any(|term| term.0 == more.0) {
                let filter = filter(&[some.as_slice(), std::slice::from_ref(&more)].concat());
                prop_assert!(!filter.matches(&entry), "{:?}", more);
            }
        }

        /// The masked comparison bit by bit, against the plain definition.
        #[test]
        fn registers_compare_under_their_masks(
            (value, mask, want, want_mask) in (0..8_u32, 0..8_u32, 0..8_u32, 0..8_u32),
        ) {
            let entry = entry(Version::V14, &Filter::register(7, value, mask).fields, "");
            let found = Filter::register(7, want & want_mask, want_mask).matches(&entry);
            let compares = mask & want_mask == want_mask;
            prop_assert_eq!(found, compares && (value ^ want) & want_mask == 0);
        }

        #[test]
        fn bytes_never_panic(tlvs: Vec<u8>, actions: Vec<u8>) {
            let _ = covers(&tlvs, &tlvs);
            let _ = outputs_to(&actions, 5);
        }
    }
}
