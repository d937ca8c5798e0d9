//! `samples/cached-*` are what libcni (containerd 1.6, `ctr run --cni`) cached of a chain of
//! bridge, tuning and a plugin `spy`; `samples/del-*` is what it then gave to `spy` at DEL.

use serde_json::json;

use super::*;

const CACHED: &str = include_str!("samples/cached-0.4.0.json");
const CACHED_OLD: &str = include_str!("samples/cached-0.3.1.json");

fn of(text: &str) -> Result<Delivery, String> {
    let cached: Value = serde_json::from_str(text).unwrap_or_default();
    let part = |name: &str| cached[name].as_str().unwrap_or_default().to_owned();
    let parts = [part("networkName"), part("containerId"), part("ifName")];
    Delivery::of_cached(&parts.join("-"), text)
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn encoded(config: &Value) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in config.to_string().as_bytes().chunks(3) {
        let at = |i: usize| u32::from(three.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let letters = (0..=three.len()).map(|i| bits >> (18 - 6 * i) & 63);
        text.extend(letters.map(|letter| char::from(LETTERS[letter as usize])));
    }
    text
}

/// The sample with another configuration.
fn configured(config: &Value) -> Value {
    let mut cached = value(CACHED);
    cached["config"] = json!(encoded(config));
    cached
}

fn of_config(config: &Value) -> Result<Delivery, String> {
    of(&configured(config).to_string())
}

fn chain(plugins: Value) -> Value {
    json!({"cniVersion": "0.4.0", "name": "podnet", "plugins": plugins})
}

#[test]
fn each_plugin_is_told_what_libcni_tells_it() {
    let told = [
        (CACHED, include_str!("samples/del-0.4.0.json"), "default-dlv040"),
        (CACHED_OLD, include_str!("samples/del-0.3.1.json"), "default-dlv031"),
    ];
    for (cached, del, container) in told {
        let delivery = of(cached).unwrap();
        let plugins: Vec<&str> = delivery.calls.iter().map(|call| &*call.plugin).collect();
        assert_eq!(plugins, ["spy", "tuning", "bridge"]);
        assert_eq!(value(&delivery.calls[0].stdin), value(del));
        let bridge = value(&delivery.calls[2].stdin);
        assert_eq!(bridge["ipam"]["type"], "host-local");
        assert_eq!(bridge["bridge"], "dlvbr0");
        assert!(!delivery.inlined_only);
        let environment = [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", ""),
            ("CNI_ARGS", ""),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
        ];
        assert_eq!(delivery.environment("/opt/cni/bin:/usr/lib/cni"), environment);
    }
}

#[test]
fn a_plugin_gets_the_arguments_of_the_capabilities_that_it_declares() {
    let plugins = json!([
        {"type": "a", "capabilities": {"portMappings": true, "bandwidth": false, "mac": true}},
        {"type": "b"},
    ]);
    let mut cached = configured(&chain(plugins));
    cached["capabilityArgs"] = json!({"portMappings": [{"hostPort": 80}], "bandwidth": {}});
    cached["cniArgs"] = json!([["IgnoreUnknown", "1"], ["K8S_POD_NAME", "web"]]);
    let delivery = of(&cached.to_string()).unwrap();
    assert_eq!(delivery.calls[0].plugin, "b");
    assert_eq!(value(&delivery.calls[0].stdin).get("runtimeConfig"), None);
    let a = value(&delivery.calls[1].stdin);
    assert_eq!(a["runtimeConfig"], json!({"portMappings": [{"hostPort": 80}]}));
    assert_eq!(delivery.environment("")[3], ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"));
}

/// multus calls its networks' `.conf` files through `AddNetwork`.
#[test]
fn the_configuration_of_one_plugin_is_a_chain_of_one() {
    let delivery = of_config(&json!({"cniVersion": "0.4.0", "name": "podnet", "type": "ovs"}));
    let delivery = delivery.unwrap();
    assert_eq!(delivery.calls.len(), 1);
    assert_eq!(delivery.calls[0].plugin, "ovs");
    assert!(delivery.inlined_only);
}

#[test]
fn a_plugin_that_stands_twice_in_the_chain_is_called_twice() {
    let twice = json!([{"type": "tuning", "n": 1}, {"type": "x"}, {"type": "tuning", "n": 2}]);
    let calls = of_config(&chain(twice)).unwrap().calls;
    let told: Vec<Value> = calls.iter().map(|call| value(&call.stdin)["n"].clone()).collect();
    assert_eq!(told, [json!(2), Value::Null, json!(1)]);
}

#[test]
fn of_several_versions_the_one_that_add_had_is_taken() {
    let mut config = chain(json!([{"type": "x"}]));
    config["cniVersions"] = json!(["0.3.1", "1.0.0", "1.1.0"]);
    let version = |result: &Value| {
        let mut cached = configured(&config);
        cached["result"] = result.clone();
        of(&cached.to_string()).map(|d| value(&d.calls[0].stdin)["cniVersion"].clone())
    };
    assert_eq!(version(&json!({"cniVersion": "1.0.0"})), Ok(json!("1.0.0")));
    assert_eq!(version(&json!({"cniVersion": "0.4.0"})), Ok(json!("0.4.0")));
    for unknown in [json!({"cniVersion": "9.9.9"}), json!({}), Value::Null] {
        assert!(version(&unknown).is_err(), "{unknown}");
    }
}

#[test]
fn a_type_that_is_no_plain_file_name_is_not_run() {
    for name in ["", ".", "..", "/bin/sh", "../sh", "a/b", "a\0b", &"x".repeat(256)] {
        // Not even the plugins before it.
        let refused = of_config(&chain(json!([{"type": name}, {"type": "good"}])));
        assert!(refused.unwrap_err().contains("has the type"), "{name:?}");
    }
    for plugin in [json!({}), json!({"type": 1}), json!({"type": ["sh"]}), json!("sh"), json!(null)]
    {
        assert!(of_config(&chain(json!([plugin]))).is_err(), "{plugin}");
    }
    for member in ["Type", "TYPE", "Capabilities"] {
        let plugin = json!({"type": "good", member: "bad"});
        assert!(of_config(&chain(json!([plugin]))).unwrap_err().contains("has a member"));
    }
}

#[test]
fn what_libcni_would_not_deliver_is_not_delivered() {
    let many = vec![json!({"type": "x"}); MOST_PLUGINS + 1];
    let another = json!({"cniVersion": "0.4.0", "name": "other", "plugins": [{"type": "x"}]});
    let no_version = json!({"cniVersion": "four", "name": "podnet", "plugins": [{"type": "x"}]});
    let odd = json!({"cniVersion": 4, "name": "podnet", "plugins": [{"type": "x"}]});
    let bad = json!([{"type": "x", "capabilities": []}]);
    for config in [
        chain(json!([])),
        chain(json!({})),
        chain(Value::Null),
        chain(many.into()),
        chain(bad),
        another,
        no_version,
        odd,
        json!([]),
        json!({}),
        Value::Null,
    ] {
        assert!(of_config(&config).is_err(), "{config}");
    }
    let changes = [
        ("kind", json!("cniCacheV2")),
        ("config", json!("")),
        ("config", json!("%%%")),
        ("config", Value::Null),
        ("containerId", json!("../../etc")),
        ("ifName", json!("a/b")),
        ("networkName", json!("..")),
        ("networkName", json!("other")),
        ("cniArgs", json!("x")),
        ("cniArgs", json!([["a"]])),
        ("cniArgs", json!([["a", "b\0c"]])),
        ("result", Value::Null),
        ("result", json!({"cniVersion": "1.0.0"})),
        ("capabilityArgs", json!([])),
    ];
    for (member, changed) in changes {
        let mut cached = value(CACHED);
        cached[member] = changed;
        assert!(of(&cached.to_string()).is_err(), "{cached}");
    }
    assert!(Delivery::of_cached("podnet-default-another-eth0", CACHED).is_err());
}

#[test]
fn a_torn_cached_result_is_not_delivered() {
    for end in (0..CACHED.trim_end().len()).filter(|end| CACHED.is_char_boundary(*end)) {
        assert!(
            Delivery::of_cached("podnet-default-dlv040-eth0", &CACHED[..end]).is_err(),
            "{end}"
        );
    }
    assert!(Delivery::of_cached("podnet-default-dlv040-eth0", CACHED).is_ok());
}
