//! A stand-in for the API server: pods, list and watch, and everything that goes wrong with
//! them.
//!
//! Why a fake: no distribution packages kube-apiserver (Debian has neither it nor etcd with it),
//! and a real one cannot be made to lie. It speaks what core/v1 promises of `/api/v1/pods`
//! (resource versions, `continue`, field selectors, bookmarks, 410 in both forms) over plain
//! HTTP/1.1, and counts as no proof that a real one does the same.

#![allow(dead_code, reason = "two test crates share this module, and each uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a broken rig must fail the test at once"
)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What the next list, watch or write gets instead of the truth.
#[derive(Clone, Debug)]
pub(crate) enum Bad {
    /// A status and a body.
    Status(u16, String),
    /// 200 and this body.
    Body(String),
    /// The truth, but the connection breaks after so much of the body.
    Broken(usize),
    /// The truth cut short, and said to be all.
    Cut(usize),
    /// The truth but for one pod: a list that lies well.
    Without(&'static str),
    /// The truth, so many bytes at a time with a pause between.
    Slow(usize, Duration),
    /// So many pods of so many bytes each, made while they are sent.
    Many(usize, usize),
    /// No answer.
    Hang,
    /// Of a watch: headers and then nothing.
    Silent,
    /// Of a watch: these lines, and the end.
    Lines(String),
    /// Of a watch: these bytes, and the connection breaks.
    Torn(String),
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) body: String,
}

#[derive(Default)]
struct Inner {
    version: u64,
    /// Nobody can watch from before this.
    compacted: u64,
    /// Watches end when it changes.
    generation: u64,
    pods: BTreeMap<String, Value>,
    log: Vec<(u64, &'static str, Value)>,
    lists: VecDeque<Bad>,
    watches: VecDeque<Bad>,
    writes: VecDeque<Bad>,
    /// What every list, watch or write gets, after those.
    always: [Option<Bad>; 3],
    asked: Vec<Asked>,
    token: Option<String>,
    page: Option<usize>,
    gone_as_event: bool,
    down: bool,
    watching: usize,
}

pub(crate) struct ApiServer {
    pub(crate) address: SocketAddr,
    inner: Arc<(Mutex<Inner>, Condvar)>,
    stop: Arc<AtomicBool>,
}

fn lock(inner: &Arc<(Mutex<Inner>, Condvar)>) -> MutexGuard<'_, Inner> {
    inner.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A pod as the API server writes it, with much that nobody asked for.
pub(crate) fn pod(uid: &str, node: &str, phase: &str, ips: &[&str]) -> Value {
    let pod_ips: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "metadata": {
            "name": format!("pod-{uid}"), "namespace": "ns", "uid": uid,
            "labels": { "app": "x" }, "managedFields": [{ "fieldsV1": { "f:metadata": {} } }],
        },
        "spec": {
            "nodeName": node,
            "containers": [{ "name": "c", "env": [{ "name": "A", "value": "\"}]{[" }] }],
        },
        "status": { "phase": phase, "podIP": ips.first().copied().unwrap_or(""), "podIPs": pod_ips },
    })
}

/// A static pod's mirror.
pub(crate) fn mirror(uid: &str, node: &str, hash: &str) -> Value {
    let mut pod = pod(uid, node, "Running", &["192.0.2.1"]);
    pod["metadata"]["annotations"] =
        json!({ "kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash });
    pod
}

pub(crate) fn status(code: u16, message: &str) -> String {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code })
        .to_string()
}

