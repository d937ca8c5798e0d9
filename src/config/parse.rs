//! From a JSON object to a [`Config`].

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{AddressScope, Config, Evidence, Mode, Problem, Reg0};

/// Keys of ours that say what may be deleted.
pub(super) const SCOPE: [&str; 12] = [
    "bridge",
    "bridges",
    "tables",
    "cookie",
    "reg0",
    "register",
    "registerMask",
    "match",
    "preset",
    "addressScope",
    "ipScope",
    "mode",
];
/// And the others.
const OTHERS: [&str; 9] = [
    "conntrack",
    "reapDangling",
    "reapPorts",
    "lingerSeconds",
    "timeoutMs",
    "stateDir",
    "ovsRunDir",
    "logLevel",
    "logFile",
];

/// Keys of older releases, and why they do nothing now. An old conflist that has one must not
/// fail its pods: such a key is a warning, not a problem.
const RETIRED: [(&str, &str); 1] =
    [("force", "does nothing any more: what ovn-controller runs is never judged")];

/// Lists that mean nothing when they are empty. A conflist that has one starts pods today, so it is
/// a warning, too.
const EMPTY: [(&str, &str); 2] = [
    ("tables", "is an empty list: no entry is in scope, and nothing is ever deleted"),
    ("match", "is an empty list: no evidence counts, and nothing of a dead pod is ever deleted"),
];

fn ours() -> impl Iterator<Item = &'static str> {
    SCOPE.into_iter().chain(OTHERS)
}

/// Keys that the CNI specification or libcni puts there.
const THEIRS: [&str; 13] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "prevResult",
    "args",
    "capabilities",
    "runtimeConfig",
    "ipam",
    "ipMasq",
    "dns",
    "disableCheck",
    "disableGC",
];

/// The presets, each with what it sets: what the register means and which bridge it is, stack by
/// stack.
const PRESETS: [(&str, Reg0, Option<&str>); 5] = [
    // Programs no flows itself. Whatever controller does decides, so values are learned.
    ("ovs-cni", Reg0::Learn, None),
    // reg0 is unused; the bridge is rewritten from the pod list every minute.
    ("k-vswitch", Reg0::None, None),
    // reg0 is the namespace's VNID, also when one pod is left in the namespace.
    ("openshift-sdn", Reg0::None, Some("br0")),
    // reg0 is a field of marks.
    ("antrea", Reg0::None, Some("br-int")),
    // Registers are scratch, and ovn-controller owns every flow: report-only.
    ("ovn", Reg0::None, Some("br-int")),
];

struct Reader<'a> {
    conf: &'a Map<String, Value>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// Goes into a log line and into the runtime's event: not all of what was given.
    fn problem(&mut self, key: &str, text: impl Into<String>) {
        let cut = |text: String, most| match text.char_indices().nth(most) {
            Some((at, _)) => text.get(..at).unwrap_or_default().to_owned() + "...",
            None => text,
        };
        self.problems.push(Problem { key: cut(key.to_owned(), 80), text: cut(text.into(), 500) });
    }

    /// Reads `key` if it is there; a fault leaves `into` as it is.
    fn read<T>(&mut self, key: &str, into: &mut T, read: impl FnOnce(&Value) -> Result<T, String>) {
        if let Some(value) = self.conf.get(key) {
            match read(value) {
                Ok(read) => *into = read,
                Err(text) => self.problem(key, text),
            }
        }
    }

    /// Reads every key but `preset`.
    fn read_keys(&mut self, config: &mut Config) {
        self.read("bridge", &mut config.bridge, |v| bridge(v).map(Some));
        self.read("bridges", &mut config.bridges, |v| list(v, 64, bridge));
        self.read("tables", &mut config.tables, |v| {
            // 254 is internal, 255 means all.
            let tables = list(v, 254, |t| within(t, 0, 253))?;
            Ok(Some(tables.into_iter().filter_map(|t| u8::try_from(t).ok()).collect()))
        });
        let mut scope = (0, 0);
        self.read("cookie", &mut scope, cookie);
        (config.cookie, config.cookie_mask) = scope;
        self.read("reg0", &mut config.reg0, |v| text(v)?.parse());
        self.read("register", &mut config.register, register);
        self.read("registerMask", &mut config.register_mask, mask);
        self.read("match", &mut config.evidence, evidence);
        // The old name first: the new one wins.
        for key in ["ipScope", "addressScope"] {
            self.read(key, &mut config.address_scope, |v| {
                choice(v, &[("node", AddressScope::Node), ("cluster", AddressScope::Cluster)])
            });
        }
        self.read("mode", &mut config.mode, |v| {
            choice(v, &[("enforce", Mode::Enforce), ("observe", Mode::Observe)])
        });
        self.read("conntrack", &mut config.conntrack, boolean);
        self.read("reapDangling", &mut config.reap_dangling, boolean);
        self.read("reapPorts", &mut config.reap_ports, boolean);
        self.read("lingerSeconds", &mut config.linger_seconds, |v| within(v, 0, 86_400));
        self.read("timeoutMs", &mut config.timeout_ms, |v| within(v, 50, 120_000));
        self.read("stateDir", &mut config.state_dir, path);
        self.read("ovsRunDir", &mut config.ovs_run_dir, |v| path(v).map(Some));
        self.read("logLevel", &mut config.log_level, |v| {
            choice(v, &["error", "warn", "info", "debug", "trace"].map(|l| (l, l)))
                .map(str::to_owned)
        });
        self.read("logFile", &mut config.log_file, |v| path(v).map(Some));
    }

    fn refuse_unknown_keys(&mut self) {
        for key in self.conf.keys() {
            let known = ours().any(|ours| ours == key)
                || RETIRED.iter().any(|(retired, _)| retired == key)
                || THEIRS.contains(&key.as_str())
                || key.starts_with("cni.dev/")
                || key.starts_with('_');
            if !known {
                let text = match nearest(key) {
                    Some(near) => format!("is unknown; did you mean {near:?}?"),
                    None => {
                        format!("is unknown; known are {}", ours().collect::<Vec<_>>().join(", "))
                    }
                };
                self.problem(key, text);
            }
        }
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 80 { text.chars().take(77).collect::<String>() + "..." } else { text }
}

