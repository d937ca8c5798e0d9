//! One list of messages, in all versions. Each is read and written again, whole and cut off.

use crate::model::flow::{Actions, Flow, Match};
use crate::openflow::Version;
use crate::openflow::client::dump;
use crate::openflow::codec::bundle_message::BundleMessage;
use crate::openflow::codec::ct_flush::CtFlush;
use crate::openflow::codec::filter::Filter;
use crate::openflow::codec::flow_mod;
use crate::openflow::codec::flow_update::{self, FlowUpdate};
use crate::openflow::codec::group;
use crate::openflow::codec::hello::Versions;
use crate::openflow::codec::multipart::{self, Port, TableStats, Which};
use crate::openflow::codec::numbers::*;
use crate::openflow::codec::oxm::Oxm;
use crate::openflow::codec::wire::{Layout, MessageHeader, Reader, message};
use crate::openflow::error::{Malformed, SwitchError};
use crate::openflow::testing::hex;

/// Reads a body, and writes what was read.
type Recode = fn(Version, &mut Reader<'_>, &mut Vec<u8>) -> Result<(), Malformed>;

struct Sample {
    version: Version,
    name: &'static str,
    body: Vec<u8>,
    recode: Recode,
    /// Where the 16-bit lengths of what reaches to the body's end are, outermost first.
    lengths: Vec<usize>,
}

/// As a layout says.
fn fixed<T: Layout>(v: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    T::read(v, r)?.write(v, out);
    Ok(())
}

/// The header of a multipart message, then items.
fn items<T>(
    kind: u16,
    v: Version,
    r: &mut Reader<'_>,
    out: &mut Vec<u8>,
    mut item: impl FnMut(&mut Reader<'_>, &mut Vec<u8>) -> Result<T, Malformed>,
) -> Result<(), Malformed> {
    assert!(!multipart::reply(kind, v, r)?);
    multipart::request(kind, v, out);
    while !r.is_empty() {
        item(r, out)?;
    }
    Ok(())
}

fn hello(_: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    Versions::parse(OFP13_VERSION, r.rest())?.write(out);
    Ok(())
}

fn tlvs(_: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    crate::openflow::codec::oxm::decode(r.rest(), &mut Match::default())?;
    while !r.is_empty() {
        Oxm::read(r)?.write(out);
    }
    Ok(())
}

fn error(_: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    SwitchError::parse(r.rest())?.write(out);
    Ok(())
}

fn ports_asked(v: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    multipart::reply(OFPMP_PORT_DESC, v, r)?;
    multipart::request(OFPMP_PORT_DESC, v, out);
    fixed::<Which>(v, r, out)
}

fn flows_asked(v: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    Filter::decode(v, r)?.encode(v, out)
}

fn flows(v: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    multipart::request(OFPMP_FLOW, v, out);
    let more = dump::part(v, r.rest(), &mut |raw| {
        raw.decode(&mut Flow::default())?;
        out.extend_from_slice(raw.to_entry().assembled_again().bytes());
        Ok(())
    });
    more.map(|more| assert!(!more))
}

fn tables(v: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    items(OFPMP_TABLE, v, r, out, |r, out| fixed::<TableStats>(v, r, out))
}

fn ports(v: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    items(OFPMP_PORT_DESC, v, r, out, |r, out| Port::next(v, r).map(|p| p.write_whole(v, out)))
}

fn software(v: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    items(OFPMP_DESC, v, r, out, |r, out| {
        multipart::read_software(r).map(|text| multipart::write_software(&text, out))
    })
}

fn groups(v: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    items(OFPMP_GROUP_DESC, v, r, out, |r, out| {
        let mut buckets = Vec::new();
        group::read(v, r, &mut |list| {
            crate::openflow::codec::effects::decode_list(list, &mut Actions::default())?;
            buckets.push(list.to_vec());
            Ok(())
        })?;
        group::write(v, &buckets, out)
    })
}

fn bundle_add(v: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    fixed::<BundleMessage>(v, r, out)?;
    let header = MessageHeader::read(v, r)?;
    let mut body = r.sub(usize::from(header.length).saturating_sub(OFP_HEADER_LEN), "FLOW_MOD")?;
    message(out, v, header.kind, header.xid, |out| flow_mod::recode(v, &mut body, out))
}

fn told(v: Version, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Result<(), Malformed> {
    flow_update::request(v, &[], out)?;
    let mut all = Ok(());
    let mut write = |told: FlowUpdate<'_>| all = all.clone().and_then(|()| told.write(v, out));
    assert!(flow_update::read(v, OFPT_MULTIPART_REPLY, r.rest(), &mut write)?);
    all
}

/// An IPv4 source, a masked register, an experimenter's field.
const MATCH: &str = "0001 0028 80000a02 0800 80001604 0af40105 00010108 00001000 0000ff00
                     ffff5406 4f4e4600 0012";
/// Every kind of action in which a length stands, and in the last place a list in a list.
const ACTIONS: &str = "
    00000010 00000005 00000000 00000000
    ffff0018 00002320 0007001f 00010004 0000000000001005
    ffff0038 00002320 00100000 00008000 00000000 00000000 00000a00 00000000
    2020 00000005 00010004 0000 2820 00000007 80000004 0000
    ffff0028 00002320 000c0001 00000000 00000002 00020000 00000000 00000000 00040008 00000000
    ffff0030 00002320 00230001 00000000 0005ff00 00000000
    ffff0018 00002320 0007001f 0001d604 0000000000000001";

/// With the length of all of it over the 16 bits at `at`.
fn sized(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap();
    bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn instructions() -> Vec<u8> {
    sized(hex(&format!("0004 0000 00000000 {ACTIONS}")), 2)
}

fn entry(version: Version, instructions: &[u8]) -> Vec<u8> {
    let head = match version {
        Version::V13 | Version::V14 => {
            "0000 0a00 00000003 000f4240 0064 003c 0000 0000 0000 0000
             00000000 0000002a 0000000000000000 0000000000000000"
        }
        Version::V15 => "0000 0000 0a00 0064 003c 0000 0000 0000 00000000 0000002a",
    };
    let duration =
        if version == Version::V15 { "0000 0010 80020008 00000003 000f4240" } else { "" };
    sized([hex(head), hex(MATCH), hex(duration), instructions.to_vec()].concat(), 0)
}

/// The samples of one version.
struct Samples {
    version: Version,
    all: Vec<Sample>,
}

impl Samples {
    fn add(&mut self, name: &'static str, body: &[&[u8]], recode: Recode) {
        self.add_nested(name, body, recode, &[]);
    }

    /// Adds a sample that has lengths inside.
    fn add_nested(
        &mut self,
        name: &'static str,
        body: &[&[u8]],
        recode: Recode,
        lengths: &[usize],
    ) {
        let (version, body, lengths) = (self.version, body.concat(), lengths.to_vec());
        self.all.push(Sample { version, name, body, recode, lengths });
    }

    fn by_version(&self, v13: &str, v14: &str, v15: &str) -> Vec<u8> {
        match self.version {
            Version::V13 => hex(v13),
            Version::V14 => hex(v14),
            Version::V15 => hex(v15),
        }
    }

    fn add_small(&mut self) {
        self.add("hello", &[&hex("0001 0008 00000072")], hello);
        self.add("error", &[&hex("0004 0006")], error);
        self.add("experimenter's error", &[&hex("ffff 0909 4f4e4600")], error);
        let fields = hex("80000a02 0800 80001708 0af40105 ffffff00 ffff5406 4f4e4600 0012");
        self.add("a match's fields", &[&fields], tlvs);
    }

    fn add_questions(&mut self) {
        let header = hex("000d 0000 00000000");
        let one_port = self.by_version("", "", "ffffffff 00000000");
        self.add("ports asked", &[&header, &one_port], ports_asked);
        let fixed_part = "0001 0000 00000000 0a000000 fffffffe ffffffff 00000000
                      000000000000002a 00000000000000ff";
        self.add("flows asked", &[&hex(fixed_part), &hex(MATCH)], flows_asked);
    }

    fn add_answers(&mut self) {
        let header = hex("000d 0000 00000000");
        let stats = hex("0003 0000 00000000 0a000000 00000007 0000000000000000 0000000000000000");
        self.add("tables", &[&stats, &stats[8..]], tables);
        let name = [hex("76657468 30000000 00000000 00000000"), vec![0; 32]].concat();
        let port = self.by_version(
            "00000005 000000000000000000000000",
            "00000005 0040 00000000000000000000",
            "00000005 0040 00000000000000000000",
        );
        self.add("ports", &[&header, &port, &name, &port, &name], ports);
        let mut desc = [&[0; 8 + 512], b"3.1.0".as_slice()].concat();
        desc.resize(8 + 1056, 0);
        self.add("software", &[&desc], software);
        let (output, load) = (&hex(ACTIONS)[..16], &hex(ACTIONS)[16..40]);
        let list = [load, output].concat();
        let bucket = self.by_version(
            "0038 0000 00000000 00000000 00000000",
            "0038 0000 00000000 00000000 00000000",
            "0030 0028 00000000",
        );
        let group = self.by_version(
            "0040 0000 00000000",
            "0040 0000 00000000",
            "0040 0000 00000000 0030 000000000000",
        );
        let header = hex("0007 0000 00000000");
        self.add("groups", &[&header, &group, &bucket, &list], groups);
    }

    fn add_changes(&mut self) {
        let delete =
            hex("00000000 0000002a 7fffffff ffffffff 0a04 0000 0000 0064 ffffffff ffffffff
                      ffffffff 0000 0000");
        self.add("delete", &[&delete, &hex(MATCH)], flow_mod::recode);
        let control = self.by_version("4f4e4600 000008fc", "", "");
        let commit = hex("00000001 0005 0003");
        self.add("bundle control", &[&control, &commit], fixed::<BundleMessage>);
        let adding = self.by_version("4f4e4600 000008fd", "", "");
        let mut inner = Vec::new();
        message(&mut inner, self.version, OFPT_FLOW_MOD, 7, |out| {
            out.extend([delete.clone(), hex(MATCH), instructions()].concat());
            Ok(())
        })
        .unwrap();
        let body: &[&[u8]] = &[&adding, &hex("00000001 0000 0003"), &inner];
        self.add("bundle add", body, bundle_add);
        let flush = hex("00002320 00000020 06000000 00000000 0001 0020 00000000 0001 0014
                     00000000 00000000 0000ffff 0af40105 00000000");
        self.add("ct_flush", &[&flush], fixed::<CtFlush>);
    }

    fn add_monitors(&mut self) {
        let later = "0010 0000 00000000 00000001 ffffffff ffffffff 001a ff 00 00010004 00000000
                 00000002 ffffffff ffffffff 0044 ff 00 00010004 00000000";
        let monitors = self.by_version(
            "ffff 0000 00000000 4f4e4600 0000074e
         00000001 001a 0004 ffffffff ff000000 00010004 00000000
         00000002 0024 0004 ffffffff ff000000 00010004 00000000",
            later,
            later,
        );
        self.add("monitors", &[&monitors], flow_update::recode_request);
    }

    fn add_flows(&mut self) {
        let header = hex("0001 0000 00000000");
        let (bare, whole) = (entry(self.version, &[]), entry(self.version, &instructions()));
        let at = 8 + bare.len();
        let body: &[&[u8]] = &[&header, &bare, &whole];
        self.add_nested("flows", body, flows, &[at, at + bare.len() + 2]);
    }

    fn add_updates(&mut self) {
        let monitored = self.by_version(
            "ffff 0000 00000000 4f4e4600 0000074e",
            "0010 0000 00000000",
            "0010 0000 00000000",
        );
        let abbreviated =
            self.by_version("0008 0003 00000000", "0008 0004 00000000", "0008 0004 00000000");
        let update = self.by_version(
            "0000 0000 0000 0064 003c 0000 0028 0a00 00000000 0000002a",
            "0000 0001 0a00 003c 0000 0064 00000000 00000000 0000002a",
            "0000 0001 0a00 003c 0000 0064 00000000 00000000 0000002a",
        );
        let update = sized([update, hex(MATCH), instructions()].concat(), 0);
        let at = monitored.len() + 8;
        self.add_nested("updates", &[&monitored, &abbreviated, &update], told, &[at]);
    }
}

fn samples_in(version: Version) -> Vec<Sample> {
    let mut samples = Samples { version, all: Vec::new() };
    samples.add_small();
    samples.add_questions();
    samples.add_answers();
    samples.add_changes();
    samples.add_monitors();
    samples.add_flows();
    samples.add_updates();
    samples.all
}

fn samples() -> Vec<Sample> {
    Version::ALL.iter().copied().flat_map(samples_in).collect()
}

impl Sample {
    fn again(&self, body: &[u8]) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::new();
        (self.recode)(self.version, &mut Reader::new(body), &mut out).map(|()| out)
    }

    /// Its first bytes, in which so many of the lengths agree with that.
    fn cut(&self, end: usize, agreeing: usize) -> Vec<u8> {
        let mut short = self.body[..end].to_vec();
        for at in self.lengths.iter().take(agreeing).filter(|at| **at + 2 <= end) {
            // An entry's length stands where it begins, an instruction's 2 bytes behind.
            let start =
                if short[*at - 2..*at] == [0, OFPIT_APPLY_ACTIONS as u8] { at - 2 } else { *at };
            let length = u16::try_from(end - start).unwrap();
            short[*at..at + 2].copy_from_slice(&length.to_be_bytes());
        }
        short
    }
}

#[test]
fn what_is_read_is_written_as_it_was() {
    for sample in samples() {
        let Sample { version, name, .. } = sample;
        assert_eq!(sample.again(&sample.body).as_ref(), Ok(&sample.body), "{name} in {version}");
    }
}

/// An error, or just what is there: never more, and never a panic.
#[test]
fn what_is_cut_off_is_not_believed() {
    for sample in samples() {
        let Sample { version, name, .. } = sample;
        let mut believed = 0;
        for end in 1..sample.body.len() {
            for agreeing in 0..=sample.lengths.len() {
                let short = sample.cut(end, agreeing);
                if let Ok(again) = sample.again(&short) {
                    assert_eq!(again, short, "{name} in {version}, cut at {end}");
                    believed += usize::from(agreeing == 0);
                }
            }
        }
        // Only between the items of a list.
        assert!(believed <= 3, "{name} in {version}: {believed} parts are taken for the whole");
    }
}
