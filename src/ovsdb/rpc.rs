//! JSON-RPC 1.0 as `ovsdb-server` speaks it (RFC 7047, section 4): one request at a time,
//! everything else that arrives meanwhile is answered (echo) or skipped.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::error::Error;
use super::frame::Frames;
use crate::util::clock::{Deadline, arm, connect_within};
use crate::util::json;

/// A message of any kind. `null` reads as absent, which is what it means here.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// What one operation of a transaction came to (RFC 7047, section 5.2).
#[derive(Deserialize)]
pub(super) struct Outcome<'a> {
    #[serde(borrow)]
    pub(super) rows: Option<&'a RawValue>,
    pub(super) count: Option<u64>,
    error: Option<String>,
    details: Option<String>,
}

/// How long a server that asks may take to read the answer.
#[cfg(feature = "daemon")]
const ANSWERING: std::time::Duration = std::time::Duration::from_secs(5);

/// Error of a `wait` operation whose condition did not come true.
pub(super) const TIMED_OUT: &str = "timed out";

/// What a transaction came to.
pub(super) enum Transacted<T> {
    Done(T),
    /// An operation failed: its error, and the server's words on it.
    Failed {
        error: String,
        what: String,
    },
}

/// A connection on which one request at a time is made.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    frames: Frames,
    /// Of everything that is asked and waited for.
    pub(super) deadline: Deadline,
    id: u64,
    /// A request or an answer was cut short: what follows cannot be read.
    broken: bool,
    /// Notifications so far. The only ones that a client gets are of what it monitors.
    notified: u64,
    /// Their parameters, if they are wanted.
    kept: Option<Notifications>,
}

/// The parameters of notifications.
#[derive(Debug, Default)]
struct Notifications {
    texts: Vec<String>,
    bytes: usize,
}

/// Bytes of notifications that are kept: with more, reading everything anew costs less.
const MOST_KEPT: usize = 8 << 20;

/// A request that was sent and is not answered yet.
#[derive(Debug)]
#[must_use = "the answer would be taken for another request's"]
pub(super) struct Sent {
    id: u64,
    doing: &'static str,
}

impl Connection {
    pub(super) fn open(path: &Path, deadline: Deadline) -> Result<Self, Error> {
        connect_within(path, deadline)
            .map(|stream| Self::over(stream, deadline))
            .map_err(|source| Error::Connect { path: path.to_owned(), source })
    }

    pub(super) fn over(stream: UnixStream, deadline: Deadline) -> Self {
        let (frames, id, broken, notified, kept) = (Frames::default(), 0, false, 0, None);
        Self { stream, frames, deadline, id, broken, notified, kept }
    }

    /// Whether it is good for anything more.
    pub(super) fn works(&self) -> bool {
        !self.broken
    }

    /// Asks, and passes the result to `read`. After any error but a refusal the
    /// connection is good for nothing more.
    pub(super) fn call<T>(
        &mut self,
        doing: &'static str,
        (method, params): (&str, &Value),
        read: impl FnOnce(&RawValue) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let sent = self.ask(doing, (method, params))?;
        self.answer(sent, read)
    }

    /// Sends a request and does not wait for its answer: [`Self::answer`] does, in the
    /// order of the requests.
    pub(super) fn ask(
        &mut self,
        doing: &'static str,
        (method, params): (&str, &Value),
    ) -> Result<Sent, Error> {
        if self.broken {
            return Err(Error::Closed);
        }
        self.id = self.id.wrapping_add(1);
        let request = json!({"id": self.id, "method": method, "params": params}).to_string();
        let sent = send(&mut self.stream, request.as_bytes(), self.deadline);
        self.broken = sent.is_err();
        sent.map_err(|e| Error::io(doing, e))?;
        Ok(Sent { id: self.id, doing })
    }

    /// Notifications received so far.
    pub(super) fn notified(&self) -> u64 {
        self.notified
    }

    /// Keeps notifications from now on, and forgets the earlier ones.
    pub(super) fn keep_notifications(&mut self) {
        self.kept = Some(Notifications::default());
    }

