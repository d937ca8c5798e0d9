use super::*;
use crate::openflow::testing::hex;

/// What a list of actions in an APPLY_ACTIONS does.
fn effects(list: &str) -> Actions {
    let list = hex(list);
    let length = u16::try_from(list.len() + 8).unwrap();
    let bytes = [&hex("0004"), length.to_be_bytes().as_slice(), &[0; 4], &list].concat();
    let mut actions = Actions::default();
    decode(&bytes, &mut actions).unwrap();
    actions
}

fn plain(outputs: &[u16]) -> Actions {
    Actions { outputs: outputs.to_vec(), ..Actions::default() }
}

fn beyond(outputs: &[u16]) -> Actions {
    Actions { beyond: true, ..plain(outputs) }
}

fn writes(list: &str) -> Vec<(u8, u32, Option<u32>)> {
    let actions = effects(list);
    assert!(!actions.unread);
    actions.register_writes.iter().map(|w| (w.index, w.mask, w.value)).collect()
}

const OUTPUT_5: &str = "00000010 00000005 00000000 00000000";
const LOAD_REG0: &str = "ffff0018 00002320 0007001f 00010004 0000000000001005";

#[test]
fn outputs() {
    assert_eq!(effects(OUTPUT_5), plain(&[5]));
    assert_eq!(effects("00000010 fffffffe 00000000 00000000"), plain(&[65534]));
    for (name, port) in [
        ("IN_PORT", "fffffff8"),
        ("TABLE", "fffffff9"),
        ("NORMAL", "fffffffa"),
        ("FLOOD", "fffffffb"),
        ("ALL", "fffffffc"),
        ("CONTROLLER", "fffffffd"),
        ("no port of OVS's", "00010005"),
    ] {
        let list = format!("00000010 {port} ffff0000 00000000");
        let spreads = matches!(name, "NORMAL" | "FLOOD" | "ALL");
        let controller = name == "CONTROLLER";
        assert_eq!(effects(&list), Actions { spreads, controller, ..beyond(&[]) }, "{name}");
    }
    assert_eq!(effects("ffff0010 00002320 00270005 00000064"), plain(&[5]));
    // Enqueue is set_queue, output, pop_queue.
    let enqueue = format!("00150008 00000003 {OUTPUT_5} ffff0010 00002320 00050000 00000000");
    assert_eq!(effects(&enqueue), plain(&[5]));
    let members = "ffff0028 00002320 000c0001 00000000 00000002 00020000 00000000 00000000
                   00040008 00000000";
    assert_eq!(effects(members), plain(&[4, 8]));
}

#[test]
fn an_output_to_a_register_goes_beyond() {
    let actions = effects("ffff0018 00002320 000f000f 00010204 ffff0000 00000000");
    assert_eq!(actions.output_registers, [RegisterRange { index: 1, mask: 0xffff }]);
    assert!(actions.beyond && actions.outputs.is_empty() && !actions.unread);
    // OUTPUT_REG2 has max_len first.
    let actions = effects("ffff0018 00002320 0020000f ffff0001 02040000 00000000");
    assert_eq!(actions.output_registers, [RegisterRange { index: 1, mask: 0xffff }]);
}

#[test]
fn what_goes_on_elsewhere_goes_beyond() {
    for (name, list, references) in [
        ("resubmit(,10)", "ffff0010 00002320 000efff8 0a000000", vec![]),
        ("resubmit(5,10)", "ffff0010 00002320 000e0005 0a000000", vec![5]),
        ("resubmit(5,10,ct)", "ffff0010 00002320 002c0005 0a000000", vec![5]),
        ("1.0's resubmit", "ffff0010 00002320 00010005 00000000", vec![5]),
        ("group:7", "00160008 00000007", vec![]),
        ("meter of 1.5", "001d0008 00000007", vec![]),
        ("controller", "ffff0010 00002320 00140000 00010000", vec![]),
        ("ct", "ffff0018 00002320 00230001 00000000 00050a00 00000000", vec![]),
    ] {
        let group = name.starts_with("group");
        let controller = name == "controller";
        let wanted = Actions { port_references: references, group, controller, ..beyond(&[]) };
        assert_eq!(effects(list), wanted, "{name}");
    }
    let sample = "ffff0020 00002320 00260003 00000001 00000002 00000003 00050000 00000000";
    assert_eq!(effects(sample).port_references, [5]);
    let conjunction = effects("ffff0010 00002320 00220002 00000005");
    assert!(conjunction.conjunction && conjunction.beyond && !conjunction.unread);
}

