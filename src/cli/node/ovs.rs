//! Where Open vSwitch has its sockets: here, and on the node, where the plugin looks for them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Context, Error};
use crate::cli::conflist::Entry;
use crate::config::{Config, said_run_dir};

/// Where the plugin looks if its entry says nothing. `/var/run` is a link to `/run`.
const USUAL: [&str; 2] = ["/var/run/openvswitch", "/run/openvswitch"];

/// The setting of the entry.
const SETTING: &str = "ovsRunDir";

/// Takes over what `--ovs-dir` or the settings say of the node: the entry gets it as `ovsRunDir`,
/// and without `$OVS_RUNDIR` the sockets are looked for there from here, too. If neither says
/// anything, `$OVS_RUNDIR` is the node's as well; an entry that is there already is not asked for it.
///
/// # Errors
/// Two directories are named for the node, or none can be told from a container.
pub(super) fn settle(
    context: &mut Context,
    said: Option<&Path>,
    (entry, is_new): (&mut Entry, bool),
) -> Result<(), Error> {
    let set = entry.0.get(SETTING).and_then(Value::as_str).map(PathBuf::from);
    if let (Some(said), Some(set)) = (said, &set)
        && said != set
    {
        return Err(Error::Usage(format!(
            "--ovs-dir is {}, and {SETTING} of --settings is {}: give one of them",
            said.display(),
            set.display()
        )));
    }
    let on_node = match (said.map(Path::to_owned).or(set), said_run_dir()) {
        (Some(on_node), here) => {
            if here.is_none() {
                context.run_dir.clone_from(&on_node);
            }
            on_node
        }
        (None, Some(here)) => {
            same_place(&here)?;
            if !is_new {
                return Ok(());
            }
            here
        }
        (None, None) => return Ok(()),
    };
    if !USUAL.iter().any(|usual| on_node == Path::new(usual)) {
        entry.0.insert(SETTING.to_owned(), on_node.to_string_lossy().into_owned().into());
    }
    refuse_bad(&entry.0)
}

/// A path that ADD would refuse fails every pod of the node.
fn refuse_bad(settings: &Map<String, Value>) -> Result<(), Error> {
    let (_, problems) = Config::parse(settings);
    match problems.first() {
        None => Ok(()),
        Some(problem) => Err(Error::Usage(format!("--ovs-dir or OVS_RUNDIR: {problem}"))),
    }
}

/// In a container `$OVS_RUNDIR` is a mount. If it is one of another directory of the node's, the
/// plugin would not find there what is found here.
fn same_place(here: &Path) -> Result<(), Error> {
    let place = fs::canonicalize(here).unwrap_or_else(|_| here.to_owned());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match root_of_mount(&mounts, &place) {
        Some(root) if !may_be(here, &root) => Err(Error::Node(format!(
            "{} is a mount of a directory of the node's whose path ends in {}: say with --ovs-dir \
             what the node calls it, because the plugin looks for Open vSwitch there",
            here.display(),
            root.display()
        ))),
        _ => Ok(()),
    }
}

/// What of its file system is mounted at `place`; of several, the last one is seen.
fn root_of_mount(mountinfo: &str, place: &Path) -> Option<PathBuf> {
    let field = |line: &str, index: usize| line.split(' ').nth(index).map(unescape);
    let mut lines = mountinfo.lines().rev();
    let line = lines.find(|line| field(line, 4).is_some_and(|at| Path::new(&at) == place))?;
    field(line, 3).map(PathBuf::from)
}

/// Whether a directory of this path can have this path in its own file system: that one is the
/// end of the other.
fn may_be(on_node: &Path, root: &Path) -> bool {
    on_node.ends_with(root.strip_prefix("/").unwrap_or(root))
}

/// The kernel writes white space and backslashes of mountinfo in octal.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(code.map_or('\\', char::from));
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        30 20 0:25 / /run rw - tmpfs tmpfs rw\n\
        31 30 0:25 /openvswitch /run/openvswitch ro - tmpfs tmpfs rw\n\
        32 30 8:1 /var/lib/o\\040v\\134s /run/odd ro - ext4 /dev/sda1 rw\n\
        33 30 8:1 / /run/whole ro - ext4 /dev/sdb1 rw\n";

    #[test]
    fn a_mount_tells_how_its_path_on_the_node_ends() {
        let root = |at: &str| root_of_mount(MOUNTS, Path::new(at));
        assert_eq!(root("/run/openvswitch"), Some("/openvswitch".into()));
        assert_eq!(root("/run/odd"), Some("/var/lib/o v\\s".into()));
        assert_eq!(root("/run/openvswitch/db.sock"), None);
        let later = format!("{MOUNTS}34 30 8:1 /other /run/openvswitch ro - ext4 /dev/sda1 rw\n");
        assert_eq!(root_of_mount(&later, Path::new("/run/openvswitch")), Some("/other".into()));
    }

    #[test]
    fn a_directory_of_another_path_is_told_apart() {
        let usual = Path::new("/var/run/openvswitch");
        for root in ["/openvswitch", "/run/openvswitch", "/"] {
            assert!(may_be(usual, Path::new(root)), "{root}");
        }
        for root in ["/antrea/openvswitch", "/var/lib/openvswitch", "/switch"] {
            assert!(!may_be(usual, Path::new(root)), "{root}");
        }
    }
}