fn boolean(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("{} is not true or false", shown(value)))
}

fn text(value: &Value) -> Result<String, String> {
    match value.as_str() {
        Some("") => Err("is empty".to_owned()),
        Some(text) if text.contains('\0') => Err("holds a NUL character".to_owned()),
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("{} is not a string", shown(value))),
    }
}

fn path(value: &Value) -> Result<PathBuf, String> {
    let path = PathBuf::from(text(value)?);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("{} is not an absolute path", shown(value)))
    }
}

/// A bridge name becomes part of a socket's path.
fn bridge(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    if name.len() > 64 || name.starts_with('.') || name.contains(['/', '\n']) {
        return Err(format!("{} is not a bridge's name", shown(value)));
    }
    Ok(name)
}

fn list<T>(
    value: &Value,
    most: usize,
    read: impl Fn(&Value) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let items = value.as_array().ok_or_else(|| format!("{} is not a list", shown(value)))?;
    if items.len() > most {
        return Err(format!("has {} entries, {most} at most", items.len()));
    }
    items.iter().map(read).collect()
}

fn integer(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A JSON number or a string, decimal or 0x hexadecimal.
fn number(value: &Value) -> Result<u64, String> {
    let read = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => integer(text),
        _ => None,
    };
    read.ok_or_else(|| format!("{} is not a whole number", shown(value)))
}

fn within(value: &Value, least: u64, most: u64) -> Result<u64, String> {
    let number = number(value)?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(format!("{number} is not between {least} and {most}"))
    }
}

/// `"0x2a/0xff"`; without a mask the whole cookie counts.
fn cookie(value: &Value) -> Result<(u64, u64), String> {
    let wrong = || format!("{} is not \"COOKIE/MASK\"", shown(value));
    let text = value.as_str().ok_or_else(wrong)?;
    let (cookie, mask) = match text.split_once('/') {
        Some((cookie, mask)) => (integer(cookie), integer(mask)),
        None => (integer(text), Some(u64::MAX)),
    };
    let (cookie, mask) = cookie.zip(mask).ok_or_else(wrong)?;
    if cookie & !mask != 0 {
        return Err(format!("{} has cookie bits outside its mask", shown(value)));
    }
    Ok((cookie, mask))
}

fn register(value: &Value) -> Result<u8, String> {
    value
        .as_str()
        .and_then(|text| text.strip_prefix("reg"))
        .and_then(|index| index.parse::<u8>().ok())
        .filter(|index| *index < 16)
        .ok_or_else(|| format!("{} is not \"reg0\" to \"reg15\"", shown(value)))
}

/// A field: one run of bits. A mask with holes is no field.
fn mask(value: &Value) -> Result<u32, String> {
    let mask = u32::try_from(number(value)?)
        .map_err(|_| format!("{} does not fit 32 bits", shown(value)))?;
    let run = mask >> mask.trailing_zeros().min(31);
    if mask == 0 || run & run.wrapping_add(1) != 0 {
        return Err(format!("{} is not one run of bits", shown(value)));
    }
    Ok(mask)
}

