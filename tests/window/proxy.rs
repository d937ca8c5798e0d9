//! Between `ovs-flow-gc` and the switch: can be a switch that does not tell what changes, and
//! knows when a dump was answered and when a commit was.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ovs_flow_gc::util::clock::connect_within;

use crate::window::fixture::soon;

#[derive(Default)]
struct Seen {
    /// The first answer to a dump since it was last asked.
    dumped: Option<Instant>,
    /// The latest acknowledged commit.
    committed: Option<Instant>,
}

#[derive(Default)]
struct Shared {
    /// Flow monitors are refused.
    mute: AtomicBool,
    /// Nothing is told any more, and with the next commit that this is so (1.4).
    pause: AtomicBool,
    refused: Mutex<u64>,
    seen: Mutex<Seen>,
    /// Done once, before the next commit is passed on.
    before: Mutex<Option<Action>>,
    /// Done once, before the next commit's answer is passed on.
    after: Mutex<Option<Action>>,
    /// Whoever has it keeps what the switch says from being read.
    reading: Mutex<()>,
}

type Action = Box<dyn FnOnce() + Send>;

pub(crate) struct Proxy {
    /// `OVS_RUNDIR` for who is to speak through it.
    pub(crate) run_dir: PathBuf,
    shared: Arc<Shared>,
}

impl Proxy {
    pub(crate) fn new(real: &Path, run_dir: &Path) -> Self {
        std::fs::create_dir_all(run_dir).unwrap();
        for name in ["db.sock", "ovs-vswitchd.pid"] {
            symlink(real.join(name), run_dir.join(name)).unwrap();
        }
        let listener = UnixListener::bind(run_dir.join("br0.mgmt")).unwrap();
        let (shared, real) = (Arc::new(Shared::default()), real.join("br0.mgmt"));
        let proxy = Self { run_dir: run_dir.to_owned(), shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, shared) = (client.unwrap(), Arc::clone(&shared));
                // The test is over when there is no switch any more.
                let Ok(switch) = connect_within(&real, soon()) else { return };
                serve(client, switch, &shared);
            }
        });
        proxy
    }

    /// Whether the switch behind it is one that does not tell.
    pub(crate) fn mute(&self, mute: bool) {
        self.shared.mute.store(mute, Ordering::SeqCst);
    }

    /// Whether it is.
    pub(crate) fn is_mute(&self) -> bool {
        self.shared.mute.load(Ordering::SeqCst)
    }

    /// Whether it stops telling at the moment of the commit.
    pub(crate) fn pause(&self, pause: bool) {
        self.shared.pause.store(pause, Ordering::SeqCst);
    }

    /// What happens right before the next commit.
    pub(crate) fn before_commit(&self, before: impl FnOnce() + Send + 'static) {
        *self.shared.before.lock().unwrap() = Some(Box::new(before));
    }

    /// The same while nobody reads what the switch says, until it has done the commit.
    pub(crate) fn unheard_before_commit(&self, before: impl FnOnce() + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        self.before_commit(move || {
            let ((held, is_held), (done, is_done)) = (channel(), channel());
            thread::spawn(move || {
                let _reading = shared.reading.lock().unwrap();
                held.send(()).unwrap();
                is_done.recv().unwrap();
                thread::sleep(COMMIT_TAKES);
            });
            is_held.recv().unwrap();
            before();
            done.send(()).unwrap();
        });
    }

    /// What happens between the next commit and its answer.
    pub(crate) fn after_commit(&self, after: impl FnOnce() + Send + 'static) {
        *self.shared.after.lock().unwrap() = Some(Box::new(after));
    }

    /// How often it has refused to.
    pub(crate) fn refused(&self) -> u64 {
        *self.shared.refused.lock().unwrap()
    }

    /// From the first answer to a dump to the last answer to a commit, since this was last asked.
    pub(crate) fn window(&self) -> Option<Duration> {
        let Seen { dumped, committed } = std::mem::take(&mut *self.shared.seen.lock().unwrap());
        Some(committed?.duration_since(dumped?))
    }
}

/// A switch that has something else to do first has done a commit by then.
const COMMIT_TAKES: Duration = Duration::from_millis(500);
/// OFPFME_PAUSED in 1.4.
const PAUSED: [u8; 24] =
    [5, 19, 0, 24, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 8, 0, 5, 0, 0, 0, 0];

fn serve(client: UnixStream, switch: UnixStream, shared: &Arc<Shared>) {
    let answers = Arc::new(Mutex::new(client.try_clone().unwrap()));
    let (from, to) = (switch.try_clone().unwrap(), Arc::clone(&answers));
    let told = Arc::clone(shared);
    thread::spawn(move || {
        each_message(from, |message| {
            let kind = message[1];
            drop(told.reading.lock().unwrap());
            let pause = told.pause.load(Ordering::SeqCst);
            if pause && kind == 19 && message[4..8] == [0; 4] && message[8..10] == [0, 16] {
                return true;
            }
            let mut seen = told.seen.lock().unwrap();
            // OFPMP_FLOW; OFPBCT_COMMIT_REPLY, also of 1.3's extension.
            if kind == 19 && message[8..10] == [0, 1] {
                seen.dumped.get_or_insert_with(Instant::now);
            } else if kind == 33 && message[12..14] == [0, 5]
                || kind == 4 && message.len() == 24 && message[20..22] == [0, 5]
            {
                seen.committed = Some(Instant::now());
                if let Some(after) = told.after.lock().unwrap().take() {
                    after();
                }
                if pause {
                    to.lock().unwrap().write_all(&PAUSED).unwrap();
                }
            }
            drop(seen);
            to.lock().unwrap().write_all(message).is_ok()
        });
        let _ = to.lock().unwrap().shutdown(Shutdown::Both);
    });
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        each_message(client, |message| {
            // OFPMP_FLOW_MONITOR, and 1.3's, which is the only experimenter's that we send.
            let asks = message[1] == 18 && matches!(message[8..10], [0, 16] | [0xff, 0xff]);
            if asks && shared.mute.load(Ordering::SeqCst) {
                *shared.refused.lock().unwrap() += 1;
                // OFPBRC_BAD_MULTIPART, with some of what it is about.
                let mut error = vec![message[0], 1, 0, 28];
                error.extend(&message[4..8]);
                error.extend([0, 1, 0, 2]);
                error.extend(&message[..16]);
                return answers.lock().unwrap().write_all(&error).is_ok();
            }
            // OFPBCT_COMMIT_REQUEST.
            if message[1] == 33
                && message[12..14] == [0, 4]
                && let Some(before) = shared.before.lock().unwrap().take()
            {
                before();
            }
            (&switch).write_all(message).is_ok()
        });
        let _ = switch.shutdown(Shutdown::Both);
    });
}

/// Reads whole messages, until the end or until one is enough.
fn each_message(mut from: UnixStream, mut each: impl FnMut(&[u8]) -> bool) {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 65_536]);
    while let Ok(n @ 1..) = from.read(&mut chunk) {
        bytes.extend(&chunk[..n]);
        let mut at = 0;
        while bytes.len() - at >= 8 {
            let length = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
            assert!(length >= 8);
            if bytes.len() - at < length {
                break;
            }
            if !each(&bytes[at..at + length]) {
                return;
            }
            at += length;
        }
        bytes.drain(..at);
    }
}
