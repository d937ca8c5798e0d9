//! The machine below the nodes: what it must have, and what is made on it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::run::run;

/// Where Debian and others put the CNI plugins.
pub(super) const PLUGINS: &str = "/usr/lib/cni";

/// Commands see this, and nothing else of the test's environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with a clean environment.
pub(super) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).current_dir("/");
    command
}

/// Says what is missing, and where Debian has it. A test that needs root and a switch must
/// not pass without them.
pub(super) fn must_have_what_we_need() {
    static MISSING: OnceLock<Vec<String>> = OnceLock::new();
    let missing = MISSING.get_or_init(|| {
        let programs = [
            ("ovs-vswitchd", "openvswitch-switch"),
            ("ovsdb-server", "openvswitch-switch"),
            ("ovs-vsctl", "openvswitch-switch"),
            ("ovsdb-tool", "openvswitch-common"),
            ("ovs-ofctl", "openvswitch-common"),
            ("ip", "iproute2"),
            ("ping", "iputils-ping"),
            ("busybox", "busybox-static"),
            ("containerd", "containerd"),
            ("ctr", "containerd"),
            ("runc", "runc"),
            ("unshare", "util-linux"),
            ("strace", "strace"),
        ];
        let in_path =
            |program: &str| PATH.split(':').any(|dir| Path::new(dir).join(program).exists());
        let mut missing: Vec<String> = programs
            .iter()
            .filter(|(program, _)| !in_path(program))
            .map(|(program, package)| format!("{program} (apt-get install {package})"))
            .collect();
        if !Path::new(PLUGINS).join("host-local").exists() {
            missing.push(format!(
                "{PLUGINS}/host-local (apt-get install containernetworking-plugins)"
            ));
        }
        missing
    });
    assert!(nix::unistd::geteuid().is_root(), "needs root: sudo ./tests/run.sh");
    assert!(missing.is_empty(), "missing: {}; tests/run.sh installs it", missing.join(", "));
}

/// Makes a named network namespace.
#[track_caller]
pub(super) fn make_netns(name: &str) -> File {
    let mut ip = command("ip");
    ip.args(["netns", "add", name]);
    run(ip, None, b"").ok();
    File::open(Path::new("/run/netns").join(name)).unwrap()
}

/// Whatever a test mounted.
pub(super) fn unmount_all_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
    for point in points.filter(|point| Path::new(point).starts_with(dir)) {
        let mut umount = command("umount");
        umount.args(["-l", point]);
        run(umount, None, b"");
    }
}