    /// The notifications since the last call; `None`: they were not kept, or were too many.
    pub(super) fn take_notifications(&mut self) -> Option<Vec<String>> {
        self.kept.as_mut().map(|kept| std::mem::take(kept).texts)
    }

    /// Passes the result of a request to `read`. After any error but a refusal the
    /// connection is good for nothing more.
    pub(super) fn answer<T>(
        &mut self,
        sent: Sent,
        read: impl FnOnce(&RawValue) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.broken {
            return Err(Error::Closed);
        }
        let answer = self.wait_for(&sent, read);
        self.broken = !matches!(answer, Ok(_) | Err(Error::Refused { .. }));
        answer
    }

    /// Runs operations as one transaction and passes their outcomes to `read`, of which
    /// there is one each.
    pub(super) fn transact<T>(
        &mut self,
        doing: &'static str,
        operations: Vec<Value>,
        read: impl FnOnce(&[Outcome<'_>]) -> Result<T, Error>,
    ) -> Result<Transacted<T>, Error> {
        let sent = self.ask_transact(doing, operations)?;
        self.transacted(sent, read)
    }

    /// Sends operations to be run as one transaction.
    pub(super) fn ask_transact(
        &mut self,
        doing: &'static str,
        operations: Vec<Value>,
    ) -> Result<(Sent, usize), Error> {
        let asked = operations.len();
        let mut params = vec![json!("Open_vSwitch")];
        params.extend(operations);
        self.ask(doing, ("transact", &Value::Array(params))).map(|sent| (sent, asked))
    }

    /// Passes what they came to to `read`.
    pub(super) fn transacted<T>(
        &mut self,
        (sent, asked): (Sent, usize),
        read: impl FnOnce(&[Outcome<'_>]) -> Result<T, Error>,
    ) -> Result<Transacted<T>, Error> {
        let doing = sent.doing;
        self.answer(sent, |result| outcomes(doing, asked, result.get(), read))
    }

    /// The text of what they came to, for [`outcomes`].
    pub(super) fn transacted_text(&mut self, (sent, _): (Sent, usize)) -> Result<String, Error> {
        self.answer(sent, |result| Ok(result.get().to_owned()))
    }

    /// Waits for the next notification and passes its parameters to `read`; probes are
    /// answered meanwhile. `None`: there was none until the deadline. After any error the
    /// connection is good for nothing more.
    #[cfg(feature = "daemon")]
    pub(super) fn notification<T>(
        &mut self,
        doing: &'static str,
        read: impl FnOnce(&str) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        loop {
            while let Some(bytes) = self.frames.next()? {
                let message: Message<'_> =
                    json::from_slice(bytes).map_err(|e| unreadable(doing, &e))?;
                match (message.method, message.id) {
                    (Some(_), None) => {
                        self.notified = self.notified.saturating_add(1);
                        return read(message.params.map_or("null", RawValue::get)).map(Some);
                    }
                    (Some(method), Some(id)) => {
                        let reply = reply(method, message.params, id);
                        let soon = Deadline::after(ANSWERING);
                        send(&mut self.stream, reply.as_bytes(), soon)
                            .map_err(|e| Error::io(doing, e))?;
                    }
                    (None, _) => {
                        let what = format!("{doing}: a reply to what we did not ask");
                        return Err(Error::malformed(what));
                    }
                }
            }
            match self.fill(doing) {
                Err(Error::TimedOut { .. }) => return Ok(None),
                filled => filled?,
            }
        }
    }

    /// Waits for bytes and takes them.
    fn fill(&mut self, doing: &'static str) -> Result<(), Error> {
        let read = arm(&self.stream, self.deadline)
            .and_then(|()| retry(|| self.frames.fill(&mut self.stream)))
            .map_err(|e| Error::io(doing, e))?;
        if read == 0 { Err(Error::Closed) } else { Ok(()) }
    }

    fn wait_for<T>(
        &mut self,
        sent: &Sent,
        read: impl FnOnce(&RawValue) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let doing = sent.doing;
        loop {
            while let Some(bytes) = self.frames.next()? {
                let message: Message<'_> =
                    json::from_slice(bytes).map_err(|e| unreadable(doing, &e))?;
                match (message.method, message.id) {
                    // A notification.
                    (Some(_), None) => {
                        self.notified = self.notified.saturating_add(1);
                        let text = message.params.map_or("null", RawValue::get);
                        self.kept = self.kept.take().and_then(|kept| kept.and(text));
                    }
                    (Some(method), Some(id)) => {
                        let reply = reply(method, message.params, id);
                        send(&mut self.stream, reply.as_bytes(), self.deadline)
                            .map_err(|e| Error::io(doing, e))?;
                    }
                    (None, id) if id.is_some_and(|id| id.get() == sent.id.to_string()) => {
                        return match (message.error, message.result) {
                            (Some(error), _) => {
                                Err(Error::Refused { what: format!("{doing}: {}", said(error)) })
                            }
                            (None, Some(result)) => read(result),
                            (None, None) => {
                                Err(Error::malformed(format!("{doing}: no result and no error")))
                            }
                        };
                    }
                    (None, _) => {
                        return Err(Error::malformed(format!(
                            "{doing}: a reply to what we did not ask"
                        )));
                    }
                }
            }
            self.fill(doing)?;
        }
    }
}

impl Notifications {
    /// With one more; none if that is too much.
    fn and(mut self, text: &str) -> Option<Self> {
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes > MOST_KEPT {
            return None;
        }
        self.texts.push(text.to_owned());
        Some(self)
    }
}

/// Passes to `read` what a transaction's operations came to: one outcome each.
pub(super) fn outcomes<T>(
    doing: &'static str,
    asked: usize,
    result: &str,
    read: impl FnOnce(&[Outcome<'_>]) -> Result<T, Error>,
) -> Result<Transacted<T>, Error> {
    let slots: Vec<Option<Outcome<'_>>> = parse(result, doing)?;
    // An error of the commit itself stands behind the operations' outcomes.
    if let Some(failed) = slots.iter().flatten().find(|o| o.error.is_some()) {
        let error = failed.error.clone().unwrap_or_default();
        let details = failed.details.as_deref().unwrap_or("no details");
        let what = format!("{doing}: {error}: {}", cut(details));
        return Ok(Transacted::Failed { error, what });
    }
    let outcomes: Vec<Outcome<'_>> = slots.into_iter().flatten().collect();
    if outcomes.len() != asked {
        let got = outcomes.len();
        let what = format!("{doing}: {got} outcomes of {asked} operations");
        return Err(Error::malformed(what));
    }
    read(&outcomes).map(Transacted::Done)
}

/// Parses what the server sent; the error says what was being done.
pub(super) fn parse<'a, T: Deserialize<'a>>(
    text: &'a str,
    doing: &'static str,
) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|e| unreadable(doing, &e))
}

fn unreadable(doing: &'static str, error: &serde_json::Error) -> Error {
    Error::malformed(format!("{doing}: {}", cut(&error.to_string())))
}

/// The server's probe is returned as it came; we offer nothing else.
fn reply(method: &RawValue, params: Option<&RawValue>, id: &RawValue) -> String {
    let id = id.get();
    if method.get() == r#""echo""# {
        let params = params.map_or("[]", RawValue::get);
        format!(r#"{{"result":{params},"error":null,"id":{id}}}"#)
    } else {
        format!(r#"{{"result":null,"error":"unknown method","id":{id}}}"#)
    }
}

/// An error is a string or an object with `error` and `details`.
fn said(error: &RawValue) -> String {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        Text(String),
        Object {
            error: String,
            #[serde(default)]
            details: String,
        },
    }
    match serde_json::from_str(error.get()) {
        Ok(Said::Text(text)) => cut(&text),
        Ok(Said::Object { error, details }) => format!("{}: {}", cut(&error), cut(&details)),
        Err(_) => cut(error.get()),
    }
}

/// A text from outside goes into a log line: not too much of it.
fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}

/// `write_all` would give each part of the request the whole of the time that is left.
fn send(stream: &mut UnixStream, mut bytes: &[u8], deadline: Deadline) -> io::Result<()> {
    while !bytes.is_empty() {
        arm(stream, deadline)?;
        let written = retry(|| stream.write(bytes))?;
        if written == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

fn retry<T>(mut once: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match once() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
