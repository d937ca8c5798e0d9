//! Another OpenFlow client on the bridge: one echo at a time, as long as it is wanted.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// OpenFlow 1.3; OFPT_HELLO, OFPT_ECHO_REQUEST, OFPT_ECHO_REPLY.
const VERSION: u8 = 4;
const HELLO: u8 = 0;
const REQUEST: u8 = 2;
const REPLY: u8 = 3;

/// The client, at work.
pub(crate) struct Echoes {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Echoes {
    /// Connects to `<rundir>/<bridge>.mgmt`.
    pub(crate) fn start(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(&[VERSION, HELLO, 0, 8, 0, 0, 0, 1]).unwrap();
        assert_eq!(receive(&mut stream), HELLO);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut times = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let since = Instant::now();
                stream.write_all(&[VERSION, REQUEST, 0, 8, 0, 0, 0, 2]).unwrap();
                while receive(&mut stream) != REPLY {}
                times.push(since.elapsed());
            }
            times
        });
        Self { stop, thread }
    }

    /// How long each echo took, the quickest first.
    pub(crate) fn stop(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.thread.join().unwrap();
        times.sort_unstable();
        times
    }
}

/// Reads one message; its type.
fn receive(stream: &mut UnixStream) -> u8 {
    let mut head = [0; 8];
    stream.read_exact(&mut head).unwrap();
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let mut body = vec![0; length - head.len()];
    stream.read_exact(&mut body).unwrap();
    head[1]
}

/// This share of them took at most so long.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}
