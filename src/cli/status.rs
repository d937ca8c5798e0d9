//! `status`: is all well on this node? One screen, which the daemon shows as a page, too.

use std::io::{ErrorKind, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::deliver::{leftovers, say_leftovers};
use super::output::{self, counted};
use super::screen::{Text, Tone};
use super::{Context, Error, Exit, Screen, ago, short};
use crate::deliver::Leftovers;
use crate::liveness::mass_death_guard;
use crate::model::attachment::{Attachment, State};
use crate::reconcile::orphans::{self, Orphan};
use crate::reconcile::{Question, pulled_brake};
use crate::store::{Pause, Registry};
use crate::util::clock::{Stamp, boot_id};

/// Dead pods whose clean-up takes longer need attention.
const LONG: Duration = Duration::from_secs(600);
/// How many pods that wait are named; the rest is counted.
const MOST_NAMED: usize = 10;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Show it again and again, every so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
    /// Where libcni caches results; `../multus/results`, multus' own, is read, too.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/results")]
    cache_dir: Vec<PathBuf>,
}

/// How this node is.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// What somebody should look after; none: all is well.
    pub(crate) attention: Vec<String>,
    /// Pod interfaces.
    pub(crate) pods: Pods,
    /// Dead pods whose entries are left, the one that died first in front; at the end those with which
    /// no sweep has begun.
    pub(crate) waiting: Vec<Waiting>,
    /// What the dead left beside their entries; none: nobody has counted.
    pub(crate) leftovers: Option<Leftovers>,
    /// The pause that there is.
    pub(crate) pause: Option<Pause>,
    /// What the daemon says; none: it does not answer.
    pub(crate) daemon: Option<Value>,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) no_daemon: Option<String>,
}

/// How many pod interfaces there are.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pods {
    /// Recorded, and not known to be dead.
    pub(crate) live: usize,
    /// Dead, and no sweep has begun with them.
    pub(crate) found_dead: usize,
    /// Dead, and entries may be left.
    pub(crate) waiting: usize,
    /// Dead and clean; watched for their linger time.
    pub(crate) clean: usize,
}

/// A dead pod whose entries are left.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Waiting {
    pub(crate) pod: String,
    pub(crate) container: String,
    /// Since its death; `None`: no sweep has begun with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dead_seconds: Option<u64>,
    pub(crate) why: String,
}

impl Waiting {
    fn new(record: &Attachment, dead: Option<Duration>, why: String) -> Self {
        Self {
            pod: record.pod.as_ref().map_or_else(|| record.key.to_string(), ToString::to_string),
            container: record.key.container.as_str().to_owned(),
            dead_seconds: dead.map(|dead| dead.as_secs()),
            why,
        }
    }

    fn of_tombstone(record: &Attachment, now: Stamp) -> Self {
        let died = record.died.map_or(Duration::ZERO, |died| died.until(now));
        let why = record.last_error.clone().unwrap_or_else(|| "not tried yet".to_owned());
        Self::new(record, Some(died), why)
    }

    /// Of one with whom no sweep has begun.
    fn of_orphan(orphan: &Orphan, paused: bool, braked: bool) -> Self {
        let why = if paused {
            "paused".to_owned()
        } else if braked && orphan.alone().is_some() {
            format!("the brake holds it ({})", orphan.why)
        } else {
            format!("no sweep has begun with it ({})", orphan.why)
        };
        Self::new(&orphan.record, None, why)
    }
}

impl Status {
    /// Reads the records. `daemon`: what it answered.
    ///
    /// # Errors
    /// If the records or the boot id cannot be read.
    pub(crate) fn read(
        registry: Option<&Registry>,
        daemon: Result<Value, String>,
    ) -> Result<Self, Error> {
        let mut status = Self::default();
        match daemon {
            Ok(answer) => status.daemon = Some(answer),
            Err(why) => status.no_daemon = Some(why),
        }
        match registry {
            Some(registry) => status.see(registry)?,
            None => status.attention.push("no pod was ever recorded here".to_owned()),
        }
        if let Some(why) = status.said("notReady").and_then(Value::as_str) {
            let why = format!("the daemon is not ready: {why}");
            status.attention.push(why);
        }
        let suspicions = status.said("suspicions").and_then(Value::as_u64).unwrap_or_default();
        if suspicions > 0 {
            status.attention.push(format!(
                "suspicion: {} deleted while a token of it found a new owner: the daemon's log has \
                 the bridge and the entry",
                counted(suspicions, "entry")
            ));
        }
        Ok(status)
    }

