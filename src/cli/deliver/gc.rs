//! `deliver --gc`: which networks, and what the container runtime knows.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::concern_of;
use crate::cli::conflist::{Candidate, FileError};
use crate::cli::output::counted;
use crate::cli::screen::Text;
use crate::cli::{Context, networks, output};
use crate::deliver::{Collected, Concern, Conflist, Gc, Run};
use crate::reconcile::{Question, Sandboxes};

/// Where runtimes have their sockets: containerd, k3s, CRI-O, cri-dockerd.
const SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
];

/// Calls GC in the networks of these conflists, or in the one that is named.
pub(super) fn collect(
    context: &Context,
    run: &Run<'_>,
    named: Option<&str>,
) -> Result<Vec<Collected>, FileError> {
    let conflists = networks::read(run.net_dir, &[])?;
    let gc = Gc { run, sandboxes: &|| sandboxes(context) };
    let wanted = conflists.iter().filter_map(|candidate| conflist(candidate, named));
    Ok(wanted.filter_map(|conflist| gc.collect(&conflist)).collect())
}

/// None: it is none of ours.
fn conflist(candidate: &Candidate, named: Option<&str>) -> Option<Conflist> {
    let found = candidate.inspection.as_ref().ok()?;
    if !found.list || named.is_some_and(|named| found.name.as_deref() != Some(named)) {
        return None;
    }
    let text = fs::read_to_string(&candidate.path).ok()?;
    let obstacle = match concern_of(&text) {
        // An entry in a file of its own is not in the text.
        Concern::None if found.ours.is_none() => return None,
        Concern::Observed => Some("the network's mode is observe"),
        _ if !found.drop_ins.is_empty() => Some("its network has plugins in files of their own"),
        _ => None,
    };
    Some(Conflist { path: candidate.path.clone(), text, obstacle: obstacle.map(str::to_owned) })
}

/// What the node's runtime answers the daemon, if no other runtime may have pods here.
fn sandboxes(context: &Context) -> Result<Vec<String>, String> {
    let answer = context.ask(Question::Sandboxes).map_err(|failed| match failed.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            "no daemon asks the runtime (`ovs-flow-gcd --liveness=netns,cri`)".to_owned()
        }
        _ => format!("the runtime's list: {failed}"),
    })?;
    let answer: Sandboxes = serde_json::from_value(answer).map_err(|e| e.to_string())?;
    let file = |path: &str| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let other = SOCKETS.into_iter().find(|path| file(path).is_some_and(|it| it != answer.file));
    match other {
        Some(other) => Err(format!(
            "{other} is another runtime's socket than {}: nobody has its list",
            answer.socket.display()
        )),
        None => Ok(answer.ids),
    }
}

/// For people: each network in a line, and in a dry run who would be valid.
pub(super) fn say(text: &mut Text, collected: &[Collected], dry_run: bool) {
    for one in collected {
        let network =
            if one.network.is_empty() { file_name(&one.conflist) } else { one.network.clone() };
        let valid = counted(one.valid_attachments.len() as u64, "valid attachment");
        let plugins = output::list(&one.plugins, ",");
        let why = one.error.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        text.push(&format!("GC of {network} {} ({plugins}; {valid}){why}\n", one.state));
        for one in one.valid_attachments.iter().filter(|_| dry_run) {
            text.push(&format!("  valid: {one}\n"));
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