#[test]
fn instructions() {
    let of = |bytes: &str| {
        let mut actions = Actions::default();
        decode(&hex(bytes), &mut actions).unwrap();
        actions
    };
    assert_eq!(of(""), plain(&[]));
    assert_eq!(of("00010008 14000000"), beyond(&[]), "goto_table");
    assert_eq!(of("00060008 00000001"), beyond(&[]), "meter");
    assert_eq!(of("00050008 00000000"), plain(&[]), "clear_actions");
    let metadata = "00020018 00000000 0000000000000005 ffffffffffffffff";
    assert_eq!(of(metadata), plain(&[]), "write_metadata");
    assert_eq!(of(&format!("00030018 00000000 {OUTPUT_5}")), beyond(&[5]), "write_actions");
    let unknown = of("ffff0010 00002320 00000000 00000000");
    assert!(unknown.unread && unknown.beyond);
}

#[test]
fn nested_lists() {
    let clone = format!("ffff0020 00002320 002a0000 00000000 {OUTPUT_5}");
    assert_eq!(effects(&clone), plain(&[5]));
    let ct = format!("ffff0028 00002320 00230001 00000000 0005ff00 00000000 {OUTPUT_5}");
    assert_eq!(effects(&ct), beyond(&[5]));
    let write = effects(&format!("ffff0028 00002320 002a0000 00000000 {LOAD_REG0}"));
    assert_eq!(write.register_writes.len(), 1);
    assert!(write.register_writes[0].nested);
    assert!(!effects(LOAD_REG0).register_writes[0].nested);
    let mark = "ffff0030 00002320 00230001 00000000 0005ff00 00000000
                ffff0018 00002320 0007001f 0001d604 0000000000000001";
    assert_eq!(effects(mark), beyond(&[]));
    let nat = "ffff0038 00002320 00230001 00000000 0005ff00 00000000
               ffff0020 00002320 00240000 00010033 0a000001 0a000005 006400c8 00000000";
    assert_eq!(effects(nat), beyond(&[]));
}

#[test]
fn the_depth_of_lists_is_bounded() {
    let nest = |depth: usize| {
        let mut list = hex(OUTPUT_5);
        for _ in 0..depth {
            let length = u16::try_from(list.len() + 16).unwrap();
            let head = [&hex("ffff"), length.to_be_bytes().as_slice()].concat();
            list = [head, hex("00002320 002a0000 00000000"), list].concat();
        }
        let length = u16::try_from(list.len() + 8).unwrap();
        let bytes = [&hex("0004"), length.to_be_bytes().as_slice(), &[0; 4], &list].concat();
        let mut actions = Actions::default();
        decode(&bytes, &mut actions).unwrap();
        actions
    };
    assert_eq!(nest(usize::from(DEEPEST)), plain(&[5]));
    let deeper = nest(usize::from(DEEPEST) + 1);
    assert!(deeper.unread && deeper.beyond && deeper.outputs.is_empty());
    assert!(nest(4000).unread);
}

