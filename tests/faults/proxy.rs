//! A directory of sockets that look like the switch's and its database's, through which one
//! message at a time goes wrong.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// Whose socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    Switch,
    Database,
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// To the peer.
    Asked,
    /// From the peer.
    Answered,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection ends instead.
    Close,
    /// The connection ends within it.
    Cut,
    /// It ends early and says so itself (OpenFlow's length).
    Shorten,
    /// It comes late, but in time.
    Delay,
    /// It comes too late.
    Stall,
    /// It comes twice.
    Twice,
    /// It comes byte by byte.
    Bytes,
    /// An error comes instead: "you may not", "I know no such message", "this of your
    /// bundle could not be done"; from the database: of the request, of an operation.
    Refuse(u8),
}

impl Fault {
    /// Every fault that a message may have.
    pub(super) fn all(peer: Peer, way: Way) -> &'static [Self] {
        use Fault::{Bytes, Close, Cut, Delay, Refuse, Shorten, Stall, Twice};
        match (way, peer) {
            // What a peer makes of nonsense from us is its own affair.
            (Way::Asked, _) => &[Close, Cut, Stall],
            (Way::Answered, Peer::Switch) => {
                &[Close, Cut, Twice, Refuse(0), Bytes, Shorten, Stall, Refuse(1), Delay, Refuse(2)]
            }
            (Way::Answered, Peer::Database) => {
                &[Cut, Refuse(0), Close, Twice, Bytes, Stall, Refuse(1), Delay]
            }
        }
    }

    /// Whether nobody may notice.
    pub(super) fn is_harmless(self) -> bool {
        matches!(self, Self::Delay | Self::Bytes)
    }
}

/// How late [`Fault::Delay`] is.
const LATE: Duration = Duration::from_millis(25);

/// A message that went by.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) peer: Peer,
    pub(super) way: Way,
    /// Which of this peer and way, from 1.
    pub(super) number: usize,
    /// What it was.
    pub(super) what: String,
}

/// What is to go wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) peer: Peer,
    pub(super) way: Way,
    /// Which message; none: all of them.
    pub(super) number: Option<usize>,
    pub(super) fault: Fault,
    /// How late [`Fault::Stall`] is.
    pub(super) stall: Duration,
}

/// One run through the proxy.
#[derive(Default)]
struct Run {
    plan: Option<Plan>,
    seen: Mutex<Vec<Seen>>,
    happened: Mutex<usize>,
}

impl Run {
    /// Counts a message; its fault, if it has one.
    fn pass(&self, peer: Peer, way: Way, message: &[u8]) -> Option<Plan> {
        let mut seen = self.seen.lock().unwrap();
        let number = seen.iter().filter(|s| (s.peer, s.way) == (peer, way)).count() + 1;
        seen.push(Seen { peer, way, number, what: describe(peer, message) });
        let plan = self.plan.filter(|plan| {
            let one = plan.number.is_none_or(|wanted| wanted == number);
            (plan.peer, plan.way) == (peer, way) && one
        })?;
        *self.happened.lock().unwrap() += 1;
        Some(plan)
    }
}

/// The sockets.
pub(super) struct Proxy {
    /// What `OVS_RUNDIR` is to be.
    pub(super) dir: PathBuf,
    run: Arc<Mutex<Arc<Run>>>,
}

impl Proxy {
    /// In front of `run_dir`'s sockets.
    pub(super) fn start(run_dir: &Path, dir: PathBuf) -> Self {
        fs::create_dir(&dir).unwrap();
        symlink(run_dir.join("ovs-vswitchd.pid"), dir.join("ovs-vswitchd.pid")).unwrap();
        let run: Arc<Mutex<Arc<Run>>> = Arc::default();
        for (peer, name) in [(Peer::Switch, "br0.mgmt"), (Peer::Database, "db.sock")] {
            let listener = UnixListener::bind(dir.join(name)).unwrap();
            let (behind, run) = (run_dir.join(name), Arc::clone(&run));
            // Lives until the test process ends.
            thread::spawn(move || {
                for client in listener.incoming() {
                    let (client, run) = (client.unwrap(), Arc::clone(&run.lock().unwrap()));
                    let Ok(server) = UnixStream::connect(&behind) else { continue };
                    both_ways(&client, &server, peer, &run);
                }
            });
        }
        Self { dir, run }
    }

    /// A new run, with this to go wrong.
    pub(super) fn expect(&self, plan: Option<Plan>) {
        *self.run.lock().unwrap() = Arc::new(Run { plan, ..Run::default() });
    }

    /// The messages of the run.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.run.lock().unwrap().seen.lock().unwrap().clone()
    }

    /// How often something went wrong in the run.
    pub(super) fn happened(&self) -> usize {
        *self.run.lock().unwrap().happened.lock().unwrap()
    }
}

fn both_ways(client: &UnixStream, server: &UnixStream, peer: Peer, run: &Arc<Run>) {
    for (way, from, to) in [(Way::Asked, client, server), (Way::Answered, server, client)] {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let run = Arc::clone(run);
        thread::spawn(move || {
            let ended = carry(&from, &to, peer, way, &run);
            // What was sent before stays readable.
            let _ = to.shutdown(Shutdown::Write);
            if ended == Ended::ByUs {
                let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
            }
        });
    }
}

