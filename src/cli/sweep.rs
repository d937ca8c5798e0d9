//! `sweep`: one sweep; also what the systemd timer runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::output::counted;
use super::screen::Text;
use super::{Context, Error, Exit, Screen, Table, ago, output};
use crate::liveness::{LivenessReason, mass_death_guard};
use crate::reconcile::{LivenessPass, Progress, Report, SweepRun, TargetReport, Thorough};
use crate::store::Registry;
use crate::util::logging::{Often, escape};

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Print what would go and why; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Sweep also when most of the node's pods seem to have died at once.
    #[arg(long)]
    yes: bool,
    /// Ask the switch only if a pod died: cheap enough for a timer, but dangling
    /// flows are not looked for.
    #[arg(long)]
    only_dead: bool,
    /// List every entry, kept ones that mention a dead pod too.
    #[arg(long)]
    details: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    dry_run: bool,
    paused: bool,
    braked: bool,
    /// Dead pods whose entries the brake keeps.
    held_back: usize,
    /// Pods of the same burst of deaths that were swept before the brake was pulled.
    swept_before: usize,
    /// Everybody who is recorded: the living, who was found dead now, and earlier dead.
    attachments: usize,
    /// How many of them are dead.
    dead: usize,
    /// Those that were not known to be dead before.
    #[serde(skip)]
    recorded: usize,
    /// There is no state directory.
    #[serde(skip)]
    no_records: Option<String>,
    corrupt: Vec<String>,
    /// What could not be judged, and why not.
    unjudged: Vec<String>,
    #[serde(flatten)]
    report: &'a Report<'a>,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<Exit, Error> {
    let act = !options.dry_run;
    let registry =
        if act { Some(Registry::open(&context.state_dir)?) } else { context.registry()? };
    if let (Some(registry), true) = (&registry, act) {
        // A state directory that cannot be written is said before it is needed.
        drop(registry.lock(context.deadline())?);
    }
    let progress = Progress::default();
    let run = SweepRun {
        progress: Some(&progress),
        registry: registry.as_ref(),
        dry_run: !act,
        yes: options.yes,
        thorough: if options.only_dead { Thorough::None } else { Thorough::All },
        details: options.details,
        ..SweepRun::new(&context.run_dir, context.timeout)
    };
    let (mut pass, outcome) = shown(&progress, || {
        let pass = run.liveness_pass_after_burst()?;
        let outcome = run.clean(&pass, |_| true)?;
        Ok::<_, Error>((pass, outcome))
    })?;
    if act {
        outcome.withheld().for_each(|withheld| Often::Withheld.say(&withheld));
    }
    run.sighted(&mut pass);
    let (held_back, swept_before) = (pass.held_back().count(), pass.swept_before);
    let unjudged = unjudged(&pass);
    let LivenessPass { orphans, braked, paused, corrupt, registry_snapshot, .. } = pass;
    let earlier = registry_snapshot.tombstones.len();
    let braked = braked.is_some();
    let attention = outcome.needs_attention() || braked;
    let mut report = Report::of(&outcome);
    report.targets.sort_by_key(|target| (target.pod, target.container, target.ifname));
    let answer = Answer {
        dry_run: options.dry_run,
        paused: paused || outcome.paused,
        braked,
        held_back,
        swept_before: if braked { swept_before } else { 0 },
        attachments: orphans.total.saturating_add(earlier),
        dead: orphans.dead.len().saturating_add(earlier),
        no_records: registry.is_none().then(|| context.no_records("no attachments")),
        recorded: orphans.total,
        corrupt,
        unjudged,
        report: &report,
    };
    output::say(context, &answer, text(context.screen, &answer))?;
    Ok(if let Some(failed) = &outcome.failed {
        if context.json {
            output::fail(true, failed, Exit::Failed);
        }
        Exit::Failed
    } else if attention || !answer.corrupt.is_empty() || !answer.unjudged.is_empty() {
        Exit::Attention
    } else {
        Exit::Done
    })
}

/// Says on a terminal how far `work` is, once it has taken a second.
fn shown<T>(progress: &Progress, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    let begun = Instant::now();
    let show = || {
        thread::park_timeout(Duration::from_secs(1));
        while !done.load(Ordering::Relaxed) {
            let (took, at) = (ago(begun.elapsed()), progress.text());
            // A line of the log is written over it.
            let _ = write!(io::stderr().lock(), "\r\u{1b}[Ksweep: {took} {}\r", escape(&at));
            thread::park_timeout(Duration::from_secs(1));
        }
        let _ = write!(io::stderr().lock(), "\u{1b}[K");
    };
    if !io::stderr().is_terminal() {
        return work();
    }
    thread::scope(|scope| {
        // Without a thread it is done all the same.
        let shown = thread::Builder::new().spawn_scoped(scope, show);
        let result = work();
        done.store(true, Ordering::Relaxed);
        if let Ok(shown) = shown {
            shown.thread().unpark();
        }
        result
    })
}

