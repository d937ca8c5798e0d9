//! What can be asked of the database, and the one thing that is changed in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::Error;
use super::find::Wanted;
use super::narrow;
use super::rows::{BRIDGE_WHOLE, INTERFACE, PORT, Rows, SWITCH, rows_of, select};
use super::rpc::{Connection, Outcome, Sent, TIMED_OUT, Transacted, outcomes, parse};
use super::snapshot::{Ofport, Port, Snapshot};
use super::value::{Datum, map, row, set};
use crate::model::row::RowId;
use crate::util::clock::Deadline;

/// How late an answer of a server that is well may be on a busy node.
const LATENESS: Duration = Duration::from_millis(100);

/// A snapshot as it came.
#[derive(Debug)]
pub struct Arrived {
    /// All rows; `None` if the rows that are known need only the updates since.
    text: Option<String>,
    moment: Moment,
}

pub(super) fn rows(outcomes: &[Outcome<'_>]) -> Result<Rows, Error> {
    let [switch, bridges, ports, interfaces] = outcomes else {
        return Err(Error::malformed(format!("{WHOLE}: outcomes are missing")));
    };
    let mut rows = Rows::default();
    rows.add_switch(switch)?;
    rows.add_bridges(bridges)?;
    rows.add_ports(ports)?;
    rows.add_interfaces(interfaces)?;
    Ok(rows)
}

fn done<T>(transacted: Transacted<T>) -> Result<T, Error> {
    match transacted {
        Transacted::Done(done) => Ok(done),
        Transacted::Failed { what, .. } => Err(Error::Refused { what }),
    }
}

/// A question whether anything changed.
#[derive(Debug)]
#[must_use = "its answer is still to come"]
pub struct Check((Sent, usize));

const WHOLE: &str = "reading all ports";
const WATCHING: &str = "watching for changes";

/// What a snapshot is made of.
const TABLES: [(&str, &[&str]); 4] =
    [("Open_vSwitch", SWITCH), ("Bridge", BRIDGE_WHOLE), ("Port", PORT), ("Interface", INTERFACE)];

/// A connection to `ovsdb-server` with one deadline over all that is asked through it.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    /// The server reports every change, from before the snapshot on.
    watching: bool,
    /// What the database held at the last snapshot, while the server reports changes.
    rows: Option<Rows>,
    /// The snapshot made of these rows.
    held: Option<Arc<Snapshot>>,
}

/// When a snapshot was answered, as far as changes go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(u64);

/// A snapshot that was asked for.
#[derive(Debug)]
#[must_use = "its answer is still to come"]
pub struct Asked {
    watch: Option<Sent>,
    snapshot: (Sent, usize),
    /// All rows were asked for.
    whole: bool,
}

