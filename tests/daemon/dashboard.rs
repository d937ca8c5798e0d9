//! The dashboard on a real Prometheus: a panel without a number looks like a broken daemon.

use std::fs;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::gcd::Daemon;
use crate::manifests::{at, text};
use crate::rig::{Node, Setup, eventually, layouts};

/// Prometheus with our configuration; dropping it ends it.
struct Prometheus {
    child: Child,
    url: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    fn start(node: &Node, daemon: &Daemon) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let conf = text("conf/prometheus/prometheus.yaml")
            .replace("127.0.0.1:9477", daemon.address())
            .replace("scrape_interval: 30s", "scrape_interval: 1s")
            .replace(
                "- alerts.yaml",
                &format!("- {}", at("conf/prometheus/alerts.yaml").display()),
            );
        let file = node.dir.join("prometheus.yaml");
        fs::write(&file, conf).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", node.dir.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(node.dir.join("prometheus.log")).unwrap())
            .spawn()
            .unwrap();
        Self { child, url: format!("http://{address}") }
    }

    /// The values that an expression has now.
    fn query(&self, expression: &str) -> Vec<f64> {
        let mut promtool = Command::new("promtool");
        promtool.args(["query", "instant", "--format=json", &self.url, expression]);
        let output = promtool.output().unwrap();
        let Ok(found) = serde_json::from_slice::<Value>(&output.stdout) else { return Vec::new() };
        let series = found.as_array().unwrap().iter();
        series.map(|of| of["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }
}

/// Each query of each panel, as Grafana would ask it.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&text("conf/grafana/ovs-flow-gc.json")).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap().replace("$instance", ".*");
            let query = query.replace("$__rate_interval", "4s");
            queries.push((panel["title"].as_str().unwrap().to_owned(), query));
        }
    }
    queries
}

#[test]
fn every_panel_has_a_number_also_where_nothing_has_happened() {
    let node = Setup::new().up("dashboard");
    node.install("br0", &layouts::classifier_base());
    let web = node.run_pod("web");
    node.install("br0", &layouts::classifier(&web.who(0x1001)));
    let daemon = Daemon::start(&node);
    let prometheus = Prometheus::start(&node, &daemon);
    let count = "count_over_time(ovs_flow_gc_build_info[1m])";
    eventually("it was scraped some times", || {
        prometheus.query(count).first().is_some_and(|count| *count >= 6.0)
    });
    for (title, query) in queries() {
        let values = prometheus.query(&query);
        assert!(!values.is_empty(), "{title}: no data for {query}");
        assert!(values.iter().all(|value| value.is_finite()), "{title}: {values:?} for {query}");
    }

    // What calls do is seen, without a daemon that did it for them.
    assert_eq!(daemon.metric("calls_total{verb=\"ADD\",result=\"done\"}"), 1.0);
    node.vswitchd.stop();
    let call = node.call("ovs-flow-gc", "DEL").pod(&web);
    let del = call.conf(&node.plugin_conf("ovs-flow-gc", Some(&web), None)).run();
    assert!(del.succeeded(), "{del}");
    assert_eq!(daemon.metric("calls_total{verb=\"DEL\",result=\"unfinished\"}"), 1.0);
    assert!(daemon.metric("call_seconds_total{verb=\"DEL\"}") > 0.0);
    let (_, page) = daemon.get("/metrics");
    assert!(page.contains("\nprocess_resident_memory_bytes "), "{page}");
}

/// Torn by a crash of the node, or another's: one line, and no call fails.
#[test]
fn what_calls_count_may_be_lost_and_begins_anew() {
    let node = Setup::new().up("calls_counted");
    node.install("br0", &layouts::classifier_base());
    let pods = ["web", "db", "cache"].map(|name| {
        let pod = node.run_pod(name);
        node.install("br0", &layouts::classifier(&pod.who(0x1000 + u32::from(pod.ofport))));
        pod
    });
    node.del(&pods[0]);
    let daemon = Daemon::start(&node);
    let done =
        |verb: &str| daemon.metric(&format!("calls_total{{verb=\"{verb}\",result=\"done\"}}"));
    assert_eq!((done("ADD"), done("DEL"), done("GC")), (3.0, 1.0, 0.0));
    let deleted = daemon.metric("call_flows_deleted_total{verb=\"DEL\"}");
    assert!(deleted >= 13.0, "{deleted}");
    fs::write(node.state_dir.join("_calls"), "torn").unwrap();
    for _ in 0..3 {
        assert_eq!(done("ADD"), 3.0);
    }
    let said = "what calls did cannot be read";
    assert_eq!(daemon.log().matches(said).count(), 1, "{}", daemon.log());
    let call = node.call("ovs-flow-gc", "DEL").pod(&pods[1]);
    let del = call.conf(&node.plugin_conf("ovs-flow-gc", Some(&pods[1]), None)).run();
    assert!(del.succeeded() && del.stderr.contains("counting begins anew"), "{del}");
    assert_eq!((done("ADD"), done("DEL")), (0.0, 1.0));
    // In a place that no call can write to.
    fs::remove_file(node.state_dir.join("_calls")).unwrap();
    fs::create_dir(node.state_dir.join("_calls")).unwrap();
    node.run_pod("late");
    node.del(&pods[2]);
}
