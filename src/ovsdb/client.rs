//! What can be asked of the database, and the one thing that is changed in it.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::Error;
use super::find::Wanted;
use super::narrow::{self, Leaving};
use super::rows::{BRIDGE_WHOLE, INTERFACE, PORT, Rows, SWITCH, must, rows_of, select};
use super::rpc::{Connection, Outcome, TIMED_OUT, Transacted, parse};
use super::snapshot::{Ofport, Port, Snapshot};
use super::value::{Datum, map, row, set};
use crate::clock::Deadline;
use crate::stale::case::RowId;

/// How late an answer of a server that is well may be on a busy node.
const LATENESS: Duration = Duration::from_millis(100);

/// One interface in short, on whatever bridge it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Number {
    /// Its row.
    pub id: RowId,
    /// Its name.
    pub name: String,
    /// Its number; a number counts on its own bridge only.
    pub ofport: Ofport,
    /// `type`.
    pub kind: String,
}

/// A connection to `ovsdb-server` with one deadline over all that is asked through it.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    deadline: Deadline,
}

impl Client {
    /// Connects to `<rundir>/db.sock`.
    ///
    /// # Errors
    /// [`Error::Connect`].
    pub fn connect(path: &Path, deadline: Deadline) -> Result<Self, Error> {
        Ok(Self { connection: Connection::open(path, deadline)?, deadline })
    }

    #[cfg(test)]
    pub(super) fn over(stream: std::os::unix::net::UnixStream, deadline: Deadline) -> Self {
        Self { connection: Connection::over(stream), deadline }
    }

    /// Whether the server answers and has the database that we need. Cheap: for STATUS.
    ///
    /// # Errors
    /// [`Error::Refused`] if it serves no `Open_vSwitch` database; any other [`Error`].
    pub fn alive(&mut self) -> Result<(), Error> {
        let doing = "listing databases";
        let names: Vec<String> =
            self.connection.call(doing, self.deadline, ("list_dbs", &json!([])), |result| {
                parse(result.get(), doing)
            })?;
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
        let operations = vec![
            select("Open_vSwitch", &[], SWITCH),
            select("Bridge", &[], BRIDGE_WHOLE),
            select("Port", &[], PORT),
            select("Interface", &[], INTERFACE),
        ];
        self.read("reading all ports", operations, |outcomes| {
            let [switch, bridges, ports, interfaces] = outcomes else {
                return Err(Error::malformed("reading all ports: outcomes are missing"));
            };
            let mut rows = Rows::default();
            rows.add_switch(switch)?;
            rows.add_bridges(bridges)?;
            rows.add_ports(ports)?;
            rows.add_interfaces(interfaces)?;
            rows.assemble(true)
        })
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

    /// What DEL of one attachment needs: every bridge, the attachment's own row and any
    /// interface that has its port number now.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn narrow_for_delete(&mut self, leaving: &Leaving<'_>) -> Result<Snapshot, Error> {
        narrow::find_for_delete(self, leaving)
    }

    /// Every interface in short, from one moment: complete, or an error.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn numbers(&mut self) -> Result<Vec<Number>, Error> {
        #[derive(Deserialize)]
        struct Row {
            #[serde(rename = "_uuid")]
            id: Datum,
            name: Datum,
            ofport: Datum,
            #[serde(rename = "type")]
            kind: Datum,
        }
        let doing = "reading port numbers";
        let operation = select("Interface", &[], &["_uuid", "name", "ofport", "type"]);
        self.read(doing, vec![operation], |outcomes| {
            let mut numbers = Vec::new();
            for outcome in outcomes {
                for row in rows_of::<Row>(doing, outcome)? {
                    numbers.push(Number {
                        id: must("Interface", "_uuid", row.id.row())?,
                        name: must("Interface", "name", row.name.text())?,
                        ofport: Ofport::read(row.ofport.integer()),
                        kind: row.kind.text().unwrap_or_default(),
                    });
                }
            }
            Ok(numbers)
        })
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
        let all = self.deadline.left().map_err(|e| Error::io(doing, e))?;
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
        let done = self.connection.transact(doing, self.deadline, operations, |outcomes| {
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
        let done = self.connection.transact(doing, self.deadline, operations, |outcomes| {
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
        match self.connection.transact(doing, self.deadline, operations, read)? {
            Transacted::Done(done) => Ok(done),
            Transacted::Failed { what, .. } => Err(Error::Refused { what }),
        }
    }
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
