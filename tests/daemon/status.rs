//! `status` and the daemon's page: is all well?

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::gcd::Daemon;
use crate::rig::{Node, Port, Setup, eventually, layouts};

/// A pause for a time: what dies in it stays for so long, and goes then without anybody's doing.
#[test]
fn a_pause_ends_by_itself() {
    let node = Setup::new().up("daemon_pause_ends");
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    let its = node.install("br0", &layouts::classifier(&web.who(0x1001)));
    let stay = node.install("br0", &layouts::classifier(&db.who(0x1002)));
    let daemon = Daemon::start(&node);
    let wrong = node.admin(&["pause", "--for", "soon"]);
    assert_eq!(wrong.code, Some(2), "{wrong}");
    assert!(wrong.stderr.contains("90s, 10m, 1h"), "{wrong}");
    assert!(!node.state_dir.join("paused").exists());

    let since = Instant::now();
    let paused = node.admin(&["pause", "--for", "5s", "--reason", "OVS is upgraded"]);
    assert!(paused.succeeded() && paused.stdout.contains("paused until "), "{paused}");
    node.vanish(&web, Port::Stays);
    eventually("the daemon knows of it", || daemon.metric("paused") == 1.0);
    let status = node.admin(&["status", "--json"]);
    assert_eq!(status.code, Some(3), "{status}");
    let status = status.json();
    assert_eq!(status["pause"]["reason"], "OVS is upgraded");
    assert!(status["attention"][0].as_str().unwrap().contains("OVS is upgraded"), "{status}");
    let doctor = node.admin(&["doctor"]).stdout;
    assert!(doctor.contains("OVS is upgraded"), "{doctor}");
    if since.elapsed() < Duration::from_secs(4) {
        assert_eq!(node.dump("br0").len(), its.len() + stay.len(), "it is paused");
    }
    eventually("it ends, and what was put off is done", || node.dump("br0") == stay);
    assert!(since.elapsed() >= Duration::from_secs(5), "{:?}", since.elapsed());
    eventually("the metric says so", || daemon.metric("paused") == 0.0);
    daemon.no_harm();
}

/// The screen and the page say the same of a node that is well, and of a pod that waits.
#[test]
fn the_screen_and_the_page_say_what_there_is() {
    let node = Setup::new().up("daemon_status");
    let pods = [node.run_pod("a"), node.run_pod("b"), node.run_pod("c")];
    for (pod, value) in pods.iter().zip(0x1001..) {
        node.install("br0", &layouts::classifier(&pod.who(value)));
    }
    let daemon = Daemon::start(&node);
    eventually("the daemon is ready", || daemon.get("/readyz").0 == 200);
    eventually("all is well", || node.admin(&["status"]).code == Some(0));
    let screen = node.admin(&["status"]).stdout;
    assert!(screen.starts_with("state   all is well for "), "{screen}");
    assert!(screen.contains("s\npods    3 live, 0 dead"), "{screen}");
    assert!(screen.contains("\ndaemon  runs for ") && screen.contains("\nsweep "), "{screen}");
    let (code, head, page) = daemon.get_as("/", "text/html");
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert!(page.contains("All is well for ") && page.contains("3 live, 0 dead"), "{page}");

    // The switch hangs.
    node.vswitchd.pause();
    node.vanish(&pods[0], Port::Stays);
    let waits = || node.admin(&["status", "--json"]).json()["waiting"].clone();
    eventually("a sweep has begun with it", || waits()[0]["deadSeconds"].is_number());
    let (screen, page) = (node.admin(&["status"]).stdout, daemon.get("/").1);
    let pod = waits()[0]["pod"].as_str().unwrap().to_owned();
    for shown in [&screen, &page] {
        assert!(shown.contains(&pod) && shown.contains("1 with entries that are left"), "{shown}");
    }
    assert!(screen.contains("\nwaits   default/"), "{screen}");
    browse(&node, &daemon, &[&pod, "1 with entries that are left"]);
    node.vswitchd.resume();
    eventually("it waits no longer", || waits() == serde_json::json!([]));

    // A DEL that the daemon does is among the last calls.
    node.del(&pods[1]);
    let call = format!("DEL of podnet/{}", pods[1].container);
    eventually("the call is shown", || {
        let screen = node.admin(&["status"]).stdout;
        screen.lines().any(|line| line.starts_with("call") && line.contains(&call[..20]))
    });

    // Without a daemon the records tell. One that has ended leaves its socket behind.
    let (ended, _) = daemon.end(Signal::SIGTERM);
    assert_eq!(ended, Some(0));
    let alone = node.admin(&["status"]);
    assert_eq!(alone.code, Some(3), "{alone}");
    assert!(alone.stdout.starts_with("state   the daemon does not answer"), "{alone}");
    assert!(
        alone.stdout.contains("1 live, 2 dead") && !alone.stdout.contains("\nbridge"),
        "{alone}"
    );
}

/// The page in Debian's Chromium, in both colour schemes: what it shows, and on which ground.
fn browse(node: &Node, daemon: &Daemon, shown: &[&str]) {
    for (scheme, ground) in [("1", 255), ("0", 18)] {
        let picture = node.dir.join(format!("page-{scheme}.png"));
        let chromium = |what: &str| {
            let outcome = Command::new("/usr/bin/chromium")
                .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
                .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
                .args(["--disable-component-update", "--window-size=700,900"])
                .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
                .arg(format!("--user-data-dir={}", node.dir.join("chromium").display()))
                .arg(what)
                .arg(format!("http://{}/", daemon.address()))
                .output()
                .expect("Debian's chromium: tests/run.sh --setup installs it");
            String::from_utf8_lossy(&outcome.stdout).into_owned()
        };
        let page = chromium("--dump-dom");
        for text in shown {
            assert!(page.contains(text), "{text}: {page}");
        }
        chromium(&format!("--screenshot={}", picture.display()));
        // The first pixel of a PNG stands behind the first row's filter, which has nothing to add to it.
        let read = "import sys, zlib; png = open(sys.argv[1], 'rb').read(); at, data = 8, b''\n\
            while at < len(png):\n    n = int.from_bytes(png[at:at+4], 'big')\n    \
            data += png[at+8:at+8+n] if png[at+4:at+8] == b'IDAT' else b''\n    at += n + 12\n\
            print(*zlib.decompress(data)[1:4])";
        let pixel = Command::new("/usr/bin/python3").args(["-c", read]).arg(&picture).output();
        let pixel = String::from_utf8(pixel.unwrap().stdout).unwrap();
        assert_eq!(pixel.trim(), format!("{ground} {ground} {ground}"), "scheme {scheme}");
    }
}
