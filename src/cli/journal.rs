//! `undo`: puts back what a sweep or a DEL deleted.

use std::collections::{BTreeMap, HashSet};

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::screen::Text;
use super::{Context, Error, Exit, Table, output};
use crate::deliver::JOURNAL_VERB;
use crate::openflow::{self, Connection, Entry, Filter};
use crate::reconcile::open_bridge;
use crate::store::{Deleted, JournalId, Operation, Registry};

/// Entries put back in one go.
const BATCH: usize = 1_000;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Which clean-up; the latest without one.
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// List what can be undone.
    #[arg(long, conflicts_with = "id")]
    list: bool,
    /// Say what would be put back, and put nothing back.
    #[arg(long, conflicts_with = "list")]
    dry_run: bool,
}

/// What became of one bridge's entries.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Restored {
    bridge: String,
    entries: usize,
    added: usize,
    there_already: usize,
    errors: Vec<String>,
    /// The bridge did not answer to the end.
    #[serde(skip)]
    failed: bool,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<Exit, Error> {
    let nothing = || Error::NothingToUndo(context.state_dir.join("journal"));
    let registry = context.registry()?;
    // The newest first.
    let journals = registry.as_ref().map(Registry::journals).transpose()?.unwrap_or_default();
    if options.list {
        list(context, registry.is_some(), &journals)?;
        return Ok(Exit::Done);
    }
    let registry = registry.ok_or_else(|| Error::Node(context.no_records("nothing to undo")))?;
    let id = match &options.id {
        Some(id) => id.parse().map_err(|e| Error::Usage(format!("{e}")))?,
        None => {
            let latest = journals.iter().find(|journal| !is_delivery(journal));
            latest.map(|journal| journal.header.id.clone()).ok_or_else(nothing)?
        }
    };
    if journals.iter().any(|journal| journal.header.id == id && is_delivery(journal)) {
        return Err(Error::Delivery(id));
    }
    let restored = restore(context, &registry, &id, options.dry_run)?;
    let done = if options.dry_run { "would be put back" } else { "put back" };
    let mut text = format!("undo {id}\n");
    for outcome in &restored {
        text.push_str(&format!(
            "{}: {} of {} entries {done}, {} were there already\n",
            outcome.bridge, outcome.added, outcome.entries, outcome.there_already
        ));
        for error in &outcome.errors {
            text.push_str(&format!("  {error}\n"));
        }
    }
    let failed = restored.iter().filter(|of| of.failed).count();
    if failed > 0 {
        text.push_str(&format!(
            "The journal is kept: `ovs-flow-gc undo {id}` again when the bridge answers \
             (`ovs-flow-gc doctor`).\n"
        ));
    }
    let exit = match restored.iter().any(|of| !of.errors.is_empty()) {
        false => Exit::Done,
        true if failed == restored.len() => Exit::Failed,
        true => Exit::Attention,
    };
    if !options.dry_run && exit != Exit::Failed {
        if !registry.paused() {
            text.push_str(
                "The next sweep judges them again: `ovs-flow-gc pause` first if they are to stay.\n",
            );
        }
        let adopt =
            "If their pods live, `ovs-flow-gc adopt` records these again: then they stay.\n";
        text.push_str(adopt);
    }
    output::say(context, &json!({ "id": id, "bridges": restored }), &*text)?;
    if let (Exit::Failed, true) = (exit, context.json) {
        let why = restored.iter().flat_map(|of| &of.errors).next().map_or("", String::as_str);
        output::fail(true, why, exit);
    }
    Ok(exit)
}

/// What plugins gave back is theirs: no entry of a switch.
fn is_delivery(journal: &Operation) -> bool {
    journal.header.verb == JOURNAL_VERB
}

/// Prints what can be undone.
fn list(context: &Context, has_records: bool, journals: &[Operation]) -> Result<(), Error> {
    let mut table =
        Table::new(&["ID", "BY", "BRIDGE", "ENTRIES", "STATE", "OF"], &["BRIDGE", "BY", "STATE"]);
    let mut rows = Vec::new();
    for journal in journals {
        let header = &journal.header;
        let state = match (journal.finished, journal.truncated) {
            _ if is_delivery(journal) => "cannot be undone",
            (true, false) => "whole",
            (true, true) => "cut: the journal was full",
            (false, _) => "interrupted",
        };
        table.row(vec![
            header.id.to_string(),
            header.verb.clone(),
            header.bridges.join(","),
            journal.entries.to_string(),
            state.to_owned(),
            header.reason.clone(),
        ]);
        rows.push(json!({
            "id": header.id, "verb": header.verb, "bridges": header.bridges,
            "entries": journal.entries, "state": state, "reason": header.reason,
        }));
    }
    let text: Text = match (has_records, table.is_empty()) {
        (false, _) => context.no_records("nothing to undo").as_str().into(),
        (true, true) => "nothing to undo".into(),
        (true, false) => table.text(context.screen),
    };
    output::say(context, &rows, text)
}

fn restore(
    context: &Context,
    registry: &Registry,
    id: &JournalId,
    dry_run: bool,
) -> Result<Vec<Restored>, Error> {
    let mut restored = Vec::new();
    let mut bridges: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    registry.read_journal(id, &mut |deleted: Deleted<'static, Entry>| {
        bridges.entry(deleted.subject.bridge.clone()).or_default().push(deleted.entry);
    })?;
    for (bridge, entries) in bridges {
        let mut outcome =
            Restored { bridge: bridge.clone(), entries: entries.len(), ..Restored::default() };
        // One bridge that is away must not keep the others from their entries.
        let done = open_bridge(&context.run_dir, &bridge, context.deadline()).and_then(
            |mut connection| {
                let missing = missing(&mut connection, &entries)?;
                outcome.there_already = entries.len().saturating_sub(missing.len());
                if dry_run {
                    outcome.added = missing.len();
                    return Ok(());
                }
                add(&mut connection, &missing, &mut outcome)
            },
        );
        if let Err(failed) = done {
            outcome.failed = true;
            outcome.errors.push(failed.to_string());
        }
        restored.push(outcome);
    }
    Ok(restored)
}

type Place = (u8, u16, Vec<u8>);

/// Those whose places are free. An entry of the same table, priority and match is newer: it stays.
fn missing(connection: &mut Connection, entries: &[Entry]) -> Result<Vec<Entry>, openflow::Error> {
    let mut taken: HashSet<Place> = HashSet::new();
    let tables: HashSet<u8> = entries.iter().map(Entry::table).collect();
    let wanted: HashSet<Place> = entries.iter().map(place).collect();
    for table in tables {
        connection.dump(&Filter::table(table), &mut |raw, flow| {
            let place = (flow.table, flow.priority, raw.match_bytes().to_vec());
            if wanted.contains(&place) {
                taken.insert(place);
            }
        })?;
    }
    Ok(entries.iter().filter(|e| !taken.contains(&place(e))).cloned().collect())
}

fn add(
    connection: &mut Connection,
    entries: &[Entry],
    outcome: &mut Restored,
) -> Result<(), openflow::Error> {
    for batch in entries.chunks(BATCH) {
        let added = connection.add(batch)?;
        outcome.added += batch.len().saturating_sub(added.refused.len());
        for (index, name) in &added.refused {
            if let Some(entry) = batch.get(*index) {
                outcome.errors.push(format!("{name}: {entry}"));
            }
        }
    }
    Ok(())
}

fn place(entry: &Entry) -> Place {
    (entry.table(), entry.priority(), entry.match_bytes().to_vec())
}
