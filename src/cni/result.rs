//! What of a prevResult is the pod's own.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde_json::Value;

use crate::model::flow::{Address, MacAddr};

/// What ADD takes from prevResult. Anything malformed is left out: the result is another
/// plugin's, and passing it on unchanged is all we owe it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    /// IPs of the interface in our sandbox.
    pub(crate) ips: Vec<IpAddr>,
    /// Its MAC.
    pub(crate) macs: Vec<MacAddr>,
    /// Interfaces on the host, in order. k-vswitch lists the bridge first.
    pub(crate) host_interfaces: Vec<String>,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// `/run/netns/x` and `/var/run/netns/x` are one path.
fn same_path(a: &str, b: &str) -> bool {
    let plain = |p: &str| Path::new(p.strip_prefix("/var").unwrap_or(p)).to_path_buf();
    plain(a) == plain(b)
}

/// Reads a result of any supported version.
pub(crate) fn own(result: &Value, netns: &str, ifname: &str) -> Own {
    let none = Vec::new();
    let interfaces = result.get("interfaces").and_then(Value::as_array).unwrap_or(&none);
    let in_sandbox = |i: &&Value| !text(i, "sandbox").is_empty() && text(i, "name") == ifname;
    let index = interfaces
        .iter()
        .position(|i| in_sandbox(&i) && same_path(text(i, "sandbox"), netns))
        // A runtime may hand the plugin another path to the same namespace.
        .or_else(|| interfaces.iter().position(|i| in_sandbox(&i)));

    let mut own = Own {
        host_interfaces: interfaces
            .iter()
            .filter(|i| text(i, "sandbox").is_empty())
            .map(|i| text(i, "name").to_owned())
            .filter(|name| !name.is_empty() && name.len() <= 64)
            .collect(),
        ..Own::default()
    };
    if let Some(mac) = index.and_then(|i| interfaces.get(i)).map(|i| text(i, "mac")) {
        own.macs.extend(mac.parse::<MacAddr>().ok().filter(|m| !m.is_unusable()));
    }
    let ips = result.get("ips").and_then(Value::as_array).unwrap_or(&none);
    let routes = result.get("routes").and_then(Value::as_array).unwrap_or(&none);
    let next_hops = routes.iter().map(|route| text(route, "gw"));
    let gateways: Vec<IpAddr> = ips
        .iter()
        .map(|ip| text(ip, "gateway"))
        .chain(next_hops)
        .filter_map(|gateway| gateway.parse().ok())
        .collect();
    for ip in ips {
        let of = ip.get("interface").filter(|v| !v.is_null()).map(Value::as_u64);
        let ours = match of {
            None => index.is_some() || interfaces.is_empty(),
            Some(of) => of.is_some() && of == index.and_then(|i| u64::try_from(i).ok()),
        };
        let address = text(ip, "address");
        let parsed = address.parse::<IpNet>().map(|n| n.addr()).or_else(|_| address.parse());
        if let (true, Ok(ip)) = (ours, parsed) {
            // A gateway is everybody's.
            if !Address::Ip(ip).is_unusable() && !gateways.contains(&ip) && !own.ips.contains(&ip) {
                own.ips.push(ip);
            }
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_in_our_sandbox_is_ours() {
        let result = json!({
            "interfaces": [
                {"name": "br0", "mac": "02:00:00:00:00:01"},
                {"name": "veth1", "mac": "02:00:00:00:00:02"},
                {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/var/run/netns/a"},
                {"name": "eth1", "mac": "02:00:00:00:00:04", "sandbox": "/var/run/netns/a"}],
            "ips": [
                {"version": "4", "interface": 2, "address": "10.0.0.5/24", "gateway": "10.0.0.1"},
                {"version": "4", "interface": 3, "address": "10.0.9.5/24"},
                {"version": "4", "interface": 0, "address": "10.0.0.1/24"},
                {"version": "6", "interface": 2, "address": "fd00::5/64"}]
        });
        let own = own(&result, "/run/netns/a", "eth0");
        assert_eq!(own.macs, ["02:00:00:00:00:03".parse().unwrap()]);
        assert_eq!(own.ips, ["10.0.0.5".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
        assert_eq!(own.host_interfaces, ["br0", "veth1"]);
    }

    #[test]
    fn never_a_gateway_an_unspecified_or_a_multicast_address() {
        let result = json!({
            "interfaces": [{"name": "eth0", "mac": "00:00:00:00:00:00", "sandbox": "/n"}],
            "ips": [{"interface": 0, "address": "10.0.0.1/24", "gateway": "10.0.0.1"},
                    {"interface": 0, "address": "0.0.0.0/0"},
                    {"interface": 0, "address": "224.0.0.9/32"},
                    {"interface": 0, "address": "ff02::1/128"},
                    {"interface": "0", "address": "10.0.0.7/24"},
                    {"interface": 0, "address": "nonsense"}]
        });
        assert_eq!(own(&result, "/n", "eth0"), Own::default());
    }

    #[test]
    fn an_ip_without_an_index_is_the_attachments() {
        let result = json!({"ips": [{"address": "10.0.0.7/24"}]});
        assert_eq!(own(&result, "/n", "eth0").ips, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
    }
}