#[derive(PartialEq)]
enum Ended {
    ByThem,
    ByUs,
}

fn carry(mut from: &UnixStream, mut to: &UnixStream, peer: Peer, way: Way, run: &Run) -> Ended {
    let mut frames = Frames { peer, bytes: Vec::new() };
    let mut chunk = vec![0; 64 << 10];
    loop {
        match from.read(&mut chunk) {
            Ok(0) | Err(_) => return Ended::ByThem,
            Ok(n) => frames.bytes.extend_from_slice(&chunk[..n]),
        }
        while let Some(message) = frames.next() {
            let written = match run.pass(peer, way, &message) {
                None => to.write_all(&message),
                Some(Plan { fault, stall, .. }) => match fault {
                    Fault::Close => return Ended::ByUs,
                    // There is nothing that a bare header could be without.
                    Fault::Shorten if message.len() > 8 => to.write_all(&shortened(message)),
                    Fault::Cut | Fault::Shorten => {
                        let _ = to.write_all(&message[..message.len() / 2]);
                        return Ended::ByUs;
                    }
                    Fault::Delay => {
                        thread::sleep(LATE);
                        to.write_all(&message)
                    }
                    Fault::Stall => {
                        thread::sleep(stall);
                        // Ours would reach the switch in the middle of the next run.
                        if way == Way::Asked {
                            return Ended::ByUs;
                        }
                        to.write_all(&message)
                    }
                    Fault::Twice => to.write_all(&message).and_then(|()| to.write_all(&message)),
                    Fault::Bytes => message.iter().try_for_each(|byte| to.write_all(&[*byte])),
                    Fault::Refuse(how) => to.write_all(&refused(peer, &message, how)),
                },
            };
            if written.is_err() {
                return Ended::ByThem;
            }
        }
    }
}

/// Cuts a stream into messages.
struct Frames {
    peer: Peer,
    bytes: Vec<u8>,
}

impl Frames {
    fn next(&mut self) -> Option<Vec<u8>> {
        let length = match self.peer {
            Peer::Switch => {
                let header = self.bytes.get(2..4)?;
                usize::from(u16::from_be_bytes([header[0], header[1]])).max(8)
            }
            Peer::Database => end_of_json(&self.bytes)?,
        };
        (self.bytes.len() >= length).then(|| self.bytes.drain(..length).collect())
    }
}

/// Where the first JSON value ends.
fn end_of_json(bytes: &[u8]) -> Option<usize> {
    let mut values =
        serde_json::Deserializer::from_slice(bytes).into_iter::<serde::de::IgnoredAny>();
    match values.next()? {
        Ok(_) => Some(values.byte_offset()),
        Err(e) if e.is_eof() => None,
        Err(e) => panic!("the database does not speak JSON: {e}"),
    }
}

fn describe(peer: Peer, message: &[u8]) -> String {
    match peer {
        Peer::Switch => {
            let part = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
            match message[1] {
                0 => "hello".to_owned(),
                1 => "error".to_owned(),
                4 => "experimenter".to_owned(),
                5 | 6 => "features".to_owned(),
                18 | 19 => match part(8) {
                    1 => "flows".to_owned(),
                    3 => "tables".to_owned(),
                    13 => "ports".to_owned(),
                    other => format!("multipart {other}"),
                },
                20 | 21 => "barrier".to_owned(),
                33 => format!("bundle control {}", part(12)),
                34 => "bundle add".to_owned(),
                other => format!("type {other}"),
            }
        }
        Peer::Database => {
            let json: Value = serde_json::from_slice(message).unwrap();
            match (&json["method"], &json["id"]) {
                (Value::String(method), _) => method.clone(),
                (_, id) => format!("reply {id}"),
            }
        }
    }
}

/// Four bytes less, and a header that says so: never a boundary within a message.
fn shortened(mut message: Vec<u8>) -> Vec<u8> {
    let length = message.len().saturating_sub(4).max(8);
    message.truncate(length);
    message[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    message
}

fn refused(peer: Peer, message: &[u8], how: u8) -> Vec<u8> {
    match peer {
        Peer::Switch => {
            // OFPBRC_EPERM, OFPBRC_BAD_TYPE, OFPBFC_MSG_FAILED.
            let (kind, code): (u16, u16) = [(1, 5), (1, 1), (17, 13)][usize::from(how)];
            let mut error = vec![message[0], 1, 0, 12];
            error.extend_from_slice(&message[4..8]);
            error.extend([kind, code].map(u16::to_be_bytes).concat());
            error
        }
        Peer::Database => {
            let said = json!({"error": "resources exhausted", "details": "said by the test"});
            let mut reply: Value = serde_json::from_slice(message).unwrap();
            match (how, reply["result"].as_array().map(Vec::len)) {
                (1, Some(operations)) if operations > 0 => {
                    reply["result"] = json!(vec![Value::Null; operations]);
                    reply["result"][0] = said;
                }
                _ => {
                    reply["result"] = Value::Null;
                    reply["error"] = said;
                }
            }
            reply.to_string().into_bytes()
        }
    }
}
