//! `bug-report`: what a maintainer needs to know of this node, as one text to paste into an issue.
//!
//! Each part is a run of this binary, so a part that fails or hangs is the only one that is lost.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::{Context, Error, Exit, conflist, output};

/// The commands whose answers are collected.
const COMMANDS: [&[&str]; 6] = [
    &["version"],
    &["status"],
    &["doctor"],
    &["list"],
    &["sweep", "--dry-run"],
    &["undo", "--list"],
];
/// Seconds that each has for what it does on the switch.
const TIMEOUT: &str = "10";
/// Bytes of an answer that are shown.
const MOST: usize = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Write ip-1, mac-2 … in the place of addresses, the same for the same address everywhere.
    #[arg(long)]
    hide_addresses: bool,
    /// Where conflists are.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    net_dir: PathBuf,
}

/// A part of the report.
#[derive(Debug, Serialize)]
struct Part {
    title: String,
    text: String,
}

pub(super) fn run(context: &Context, options: &Options) -> Result<Exit, Error> {
    let mut parts = vec![system()];
    parts.extend(COMMANDS.map(|arguments| answer(context, options, arguments)));
    parts.extend(configurations(context, &options.net_dir));
    if options.hide_addresses {
        let mut hidden = Hidden::default();
        for part in &parts {
            hidden.find(&part.text);
        }
        for part in &mut parts {
            part.text = hidden.hide(&part.text);
        }
    }
    let blocks: Vec<_> = parts.iter().map(Part::block).collect();
    output::say(context, &parts, &*blocks.join("\n"))?;
    Ok(Exit::Done)
}

impl Part {
    /// As Markdown. A fence longer than any in the text cannot be ended by it.
    fn block(&self) -> String {
        let longest = self.text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
        let fence = "`".repeat(longest.max(2).saturating_add(1));
        format!("### {}\n\n{fence}text\n{}\n{fence}\n", self.title, self.text.trim_end())
    }
}

fn system() -> Part {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/etc/os-release");
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let text = format!(
        "{}\nLinux {}, {}",
        name.unwrap_or("distribution unknown").trim_matches('"'),
        read("/proc/sys/kernel/osrelease").trim(),
        std::env::consts::ARCH
    );
    Part { title: "System".to_owned(), text }
}

/// What this binary says to `arguments`.
fn answer(context: &Context, options: &Options, arguments: &[&str]) -> Part {
    let title = format!("ovs-flow-gc {}", arguments.join(" "));
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments).arg("--state-dir").arg(&context.state_dir);
    command.args(["--timeout", TIMEOUT]).stdin(Stdio::null());
    if arguments == ["doctor"] {
        command.arg("--net-dir").arg(&options.net_dir);
    }
    let text = match command.output() {
        Ok(done) => {
            let (out, err) = (shown(&done.stdout), shown(&done.stderr));
            format!("{out}{err}({})", done.status)
        }
        Err(error) => format!("cannot be run: {error}"),
    };
    Part { title, text }
}

