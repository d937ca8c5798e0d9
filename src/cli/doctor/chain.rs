//! The CNI chain: the conflists, where the plugin stands in them, and who may change the files.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Context, Findings, Options};
use crate::cli::conflist::{Candidate, Inspection};
use crate::cli::networks;
use crate::config::Config;

/// What findings about conflists are of.
const CONFLIST: &str = "conflist";

/// The conflists that have our entry.
pub(super) fn chain(context: &Context, options: &Options, findings: &mut Findings) {
    let files = networks::read(&options.net_dir, &[]).unwrap_or_default();
    let Some(first) = files.first().map(|file| file.path.clone()) else {
        let found = format!("none in {}", options.net_dir.display());
        findings.warn(CONFLIST, found, "--net-dir names another directory");
        return;
    };
    let only_multus = is_only_multus(&files);
    let mut ours = 0;
    for file in files {
        let settings = file.settings();
        let Candidate { path, inspection } = file;
        let found = match inspection {
            Ok(found) => found,
            Err(error) => {
                let remedy = "runtimes cannot read it either: mend it or take it away";
                findings.warn(CONFLIST, error.to_string(), remedy);
                continue;
            }
        };
        let Some(entry) = found.ours else { continue };
        ours += 1;
        if path != first {
            findings.warn(
                CONFLIST,
                format!(
                    "{} has the entry, but runtimes use {} (it sorts first)",
                    path.display(),
                    first.display()
                ),
                "DEL never reaches us if another conflist sorts first at DEL time",
            );
        }
        position(&path, &found, entry, findings);
        let name = found.entry_file(&path).display().to_string();
        problems(&name, &settings, findings);
        let binary = options.bin_dir.join("ovs-flow-gc");
        if !is_executable(&binary) {
            findings.fail(
                "binary",
                format!("{} is not there, but {name} calls it", binary.display()),
                "install.sh install; a missing binary blocks every DEL on the node",
            );
        }
    }
    if ours == 0 && only_multus {
        in_the_api(context, options, findings);
    } else if ours == 0 {
        let found = format!("no entry in {}", options.net_dir.display());
        findings.warn(CONFLIST, found, "ovs-flow-gc conflist add FILE");
    }
}

/// Whether multus is there and no file has an OVS plugin: the OVS networks are in
/// NetworkAttachmentDefinitions then.
fn is_only_multus(files: &[Candidate]) -> bool {
    let seen = || files.iter().filter_map(|file| file.inspection.as_ref().ok());
    let is_multus = |found: &Inspection| found.plugins.iter().any(|kind| kind.contains("multus"));
    seen().any(is_multus) && seen().all(|found| found.ovs.is_none())
}

/// Networks whose configuration is not on the node: those of which there are records.
fn in_the_api(context: &Context, options: &Options, findings: &mut Findings) {
    let mut networks: BTreeMap<String, usize> = BTreeMap::new();
    let registry = context.registry().ok().flatten();
    for record in registry.and_then(|r| r.snapshot().ok()).into_iter().flat_map(|s| s.attachments) {
        *networks.entry(record.key.network.to_string()).or_default() += 1;
    }
    let place = format!("multus, and no Open vSwitch plugin in {}", options.net_dir.display());
    if networks.is_empty() {
        let remedy = "is the entry in the NetworkAttachmentDefinitions? ovs-flow-gc conflist add -";
        findings.warn(CONFLIST, format!("{place}; no pod of theirs is recorded"), remedy);
    } else {
        let seen: Vec<_> = networks.iter().map(|(name, pods)| format!("{name}: {pods}")).collect();
        findings.ok(CONFLIST, format!("{place}; recorded of other networks: {}", seen.join(", ")));
    }
    let binary = options.bin_dir.join("ovs-flow-gc");
    if !is_executable(&binary) {
        findings.fail(
            "binary",
            format!("{} is not there", binary.display()),
            "install.sh install --no-conflist; no pod of an edited network can start or end",
        );
    }
}

/// Whether our entry comes after the OVS plugin.
fn position(path: &Path, found: &Inspection, entry: usize, findings: &mut Findings) {
    let name = path.display();
    match found.ovs {
        Some(ovs) if ovs < entry => {
            let plugin = found.plugins.get(ovs).map_or("the OVS plugin", String::as_str);
            findings.ok(CONFLIST, format!("{name}: after {plugin}"));
        }
        Some(_) => findings.fail(
            CONFLIST,
            format!("{name}: the entry is before the OVS plugin"),
            "ovs-flow-gc conflist remove FILE, then add",
        ),
        None => {
            findings.warn(CONFLIST, format!("{name}: no OVS plugin known to us in the chain"), "")
        }
    }
}

/// What ADD would refuse or ignore of our entry.
fn problems(name: &str, settings: &Map<String, Value>, findings: &mut Findings) {
    for warning in Config::warnings(settings) {
        findings.warn(CONFLIST, format!("{name}: {warning}"), "take it out");
    }
    let (_, problems) = Config::parse(settings);
    for problem in problems {
        findings.fail(CONFLIST, format!("{name}: {problem}"), "ADD fails with this");
    }
}

/// Files that everybody may write: who can write what the runtime runs or reads is root at the
/// next pod.
pub(super) fn access(options: &Options, findings: &mut Findings) {
    let files = networks::read(&options.net_dir, &[]).unwrap_or_default();
    // A list's plugins may have files of their own, in a directory of the list's.
    let all_of = |file: Candidate| {
        let own = file.inspection.map(|found| found.drop_ins).unwrap_or_default();
        let directory = own.first().and_then(|own| own.parent()).map(Path::to_owned);
        [file.path].into_iter().chain(directory).chain(own)
    };
    let files = files.into_iter().flat_map(all_of);
    let binary = options.bin_dir.join("ovs-flow-gc");
    let all = [options.bin_dir.clone(), binary, options.net_dir.clone()].into_iter().chain(files);
    for path in all {
        let mode = std::fs::metadata(&path).map_or(0, |meta| meta.permissions().mode() & 0o7777);
        if mode & 0o002 != 0 {
            findings.warn(
                "access",
                format!("{} has mode {mode:04o}: everybody may write to it", path.display()),
                "chmod o-w: whoever writes there is root at the next pod",
            );
        }
    }
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
