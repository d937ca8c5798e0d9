//! Waiting for what the daemon acts upon: an interface that is removed, or whose netdev is
//! gone, or that was given a number. Nothing is kept here: what is true is read when it is needed.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::error::Error;
use super::rpc::{Connection, parse};
use super::snapshot::Ofport;
use super::value::Datum;
use crate::util::clock::Deadline;

const WATCHING: &str = "watching interfaces";

/// What happened to an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its row was removed.
    Removed(String),
    /// ofport became −1: ovs-vswitchd cannot use it, its netdev is gone.
    Failed(String),
    /// It was given a number.
    Numbered(String),
    /// A change was reported while we waited for another answer.
    Unknown,
}

/// A connection on which every change is reported.
#[derive(Debug)]
pub struct Watcher {
    connection: Connection,
}

impl Watcher {
    /// Connects to `<rundir>/db.sock` and asks for changes.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn start(path: &Path, deadline: Deadline) -> Result<Self, Error> {
        let mut connection = Connection::open(path, deadline)?;
        let select = json!({"initial": false, "insert": false, "delete": true, "modify": true});
        let interfaces = json!({"columns": ["name", "ofport"], "select": select});
        let params = json!(["Open_vSwitch", null, {"Interface": interfaces}]);
        connection.call(WATCHING, ("monitor", &params), |_| Ok(()))?;
        Ok(Self { connection })
    }

    /// Waits for changes, and answers the server's probes. After `patience` without any it
    /// probes the server, which must answer within `answer`; then there may be none.
    ///
    /// # Errors
    /// Any [`Error`]; the connection is good for nothing more.
    pub fn next(&mut self, patience: Duration, answer: Duration) -> Result<Vec<Change>, Error> {
        self.connection.deadline = Deadline::after(patience);
        match self.connection.notification(WATCHING, changes)? {
            Some(changes) => Ok(changes),
            None => {
                let before = self.connection.notified();
                self.connection.deadline = Deadline::after(answer);
                self.connection.call(WATCHING, ("echo", &json!([])), |_| Ok(()))?;
                let told = self.connection.notified() != before;
                Ok(if told { vec![Change::Unknown] } else { Vec::new() })
            }
        }
    }
}

/// RFC 7047, section 4.1.6: `[<id>, {"Interface": {<uuid>: {"old": …, "new": …}}}]`.
pub(super) fn changes(params: &str) -> Result<Vec<Change>, Error> {
    #[derive(Deserialize)]
    struct Row {
        name: Option<Datum>,
        ofport: Option<Datum>,
    }
    #[derive(Deserialize)]
    struct Update {
        old: Option<Row>,
        new: Option<Row>,
    }
    #[derive(Deserialize)]
    struct Tables {
        #[serde(rename = "Interface", default)]
        interfaces: HashMap<String, Update>,
    }
    let (_, tables): (serde::de::IgnoredAny, Tables) = parse(params, WATCHING)?;
    let name = |row: &Row| row.name.as_ref().and_then(Datum::text).unwrap_or_default();
    let change = |update: &Update| match (&update.old, &update.new) {
        (Some(old), None) => Some(Change::Removed(name(old))),
        (Some(old), Some(new)) => {
            let ofport = new.ofport.as_ref().and_then(Datum::integer);
            old.ofport.as_ref()?;
            match Ofport::read(ofport) {
                Ofport::Failed => Some(Change::Failed(name(new))),
                Ofport::Number(_) => Some(Change::Numbered(name(new))),
                Ofport::Unassigned => None,
            }
        }
        (None, _) => None,
    };
    Ok(tables.interfaces.values().filter_map(change).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_are_told_apart() {
        let set = r#"["set",[]]"#;
        let update = |row: String| format!(r#"[null,{{"Interface":{{"u-1":{row}}}}}]"#);
        let of = |row: String| changes(&update(row)).unwrap();
        assert_eq!(
            of(r#"{"old":{"name":"veth1","ofport":5}}"#.to_owned()),
            [Change::Removed("veth1".to_owned())]
        );
        assert_eq!(
            of(r#"{"old":{"ofport":5},"new":{"name":"veth1","ofport":-1}}"#.to_owned()),
            [Change::Failed("veth1".to_owned())]
        );
        assert_eq!(
            of(format!(r#"{{"old":{{"ofport":{set}}},"new":{{"name":"v","ofport":5}}}}"#)),
            [Change::Numbered("v".to_owned())]
        );
        // A number that went is nobody's death; nor is a new name.
        for row in [
            format!(r#"{{"old":{{"ofport":5}},"new":{{"name":"v","ofport":{set}}}}}"#),
            r#"{"old":{"name":"w"},"new":{"name":"v","ofport":-1}}"#.to_owned(),
            r#"{"new":{"name":"v","ofport":-1}}"#.to_owned(),
        ] {
            assert_eq!(of(row.clone()), [], "{row}");
        }
        assert_eq!(changes("[null,{}]").unwrap(), []);
        for odd in ["", "[]", "{}", "[1,2]", r#"[null,{"Interface":7}]"#] {
            assert!(matches!(changes(odd), Err(Error::Malformed { .. })), "{odd}");
        }
    }
}
