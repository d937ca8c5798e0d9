//! Plugins that hang, print garbage, fork or are gone, and cached results that are hostile: a clear
//! line, and the next one goes on.

use std::fs;

use serde_json::json;

use super::*;

#[test]
fn a_bad_plugin_of_one_pod_does_not_stop_the_others() {
    let node = node("deliver_bad");
    let live = run_pod(&node, "live");
    let pid = node.dir.join("pid");
    let hangs = format!("sleep 1000 & echo $! > {}; wait", pid.display());
    let bad = [
        ("hangs", hangs.as_str(), "took longer than 1 s and was killed"),
        ("garbage", "head -c 5000000 /dev/urandom; exit 1", "exit status: 1"),
        ("babbles", "while :; do echo x; done", "took longer than 1 s"),
        ("dies", "kill -9 $$", "signal: 9"),
        ("gone", "", "is not in"),
    ];
    let mut pods = Vec::new();
    for (name, body, why) in bad {
        if !body.is_empty() {
            node.script_plugin(name, body);
        }
        let mut conflist = node.conflist();
        conflist["plugins"].as_array_mut().unwrap().push(json!({"type": name}));
        pods.push((run_pod_of(&node, name, &conflist), name, why));
    }
    node.script_plugin("forks", "sleep 20 & exit 0");
    let mut forks = node.conflist();
    forks["plugins"].as_array_mut().unwrap().push(json!({"type": "forks"}));
    let (forks, good) = (run_pod_of(&node, "forks", &forks), run_pod(&node, "good"));
    let all = pods.iter().map(|(pod, ..)| pod).chain([&forks, &good]);
    all.for_each(|pod| node.vanish(pod, Port::Stays));

    let outcome = deliver(&node, &["--timeout", "1"]);
    assert_eq!(outcome.code, Some(3), "{outcome}");
    let found = outcome.json();
    let of = |pod: &Attached| {
        let dead = found["dead"].as_array().unwrap();
        dead.iter().find(|one| one["containerID"] == pod.container.as_str()).unwrap().clone()
    };
    for (pod, name, why) in &pods {
        let one = of(pod);
        let error = one["error"].as_str().unwrap();
        assert!(error.starts_with(&format!("{name}: ")) && error.contains(why), "{one}");
        assert_eq!((one["state"].as_str(), left(&node, pod)), (Some("failed"), [1, 0, 2, 1]));
    }
    for pod in [&forks, &good] {
        assert_eq!((of(pod)["state"].as_str(), left(&node, pod)), (Some("delivered"), [0; 4]));
    }
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
    let pid = fs::read_to_string(pid).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "what hung was killed: {stat}");
}

#[test]
fn hostile_caches_run_nothing() {
    let node = node("deliver_hostile");
    let (dead, live) = (run_pod(&node, "dead"), run_pod(&node, "live"));
    node.vanish(&dead, Port::Stays);
    let ran = node.dir.join("ran");
    let script = node.dir.join("evil");
    fs::write(&script, format!("#!/bin/sh\ntouch {}\n", ran.display())).unwrap();
    Command::new("chmod").arg("755").arg(&script).status().unwrap();
    let good = cached(&node, &dead);
    let at = |name: &str| results(&node).join(name);
    for kind in [script.display().to_string(), "../../../evil".to_owned(), "..".to_owned()] {
        let mut conflist = node.conflist();
        conflist["plugins"].as_array_mut().unwrap().push(json!({"type": kind}));
        let before = node.conflist();
        node.set_conflist(conflist);
        write_cached(&results(&node), &cached(&node, &dead));
        node.set_conflist(before);
        let outcome = deliver(&node, &[]);
        assert!(state(&outcome).1.contains("has the type"), "{outcome}");
    }
    // Files that are no cached results.
    fs::write(at("torn"), &good.to_string()[..200]).unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("binary"), [0xff; 64]).unwrap();
    fs::write(at("huge"), vec![b' '; 3 << 20]).unwrap();
    fs::create_dir(at("directory")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut outside = good.clone();
    outside["containerId"] = json!("../../x");
    fs::write(at("outside"), outside.to_string()).unwrap();
    // A whole cached result under another one's name.
    fs::write(at("podnet-other-eth0"), good.to_string()).unwrap();
    write_cached(&results(&node), &good);

    let outcome = deliver(&node, &[]);
    assert_eq!(outcome.code, Some(3), "{outcome}");
    let found = outcome.json();
    assert_eq!(found["unknown"].as_array().unwrap().len(), 7, "{outcome}");
    let states = states(&outcome);
    assert!(states.iter().any(|(state, _)| state == "delivered"), "{outcome}");
    assert!(states.iter().any(|(_, why)| why.contains("its file name is not")), "{outcome}");
    assert_eq!(left(&node, &dead), [0; 4]);
    assert_eq!(left(&node, &live), [1, 1, 2, 1]);
    assert!(!ran.exists());
}