/// Directories that could not be read, and pods whose liveness could not be told.
fn unjudged(pass: &LivenessPass) -> Vec<String> {
    let unread = pass.registry_snapshot.failures.iter().map(ToString::to_string);
    let unknown = pass.orphans.unknown.iter().filter(|(_, why)| *why == LivenessReason::Failed);
    unread
        .chain(unknown.map(|(record, why)| format!("{} ({}): {why}", record.title(), record.key)))
        .collect()
}

/// What became of a dead pod or, in a dry run, what the next sweep does about it.
fn state(answer: &Answer<'_>, target: &TargetReport<'_>) -> String {
    if target.error.is_some() {
        return "failed, see below".to_owned();
    }
    let stays = target.withheld.filter(|_| answer.dry_run);
    let clean = if answer.dry_run && target.stale > 0 { "would be clean" } else { "clean" };
    match (target.complete, target.waiting, stays) {
        (true, ..) if target.ovn => "OVN's, not judged".to_owned(),
        (true, _, Some(stays)) => format!("would stay: {stays}"),
        (true, false, None) if target.value_unknown => {
            format!("{clean}, but its register value was never known")
        }
        (true, false, None) => clean.to_owned(),
        (true, true, None) if answer.dry_run && target.stale > 0 => {
            "would go, the rest waits: will be judged again".to_owned()
        }
        (true, true, None) => "waits: will be judged again".to_owned(),
        (false, ..) => "not read".to_owned(),
    }
}

/// The pods of each error that no other line names.
fn failures<'r>(report: &Report<'r>) -> BTreeMap<&'r str, Vec<&'r str>> {
    let mut failures: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for target in &report.targets {
        let error = target.error.filter(|error| report.failed != Some(*error));
        if let Some(error) = error {
            failures.entry(error).or_default().push(target.pod);
        }
    }
    failures
}

/// The answer for people. Writing to a String cannot fail.
fn text(screen: Screen, answer: &Answer<'_>) -> Text {
    let mut all = Text::default();
    for table in [flow_table(answer.report), pod_table(answer)] {
        if !table.is_empty() {
            all.push_text(&table.text(screen));
            all.push("\n");
        }
    }
    let mut text = String::new();
    say_problems(&mut text, answer);
    say_what_is_held_back(&mut text, answer);
    say_totals(&mut text, answer);
    all.push(&text);
    all
}

fn flow_table(report: &Report<'_>) -> Table {
    let mut flows = Table::new(&["BRIDGE", "POD", "VERDICT", "WHY", "FLOW"], &["BRIDGE"]);
    for flow in report.flows {
        let verdict = match (flow.stale, flow.rule) {
            (true, Some(rule)) => format!("stale, rule {rule}"),
            (true, None) => "stale".to_owned(),
            (false, _) => "kept".to_owned(),
        };
        let pod = output::or_dash(flow.pod.as_ref());
        flows.row(vec![flow.bridge.clone(), pod, verdict, flow.text.clone(), flow.flow.clone()]);
    }
    flows
}

fn pod_table(answer: &Answer<'_>) -> Table {
    let mut pods = Table::new(
        &["DEAD POD", "CONTAINER", "STALE", "DELETED", "KEPT", "STATE"],
        &["CONTAINER", "STALE"],
    );
    for target in &answer.report.targets {
        let kept: Vec<_> = target.kept.iter().map(|(why, n)| format!("{n} {why}")).collect();
        pods.row(vec![
            target.pod.to_owned(),
            output::short(target.container),
            target.stale.to_string(),
            target.deleted.to_string(),
            output::list(&kept, ", "),
            state(answer, target),
        ]);
    }
    pods
}

/// Dangling flows, errors, and what could not be read or judged.
fn say_problems(text: &mut String, answer: &Answer<'_>) {
    let report = answer.report;
    let failures = failures(report);
    let is_said = |error: &str| failures.keys().any(|said| said.ends_with(error));
    for bridge in &report.bridges {
        if bridge.counts.dangling > 0 {
            let _ = writeln!(
                text,
                "{}: {} of a port that is nobody's (--details lists them; reapDangling deletes \
                 them)",
                bridge.bridge,
                counted(bridge.counts.dangling, "dangling entry")
            );
        }
        // An error that pods have, too, is printed beside these pods.
        if let Some(error) = bridge.error.filter(|error| !is_said(error)) {
            let _ = writeln!(text, "{}: {error}", bridge.bridge);
        }
    }
    if let Some(failed) = report.failed {
        let _ = writeln!(text, "nothing was read: {failed}");
    }
    for (error, pods) in failures {
        let _ = writeln!(text, "{}: {error}", pods.join(", "));
    }
    for note in report.notes.iter().chain(&answer.corrupt) {
        let _ = writeln!(text, "{note}");
    }
    for unrecorded in report.unrecorded_ports {
        let _ = writeln!(text, "{}", unrecorded.sentence());
    }
    for what in &answer.unjudged {
        let _ = writeln!(text, "not judged: {what}");
    }
}