impl ApiServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inner =
            Arc::new((Mutex::new(Inner { version: 100, ..Inner::default() }), Condvar::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let server = Self { address, inner: Arc::clone(&inner), stop: Arc::clone(&stop) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (inner, stop) = (Arc::clone(&inner), Arc::clone(&stop));
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || {
                    // The client went away: its business.
                    let _ = serve(&inner, &stop, stream);
                });
            }
        });
        server
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.inner.1.notify_all();
    }

    /// Adds a pod or changes it.
    pub(crate) fn put(&self, mut pod: Value) {
        self.change(|inner| {
            inner.version += 1;
            let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
            pod["metadata"]["resourceVersion"] = json!(inner.version.to_string());
            let kind = if inner.pods.contains_key(&uid) { "MODIFIED" } else { "ADDED" };
            inner.log.push((inner.version, kind, pod.clone()));
            inner.pods.insert(uid, pod);
        });
    }

    pub(crate) fn delete(&self, uid: &str) {
        self.change(|inner| {
            inner.version += 1;
            let mut pod = inner.pods.remove(uid).unwrap();
            pod["metadata"]["resourceVersion"] = json!(inner.version.to_string());
            inner.log.push((inner.version, "DELETED", pod));
        });
    }

    pub(crate) fn bookmark(&self) {
        self.change(|inner| {
            inner.version += 1;
            let version = inner.version.to_string();
            let mark = json!({ "kind": "Pod", "metadata": { "resourceVersion": version } });
            inner.log.push((inner.version, "BOOKMARK", mark));
        });
    }

    /// Forgets the past and ends all watches: whoever asks again gets a 410, as a status or, as
    /// `event` says, inside a watch.
    pub(crate) fn expire(&self, event: bool) {
        self.change(|inner| {
            inner.version += 1;
            inner.compacted = inner.version;
            inner.gone_as_event = event;
            inner.log.clear();
            inner.generation += 1;
        });
    }

    /// Ends all watches in good order.
    pub(crate) fn end_watches(&self) {
        self.change(|inner| inner.generation += 1);
    }

    /// etcd is restored from a backup: versions begin anew.
    pub(crate) fn restore(&self, version: u64) {
        self.change(|inner| {
            inner.version = version;
            inner.compacted = 0;
            inner.log.clear();
            inner.generation += 1;
        });
    }

    pub(crate) fn next_list(&self, bad: Bad) {
        self.lock().lists.push_back(bad);
    }

    pub(crate) fn next_watch(&self, bad: Bad) {
        self.lock().watches.push_back(bad);
    }

    /// Whatever watches were still to get is forgotten.
    pub(crate) fn good_watches(&self) {
        self.lock().watches.clear();
    }

    pub(crate) fn next_write(&self, bad: Bad) {
        self.lock().writes.push_back(bad);
    }

    /// What every list gets from now on.
    pub(crate) fn every_list(&self, bad: Option<Bad>) {
        self.lock().always[0] = bad;
    }

    /// What every watch gets from now on.
    pub(crate) fn every_watch(&self, bad: Option<Bad>) {
        self.lock().always[1] = bad;
    }

    /// What every write gets from now on.
    pub(crate) fn every_write(&self, bad: Option<Bad>) {
        self.lock().always[2] = bad;
    }

    /// How many bad answers are still to be given.
    pub(crate) fn bad_left(&self) -> usize {
        let inner = self.lock();
        inner.lists.len() + inner.watches.len() + inner.writes.len()
    }

    /// Only this token is accepted from now on.
    pub(crate) fn want_token(&self, token: &str) {
        self.change(|inner| {
            inner.token = Some(token.to_owned());
            inner.generation += 1;
        });
    }

    /// Pages of so many, whether asked for or not.
    pub(crate) fn page(&self, size: Option<usize>) {
        self.lock().page = size;
    }

    /// Down: connections are accepted and closed.
    pub(crate) fn down(&self, down: bool) {
        self.change(|inner| {
            inner.down = down;
            inner.generation += 1;
        });
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.lock().asked.clone()
    }

    /// Lists of pods that were asked for so far.
    pub(crate) fn lists(&self) -> usize {
        let is_list = |a: &&Asked| a.method == "GET" && !a.target.contains("watch=true");
        self.lock().asked.iter().filter(is_list).count()
    }

    pub(crate) fn watching(&self) -> usize {
        self.lock().watching
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.change(|inner| inner.generation += 1);
        let _ = TcpStream::connect(self.address);
    }
}

