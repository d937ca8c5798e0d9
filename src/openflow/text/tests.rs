//! The live tests compare with `ovs-ofctl`; here is what it prints otherwise or not at all.

use crate::openflow::Entry;
use crate::openflow::Version;
use crate::openflow::testing::{GOLDEN_13, hex};

/// The golden entry with another match and other instructions.
fn shown(tlvs: &str, instructions: &str) -> String {
    let tlvs = hex(tlvs);
    let mut bytes = hex(GOLDEN_13)[..48].to_vec();
    bytes.extend([0, 1]);
    bytes.extend(u16::try_from(tlvs.len() + 4).unwrap().to_be_bytes());
    bytes.extend(&tlvs);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(hex(instructions));
    let length = u16::try_from(bytes.len()).unwrap();
    bytes[..2].copy_from_slice(&length.to_be_bytes());
    let text = Entry::new(Version::V13, bytes).unwrap().to_string();
    text.strip_prefix("cookie=0x2a,table=10,idle_timeout=60,priority=100").unwrap().to_owned()
}

#[test]
fn nothing_is_left_out() {
    assert_eq!(shown("", ""), " actions=drop");
    assert_eq!(
        shown("9000fe03 010203 ffff0205 005ad650 07", ""),
        ",field_9000_127=0x10203,field_ffff_1_005ad650=0x7 actions=drop"
    );
    assert_eq!(
        shown("", "ffff0010 00002320 00010203 04050607"),
        " actions=instruction 65535(000023200001020304050607)"
    );
    assert_eq!(shown("", "00040010 00000000 00630008 0000000a"), " actions=action 99(0000000a)");
}

#[test]
fn loads_and_outputs_of_registers() {
    assert_eq!(
        shown(
            "80000c02 0000",
            "00040050 00000000 ffff0018 00002320 0007000f 00010004 0000000000000005
             ffff0018 00002320 000f000f 00010204 ffff0000 00000000
             ffff0018 00002320 00060020 00000000 00010204 00010004"
        ),
        ",vlan_tci=0x0000 actions=load:0x5->reg0[0..15],output:reg1[0..15],move:reg1[]->reg0[]"
    );
}

#[test]
fn learn_says_what_it_teaches() {
    assert_eq!(
        shown(
            "",
            "00040040 00000000 ffff0038 00002320 00100000 00008000 00000000 00000000 00000a00
             00000000 2020 00000005 00010004 0000 2820 00000007 80000004 0000"
        ),
        " actions=learn(table=10,reg0[]=0x5,load:0x7->in_port[])"
    );
}