#[test]
fn constants_into_registers() {
    let all = u32::MAX;
    for (name, list, wanted) in [
        ("load reg0", LOAD_REG0, vec![(0, all, Some(0x1005))]),
        ("set_field reg0", "00190010 00010004 00001005 00000000", vec![(0, all, Some(0x1005))]),
        (
            "load reg0[0..15]",
            "ffff0018 00002320 0007000f 00010004 0000000000000005",
            vec![(0, 0xffff, Some(5))],
        ),
        ("the same in 1.5", "00190010 00010108 00000005 0000ffff", vec![(0, 0xffff, Some(5))]),
        (
            "load reg2[16..31]",
            "ffff0018 00002320 0007040f 00010404 0000000000001234",
            vec![(2, 0xffff_0000, Some(0x1234_0000))],
        ),
        (
            "set_field xreg0",
            "00190010 80010008 11223344 55667788",
            vec![(0, all, Some(0x1122_3344)), (1, all, Some(0x5566_7788))],
        ),
        (
            "load xxreg0[96..127]",
            "ffff0018 00002320 0007181f 0001de10 0000000000001005",
            vec![(0, all, Some(0x1005))],
        ),
        (
            "the same in 1.5",
            "00190028 0001df20 00001005 00000000 00000000 00000000
             ffffffff 00000000 00000000 00000000",
            vec![(0, all, Some(0x1005))],
        ),
        (
            "load xreg0[32..63]",
            "ffff0018 00002320 0007081f 80010008 0000000000001005",
            vec![(0, all, Some(0x1005))],
        ),
        (
            "the same in 1.5",
            "00190018 80010110 0000100500000000 ffffffff00000000",
            vec![(0, all, Some(0x1005))],
        ),
        (
            "reg_load2",
            "ffff0018 00002320 00210000 00000000 00010108 00000005 0000ffff 00000000",
            vec![(0, 0xffff, Some(5))],
        ),
    ] {
        // REG_LOAD2's length counts its padding to 8.
        let list = list.replace("ffff0018 00002320 0021", "ffff0020 00002320 0021");
        assert_eq!(writes(&list), wanted, "{name}");
    }
}

#[test]
fn values_that_are_not_constants() {
    let all = u32::MAX;
    for (name, list, wanted) in [
        (
            "move reg1 to reg0",
            "ffff0018 00002320 00060020 00000000 00010204 00010004",
            vec![(0, all, None)],
        ),
        (
            "copy_field of 1.5, 16 bits to the top",
            "001c0018 00100000 00100000 00010204 00010004 00000000",
            vec![(0, 0xffff_0000, None)],
        ),
        (
            "the ONF extension",
            "ffff0020 4f4e4600 0c800000 00200000 00000000 00010204 00010004 00000000",
            vec![(0, all, None)],
        ),
        ("pop", "ffff0018 00002320 001c0000 00010004 00200000 00000000", vec![(0, all, None)]),
        (
            "multipath",
            "ffff0020 00002320 000a0000 00320000 00000000 00000000 0000001f 00010004",
            vec![(0, all, None)],
        ),
        (
            "check_pkt_larger",
            "ffff0018 00002320 003105dc 0000 00010004 00000000 0000",
            vec![(0, 1, None)],
        ),
    ] {
        assert_eq!(writes(list), wanted, "{name}");
    }
    let loaded = effects(
        "ffff0028 00002320 000d0001 00000000 00000002 0002001f 00010004 00000000 00040008 00000000",
    );
    assert_eq!((loaded.port_references, loaded.outputs), (vec![4, 8], vec![]));
    assert_eq!(loaded.register_writes[0].value, None);
}

#[test]
fn into_a_vlan() {
    for (name, list) in [
        ("set_field vlan_vid", "00190010 80000c02 1064 000000000000"),
        ("load vlan_tci[0..11]", "ffff0018 00002320 0007000b 00000802 0000000000000064"),
    ] {
        assert_eq!(effects(list), Actions { vlans: vec![100], ..plain(&[]) }, "{name}");
    }
    assert_eq!(effects("00190010 80000c02 1000 000000000000"), plain(&[]));
    let from_a_register = "ffff0018 00002320 0006000c 00000000 00010a04 00000802";
    assert_eq!(effects(from_a_register), Actions { any_vlan: true, ..plain(&[]) });
}

#[test]
fn another_destination() {
    let rewritten = Actions { rewrites_destination: true, ..plain(&[]) };
    for (name, list) in [
        ("set_field ip_dst", "00190010 80001804 0a000005 00000000"),
        ("mod_nw_dst", "ffff0018 00002320 0007001f 00001004 000000000a000005"),
        ("mod_dl_dst", "ffff0018 00002320 0007002f 00000206 00000a0000000005"),
        ("ipv6_dst", "00190018 80003610 fd000000 00000000 00000000 00000005"),
        ("move:eth_src->eth_dst", "ffff0018 00002320 00060030 00000000 00000406 00000206"),
    ] {
        assert_eq!(effects(list), rewritten, "{name}");
    }
    assert_eq!(effects("00190010 80001604 0a000005 00000000"), plain(&[]), "ip_src");
}

