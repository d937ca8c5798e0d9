//! `ipScope: "cluster"`: an address that is free here may be somebody's elsewhere.

use std::time::Duration;

use serde_json::json;

use crate::apiserver::{ApiServer, Bad};
use crate::daemon_sources::fixture::{
    Flows, api_pod, node, pod_without_sandbox, start_unsettled, well,
};
use crate::rig::{Attached, Node, Port, eventually};

const SOON: Duration = Duration::from_secs(40);

/// Entries that rest on the address alone.
/// A pod of nobody's but ours, and those of its entries that rest on the address alone.
#[track_caller]
fn run(node: &Node, api: &ApiServer, flows: &mut Flows, name: &str) -> (Attached, Vec<String>) {
    let pod = pod_without_sandbox(node, api, flows, name);
    let (ip, ip6) = (&pod.ip, &pod.ip6);
    let more = node.install(
        "br0",
        &[
            format!("table=50, priority=9,ip,nw_src={ip} actions=goto_table:60"),
            format!("table=50, priority=9,ipv6,ipv6_src={ip6} actions=drop"),
        ],
    );
    flows.add(name, more.clone());
    // Addresses of connections are addresses, too.
    let dump = node.dump("br0").into_iter();
    let connections = dump.filter(|l| l.contains("ct_nw_") && l.contains(&format!("={ip},")));
    let all: Vec<String> = connections.chain(more).collect();
    assert_eq!(all.len(), 4);
    (pod, all)
}

#[test]
fn an_address_that_somebody_elsewhere_has_is_kept_until_nobody_has_it() {
    let keys = json!({"ipScope": "cluster", "lingerSeconds": 0});
    let node = node("sources_scope", keys);
    let api = ApiServer::start();
    let mut flows = Flows::new(&node);
    let (web, of_web) = run(&node, &api, &mut flows, "web");
    let (db, of_db) = run(&node, &api, &mut flows, "db");
    let (cache, of_cache) = run(&node, &api, &mut flows, "cache");
    let _stays = run(&node, &api, &mut flows, "stays");
    // IPAM has given the address to another node, and it runs there.
    api.put(api_pod("elsewhere", "new", "n2", "Running", &[&web.ip, &web.ip6]));
    let none = node.dir.join("no-such-socket");
    let daemon = start_unsettled(&node, &none, &api, &[], &["--interval=500ms"]);
    eventually("it is ready", || daemon.get("/readyz").0 == 200 && api.watching() > 0);

    flows.forget("web");
    flows.add("of web", of_web);
    node.vanish(&web, Port::Gone);
    api.delete(&web.uid);
    flows.only(&node, SOON);
    flows.stay(&node, Duration::from_secs(2));
    let kept = "flows_kept{reason=\"may-live-elsewhere\"}";
    assert_eq!(daemon.metric(kept), 4.0, "{}", daemon.log());

    // Its own pod is there a moment longer than its namespace.
    flows.forget("db");
    flows.add("of db", of_db);
    node.vanish(&db, Port::Gone);
    flows.only(&node, SOON);
    api.delete(&db.uid);
    flows.forget("of db");
    let took = flows.only(&node, Duration::from_secs(30));
    eprintln!("{took:?} until its address was found free");

    // At last nobody has the first one's either.
    api.delete("elsewhere");
    flows.forget("of web");
    let took = flows.only(&node, Duration::from_secs(30));
    eprintln!("{took:?} until the address that had moved was found free");

    // The API server hangs: what rests on other things goes, and the addresses wait.
    api.every_list(Some(Bad::Hang));
    flows.forget("cache");
    flows.add("of cache", of_cache);
    node.vanish(&cache, Port::Gone);
    api.delete(&cache.uid);
    let took = flows.only(&node, Duration::from_secs(20));
    eprintln!("{took:?} for a death while the API server hangs");
    assert_eq!(daemon.get("/healthz").0, 200);
    api.every_list(None);
    flows.forget("of cache");
    let took = flows.only(&node, Duration::from_secs(60));
    eprintln!("{took:?} until its address was found free");
    well(&daemon);
}
