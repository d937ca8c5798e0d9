//! Fuzz bodies: whatever a database server sends (see [`crate::fuzzing`]).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken promise is told by panicking"
)]

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::client::{Client, rows as rows_of};
use super::error::Error;
use super::find::{Wanted, find_for_delete, find_port};
use super::frame::Frames;
use super::marks::marks;
use super::rows::Rows;
use super::rpc::{Transacted, outcomes};
use super::snapshot::{Bridge, Interface, LOCAL, MAX_PORT, Ofport, Port, Snapshot};
use super::value::{map, row, set};
use crate::model::flow::{Address, MacAddr};
use crate::model::row::RowId;
use crate::util::clock::Deadline;

const MOST: usize = 64 << 10;

/// The size of pieces, then a stream of JSON objects.
pub(crate) fn frames(data: &[u8]) -> bool {
    let Some((piece, stream)) = data.split_first() else { return false };
    let whole = split(stream, stream.len().max(1));
    let pieces = split(stream, usize::from(*piece).max(1));
    assert_eq!(pieces.0, whole.0, "cut otherwise when it comes in pieces of {piece}");
    assert_eq!(pieces.1.is_some(), whole.1.is_some());
    // What serde takes for an object is one, to the byte.
    let mut theirs = serde_json::Deserializer::from_slice(stream).into_iter::<Box<RawValue>>();
    for (n, ours) in whole.0.iter().enumerate() {
        let Some(Ok(their)) = theirs.next() else { break };
        if !their.get().starts_with('{') {
            break;
        }
        assert_eq!(ours, their.get().as_bytes(), "message {n}");
    }
    // Between messages there is white space and nothing else, and the end of one is where it is
    // whole: without its last byte there is one less.
    let mut at = 0;
    for message in &whole.0 {
        at += stream[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        assert!(stream[at..].starts_with(message), "something was passed over at {at}");
        at += message.len();
    }
    if !whole.0.is_empty() {
        let before = split(&stream[..at - 1], 64).0;
        assert_eq!(before.len(), whole.0.len() - 1, "a message without its end was taken for one");
    }
    !whole.0.is_empty()
}

fn split(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<Error>) {
    let (mut frames, mut messages) = (Frames::default(), Vec::new());
    for mut piece in stream.chunks(piece) {
        frames.fill(&mut piece).unwrap();
        loop {
            match frames.next() {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

/// The result of the transaction that reads everything, in one line; then, line by line, what
/// notifications tell.
pub(crate) fn rows(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let mut lines = text.split('\n');
    let Some(mut held) = read(lines.next().unwrap_or_default()) else { return false };
    let Some(first) = believe(held.assemble(true)) else { return false };
    check_read(&first);
    for line in lines {
        if believe(held.apply(line)).is_none() {
            return true;
        }
        let Some(snapshot) = believe(held.assemble(true)) else { return true };
        check_read(&snapshot);
        // Told of the way from one to the other, one gets there.
        let mut told = read(&encode(&first).to_string()).unwrap();
        told.apply(&difference(&first, &snapshot).to_string()).unwrap();
        assert_eq!(told.assemble(true).unwrap(), snapshot);
    }
    true
}

fn read(text: &str) -> Option<Rows> {
    match believe(outcomes("reading all ports", 4, text, rows_of)) {
        Some(Transacted::Done(rows)) => Some(rows),
        _ => None,
    }
}

/// Written down as the server would and read again, it is the same.
fn check_read(snapshot: &Snapshot) {
    check_snapshot(snapshot);
    let again = read(&encode(snapshot).to_string()).expect("what was written down is read again");
    assert_eq!(again.assemble(true).unwrap(), *snapshot);
}

/// The notification that makes one of the other: who is not there any more, and all who are.
fn difference(from: &Snapshot, to: &Snapshot) -> Value {
    let mut tables = serde_json::Map::new();
    let (from, to) = (encode(from), encode(to));
    for (n, table) in ["Open_vSwitch", "Bridge", "Port", "Interface"].into_iter().enumerate() {
        let mut updates = serde_json::Map::new();
        let rows = |of: &Value| of[n]["rows"].as_array().cloned().unwrap_or_default();
        let id = |row: &Value| row["_uuid"][1].as_str().unwrap_or("the only one").to_owned();
        for row in rows(&from) {
            updates.insert(id(&row), json!({"old": {}}));
        }
        for mut row in rows(&to) {
            let id = id(&row);
            row.as_object_mut().unwrap().shift_remove("_uuid");
            updates.insert(id, json!({"new": row}));
        }
        tables.insert(table.to_owned(), Value::Object(updates));
    }
    json!([null, tables])
}

/// The parameters of an `update`.
#[cfg(feature = "daemon")]
pub(crate) fn update(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    believe(super::watch::changes(text)).is_some()
}

/// A script's selector, then all that a server says before it hangs up.
pub(crate) fn rpc(data: &[u8]) -> bool {
    let Some((selector, said)) = data.split_first() else { return false };
    let said = &said[..said.len().min(MOST)];
    let mac = [MacAddr([10, 0, 0, 0, 0, 5])];
    let wanted = wanted(&mac);
    let listen = |said: &[u8]| -> Option<String> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let deadline = Deadline::after(Duration::from_secs(10));
        let mut client = Client::over(ours, deadline);
        let shown = |snapshot: &Snapshot| {
            check_snapshot(snapshot);
            format!("{snapshot:?}")
        };
        match selector % 8 {
            0 => believe(client.snapshot()).map(|snapshot| shown(&snapshot)),
            1 => {
                let asked = believe(client.ask())?;
                let (snapshot, moment) = believe(client.answered(asked))?;
                let unchanged = believe(client.unchanged(moment))?;
                let asked = believe(client.ask())?;
                let (later, after) = believe(client.answered(asked))?;
                assert!(!unchanged || moment != after || later == snapshot, "nobody told of it");
                Some(shown(&snapshot) + &shown(&later) + &unchanged.to_string())
            }
            2 | 3 => believe(client.find(&wanted)).map(|snapshot| shown(&snapshot)),
            4 | 5 => believe(client.wait_ofport(RowId(7), deadline)).map(|ofport| {
                assert!(ofport.is_none_or(is_number));
                format!("{ofport:?}")
            }),
            6 => believe(client.alive()).map(|()| String::new()),
            _ => {
                let (bridge, port) = a_port();
                believe(client.remove_port(bridge, &port)).map(|()| String::new())
            }
        }
    };
    let whole = listen(said);
    // The beginning of an answer is either no answer or had all that mattered.
    let ends = said.iter().enumerate().filter(|(_, byte)| **byte == b'}').map(|(at, _)| at);
    let eighths = (1..8).map(|n| said.len() * n / 8);
    let last = ends.rev().take(4).flat_map(|at| [at, at + 1]);
    for cut in eighths.chain(last).filter(|cut| *cut < said.len()) {
        let part = listen(&said[..cut]);
        assert!(part.is_none() || part == whole, "cut at {cut}: {part:?}, not {whole:?}");
    }
    whole.is_some()
}

fn wanted(macs: &[MacAddr]) -> Wanted<'_> {
    Wanted {
        container_id: "aaaa01",
        ifname: "eth0",
        netns: Some("/var/run/netns/cni-1"),
        pod: Some(("shop", "web-0")),
        host_interfaces: vec!["veth1"],
        macs,
        bridge: None,
    }
}

fn a_port() -> (RowId, Port) {
    let interface = Interface {
        id: RowId(7),
        name: "veth1".to_owned(),
        kind: String::new(),
        ofport: Ofport::Number(5),
        ofport_request: Some(5),
        external_ids: [("sandbox".to_owned(), "aaaa01".to_owned())].into(),
        mac_in_use: None,
        ifindex: Some(3),
        error: None,
        patch_peer: None,
    };
    let port = Port {
        id: RowId(8),
        name: "veth1".to_owned(),
        external_ids: [].into(),
        mac: None,
        vlans: Vec::new(),
        interfaces: vec![interface],
    };
    (RowId(9), port)
}

/// What a server said is believed or it is not. Nobody waits for one that has hung up.
fn believe<T>(heard: Result<T, Error>) -> Option<T> {
    let failed = match heard {
        Ok(heard) => return Some(heard),
        Err(failed) => failed,
    };
    assert!(!matches!(failed, Error::TimedOut { .. } | Error::Io { .. }), "{failed}");
    assert!(failed.to_string().len() < 4_000, "{failed}");
    None
}

fn is_number(ofport: Ofport) -> bool {
    ofport.number().is_none_or(|n| n == LOCAL || (1..=MAX_PORT).contains(&n))
}

/// What holds of every snapshot, whoever wrote into the database.
fn check_snapshot(snapshot: &Snapshot) {
    for (bridge, port, interface) in snapshot.interfaces() {
        assert!(![&bridge.name, &port.name, &interface.name].iter().any(|name| name.is_empty()));
        assert!(is_number(interface.ofport), "{interface:?}");
        let Some(marks) = marks(port, interface) else { continue };
        assert!(marks.ips.iter().all(|ip| !Address::Ip(*ip).is_unusable()), "{marks:?}");
        assert!(marks.mac.is_none_or(|mac| !mac.is_unusable()), "{marks:?}");
        let texts = [
            marks.container_id,
            marks.netns,
            marks.ifname,
            marks.pod_namespace,
            marks.pod_name,
            marks.pod_uid,
        ];
        assert!(texts.iter().flatten().all(|text| !text.trim().is_empty()), "{texts:?}");
    }
    let mut joined: Vec<usize> = snapshot.joined().into_iter().flatten().collect();
    joined.sort_unstable();
    assert_eq!(joined, (0..snapshot.bridges.len()).collect::<Vec<_>>());
    let mac = [MacAddr([10, 0, 0, 0, 0, 5])];
    let wanted = wanted(&mac);
    let to_delete = find_for_delete(snapshot, &wanted, |_| false);
    for found in find_port(snapshot, &wanted).into_iter().chain(to_delete) {
        let name = found.interface.name.as_str();
        assert!(!super::is_tunnel_or_patch(&found.interface.kind), "{name}");
        assert!(found.interface.ofport != Ofport::Number(LOCAL), "{name}");
        assert!(found.port.interfaces.len() == 1, "{name}: a bond");
    }
    assert!(find_for_delete(snapshot, &wanted, |_| true).is_none(), "one that a record claims");
    // Nobody is found by what is not known of him.
    let nobody = Wanted { host_interfaces: vec![""], pod: Some(("", "")), ..Wanted::default() };
    let found = find_port(snapshot, &nobody);
    assert!(found.is_none(), "{found:?}");
}

fn encode(snapshot: &Snapshot) -> Value {
    let text = |text: &Option<String>| set(text.iter().map(|text| json!(text)));
    let ids = |ids: &std::collections::BTreeMap<String, String>| {
        map(ids.iter().map(|(k, v)| (k.as_str(), v.as_str())))
    };
    let mut switch = std::collections::BTreeMap::new();
    for (n, bridge) in snapshot.ovn.bridges.iter().enumerate() {
        switch.insert("ovn-remote".to_owned(), "unix:/x".to_owned());
        switch.insert(format!("ovn-bridge-{n}"), bridge.clone());
    }
    let bridge = |b: &Bridge| {
        json!({
            "_uuid": row(b.id), "name": b.name, "datapath_type": b.datapath_type,
            "protocols": set(b.protocols.iter().map(|p| json!(p))),
            "fail_mode": text(&b.fail_mode), "ports": set(b.ports.iter().map(|p| row(p.id))),
        })
    };
    let port = |p: &Port| {
        json!({
            "_uuid": row(p.id), "name": p.name, "external_ids": ids(&p.external_ids),
            "interfaces": set(p.interfaces.iter().map(|i| row(i.id))),
            "mac": text(&p.mac.map(|mac| mac.to_string())),
        })
    };
    let interface = |i: &Interface| {
        let ofport = match i.ofport {
            Ofport::Unassigned => set([]),
            Ofport::Failed => json!(-1),
            Ofport::Number(number) => json!(number),
        };
        json!({
            "_uuid": row(i.id), "name": i.name, "type": i.kind, "ofport": ofport,
            "ofport_request": set(i.ofport_request.map(|n| json!(n))),
            "external_ids": ids(&i.external_ids),
            "mac_in_use": text(&i.mac_in_use.map(|mac| mac.to_string())),
            "ifindex": set(i.ifindex.map(|i| json!(i))), "error": text(&i.error),
            "options": map(i.patch_peer.iter().map(|peer| ("peer", peer.as_str()))),
        })
    };
    let ports = || snapshot.bridges.iter().flat_map(|b| &b.ports);
    let interfaces = || ports().flat_map(|p| &p.interfaces);
    json!([
        {"rows": [{"external_ids": ids(&switch), "ovs_version": text(&snapshot.ovs_version)}]},
        {"rows": snapshot.bridges.iter().map(bridge).collect::<Vec<_>>()},
        {"rows": ports().map(port).collect::<Vec<_>>()},
        {"rows": interfaces().map(interface).collect::<Vec<_>>()},
    ])
}
