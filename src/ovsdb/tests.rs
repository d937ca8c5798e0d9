//! The client against replies captured from ovsdb-server 3.1.0 (`tests/data/ovsdb`, named
//! after the method or operations), whole, cut and garbled. The server itself is met in
//! `tests/ovsdb_live`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::model::flow::MacAddr;
use crate::model::row::RowId;
use crate::util::clock::Deadline;

const ALL: &[u8] = include_bytes!("../../tests/data/ovsdb/transact-select-all.json");
const DATABASES: &[u8] = include_bytes!("../../tests/data/ovsdb/list_dbs.json");
const UNKNOWN_METHOD: &[u8] = include_bytes!("../../tests/data/ovsdb/unknown-method.json");
const UNKNOWN_DATABASE: &[u8] =
    include_bytes!("../../tests/data/ovsdb/transact-unknown-database.json");
const UNKNOWN_COLUMN: &[u8] = include_bytes!("../../tests/data/ovsdb/transact-unknown-column.json");
const WAIT_TIMED_OUT: &[u8] = include_bytes!("../../tests/data/ovsdb/transact-wait-timed-out.json");

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

/// A client to which the server says this, whatever it asks, and then nothing more.
fn told(bytes: &[u8]) -> (Client, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (&theirs).write_all(bytes).unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    (Client::over(ours, soon()), theirs)
}

fn snapshot_of(bytes: &[u8]) -> Result<Snapshot, Error> {
    told(bytes).0.snapshot()
}

pub(super) fn captured() -> Snapshot {
    snapshot_of(ALL).unwrap()
}

fn edited(edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut reply: Value = serde_json::from_slice(ALL).unwrap();
    edit(&mut reply);
    reply.to_string().into_bytes()
}

#[test]
fn the_captured_switch_is_read() {
    let snapshot = captured();
    assert!(snapshot.complete);
    assert_eq!(snapshot.ovs_version.as_deref(), Some("3.1.0"));
    assert_eq!(snapshot.ovn, Ovn::default());
    let names: Vec<&str> = snapshot.bridges.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["br0", "br1"]);
    let br0 = snapshot.bridge("br0").unwrap();
    assert_eq!(br0.datapath_type, "netdev");
    assert_eq!(br0.protocols, ["OpenFlow10", "OpenFlow15"]);
    assert_eq!(br0.fail_mode.as_deref(), Some("secure"));
    assert_eq!(br0.ports.len(), 11);
    let br1 = snapshot.bridge("br1").unwrap();
    assert_eq!((br1.protocols.len(), br1.fail_mode.clone()), (0, None));

    let interface = |name: &str| {
        let (_, _, interface) = snapshot.interfaces().find(|(_, _, i)| i.name == name).unwrap();
        interface.clone()
    };
    assert_eq!(interface("br0").ofport, Ofport::Number(65534));
    assert_eq!(interface("gone0").ofport, Ofport::Failed);
    assert!(interface("gone0").error.unwrap().contains("No such device"));
    assert_eq!(interface("p0").kind, "patch");
    assert_eq!(interface("p0").patch_peer.as_deref(), Some("p1"));
    assert_eq!(interface("vx0").kind, "vxlan");
    let sdn = interface("sdn");
    assert!(sdn.ofport.number().is_some_and(|n| n < 100));
    assert!(sdn.mac_in_use.is_some() && sdn.ifindex.is_some_and(|i| i > 0));
    assert_eq!(sdn.external_ids.get("sandbox").unwrap(), "cccc03");
    assert_eq!(snapshot.interface(sdn.id).unwrap().0.name, "br0");
    let kvs = br0.ports.iter().find(|p| p.name == "kvs").unwrap();
    assert_eq!(kvs.mac, Some(MacAddr([10, 0, 0, 0, 0, 10])));
    assert_eq!(snapshot.joined(), [vec![0, 1]]);
}

#[test]
fn servers_errors_are_refusals_in_its_words() {
    for (reply, says) in [
        (UNKNOWN_METHOD, "unknown method"),
        (UNKNOWN_DATABASE, "unknown database Nope"),
        (UNKNOWN_COLUMN, "nope is not a valid column name"),
        (WAIT_TIMED_OUT, "timed out after 10 ms"),
    ] {
        match snapshot_of(reply) {
            Err(Error::Refused { what }) => {
                assert!(what.contains(says), "{what}");
                assert!(what.starts_with("reading all ports"), "{what}");
            }
            other => panic!("{says}: {other:?}"),
        }
    }
}