#[test]
fn tunnels_and_in_port() {
    let tun_dst = "00190010 00014004 01020304 00000000";
    let tun_id = "00190010 80004c08 0000000000000005";
    let tun_id_load = "ffff0018 00002320 0007003f 00012008 0000000000000005";
    let tun_ipv6 = "00190018 0001dc10 fd000000 00000000 00000000 00000005";
    for list in [tun_dst, tun_id, tun_id_load, tun_ipv6] {
        assert_eq!(effects(list), Actions { sets_tunnel: true, ..plain(&[]) }, "{list}");
    }
    let in_port = "ffff0018 00002320 0007000f 00000002 0000000000000007";
    assert_eq!(effects(in_port).port_references, [7]);
    assert_eq!(effects("00190010 80000004 00000007 00000000").port_references, [7]);
    // in_port = 0 is the usual way to allow hairpins.
    let eth_dst = "00190010 80000606 aabbccddeeff 0000";
    assert_eq!(effects(eth_dst), Actions { rewrites_destination: true, ..plain(&[]) });
}

#[test]
fn learn() {
    let actions = effects(
        "ffff0038 00002320 00100000 00008000 00000000 00000000 00000a00 00000000
         2020 00000005 00010004 0000 2820 00000007 80000004 0000",
    );
    assert!(actions.beyond && !actions.unread);
    assert_eq!(actions.port_references, [7]);
    // load:5->reg0 (immediate), reg1 -> reg2 (16 bits), output:in_port, output to reg3.
    let specs = "2820 00000005 00010004 0000  0810 00010204 0000 00010404 0000
                 1010 00000002 0000  1010 00010604 0000 0000 0000 0000";
    let length = 32 + hex(specs).len();
    assert_eq!(length % 8, 0);
    let actions = effects(&format!(
        "ffff{length:04x} 00002320 00100000 00008000 00000000 00000000 00000a00 00000000 {specs}"
    ));
    let writes: Vec<_> =
        actions.register_writes.iter().map(|w| (w.index, w.mask, w.value, w.nested)).collect();
    assert_eq!(writes, [(0, u32::MAX, Some(5), true), (2, 0xffff, None, true)]);
    assert_eq!(actions.output_registers, [RegisterRange { index: 3, mask: 0xffff }]);
    assert!(!actions.unread);
}

#[test]
fn what_we_cannot_read_is_kept() {
    for list in [
        "00630008 00000000",
        "ffff0010 00002320 03e70000 00000000",
        "ffff0010 00abcdef 00010000 00000000",
        "001a0008 88e70000",
    ] {
        let actions = effects(&format!("{list} {OUTPUT_5}"));
        assert!(actions.unread && actions.beyond, "{list}");
        assert_eq!(actions.outputs, [5], "{list}: what follows is still read");
    }
    let broken_learn = effects(
        "ffff0028 00002320 00100000 00008000 00000000 00000000 00000a00 00000000 3fff 000000000000",
    );
    assert!(broken_learn.unread);
}

#[test]
fn lengths_that_cannot_be_are_errors() {
    for list in ["00000000 00000005", "00000004", "00000007 000000", "0000000c 00000005 00000000"] {
        let list = hex(list);
        let length = u16::try_from((list.len() + 8).next_multiple_of(8)).unwrap();
        let mut bytes = [&hex("0004"), length.to_be_bytes().as_slice(), &[0; 4], &list].concat();
        bytes.resize(length.into(), 0);
        assert!(decode(&bytes, &mut Actions::default()).is_err(), "{bytes:02x?}");
    }
}

#[test]
fn a_reused_value_forgets_everything() {
    let mut actions = effects(&format!("{LOAD_REG0} ffff0010 00002320 000e0005 0a000000"));
    assert_ne!(actions, Actions::default());
    decode(&[], &mut actions).unwrap();
    assert_eq!(actions, Actions::default());
}
