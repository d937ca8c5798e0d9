//! Alert rules and dashboard, by promtool.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::manifests::metrics::METRICS;
use crate::manifests::{at, run, text, yaml};

const ALERTS: &str = "conf/prometheus/alerts.yaml";

/// Ours among the words of an expression.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let words = expression.split(word).filter(|w| w.starts_with("ovs_flow_gc"));
    words.map(str::to_owned).collect()
}

fn alerts() -> Vec<Value> {
    let file = &yaml(&text(ALERTS))[0];
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|g| g["rules"].as_array().unwrap().clone()).collect()
}

/// Every query of the dashboard, also that of its variable.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn promtool_takes_the_rules_and_their_tests_pass() {
    let prometheus = at("conf/prometheus");
    let check = ["check", "rules", "alerts.yaml"];
    run(Command::new("promtool").args(check).current_dir(&prometheus), "");
    let check = ["check", "config", "prometheus.yaml"];
    run(Command::new("promtool").args(check).current_dir(&prometheus), "");
    let test = ["test", "rules", "alerts_test.yaml"];
    run(Command::new("promtool").args(test).current_dir(&prometheus), "");
}

#[test]
fn each_alert_is_tested_and_has_a_section_in_the_runbook() {
    let tests = &yaml(&text("conf/prometheus/alerts_test.yaml"))[0]["tests"];
    let cases: Vec<&Value> = tests
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|test| test["alert_rule_test"].as_array().unwrap())
        .collect();
    let runbook = text("docs/runbook.md");
    let sections: BTreeSet<&str> =
        runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap().to_owned();
        let fires = |case: &&&Value| case["alertname"] == *name && case.get("exp_alerts").is_some();
        let rests = |case: &&&Value| case["alertname"] == *name && case.get("exp_alerts").is_none();
        assert!(cases.iter().any(|c| fires(&c)), "{name}: no test sees it fire");
        let at_once = alert.get("for").is_none();
        assert!(at_once || cases.iter().any(|c| rests(&c)), "{name}: no test sees it rest");
        let anchor = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook_url"], *anchor);
        for annotation in ["summary", "description"] {
            assert!(alert["annotations"][annotation].is_string(), "{name}: {annotation}");
        }
        assert!(sections.contains(name.as_str()), "{name}: not in the runbook");
        names.insert(name);
    }
    let known = sections.iter().all(|section| names.contains(*section));
    assert!(known && names.len() == sections.len(), "{sections:?}");
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(&text("conf/grafana/ovs-flow-gc.json")).unwrap();
    let mut asked = BTreeSet::new();
    for query in queries(&dashboard) {
        asked.extend(metrics_in(&query));
    }
    // Nothing is counted that nobody looks at.
    let shown: BTreeSet<String> =
        METRICS.iter().filter(|m| **m != "up").map(|m| (*m).to_owned()).collect();
    assert_eq!(asked, shown);
    for alert in alerts() {
        for metric in metrics_in(alert["expr"].as_str().unwrap()) {
            assert!(METRICS.contains(&metric.as_str()), "{metric}");
        }
    }
}

/// Each query as a recording rule: promtool parses those.
#[test]
fn promtool_takes_every_query_of_the_dashboard() {
    let dashboard: Value = serde_json::from_str(&text("conf/grafana/ovs-flow-gc.json")).unwrap();
    let rules: Vec<Value> = queries(&dashboard)
        .iter()
        .enumerate()
        .map(|(n, query)| {
            let query = query.replace("$__rate_interval", "5m");
            json!({ "record": format!("query:{n}"), "expr": query })
        })
        .collect();
    assert!(rules.len() > 20);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rules.yaml");
    let groups = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    fs::write(&file, groups.to_string()).unwrap();
    run(Command::new("promtool").args(["check", "rules"]).arg(&file), "");

    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "Grafana wants each id once");
}