type Shared = Arc<(Mutex<Inner>, Condvar)>;

/// One request per connection: the client is told to close it.
fn serve(inner: &Shared, stop: &AtomicBool, mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(()) };
    let (mut length, mut token) = (0, String::new());
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 {
            return Ok(());
        }
        let Some((name, value)) = header.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "authorization" => token = value.trim().trim_start_matches("Bearer ").to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let is_watch = target.contains("watch=true");
    let (bad, refused) = {
        let mut inner = lock(inner);
        if inner.down {
            return Ok(());
        }
        inner.asked.push(Asked { method: method.clone(), target: target.clone(), body });
        let refused = inner.token.as_ref().is_some_and(|wanted| *wanted != token);
        let bad = match (method.as_str(), is_watch) {
            _ if refused => None,
            ("GET", true) => inner.watches.pop_front().or_else(|| inner.always[1].clone()),
            ("GET", false) => inner.lists.pop_front().or_else(|| inner.always[0].clone()),
            _ => inner.writes.pop_front().or_else(|| inner.always[2].clone()),
        };
        (bad, refused)
    };
    if refused {
        return answer(&mut stream, 401, &status(401, "Unauthorized"));
    }
    match bad {
        Some(Bad::Hang) => wait(stop),
        Some(Bad::Status(code, body)) => answer(&mut stream, code, &body),
        Some(Bad::Body(body)) => answer(&mut stream, 200, &body),
        Some(Bad::Many(count, size)) => {
            head(&mut stream, 200)?;
            chunk(
                &mut stream,
                r#"{"kind":"PodList","metadata":{"resourceVersion":"1000000"},"items":["#,
            )?;
            let mut large = pod("u", "n1", "Running", &["10.0.0.2"]);
            large["metadata"]["managedFields"] = json!("x".repeat(size));
            let large = large.to_string();
            for n in 0..count {
                let comma = if n == 0 { "" } else { "," };
                let uid = format!("\"{n:08}-0000-4000-8000-000000000000\"");
                chunk(&mut stream, &format!("{comma}{}", large.replace("\"u\"", &uid)))?;
            }
            chunk(&mut stream, "]}")?;
            stream.write_all(b"0\r\n\r\n")
        }
        Some(Bad::Silent) => {
            head(&mut stream, 200)?;
            wait(stop)
        }
        Some(Bad::Lines(lines)) => {
            head(&mut stream, 200)?;
            chunk(&mut stream, &lines)?;
            stream.write_all(b"0\r\n\r\n")
        }
        Some(Bad::Torn(bytes)) => {
            head(&mut stream, 200)?;
            chunk(&mut stream, &bytes)
        }
        bad if method == "GET" && !is_watch => {
            let left_out = if let Some(Bad::Without(uid)) = bad { uid } else { "" };
            let (code, list) = list(&lock(inner), &target, left_out);
            match bad {
                Some(Bad::Broken(at)) => {
                    head(&mut stream, code)?;
                    chunk(&mut stream, list.get(..at).unwrap_or(&list))
                }
                Some(Bad::Cut(at)) => answer(&mut stream, code, list.get(..at).unwrap_or(&list)),
                Some(Bad::Slow(bytes, pause)) => {
                    head(&mut stream, code)?;
                    for part in list.as_bytes().chunks(bytes) {
                        chunk(&mut stream, std::str::from_utf8(part).unwrap_or_default())?;
                        std::thread::sleep(pause);
                    }
                    stream.write_all(b"0\r\n\r\n")
                }
                _ => answer(&mut stream, code, &list),
            }
        }
        _ if is_watch => watch(inner, stop, &mut stream, &target),
        _ => answer(&mut stream, 201, r#"{"kind":"Event"}"#),
    }
}

fn wait(stop: &AtomicBool) -> std::io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn answer(stream: &mut TcpStream, code: u16, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {code} x\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: \
         {length}\r\n\r\n{body}"
    )
}

