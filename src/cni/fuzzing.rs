//! Fuzz bodies: whatever a runtime says (see [`crate::fuzzing`]).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a broken promise is told by panicking"
)]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use rscni_types::types::{Cmd, ErrorResult};
use serde_json::Value;

use super::{Failure, Request, SUPPORTED, gc, result};
use crate::config::{Config, Mode};
use crate::model::attachment::IfName;
use crate::model::flow::Address;

/// A verb's selector, four variables that each end in a NUL (one that begins with 1 is not
/// set), then standard input.
pub(crate) fn request(data: &[u8]) -> bool {
    let Some((selector, rest)) = data.split_first() else { return false };
    let command = [Cmd::Add, Cmd::Del, Cmd::Check, Cmd::Gc, Cmd::Status];
    let command = command[usize::from(*selector) % command.len()];
    let mut parts = rest.splitn(5, |byte| *byte == 0);
    let names = ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"];
    let variables: Vec<&[u8]> = names.map(|_| parts.next().unwrap_or_default()).to_vec();
    let stdin = parts.next().unwrap_or_default();
    let get = |name: &str| {
        let at = names.iter().position(|known| *known == name).expect("a variable of CNI");
        let set = variables.get(at).filter(|value| value.first() != Some(&1))?;
        Some(OsString::from_vec(set.to_vec()))
    };
    match Request::read(command, stdin, get) {
        Ok(request) => {
            check_request(&request, stdin);
            true
        }
        Err((version, failure)) => {
            check_failure(&ErrorResult::new(version, &failure.into_cni()), data.len());
            false
        }
    }
}

fn check_failure(shown: &ErrorResult, given: usize) {
    let text = serde_json::to_string(shown).unwrap();
    let read: Value = serde_json::from_str(&text).unwrap();
    assert!(read["code"].as_u64().is_some_and(|code| code > 0), "{text}");
    assert!(read["cniVersion"].is_string(), "{text}");
    // What is wrong is shown, not all of what was given.
    assert!(text.len() < 4_000, "{} bytes of error for {given} bytes", text.len());
}

fn check_request(request: &Request, stdin: &[u8]) {
    assert!(SUPPORTED.contains(&request.version));
    let keyed = matches!(request.command, Cmd::Add | Cmd::Del | Cmd::Check);
    match request.key() {
        Ok(key) => crate::store::fuzzing::stays_inside(&key),
        Err(_) => assert!(!keyed),
    }
    if let Some(pod) = &request.pod {
        let texts = [&pod.namespace, &pod.name, &pod.uid];
        assert!(!pod.name.is_empty());
        assert!(texts.iter().all(|text| text.chars().count() <= 253));
        assert!(!texts.iter().any(|text| text.chars().any(char::is_control)), "{pod:?}");
    }
    if let Some(previous) = &request.prev_result {
        assert_eq!(request.command, Cmd::Add);
        let raw = previous.get().as_bytes();
        assert!(stdin.windows(raw.len()).any(|window| window == raw), "not as it came");
        if let Ok(value) = serde_json::from_str(previous.get()) {
            let netns = request.netns.as_deref().unwrap_or_default();
            let ifname = request.ifname.as_ref().map_or("eth0", IfName::as_str);
            check_own(&value, netns, ifname);
        }
    }
    for problem in &request.problems {
        let text = Failure::Config(problem.clone()).to_string();
        assert!(text.len() < 2_000, "{} bytes of {text:.80}", text.len());
    }
    check_config(&request.config);
    if let Some((_, config)) = request.overlay(false) {
        let unsure = request.problems.iter().any(crate::config::Problem::is_of_scope);
        assert!(!unsure || config.mode == Mode::Observe, "deletes and does not know where");
    }
    assert!(request.problems.is_empty() || request.overlay(true).is_none());
    let valid = gc::valid_containers(request);
    let lists = ["cni.dev/valid-attachments", "cni.dev/attachments"];
    match valid {
        // Absent is not empty: nobody is an orphan for want of a list.
        Ok(None) => assert!(!lists.iter().any(|key| request.conf.contains_key(*key))),
        Ok(Some(ids)) => assert!(ids.iter().all(|id| !id.is_empty())),
        Err(_) => {}
    }
}

fn check_own(value: &Value, netns: &str, ifname: &str) {
    let own = result::own(value, netns, ifname);
    assert!(own.ips.iter().all(|ip| !Address::Ip(*ip).is_unusable()), "{own:?}");
    assert!(own.macs.iter().all(|mac| !mac.is_unusable()), "{own:?}");
    assert!(own.host_interfaces.iter().all(|name| (1..=64).contains(&name.len())), "{own:?}");
    let gateways = value.pointer("/ips").and_then(Value::as_array).into_iter().flatten();
    for gateway in gateways.filter_map(|ip| ip.get("gateway")?.as_str()?.parse().ok()) {
        assert!(!own.ips.contains(&gateway), "a gateway is everybody's");
    }
}

fn check_config(config: &Config) {
    assert!((50..=120_000).contains(&config.timeout_ms));
    assert!(config.linger_seconds <= 86_400);
    assert!(config.register < 16 && config.register_mask != 0);
    assert_eq!(config.cookie & !config.cookie_mask, 0);
    let run_dir = std::path::Path::new("/run/openvswitch");
    for bridge in config.bridges.iter().chain(&config.bridge) {
        let socket = crate::config::bridge_socket(run_dir, bridge).expect("a bridge's name");
        assert_eq!(socket.parent(), Some(run_dir), "{bridge:?}");
    }
    assert!(config.state_dir.is_absolute());
    let text = serde_json::to_string(config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), *config);
}