fn evidence(value: &Value) -> Result<Evidence, String> {
    let mut evidence = Evidence { port: false, register: false, ip: false, mac: false };
    for kind in list(value, 16, text)? {
        match kind.as_str() {
            "port" => evidence.port = true,
            "register" => evidence.register = true,
            "ip" => evidence.ip = true,
            "mac" => evidence.mac = true,
            other => {
                return Err(format!(
                    "{other:?} is none of \"port\", \"register\", \"ip\", \"mac\""
                ));
            }
        }
    }
    Ok(evidence)
}

fn choice<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Result<T, String> {
    let found = value.as_str().and_then(|text| choices.iter().find(|(name, _)| *name == text));
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        format!("{} is none of {}", shown(value), names.join(", "))
    })
}

fn nearest(key: &str) -> Option<&'static str> {
    let folded = key.to_lowercase();
    ours()
        .map(|known| (strsim::damerau_levenshtein(&folded, &known.to_lowercase()), known))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map(|(_, known)| known)
}

pub(super) fn parse(conf: &Map<String, Value>) -> (Config, Vec<Problem>) {
    let mut config = Config::default();
    let mut reader = Reader { conf, problems: Vec::new() };
    let mut preset = None;
    let presets = PRESETS.each_ref().map(|preset| (preset.0, preset));
    reader.read("preset", &mut preset, |v| choice(v, &presets).map(Some));
    if let Some((name, reg0, bridge)) = preset {
        config.preset = Some((*name).to_owned());
        config.reg0 = reg0.clone();
        config.bridge = bridge.map(str::to_owned);
    }
    reader.read_keys(&mut config);
    if let (Some(bridge), false) = (&config.bridge, config.bridges.is_empty())
        && !config.bridges.contains(bridge)
    {
        config.bridges.push(bridge.clone());
    }
    reader.refuse_unknown_keys();
    (config, reader.problems)
}