fn head(stream: &mut TcpStream, code: u16) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {code} x\r\nContent-Type: application/json\r\nConnection: close\r\nTransfer-Encoding: \
         chunked\r\n\r\n"
    )
}

fn chunk(stream: &mut TcpStream, data: &str) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n{data}\r\n", data.len())
}

fn parameter(target: &str, name: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let bytes = value.replace("%3D", "=").replace("%3A", ":").replace("%40", "@");
    Some(bytes)
}

fn selected(target: &str, pod: &Value) -> bool {
    let Some(selector) = parameter(target, "fieldSelector") else { return true };
    match selector.split_once('=') {
        Some(("spec.nodeName", node)) => pod["spec"]["nodeName"] == node,
        // As strategy.go: the primary address only.
        Some(("status.podIP", ip)) => pod["status"]["podIPs"][0]["ip"] == ip,
        _ => false,
    }
}

fn list(inner: &Inner, target: &str, left_out: &str) -> (u16, String) {
    let wanted: u64 = parameter(target, "resourceVersion").map_or(0, |v| v.parse().unwrap());
    if wanted > inner.version {
        let message = format!("Too large resource version: {wanted}, current: {}", inner.version);
        return (504, status(504, &message));
    }
    let all = inner.pods.iter().filter(|(uid, pod)| *uid != left_out && selected(target, pod));
    let all: Vec<&Value> = all.map(|(_, pod)| pod).collect();
    let limit = parameter(target, "limit").and_then(|limit| limit.parse().ok());
    let size = inner.page.or(limit).unwrap_or(usize::MAX);
    let from: usize = parameter(target, "continue").map_or(0, |token| token.parse().unwrap());
    let page: Vec<&&Value> = all.iter().skip(from).take(size).collect();
    let mut metadata = json!({ "resourceVersion": inner.version.to_string() });
    if from + page.len() < all.len() {
        metadata["continue"] = json!((from + page.len()).to_string());
    }
    let list =
        json!({ "kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": page });
    (200, list.to_string())
}

fn watch(
    inner: &Shared,
    stop: &AtomicBool,
    stream: &mut TcpStream,
    target: &str,
) -> std::io::Result<()> {
    let mut from: u64 = parameter(target, "resourceVersion").unwrap().parse().unwrap();
    let timeout = parameter(target, "timeoutSeconds").unwrap().parse().unwrap();
    let end = Instant::now() + Duration::from_secs(timeout);
    let generation = {
        let inner = lock(inner);
        if from < inner.compacted {
            let gone = status(410, &format!("too old resource version: {from}"));
            if !inner.gone_as_event {
                return answer(stream, 410, &gone);
            }
            head(stream, 200)?;
            chunk(stream, &format!("{{\"type\":\"ERROR\",\"object\":{gone}}}\n"))?;
            return stream.write_all(b"0\r\n\r\n");
        }
        inner.generation
    };
    head(stream, 200)?;
    lock(inner).watching += 1;
    let done = loop {
        let guard = lock(inner);
        if guard.generation != generation || stop.load(Ordering::Relaxed) || Instant::now() > end {
            break stream.write_all(b"0\r\n\r\n");
        }
        let new: Vec<(u64, String)> = guard
            .log
            .iter()
            .filter(|(version, kind, pod)| {
                *version > from && (*kind == "BOOKMARK" || selected(target, pod))
            })
            .map(|(version, kind, pod)| {
                (*version, json!({ "type": kind, "object": pod }).to_string())
            })
            .collect();
        if new.is_empty() {
            drop(inner.1.wait_timeout(guard, Duration::from_millis(20)));
            continue;
        }
        drop(guard);
        let mut sent = Ok(());
        for (version, line) in new {
            from = version;
            sent = sent.and_then(|()| chunk(stream, &format!("{line}\n")));
        }
        if sent.is_err() {
            break sent;
        }
    };
    lock(inner).watching -= 1;
    done
}
