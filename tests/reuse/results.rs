//! What prevResult lists is not all the pod's: a gateway, the bridge.

use serde_json::json;

use crate::lifecycle::fixture::sorted;
use crate::rig::{Attached, Datapath, Node, Setup, layouts};

/// Puts a plugin between the OVS plugin and us that rewrites its result.
fn rewrite(node: &Node, sed: &str) {
    let body = format!(
        "conf=$(cat); [ \"$CNI_COMMAND\" = ADD ] || exit 0\n\
         echo \"$conf\" | sed 's/.*\"prevResult\"://; s/}}$//; {sed}'"
    );
    node.script_plugin("rewriter", &body);
    let mut conflist = node.conflist();
    conflist["plugins"].as_array_mut().unwrap().insert(1, json!({"type": "rewriter"}));
    node.set_conflist(conflist);
}

fn dummy(test: &str) -> Node {
    Setup::new().datapath(Datapath::Dummy).gc_conf(json!({"lingerSeconds": 0})).up(test)
}

/// Some plugins list the gateway among the addresses, as the bridge's or even as the pod's.
#[test]
fn a_gateways_address() {
    let gateway = r#"{"address":"10.244.1.1\/24","interface":INDEX,"gateway":"10.244.1.1"}"#;
    for index in ["0", "1"] {
        let node = dummy("a_gateways_address");
        let gateway = gateway.replace("INDEX", index);
        rewrite(&node, &format!(r#"s/\],"routes":/,{gateway}],"routes":/"#));
        the_gateway_stays(&node);
    }
}

/// As the next hop of the pod's routes, and nowhere else.
#[test]
fn a_gateway_that_only_routes_name() {
    let node = dummy("that_only_routes_name");
    let gateway = r#"{"address":"10.244.1.1\/24","interface":1}"#;
    rewrite(
        &node,
        &format!(
            r#"s/"gateway":"[^"]*",//g; s/,"gateway":"[^"]*"//g; s/\],"routes":\[[^]]*\]/,{gateway}],"routes":[{{"dst":"0.0.0.0\/0","gw":"10.244.1.1"}}]/"#
        ),
    );
    the_gateway_stays(&node);
}

#[track_caller]
fn the_gateway_stays(node: &Node) {
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    let listed = db.result["ips"].as_array().unwrap();
    assert!(listed.iter().any(|ip| ip["address"] == "10.244.1.1/24"), "{listed:#?}");
    let of_gateway = node.install(
        "br0",
        &[
            "table=0, priority=9,ip,nw_dst=10.244.1.1 actions=LOCAL",
            "table=0, priority=9,arp,arp_tpa=10.244.1.1 actions=goto_table:30",
            "table=1, priority=9,ip,nw_src=10.244.1.1 actions=drop",
            "table=1, priority=9,arp,arp_spa=10.244.1.1 actions=drop",
        ],
    );
    both_end(node, &web, &db, &of_gateway);
}

/// Nothing but the pods' own entries goes: not with the first, nor with the last one, when
/// nobody alive claims what both were said to have.
#[track_caller]
fn both_end(node: &Node, web: &Attached, db: &Attached, left: &[String]) {
    let of_web = node.install("br0", &layouts::classifier(&web.who(0x1001)));
    node.install("br0", &layouts::classifier(&db.who(0x1002)));
    node.del(db);
    assert_eq!(node.dump("br0"), sorted([left, &of_web].concat()));
    node.del(web);
    assert_eq!(node.dump("br0"), sorted(left.to_vec()));
}

/// k-vswitch lists the bridge first; with the pod's host end behind it, or without.
#[test]
fn the_bridge_is_listed_first() {
    for host_end in [true, false] {
        let node = dummy("the_bridge_is_listed_first");
        let bridge_mac = node.ovs_vsctl(&["get", "Interface", "br0", "mac_in_use"]);
        let bridge_mac = bridge_mac.trim_matches('"').to_owned();
        let bridge = format!(r#"{{"name":"br0","mac":"{bridge_mac}"}}"#);
        rewrite(
            &node,
            &if host_end {
                format!(
                    r#"s/"interfaces":\[/"interfaces":[{bridge},/; s/"interface":1/"interface":2/g"#
                )
            } else {
                format!(r#"s/"interfaces":\[{{"name":"veth[^}}]*}}/"interfaces":[{bridge}/"#)
            },
        );
        let [web, db] = ["web", "db"].map(|name| {
            let pod = node.run_pod(name);
            assert_eq!(pod.result["interfaces"][0]["name"], "br0");
            let netns = format!("external_ids:contNetns=\"{}\"", pod.netns_path());
            let port = node.ovs_vsctl(&["--bare", "--columns=name", "find", "Port", &netns]);
            Attached { ofport: node.ofport(&port), port, ..pod }
        });
        let of_bridge = [
            "table=0, priority=9,in_port=LOCAL actions=goto_table:30".to_owned(),
            format!("table=1, priority=9,dl_dst={bridge_mac} actions=LOCAL"),
            format!("table=1, priority=9,dl_src={bridge_mac} actions=goto_table:30"),
            format!("table=1, priority=9,arp,arp_sha={bridge_mac} actions=drop"),
        ];
        let of_bridge = node.install("br0", &of_bridge);
        both_end(&node, &web, &db, &of_bridge);
    }
}