fn shown(bytes: &[u8]) -> String {
    match bytes.get(..MOST) {
        Some(start) if start.len() < bytes.len() => {
            format!("{}\n… {} bytes in all\n", String::from_utf8_lossy(start), bytes.len())
        }
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// The node's conflists, and what the networks' records were made with.
fn configurations(context: &Context, net_dir: &Path) -> Vec<Part> {
    let files = conflist::candidates(net_dir).unwrap_or_default();
    let mut paths: Vec<_> = files.into_iter().map(|file| file.path).collect();
    let networks = std::fs::read_dir(&context.state_dir).into_iter().flatten().flatten();
    paths
        .extend(networks.map(|network| network.path().join("config.json")).filter(|p| p.is_file()));
    paths.sort();
    paths.iter().map(|path| configuration(path)).collect()
}

fn configuration(path: &Path) -> Part {
    let text = match conflist::read(path).map(|text| serde_json::from_str::<Value>(&text)) {
        Ok(Ok(mut value)) => {
            without_secrets(&mut value);
            serde_json::to_string_pretty(&value).unwrap_or_default()
        }
        Ok(Err(error)) => format!("not shown, it is not JSON: {error}"),
        Err(error) => error.to_string(),
    };
    Part { title: path.display().to_string(), text }
}

/// Parts of a key that say that its value is secret.
const SECRET: [&str; 9] =
    ["token", "passw", "passphrase", "secret", "credential", "bearer", "apikey", "api_key", "psk"];

/// Takes out what other plugins' keys say to be secret, and who logs in at a URL.
fn without_secrets(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let key = key.to_lowercase();
                if SECRET.iter().any(|word| key.contains(word)) {
                    *member = "(not shown)".into();
                } else {
                    without_secrets(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_secrets),
        Value::String(text) => {
            if let Some((scheme, rest)) = text.split_once("://")
                && let Some((_, host)) = rest.split_once('@')
            {
                *text = format!("{scheme}://(not shown)@{host}");
            }
        }
        _ => {}
    }
}

/// Which name stands for which address.
#[derive(Debug, Default)]
struct Hidden {
    addresses: BTreeMap<IpAddr, String>,
    macs: BTreeMap<u64, String>,
}

/// What a word of a text is.
enum Word {
    Address(IpAddr),
    Mac(u64),
    Other,
}

impl Hidden {
    /// Gives each address of `text` a name.
    fn find(&mut self, text: &str) {
        for (word, _) in words(text) {
            match kind(word) {
                Word::Address(ip) => {
                    let name = format!("ip-{}", self.addresses.len().saturating_add(1));
                    self.addresses.entry(ip).or_insert(name);
                }
                Word::Mac(mac) => {
                    let name = format!("mac-{}", self.macs.len().saturating_add(1));
                    self.macs.entry(mac).or_insert(name);
                }
                Word::Other => {}
            }
        }
    }

    /// `text` with names in the place of addresses, also of those that stand there as a number, or
    /// with dashes, as in names of hosts.
    fn hide(&self, text: &str) -> String {
        let mut hidden = String::with_capacity(text.len());
        for (word, behind) in words(text) {
            let name = match kind(word) {
                Word::Address(ip) => self.addresses.get(&ip),
                Word::Mac(mac) => self.macs.get(&mac),
                Word::Other => self.numbered(word),
            };
            hidden.push_str(name.map_or(word, String::as_str));
            hidden.push_str(behind);
        }
        let dashed = |ip: &IpAddr| ip.to_string().replace('.', "-");
        for (ip, name) in self.addresses.iter().filter(|(ip, _)| ip.is_ipv4()).rev() {
            hidden = replaced(&hidden, &dashed(ip), name);
        }
        for (mac, name) in &self.macs {
            let [_, _, bytes @ ..] = mac.to_be_bytes();
            let lower = bytes.map(|byte| format!("{byte:02x}")).join("-");
            hidden = replaced(&hidden, &lower, name);
            hidden = replaced(&hidden, &lower.to_uppercase(), name);
        }
        hidden
    }

    /// The name of the address that a number is.
    fn numbered(&self, word: &str) -> Option<&String> {
        let ip = |value: u64| {
            self.addresses.get(&IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(value).ok()?)))
        };
        let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
        let digits = word.strip_prefix("0x");
        let mac = digits.or(Some(word).filter(|word| word.len() == 12)).and_then(hex);
        let value = digits.map_or_else(|| word.parse().ok(), hex);
        value.and_then(ip).or_else(|| self.macs.get(&mac?))
    }
}

/// `text` with `to` for each `from` that is not part of a longer number.
fn replaced(text: &str, from: &str, to: &str) -> String {
    let mut parts = text.split(from).peekable();
    let mut done = String::with_capacity(text.len());
    while let Some(part) = parts.next() {
        done.push_str(part);
        let Some(next) = parts.peek() else { break };
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_ascii_hexdigit());
        let is_whole = !is_part(part.chars().next_back()) && !is_part(next.chars().next());
        done.push_str(if is_whole { to } else { from });
    }
    done
}