    fn see(&mut self, registry: &Registry) -> Result<(), Error> {
        let snapshot = registry.snapshot()?;
        let (now, boot) = (Stamp::now(), boot_id().map_err(Error::BootId)?);
        self.pause = registry.pause();
        self.attention.extend(self.pause.as_ref().map(ToString::to_string));
        if let Err(failed) = registry.try_to_write() {
            self.attention
                .push(format!("{failed}: ADD fails until this is mended (`ovs-flow-gc doctor`)"));
        }
        let orphans = orphans::find(&snapshot, &boot);
        let brake = pulled_brake(registry, &snapshot, &orphans, &boot);
        if let Some((source, swept)) = brake {
            let swept = mass_death_guard::swept_before(swept);
            self.attention.push(format!(
                "many pods seem dead at once on the word of {source} alone{swept}: nothing of \
                 theirs is deleted (`ovs-flow-gc doctor`)"
            ));
        }
        let files = snapshot.corrupt.len().saturating_add(snapshot.failures.len());
        if files > 0 {
            let files = counted(files as u64, "record");
            self.attention.push(format!("cannot be read: {files} (`ovs-flow-gc doctor`)"));
        }
        let unfinished = snapshot.tombstones.iter().filter(|dead| dead.state != State::Gone);
        self.waiting = unfinished.map(|dead| Waiting::of_tombstone(dead, now)).collect();
        self.pods = Pods {
            live: orphans.total.saturating_sub(orphans.dead.len()),
            found_dead: orphans.dead.len(),
            waiting: self.waiting.len(),
            clean: snapshot.tombstones.len().saturating_sub(self.waiting.len()),
        };
        let (paused, braked) = (self.pause.is_some(), brake.is_some());
        let not_begun = orphans.dead.iter().map(|one| Waiting::of_orphan(one, paused, braked));
        self.waiting.extend(not_begun);
        self.waiting
            .sort_by(|a, b| b.dead_seconds.cmp(&a.dead_seconds).then_with(|| a.pod.cmp(&b.pod)));
        let long = |of: &&Waiting| of.dead_seconds.is_some_and(|dead| dead > LONG.as_secs());
        let long = self.waiting.iter().filter(long).count();
        if long > 0 {
            self.attention.push(format!(
                "entries are left {} after the death of {} (`ovs-flow-gc explain POD`)",
                ago(LONG),
                counted(long as u64, "pod")
            ));
        }
        Ok(())
    }

    /// All is well, and for how long, if the daemon knows.
    pub(crate) fn well(&self) -> String {
        let seconds = self.said("wellSeconds").and_then(Value::as_u64).map(Duration::from_secs);
        let long = seconds.map_or_else(String::new, |well| format!(" for {}", ago(well)));
        format!("all is well{long}")
    }

    fn said(&self, key: &str) -> Option<&Value> {
        self.daemon.as_ref()?.get(key)
    }

    /// As lines of a name and a text.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let Pods { live, found_dead, waiting, clean } = self.pods;
        let mut lines = Vec::new();
        lines.push(("state", self.attention.first().cloned().unwrap_or_else(|| self.well())));
        lines.extend(self.attention.iter().skip(1).map(|more| ("", more.clone())));
        let pods = format!(
            "{live} live, {} dead: {found_dead} not begun, {waiting} with entries that are left, \
             {clean} clean",
            found_dead.saturating_add(waiting).saturating_add(clean)
        );
        lines.push(("pods", pods));
        for waiting in self.waiting.iter().take(MOST_NAMED) {
            let Waiting { pod, container, dead_seconds, why } = waiting;
            let dead = dead_seconds.map(|seconds| ago(Duration::from_secs(seconds)));
            let dead = dead.map_or_else(|| "dead".to_owned(), |dead| format!("dead for {dead}"));
            lines.push(("waits", format!("{pod} ({}), {dead}: {why}", short(container))));
        }
        let more = self.waiting.len().saturating_sub(MOST_NAMED);
        if more > 0 {
            lines.push(("", format!("and {more} more: `ovs-flow-gc list`")));
        }
        if let Some((text, remedy)) = self.leftovers.as_ref().and_then(say_leftovers) {
            lines.push(("deliver", format!("{text}: `{remedy}`")));
        }
        self.daemon_lines(&mut lines);
        lines
    }

    /// The screen: what needs attention stands out.
    fn text(&self, screen: Screen) -> Text {
        let mut all = Text::default();
        let state = if self.attention.is_empty() { Tone::Good } else { Tone::Waits };
        for (index, (name, text)) in self.lines().iter().enumerate() {
            let tone = match *name {
                _ if index < self.attention.len().max(1) => Some(state),
                "waits" => Some(Tone::Waits),
                _ => None,
            };
            all.push(&format!("{name:<8}"));
            all.paint(screen, tone, text);
            all.push("\n");
        }
        all
    }

    /// What the daemon says.
    fn daemon_lines(&self, lines: &mut Vec<(&'static str, String)>) {
        if let Some(why) = &self.no_daemon {
            return lines.push(("daemon", why.clone()));
        }
        let seconds = |key| self.said(key).and_then(Value::as_u64).map(Duration::from_secs);
        let since = seconds("upSeconds").map_or_else(String::new, |up| format!(" for {}", ago(up)));
        lines.push(("daemon", format!("runs{since}")));
        let each = |key| self.said(key).and_then(Value::as_array).into_iter().flatten();
        let bridges = each("bridges").filter_map(|bridge| bridge.get("found")?.as_str());
        lines.extend(bridges.map(|found| ("bridge", found.to_owned())));
        if let Some(since) = seconds("lastSweepSeconds") {
            lines.push(("sweep", format!("the last one that went well was {} ago", ago(since))));
        }
        for name in ["left", "kept"] {
            let of = self.said(name).and_then(Value::as_object).into_iter().flatten();
            let mut counts: Vec<String> = of.map(|(why, count)| format!("{count} {why}")).collect();
            if counts.is_empty() {
                counts.push("no entries".to_owned());
            }
            lines.push((name, counts.join(", ")));
        }
        let calls = each("calls").filter_map(|call| call.as_str());
        lines.extend(calls.map(|call| ("call", call.to_owned())));
    }
}

