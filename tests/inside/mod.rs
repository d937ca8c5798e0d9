//! Running a test (or another view of its subject) in namespaces of its own: what it mounts
//! there ends with it. Needs root, `unshare` and `mount`.

use std::process::Command;

const INSIDE: &str = "OVS_FLOW_GC_TEST_INSIDE";

/// A command that runs this very test again, behind a prefix such as `unshare --mount`.
pub(crate) fn again(test: &str, prefix: &[&str]) -> Command {
    let me = std::env::current_exe().unwrap();
    let arguments = ["--exact", test, "--nocapture", "--test-threads=1"];
    let (first, rest) = prefix.split_first().unwrap();
    let mut command = Command::new(first);
    command.args(rest).arg(me).args(arguments);
    command
}

/// `true` inside a mount namespace of its own; outside, runs the test there and fails if it
/// fails.
pub(crate) fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = ["unshare", "--mount", "--propagation", "private"];
    let output = again(test, &unshare).env(INSIDE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    // A name that matches no test would pass as well.
    let ran = output.status.success() && said.contains("1 passed");
    assert!(ran, "{test}, in a mount namespace of its own:\n{said}\n{errors}");
    false
}

/// Runs a shell command that must succeed; its output, trimmed.
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