fn kind(word: &str) -> Word {
    if let Ok(ip) = word.parse::<Ipv4Addr>() {
        return Word::Address(ip.into());
    }
    let of = |separator: char, parts: usize| {
        let digits: Vec<_> = word.split(separator).collect();
        let is_hex = |part: &&str| {
            part.len() == 12_usize.div_euclid(parts) && part.chars().all(|c| c.is_ascii_hexdigit())
        };
        let all = digits.len() == parts && digits.iter().all(is_hex);
        all.then(|| u64::from_str_radix(&digits.concat(), 16).ok()).flatten()
    };
    if let Some(mac) = of(':', 6).or_else(|| of('.', 3)) {
        return Word::Mac(mac);
    }
    match word.parse::<Ipv6Addr>() {
        Ok(ip) if !ip.is_unspecified() => Word::Address(ip.into()),
        _ => Word::Other,
    }
}

/// `text` in words that may be addresses, each with what is between it and the next.
fn words(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (run, after) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
        let (gap, next) = after.split_at(after.find(is_part).unwrap_or(after.len()));
        // A sentence may end with an address, and a prefix with `::`.
        let whole = run.trim_end_matches('.');
        let is_prefix = whole.ends_with("::") && matches!(kind(whole), Word::Address(_));
        let whole = if is_prefix { whole } else { whole.trim_end_matches(['.', ':']) };
        if matches!(kind(whole), Word::Other) {
            // `tcp:10.0.0.1:6640`.
            for piece in run.split_inclusive(':') {
                found.push(piece.split_at(piece.trim_end_matches(['.', ':']).len()));
            }
        } else {
            found.push(run.split_at(whole.len()));
        }
        found.push(("", gap));
        rest = next;
    }
    found
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '.' || c == ':'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hide(text: &str) -> String {
        let mut hidden = Hidden::default();
        hidden.find(text);
        hidden.hide(text)
    }

    #[test]
    fn an_address_has_one_name_in_every_form() {
        let text = "pod 10.244.1.3, nw_dst=10.244.1.3/24: reg0=0xaf40103 or 183763203.\n\
                    tcp:10.244.1.4:6640 02:B1:31:26:75:e5 02:b1:31:26:75:e5 fe80::1 (10.244.1.4).";
        assert_eq!(
            hide(text),
            "pod ip-1, nw_dst=ip-1/24: reg0=ip-1 or ip-1.\n\
             tcp:ip-2:6640 mac-1 mac-1 ip-3 (ip-2)."
        );
        assert_eq!(
            hide("fd00:10:244::/64 10.77.88.4 ip-10-77-88-4.eu 0A:58:0a:4d:58:02 0a58.0a4d.5802"),
            "ip-1/64 ip-2 ip-ip-2.eu mac-1 mac-1"
        );
        assert_eq!(
            hide("0a:58:0a:4d:58:02 0a580a4d5802 0xa580a4d5802 0A-58-0A-4D-58-02 10a580a4d5802"),
            "mac-1 mac-1 mac-1 mac-1 10a580a4d5802"
        );
        assert_eq!(hide("10.0.0.1 10.0.0.12 10-0-0-12 10-0-0-123"), "ip-1 ip-2 ip-2 10-0-0-123");
    }

    #[test]
    fn what_is_no_address_stays() {
        for text in [
            "2026-11-30T04:15:14.543Z INFO ovs-flow-gc 0.1.0, Linux 6.1.0-18, table=20,priority=200",
            "ovs_flow_gc::judge 12:34:56 :: a:b 1.2.3 300.1.1.1 reg0=0x1001 한국어 …",
            "",
        ] {
            assert_eq!(hide(text), text);
        }
    }

    #[test]
    fn secrets_of_other_plugins_are_not_shown() {
        let mut value = serde_json::json!({"plugins": [{"type": "x", "authToken": "abc",
            "kubernetes": {"Password": ["p"], "server": "https://me:abc@10.0.0.1:6443"},
            "ApiKey": "abc", "mtu": 1500}]});
        without_secrets(&mut value);
        let text = value.to_string();
        assert!(!text.contains("abc") && !text.contains("\"p\""), "{text}");
        assert!(text.contains("1500") && text.contains("@10.0.0.1:6443"), "{text}");
    }

    #[test]
    fn a_text_does_not_end_its_block() {
        let part = Part { title: "t".to_owned(), text: "a\n```\nb\n````\n".to_owned() };
        let block = part.block();
        assert!(block.contains("\n`````text\n") && block.ends_with("\n`````\n"), "{block}");
    }
}