#[test]
fn alive_wants_the_database() {
    told(DATABASES).0.alive().unwrap();
    let error = told(br#"{"id":1,"result":["_Server"],"error":null}"#).0.alive().unwrap_err();
    assert!(error.to_string().contains("no Open_vSwitch among them (_Server)"), "{error}");
}

#[test]
fn a_wait_that_timed_out_is_none() {
    let (mut client, _peer) = told(WAIT_TIMED_OUT);
    assert_eq!(client.wait_ofport(RowId(1), soon()).unwrap(), None);
}

#[test]
fn a_reply_cut_anywhere_is_closed_not_empty() {
    for at in 0..ALL.len() {
        match snapshot_of(&ALL[..at]) {
            Err(Error::Closed) => {}
            other => panic!("cut at {at}: {other:?}"),
        }
    }
}

#[test]
fn a_lost_row_is_no_snapshot() {
    // Bridge, Port and Interface stand at 1, 2, 3.
    for (slot, what) in [(2, "has port"), (3, "has interface")] {
        let reply = edited(|v| {
            v["result"][slot]["rows"].as_array_mut().unwrap().remove(3);
        });
        match snapshot_of(&reply) {
            Err(Error::Malformed { what: text }) => assert!(text.contains(what), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    let reply = edited(|v| {
        v["result"].as_array_mut().unwrap().pop();
    });
    assert!(matches!(snapshot_of(&reply), Err(Error::Malformed { .. })));
    let reply = edited(|v| v["result"][3] = Value::Null);
    assert!(matches!(snapshot_of(&reply), Err(Error::Malformed { .. })));
}

#[test]
fn a_commits_error_behind_the_outcomes_counts() {
    let reply = edited(|v| {
        let error = serde_json::json!({"error": "I/O error", "details": "disk full"});
        v["result"].as_array_mut().unwrap().push(error);
    });
    match snapshot_of(&reply) {
        Err(Error::Refused { what }) => assert!(what.contains("disk full"), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn wrong_types_and_absurd_numbers() {
    let interface = |column: &str, value: Value| {
        snapshot_of(&edited(|v| v["result"][3]["rows"][2][column] = value))
    };
    let must_not = [
        ("_uuid", serde_json::json!("x")),
        ("name", serde_json::json!(7)),
        ("name", serde_json::json!("")),
        ("external_ids", serde_json::json!("x")),
        ("external_ids", serde_json::json!(["map", [["a", 1]]])),
        ("options", serde_json::json!(["set", []])),
        ("ofport", serde_json::json!({"a": 1})),
        ("ofport", serde_json::json!(u64::MAX)),
        ("ofport", Value::Null),
    ];
    for (column, value) in must_not {
        match interface(column, value.clone()) {
            Err(Error::Malformed { .. }) => {}
            other => panic!("{column} {value}: {other:?}"),
        }
    }
    // What only describes the interface may be anything; a number that no port can have
    // is not a number.
    for (column, value) in [
        ("ofport", serde_json::json!(1_000_000_000_000_i64)),
        ("ofport", serde_json::json!("7")),
        ("ofport", serde_json::json!(1.5)),
        ("ifindex", serde_json::json!(-3)),
        ("mac_in_use", serde_json::json!("not a mac")),
        ("error", serde_json::json!(["set", ["a", "b"]])),
    ] {
        let snapshot = interface(column, value).unwrap();
        if column == "ofport" {
            assert!(snapshot.interfaces().any(|(_, _, i)| i.ofport == Ofport::Unassigned));
        }
    }
}

#[test]
fn deep_nesting_is_refused_early() {
    let mut deep = br#"{"id":1,"result":"#.to_vec();
    deep.extend(std::iter::repeat_n(b'[', 100_000));
    match snapshot_of(&deep) {
        Err(Error::Malformed { what }) => assert!(what.contains("deep"), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reply_to_something_else_is_an_error() {
    for stray in [&br#"{"id":9,"result":[],"error":null}"#[..], br#"{"id":null,"result":[]}"#] {
        match snapshot_of(stray) {
            Err(Error::Malformed { what }) => assert!(what.contains("did not ask"), "{what}"),
            other => panic!("{other:?}"),
        }
    }
    match snapshot_of(br#"{"id":1}"#) {
        Err(Error::Malformed { what }) => assert!(what.contains("no result"), "{what}"),
        other => panic!("{other:?}"),
    }
}

/// A server on a Unix socket neither probes nor notifies us, nor does it choose where its
/// bytes are split: only a made-up one shows that these are handled.
#[test]
fn echo_is_answered_and_notifications_are_skipped() {
    let mut bytes = br#"{"method":"update","params":["x",{}],"id":null}"#.to_vec();
    bytes.extend_from_slice(br#"{"method":"echo","params":["a{\"",[1]],"id":"echo"}"#);
    bytes.extend_from_slice(br#" {"id":7,"method":"steal","params":[]} "#);
    bytes.extend_from_slice(DATABASES);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || {
        // Byte by byte, so that every split is met.
        for byte in bytes.chunks(1) {
            (&theirs).write_all(byte).unwrap();
        }
        let mut said = String::new();
        (&theirs).read_to_string(&mut said).unwrap();
        said
    });
    let mut client = Client::over(ours, soon());
    client.alive().unwrap();
    drop(client);
    let said = server.join().unwrap();
    assert!(said.contains(r#"{"result":["a{\"",[1]],"error":null,"id":"echo"}"#), "{said}");
    assert!(said.contains(r#"{"result":null,"error":"unknown method","id":7}"#), "{said}");
}

/// The deadline is over all reads together: a server that sends a byte now and then must
/// not renew it.
#[test]
fn dripping_bytes_do_not_renew_the_deadline() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || {
        for byte in br#"{"id":1,"result":["#.iter().chain([b' '; 200].iter()) {
            if (&theirs).write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let began = Instant::now();
    let mut client = Client::over(ours, Deadline::after(Duration::from_millis(200)));
    assert!(matches!(client.alive(), Err(Error::TimedOut { .. })));
    // The server drips for two seconds.
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    // What comes late is not an answer to the next question.
    assert!(matches!(client.alive(), Err(Error::Closed)));
    drop(client);
    server.join().unwrap();
}

/// A request that does not fit into the socket's buffer, to a server that reads nothing.
#[test]
fn writing_has_the_deadline_too() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut client = Client::over(ours, Deadline::after(Duration::from_millis(200)));
    let began = Instant::now();
    let name = "x".repeat(4 << 20);
    let wanted = Wanted { host_interfaces: vec![&name], ..Wanted::default() };
    // Without a deadline this never ends.
    assert!(matches!(client.find(&wanted), Err(Error::TimedOut { .. })));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is wrong with a reply, it is an error or a snapshot that holds together.
    #[test]
    fn garbled_replies_never_panic(
        edits in prop::collection::vec((0..ALL.len(), prop_oneof![
            any::<u8>(),
            prop::sample::select(br#"{}[]",:0129-eE."#.to_vec()),
        ]), 1..8),
    ) {
        let mut bytes = ALL.to_vec();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        if let Ok(snapshot) = snapshot_of(&bytes) {
            let _ = snapshot.joined();
            for (_, port, interface) in snapshot.interfaces() {
                let _ = marks(port, interface);
            }
        }
    }
}

/// A change that cannot be read is an error and never half a row; the client then reads
/// everything again.
#[test]
fn a_change_that_makes_no_sense_is_refused() {
    let id = "7b1c4a52-58d5-43c0-a35c-9c9fc7e2cc9f";
    let apply = |params: &str| rows::Rows::default().apply(params);
    let bridge = r#"{"name":"br0","datapath_type":"","protocols":["set",[]],"fail_mode":["set",[]],"ports":["set",[]]}"#;
    apply(&format!(r#"[null,{{"Bridge":{{"{id}":{{"new":{bridge}}}}}}}]"#)).unwrap();
    apply(&format!(r#"[null,{{"Bridge":{{"{id}":{{"old":{bridge}}}}},"Other":7}}]"#)).unwrap();
    apply("[null,{}]").unwrap();
    for odd in [
        "",
        "[]",
        "[null]",
        "[null,[]]",
        r#"[null,{"Bridge":7}]"#,
        &format!(r#"[null,{{"Bridge":{{"not a row":{{"new":{bridge}}}}}}}]"#),
        &format!(r#"[null,{{"Bridge":{{"{id}":{{"new":{{"name":"br0"}}}}}}}}]"#),
        &format!(r#"[null,{{"Open_vSwitch":{{"{id}":{{}}}}}}]"#),
    ] {
        assert!(matches!(apply(odd), Err(Error::Malformed { .. })), "{odd}");
    }
}