impl Client {
    /// Connects to `<rundir>/db.sock`.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub fn connect(path: &Path, deadline: Deadline) -> Result<Self, Error> {
        let connection = Connection::open(path, deadline)?;
        Ok(Self { connection, watching: false, rows: None, held: None })
    }

    /// The same connection for another caller, with its own deadline; `None` if it is broken.
    #[must_use]
    pub fn renewed(mut self, deadline: Deadline) -> Option<Self> {
        self.connection.deadline = deadline;
        self.connection.works().then_some(self)
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn over(stream: std::os::unix::net::UnixStream, deadline: Deadline) -> Self {
        let connection = Connection::over(stream, deadline);
        Self { connection, watching: false, rows: None, held: None }
    }

    /// Whether the server answers and has the database that we need. Cheap: for STATUS.
    ///
    /// # Errors
    /// [`Error::Refused`] if it serves no `Open_vSwitch` database; any other [`Error`].
    pub fn alive(&mut self) -> Result<(), Error> {
        let doing = "listing databases";
        let names: Vec<String> =
            self.connection
                .call(doing, ("list_dbs", &json!([])), |result| parse(result.get(), doing))?;
        if names.iter().any(|n| n == "Open_vSwitch") {
            return Ok(());
        }
        let what = format!("{doing}: there is no Open_vSwitch among them ({})", names.join(", "));
        Err(Error::Refused { what })
    }

    /// Everything, from one moment: complete, or an error.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::Malformed`] also if a row that another one names is missing.
    pub fn snapshot(&mut self) -> Result<Snapshot, Error> {
        self.read(WHOLE, registry_snapshot(), rows)?.assemble(true)
    }

    /// Asks for [`Client::snapshot`] and does not wait: [`Client::answered`] does. From
    /// before that snapshot on the server reports every change, so that
    /// [`Client::unchanged`] can say whether it still holds, and the next one that is asked
    /// for costs no more than what has changed.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn ask(&mut self) -> Result<Asked, Error> {
        let watch = if self.watching {
            None
        } else {
            let tables: serde_json::Map<String, Value> = TABLES
                .iter()
                .map(|(table, columns)| {
                    // `_uuid` cannot be monitored and need not be: it is a row's name there.
                    let columns: Vec<&&str> = columns.iter().filter(|c| **c != "_uuid").collect();
                    let watch = json!({"columns": columns, "select": {"initial": false}});
                    ((*table).to_owned(), watch)
                })
                .collect();
            let params = json!(["Open_vSwitch", null, tables]);
            self.watching = true;
            Some(self.connection.ask(WATCHING, ("monitor", &params))?)
        };
        let whole = !self.watching || self.rows.is_none();
        // What changed before an empty transaction is reported before its answer.
        let operations = if whole { registry_snapshot() } else { Vec::new() };
        let snapshot = self.connection.ask_transact(WHOLE, operations)?;
        Ok(Asked { watch, snapshot, whole })
    }

    /// Waits for the snapshot that was asked for, and does not read it yet: the caller may ask
    /// another server first.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn arrived(&mut self, asked: Asked) -> Result<Arrived, Error> {
        if let Some(watch) = asked.watch {
            match self.connection.answer(watch, |_| Ok(())) {
                // Then nothing is ever proven to be unchanged.
                Err(Error::Refused { .. }) => self.watching = false,
                other => other?,
            }
        }
        let text = self.connection.transacted_text(asked.snapshot)?;
        if asked.whole {
            // What was reported before this answer is in it.
            self.rows = None;
            self.connection.keep_notifications();
        }
        let moment = Moment(self.connection.notified());
        Ok(Arrived { text: asked.whole.then_some(text), moment })
    }

    /// The snapshot that has arrived, and when it was answered.
    ///
    /// # Errors
    /// As [`Client::snapshot`].
    pub fn read_arrived(&mut self, arrived: Arrived) -> Result<(Arc<Snapshot>, Moment), Error> {
        let Arrived { text, moment } = arrived;
        let rows = match text {
            Some(text) => done(outcomes(WHOLE, TABLES.len(), &text, rows)?)?,
            None => match (self.brought_up_to_date(), self.held.take()) {
                (Some((rows, false)), Some(held)) => {
                    (self.rows, self.held) = (Some(rows), Some(Arc::clone(&held)));
                    return Ok((held, moment));
                }
                (Some((rows, _)), _) => rows,
                (None, _) => {
                    let all = self.connection.ask_transact(WHOLE, registry_snapshot())?;
                    let arrived =
                        self.arrived(Asked { watch: None, snapshot: all, whole: true })?;
                    return self.read_arrived(arrived);
                }
            },
        };
        let snapshot = Arc::new(rows.assemble(true)?);
        if self.watching {
            (self.rows, self.held) = (Some(rows), Some(Arc::clone(&snapshot)));
        }
        Ok((snapshot, moment))
    }

    /// The rows that are known, with their updates, and whether there were any;
    /// `None`: they must be read again.
    fn brought_up_to_date(&mut self) -> Option<(Rows, bool)> {
        let mut rows = self.rows.take()?;
        let notifications = self.connection.take_notifications()?;
        for params in &notifications {
            if let Err(failed) = rows.apply(params) {
                log::warn!("{failed}; everything is read again");
                return None;
            }
        }
        Some((rows, !notifications.is_empty()))
    }

    /// [`Client::arrived`], read.
    ///
    /// # Errors
    /// As [`Client::snapshot`].
    pub fn answered(&mut self, asked: Asked) -> Result<(Arc<Snapshot>, Moment), Error> {
        let arrived = self.arrived(asked)?;
        self.read_arrived(arrived)
    }

    /// Whether a snapshot that was [`asked`](Client::ask) for of this client is what the
    /// database holds now. ovsdb-server sends what it has to tell of commits before it takes
    /// up our next request (`ovsdb_jsonrpc_session_run`): if nothing came before the answer
    /// to this one, nothing was committed before it.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn unchanged(&mut self, since: Moment) -> Result<bool, Error> {
        let check = self.ask_unchanged()?;
        self.answered_unchanged(check, since)
    }

    /// Asks for [`Client::unchanged`] and does not wait.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn ask_unchanged(&mut self) -> Result<Check, Error> {
        // Not an echo: this passes through the database itself.
        self.connection.ask_transact(WATCHING, Vec::new()).map(Check)
    }

    /// What was asked.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn answered_unchanged(&mut self, check: Check, since: Moment) -> Result<bool, Error> {
        let done = self.connection.transacted(check.0, |_| Ok(()))?;
        Ok(matches!(done, Transacted::Done(()))
            && self.watching
            && Moment(self.connection.notified()) == since)
    }

    /// What ADD needs: every bridge, and only the ports that could be `wanted`'s.
    /// [`super::find_port`] finds in it what it would find in [`Client::snapshot`] (MACs as
    /// CNIs write them, in lower case), in a fraction of the time.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn find(&mut self, wanted: &Wanted<'_>) -> Result<Snapshot, Error> {
        narrow::find(self, wanted)
    }

    /// Waits until ovs-vswitchd has given the interface a number, or has failed to
    /// (−1). `None` if it did not by `until`, or if the row is gone. The waiting is done by
    /// the server (`wait`, RFC 7047 section 5.2.6): no polling, nothing left behind.
    ///
    /// # Errors
    /// Any [`Error`]; [`Error::TimedOut`] means that the *server* hangs, and comes when the
    /// client's own deadline has passed.
    pub fn wait_ofport(
        &mut self,
        interface: RowId,
        until: Deadline,
    ) -> Result<Option<Ofport>, Error> {
        #[derive(Deserialize)]
        struct Row {
            ofport: Datum,
        }
        let doing = "waiting for a port number";
        let all = self.connection.deadline.left().map_err(|e| Error::io(doing, e))?;
        let Ok(wait) = until.left() else { return Ok(None) };
        // The server's "timed out" must reach us before our own deadline, or it could not
        // be told from a server that hangs.
        let wait = wait.min(all.saturating_sub((all / 4).min(LATENESS)));
        let this = [json!(["_uuid", "==", row(interface)])];
        let operations = vec![
            json!({
                "op": "wait", "timeout": millis(wait), "table": "Interface", "where": this,
                "columns": ["ofport"], "until": "!=", "rows": [{"ofport": set([])}],
            }),
            select("Interface", &this, &["ofport"]),
        ];
        let done = self.connection.transact(doing, operations, |outcomes| {
            let [_, found] = outcomes else {
                return Err(Error::malformed(format!("{doing}: outcomes are missing")));
            };
            let rows: Vec<Row> = rows_of(doing, found)?;
            Ok(rows.first().map(|row| Ofport::read(row.ofport.integer())))
        })?;
        match done {
            Transacted::Done(ofport) => Ok(ofport),
            Transacted::Failed { error, .. } if error == TIMED_OUT => Ok(None),
            Transacted::Failed { what, .. } => Err(Error::Refused { what }),
        }
    }

    /// Removes a port from its bridge; with that, its row and its interfaces' go. Only if
    /// the rows are as they were when `port` was read: the same interfaces, marks and
    /// netdev (a pod whose netdev is back is not an orphan).
    ///
    /// # Errors
    /// [`Error::Changed`] if a row is not as it was; any other [`Error`].
    pub fn remove_port(&mut self, bridge: RowId, port: &Port) -> Result<(), Error> {
        let doing = "removing a port";
        let interfaces = set(port.interfaces.iter().map(|i| row(i.id)));
        let ids = port.external_ids.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let mut operations =
            vec![same("Port", port.id, &[("interfaces", interfaces), ("external_ids", map(ids))])];
        for interface in &port.interfaces {
            let ids = interface.external_ids.iter().map(|(k, v)| (k.as_str(), v.as_str()));
            operations.push(same(
                "Interface",
                interface.id,
                &[
                    ("name", json!(interface.name)),
                    ("ifindex", set(interface.ifindex.map(|i| json!(i)))),
                    ("error", set(interface.error.as_ref().map(|e| json!(e)))),
                    ("external_ids", map(ids)),
                ],
            ));
        }
        operations.push(json!({
            "op": "mutate", "table": "Bridge",
            "where": [["_uuid", "==", row(bridge)], ["ports", "includes", row(port.id)]],
            "mutations": [["ports", "delete", row(port.id)]],
        }));
        let mutate = operations.len().saturating_sub(1);
        // Shown by `ovsdb-tool show-log`: an operator will ask who removed it.
        let comment = format!("ovs-flow-gc: removed orphaned port {}", port.name);
        operations.push(json!({"op": "comment", "comment": comment}));
        let done = self.connection.transact(doing, operations, |outcomes| {
            Ok(outcomes.get(mutate).and_then(|o| o.count))
        })?;
        let changed = || Error::Changed { what: format!("port {}", port.name) };
        match done {
            Transacted::Done(Some(1)) => Ok(()),
            Transacted::Done(_) => Err(changed()),
            Transacted::Failed { error, .. } if error == TIMED_OUT => Err(changed()),
            Transacted::Failed { what, .. } => Err(Error::Refused { what }),
        }
    }

    /// Runs operations that must all succeed.
    pub(super) fn read<T>(
        &mut self,
        doing: &'static str,
        operations: Vec<Value>,
        read: impl FnOnce(&[Outcome<'_>]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        done(self.connection.transact(doing, operations, read)?)
    }
}

fn registry_snapshot() -> Vec<Value> {
    TABLES.iter().map(|(table, columns)| select(table, &[], columns)).collect()
}

/// A `wait` that fails at once unless the row's columns are these.
fn same(table: &str, id: RowId, columns: &[(&str, Value)]) -> Value {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let row: serde_json::Map<String, Value> =
        columns.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    json!({
        "op": "wait", "timeout": 0, "table": table, "where": [["_uuid", "==", super::value::row(id)]],
        "columns": names, "until": "==", "rows": [row],
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(i32::MAX.unsigned_abs().into())
}
