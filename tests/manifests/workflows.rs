//! The workflows of `.github`: they call what anybody can call, and know nothing by themselves.

use std::os::unix::fs::PermissionsExt;

use crate::manifests::{at, files, yaml};

#[test]
fn workflows_call_programs_of_this_repository() {
    let found = files(".github/workflows", "yml");
    assert_eq!(found.len(), 2, "{found:?}");
    let mut called = Vec::new();
    for file in found {
        let workflow = yaml(&std::fs::read_to_string(&file).unwrap()).remove(0);
        for job in workflow["jobs"].as_object().unwrap().values() {
            let steps = job["steps"].as_array().unwrap();
            let runs = steps.iter().filter_map(|step| step["run"].as_str());
            called.extend(runs.map(|run| run.split(' ').next().unwrap().to_owned()));
        }
    }
    let (ours, theirs): (Vec<_>, Vec<_>) = called.into_iter().partition(|word| word.contains('/'));
    assert_eq!(ours, [".ci/run", "./tests/run.sh", "conf/release/make.sh"]);
    for program in ours {
        let mode = at(&program).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{program}");
    }
    assert!(theirs.iter().all(|word| ["git", "rustup", "gh"].contains(&word.as_str())));
}