pub(super) fn run(context: &Context, options: &Options) -> Result<Exit, Error> {
    loop {
        let status = read(context, options)?;
        let mut text = status.text(context.screen);
        if let Some(seconds) = options.watch
            && !context.json
            && std::io::stdout().is_terminal()
        {
            // The screen from its first line on.
            output::as_it_is("\u{1b}[H\u{1b}[2J")?;
            text.push(&format!("\nevery {seconds} s; Ctrl-C ends it"));
        }
        output::say(context, &status, text)?;
        let Some(seconds) = options.watch else {
            let well = status.attention.is_empty();
            return Ok(if well { Exit::Done } else { Exit::Attention });
        };
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

fn read(context: &Context, options: &Options) -> Result<Status, Error> {
    let (mut silent, registry) = (None, context.registry()?);
    let daemon = context.ask(Question::Status).map_err(|failed| match failed.kind() {
        ErrorKind::NotFound => "none: calls and the sweep timer do the work".to_owned(),
        _ => {
            silent = Some("the daemon does not answer (`ovs-flow-gc doctor`)".to_owned());
            failed.to_string()
        }
    });
    let mut status = Status::read(registry.as_ref(), daemon)?;
    status.attention.extend(silent);
    status.leftovers = leftovers(context, &options.cache_dir);
    Ok(status)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(status: &Status) -> String {
        status.text(Screen::default()).as_str().to_owned()
    }

    #[test]
    fn it_says_what_is_not_well_and_what_the_daemon_says() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("state")).unwrap();
        let daemon = json!({
            "upSeconds": 200, "wellSeconds": 190, "lastSweepSeconds": 3, "left": {"stayed": 2}, "kept": {},
            "bridges": [{"found": "br0 is followed since 3m"}], "notReady": null, "suspicions": 0,
            "calls": ["DEL p1: done in 4 ms, 9 entries deleted, 2s ago"],
        });
        let status = Status::read(Some(&registry), Ok(daemon.clone())).unwrap();
        assert_eq!(status.attention, [""; 0]);
        let expected = "\
state   all is well for 3m
pods    0 live, 0 dead: 0 not begun, 0 with entries that are left, 0 clean
daemon  runs for 3m
bridge  br0 is followed since 3m
sweep   the last one that went well was 3s ago
left    2 stayed
kept    no entries
call    DEL p1: done in 4 ms, 9 entries deleted, 2s ago
";
        assert_eq!(shown(&status), expected);

        let reason = Some("OVS is upgraded".to_owned());
        let pause = Pause::new(None, Some("root".to_owned()), reason).unwrap();
        registry.begin_pause(&pause).unwrap();
        let mut ill = daemon;
        ill["notReady"] = json!("no sweep has gone well yet");
        ill["suspicions"] = json!(1);
        let status = Status::read(Some(&registry), Ok(ill)).unwrap();
        assert_eq!(status.attention.len(), 3, "{status:?}");
        assert!(shown(&status).starts_with("state   nothing on this node is deleted, says root"));

        let status = Status::read(None, Err("none".to_owned())).unwrap();
        assert!(shown(&status).ends_with("daemon  none\n"), "{status:?}");
        assert_eq!(status.attention, ["no pod was ever recorded here"]);
    }
}