pub(super) fn warnings(conf: &Map<String, Value>) -> Vec<Problem> {
    let retired = RETIRED.iter().filter(|(key, _)| conf.contains_key(*key));
    let is_empty = |key| conf.get(key).and_then(Value::as_array).is_some_and(Vec::is_empty);
    let empty = EMPTY.iter().filter(|(key, _)| is_empty(*key));
    let problem =
        |(key, text): &(&str, &str)| Problem { key: (*key).to_owned(), text: (*text).to_owned() };
    retired.chain(empty).map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Config, Vec<Problem>) {
        let value: Value = serde_json::from_str(text).unwrap();
        Config::parse(value.as_object().unwrap())
    }

    fn problem(text: &str) -> String {
        let (_, problems) = of(text);
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].to_string()
    }

    #[test]
    fn a_bare_type_is_a_complete_configuration() {
        let (config, problems) =
            of(r#"{"type": "ovs-flow-gc", "cniVersion": "1.1.0", "name": "n"}"#);
        assert_eq!((config, problems), (Config::default(), vec![]));
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let text = problem(r#"{"lingerSecond": 3}"#);
        assert!(text.contains("\"lingerSecond\"") && text.contains("\"lingerSeconds\""), "{text}");
        assert!(problem(r#"{"frobnicate": 3}"#).contains("known are"));
    }

    /// An old conflist must not fail its pods.
    #[test]
    fn a_key_of_an_older_release_is_a_warning() {
        for conf in [r#"{"force": true}"#, r#"{"force": false}"#, r#"{"force": "yes"}"#] {
            assert_eq!(of(conf), (Config::default(), vec![]), "{conf}");
            let value: Value = serde_json::from_str(conf).unwrap();
            let warnings = Config::warnings(value.as_object().unwrap());
            assert!(warnings.len() == 1 && warnings[0].to_string().contains("\"force\""));
        }
        assert!(Config::warnings(&Map::new()).is_empty());
        assert!(problem(r#"{"forced": true}"#).contains("is unknown"));
        let recorded: Config = serde_json::from_str(r#"{"force": true}"#).unwrap();
        assert_eq!(recorded, Config::default());
    }

    #[test]
    fn an_empty_list_that_makes_all_of_it_idle_is_a_warning() {
        let said = |conf: &str| {
            let (_, problems) = of(conf);
            assert_eq!(problems, [], "{conf}: ADD goes on");
            let value: Value = serde_json::from_str(conf).unwrap();
            let warnings = Config::warnings(value.as_object().unwrap());
            warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        for (conf, key) in [(r#"{"tables": []}"#, "tables"), (r#"{"match": []}"#, "match")] {
            let said = said(conf);
            assert!(said.contains(key) && said.contains("empty list"), "{said}");
        }
        assert_eq!(said(r#"{"bridges": [], "tables": [0], "match": ["ip"]}"#), "");
    }

    #[test]
    fn the_address_scope_has_an_old_name() {
        let scope = |conf: &str| {
            let (config, problems) = of(conf);
            assert_eq!(problems, [], "{conf}");
            config.address_scope
        };
        assert_eq!(scope("{}"), AddressScope::Node);
        assert_eq!(scope(r#"{"addressScope": "cluster"}"#), AddressScope::Cluster);
        assert_eq!(scope(r#"{"ipScope": "cluster"}"#), AddressScope::Cluster);
        assert_eq!(scope(r#"{"ipScope": "cluster", "addressScope": "node"}"#), AddressScope::Node);
        assert!(problem(r#"{"addressScope": "world"}"#).contains("\"addressScope\""));
        let recorded: Config = serde_json::from_str(r#"{"ipScope": "cluster"}"#).unwrap();
        assert_eq!(recorded.address_scope, AddressScope::Cluster);
    }

    #[test]
    fn wrong_types_and_absurd_numbers_name_the_key_and_keep_the_default() {
        for (conf, want) in [
            (r#"{"timeoutMs": -5}"#, "-5 is not a whole number"),
            (r#"{"timeoutMs": 1e300}"#, "is not a whole number"),
            (r#"{"timeoutMs": 1}"#, "1 is not between 50 and 120000"),
            (r#"{"tables": [300]}"#, "300 is not between 0 and 253"),
            (r#"{"tables": {}}"#, "is not a list"),
            (r#"{"register": "reg16"}"#, "is not \"reg0\" to \"reg15\""),
            (r#"{"registerMask": "0xf0f"}"#, "is not one run of bits"),
            (r#"{"registerMask": 0}"#, "is not one run of bits"),
            (r#"{"cookie": "0x10/0x01"}"#, "bits outside its mask"),
            (r#"{"match": ["port", "vlan"]}"#, "\"vlan\" is none of"),
            (r#"{"reg0": "externalId:"}"#, "is none of \"learn\""),
            (r#"{"bridge": "../x"}"#, "is not a bridge's name"),
            (r#"{"stateDir": "run"}"#, "is not an absolute path"),
            (r#"{"mode": true}"#, "is none of \"enforce\", \"observe\""),
            (r#"{"preset": "calico"}"#, "is none of \"ovs-cni\""),
        ] {
            let text = problem(conf);
            assert!(text.contains(want), "{conf}: {text}");
            assert_eq!(of(conf).0, Config::default(), "{conf}");
        }
    }

    #[test]
    fn explicit_keys_win_over_the_preset() {
        let (config, problems) =
            of(r#"{"preset": "openshift-sdn", "bridge": "br9", "reg0": "pod"}"#);
        assert!(problems.is_empty());
        assert_eq!(config.bridge.as_deref(), Some("br9"));
        assert_eq!(config.reg0, Reg0::Pod);
    }

    #[test]
    fn where_registers_are_not_a_pods_own_the_preset_says_so() {
        for preset in ["k-vswitch", "openshift-sdn", "antrea", "ovn"] {
            let (config, _) = of(&format!(r#"{{"preset": "{preset}"}}"#));
            assert_eq!(config.reg0, Reg0::None, "{preset}");
        }
    }

    /// 64 kB of a value or a key were 64 kB of a log line.
    #[test]
    fn what_is_wrong_is_not_shown_in_full() {
        let long = "ä".repeat(64 << 10);
        for conf in [
            format!(r#"{{"reg0": "{long}"}}"#),
            format!(r#"{{"{long}": 1}}"#),
            format!(r#"{{"match": ["{long}"]}}"#),
            format!(r#"{{"tables": ["{long}"]}}"#),
        ] {
            let said = problem(&conf);
            assert!(said.len() < 1_500 && said.contains("..."), "{} bytes", said.len());
        }
    }

    #[test]
    fn the_effective_configuration_survives_its_file() {
        let (config, _) =
            of(r#"{"reg0": "externalId:pod-id", "bridges": ["a", "b"], "tables": [0, 3],
            "cookie": "0x1/0xff", "registerMask": "0xffff", "mode": "observe", "match": ["ip"]}"#);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
    }
}