/// What the brake, a pause or observe mode keeps.
fn say_what_is_held_back(text: &mut String, answer: &Answer<'_>) {
    let report = answer.report;
    if answer.braked {
        let _ = writeln!(
            text,
            "brake: {} of {} attachments seem dead at once{}, so nothing of theirs is \
             deleted. Is the netns directory mounted? If they are dead indeed: ovs-flow-gc sweep \
             --yes",
            answer.held_back,
            answer.recorded,
            mass_death_guard::swept_before(answer.swept_before)
        );
    }
    let observed = report.sum(|c| c.observed);
    if answer.paused {
        let what = if report.sum(|c| c.deleted) > 0 { "the rest was not" } else { "nothing was" };
        let _ = writeln!(text, "paused: {what} deleted (`ovs-flow-gc resume` ends it)");
    } else if observed > 0 {
        let _ = writeln!(
            text,
            "observe: {} because the mode of the network is \"observe\"",
            if observed == 1 {
                "1 stale entry stays".to_owned()
            } else {
                format!("{observed} stale entries stay")
            }
        );
    }
}

fn say_totals(text: &mut String, answer: &Answer<'_>) {
    let report = answer.report;
    match &answer.no_records {
        Some(why) => {
            let _ = write!(text, "{why}; ");
        }
        None => {
            let attachments = counted(answer.attachments as u64, "attachment");
            let _ = write!(text, "{attachments}, {} dead; ", answer.dead);
        }
    }
    let (stale, put_back) = (report.sum(|c| c.stale), report.sum(|c| c.put_back));
    if answer.dry_run {
        let go = stale.saturating_sub(report.sum(|c| c.observed));
        let _ = write!(text, "{} would be deleted", counted(go, "entry"));
        return;
    }
    let stale = counted(stale, "entry");
    let _ = write!(text, "{stale} stale, {} deleted", report.sum(|c| c.deleted));
    if put_back > 0 {
        let _ = write!(text, ", {put_back} put back: somebody had put them anew");
    }
    for id in report.journals {
        let _ = write!(text, "\novs-flow-gc undo {id} puts them back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attachment::{Attachment, Key};
    use crate::reconcile::{BridgeOutcome, Cause, CleanTarget, Outcome, TargetOutcome};
    use crate::util::clock::Stamp;

    fn failed(container: &str, error: &str) -> TargetOutcome {
        let key = Key {
            network: "net".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let attachment = Attachment::new(key, 1, String::new(), Stamp::now());
        let mut failed = TargetOutcome::new(&CleanTarget { attachment, cause: Cause::Tombstone });
        failed.error = Some(error.to_owned());
        failed
    }

    fn said(outcome: &Outcome) -> String {
        let answer = Answer {
            dry_run: false,
            paused: false,
            braked: false,
            held_back: 0,
            swept_before: 0,
            attachments: 2,
            dead: 2,
            recorded: 2,
            no_records: None,
            corrupt: Vec::new(),
            unjudged: Vec::new(),
            report: &Report::of(outcome),
        };
        text(Screen::default(), &answer).as_str().to_owned()
    }

    /// The table stays a table: what went wrong is a line of its own, once.
    #[test]
    fn a_long_error_stands_below_the_table() {
        let why = "cannot connect to /run/openvswitch/br0.mgmt: ".repeat(5);
        let error = format!("bridge br0: {why}");
        let targets = vec![failed("c1", &error), failed("c2", &error)];
        let bridge = BridgeOutcome {
            bridge: "br0".to_owned(),
            error: Some(why.clone()),
            ..Default::default()
        };
        let mut outcome = Outcome { targets, bridges: vec![bridge], ..Outcome::default() };
        let text = said(&outcome);
        assert_eq!(text.matches("failed, see below").count(), 2, "{text}");
        assert_eq!(text.matches(&why).count(), 1, "{text}");
        assert!(text.contains(&format!("net/c1:eth0, net/c2:eth0: {error}")), "{text}");
        // An error of the whole sweep is said once, not pod by pod.
        outcome.failed = Some(error.clone());
        let text = said(&outcome);
        assert!(text.contains(&format!("nothing was read: {error}")), "{text}");
        assert!(!text.contains("net/c2:eth0: "), "{text}");
    }
}
