//! The OVS CNI that the tests chain `ovs-flow-gc` behind. No distribution packages one.
//!
//! It does what ovs-cni does: a veth pair, the host end a port of the bridge with ovs-cni's
//! marks on the Port row, addresses by delegation to an IPAM plugin. Like ovs-cni it programs
//! no flows, does not wait for the ofport, and has no garbage collection: a port whose DEL
//! never came stays. Unlike ovs-cni it keeps no cache: the port's name follows from the key.
//!
//! Configuration: `bridge` (br0), `vlan`, `ofport` (a number to ask for), `mtu`, `ipam`,
//! `ovsRunDir` (`$OVS_RUNDIR`), `callLog` (a file that gets one line a call), the capability
//! `mac`.

use std::env::{self, VarError};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// What the IPAM plugins of Debian 12 understand at most.
const IPAM_VERSION: &str = "1.0.0";

/// A CNI error (spec 1.1.0, section 5).
struct Failure {
    code: u32,
    msg: String,
}

fn failure(code: u32, msg: impl Into<String>) -> Failure {
    Failure { code, msg: msg.into() }
}

type Answer = Result<Option<Value>, Failure>;

fn main() -> ExitCode {
    let mut input = Vec::new();
    let conf = match io::stdin().read_to_end(&mut input) {
        Ok(_) => serde_json::from_slice(&input).unwrap_or(Value::Null),
        Err(_) => Value::Null,
    };
    let version = conf.get("cniVersion").and_then(Value::as_str).unwrap_or("0.3.1");
    let answer = if VERSIONS.contains(&version) {
        serve(&conf, version)
    } else {
        Err(failure(1, format!("cniVersion {version} is not supported")))
    };
    let (text, exit) = match answer {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(result)) => (result, ExitCode::SUCCESS),
        Err(Failure { code, msg }) => {
            (json!({"cniVersion": version, "code": code, "msg": msg}), ExitCode::FAILURE)
        }
    };
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(conf: &Value, version: &str) -> Answer {
    let command = variable("CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(Some(json!({"cniVersion": version, "supportedVersions": VERSIONS})));
    }
    let call = Call::new(conf, version)?;
    call.log(&command)?;
    match command.as_str() {
        "ADD" => call.add(),
        "DEL" => call.del(),
        "CHECK" => call.check(),
        "STATUS" => call.status(),
        "GC" => Ok(None),
        other => Err(failure(4, format!("CNI_COMMAND {other:?} is not known"))),
    }
}

fn variable(name: &str) -> Result<String, Failure> {
    match env::var(name) {
        Ok(value) => Ok(value),
        Err(VarError::NotPresent) => Err(failure(4, format!("{name} is not set"))),
        Err(VarError::NotUnicode(_)) => Err(failure(4, format!("{name} is not UTF-8"))),
    }
}

/// One call: its configuration and what the environment says.
struct Call<'a> {
    conf: &'a Value,
    version: &'a str,
    network: &'a str,
    bridge: &'a str,
    run_dir: String,
    container: String,
    netns: String,
    ifname: String,
    pod_uid: String,
}

impl<'a> Call<'a> {
    fn new(conf: &'a Value, version: &'a str) -> Result<Self, Failure> {
        let text = |key| conf.get(key).and_then(Value::as_str);
        let args = env::var("CNI_ARGS").unwrap_or_default();
        let pod_uid = args.split(';').find_map(|a| a.strip_prefix("K8S_POD_UID="));
        Ok(Self {
            conf,
            version,
            network: text("name").ok_or_else(|| failure(7, "name is missing"))?,
            bridge: text("bridge").unwrap_or("br0"),
            run_dir: text("ovsRunDir")
                .map(str::to_owned)
                .or_else(|| env::var("OVS_RUNDIR").ok())
                .unwrap_or_else(|| "/var/run/openvswitch".to_owned()),
            container: env::var("CNI_CONTAINERID").unwrap_or_default(),
            netns: env::var("CNI_NETNS").unwrap_or_default(),
            ifname: env::var("CNI_IFNAME").unwrap_or_default(),
            pod_uid: pod_uid.unwrap_or_default().to_owned(),
        })
    }

    /// One line a call, written at once, so that parallel calls do not mix.
    fn log(&self, command: &str) -> Result<(), Failure> {
        let Some(path) = self.conf.get("callLog").and_then(Value::as_str) else { return Ok(()) };
        let line = format!("{command} {} {} {:?}\n", self.container, self.ifname, self.netns);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut log| log.write_all(line.as_bytes()))
            .map_err(|e| failure(5, format!("callLog {path}: {e}")))
    }

    /// The host end: 15 bytes at most, and always the same for a key, so that DEL needs no
    /// memory (FNV-1a).
    fn port(&self) -> String {
        let key = format!("{}/{}/{}", self.network, self.container, self.ifname);
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("veth{:08x}", (hash ^ (hash >> 32)) & 0xffff_ffff)
    }

    fn add(&self) -> Answer {
        if self.netns.is_empty() || self.container.is_empty() || self.ifname.is_empty() {
            return Err(failure(4, "CNI_NETNS, CNI_CONTAINERID and CNI_IFNAME are needed"));
        }
        let addresses = self.ipam("ADD")?.unwrap_or_else(|| json!({}));
        let result = self.plumb(&addresses);
        if result.is_err() {
            // The runtime may not call DEL for an ADD that failed.
            let _ = self.del();
        }
        result.map(Some)
    }

    fn plumb(&self, addresses: &Value) -> Result<Value, Failure> {
        let (port, ifname, netns) = (self.port(), &self.ifname, &self.netns);
        let wanted = self.conf.pointer("/runtimeConfig/mac").and_then(Value::as_str);
        let mac = wanted.map_or_else(random_mac, |mac| Ok(mac.to_owned()))?;
        let port_mac = random_mac()?;
        let mtu = self.conf.get("mtu").and_then(Value::as_u64).unwrap_or(1500);
        ip_batch(&format!(
            "link add {port} mtu {mtu} address {port_mac} type veth \
             peer name {ifname} mtu {mtu} address {mac} netns {netns}\n\
             link set {port} up\n"
        ))?;

        let list = |key| addresses.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let (mut ips, routes) = (list("ips"), list("routes"));
        let mut inside = format!("link set lo up\nlink set {ifname} up\n");
        for ip in &ips {
            let address = ip.get("address").and_then(Value::as_str).unwrap_or_default();
            let nodad = if address.contains(':') { " nodad" } else { "" };
            inside += &format!("address add {address} dev {ifname}{nodad}\n");
        }
        for route in &routes {
            let dst = route.get("dst").and_then(Value::as_str).unwrap_or_default();
            let own = route.get("gw").and_then(Value::as_str);
            let same_family = |ip: &&Value| {
                let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
                text.contains(':') == dst.contains(':')
            };
            let gateway = ips.iter().find(same_family).and_then(|ip| ip.get("gateway")?.as_str());
            if let Some(via) = own.or(gateway) {
                inside += &format!("route add {dst} via {via} dev {ifname}\n");
            }
        }
        within(netns, || ip_batch(&inside))?;
        self.add_port(&port)?;

        for ip in &mut ips {
            let v6 = ip.get("address").and_then(Value::as_str).is_some_and(|a| a.contains(':'));
            let Some(fields) = ip.as_object_mut() else { continue };
            fields.insert("interface".to_owned(), json!(1));
            if self.version.starts_with("0.") {
                fields.insert("version".to_owned(), json!(if v6 { "6" } else { "4" }));
            }
        }
        Ok(json!({
            "cniVersion": self.version,
            "interfaces": [
                {"name": port, "mac": port_mac},
                {"name": ifname, "mac": mac, "sandbox": netns},
            ],
            "ips": ips,
            "routes": routes,
            "dns": {},
        }))
    }

    fn add_port(&self, port: &str) -> Result<(), Failure> {
        let mut args = vec!["--no-wait".to_owned(), "add-port".into(), self.bridge.into()];
        args.push(port.into());
        if let Some(vlan) = self.conf.get("vlan").and_then(Value::as_u64) {
            args.push(format!("tag={vlan}"));
        }
        args.extend(["--", "set", "Port", port].map(str::to_owned));
        for (key, value) in [
            ("owner", "ovs-cni.network.kubevirt.io"),
            ("contNetns", &self.netns),
            ("contIface", &self.ifname),
            ("contPodUid", &self.pod_uid),
        ] {
            args.push(format!("external_ids:{key}=\"{value}\""));
        }
        if let Some(ofport) = self.conf.get("ofport").and_then(Value::as_u64) {
            args.extend(["--", "set", "Interface", port].map(str::to_owned));
            args.push(format!("ofport_request={ofport}"));
        }
        self.vsctl(&args).map(drop)
    }

    /// Port, link, address, in this order: an address is free only when nothing has it.
    /// Idempotent.
    fn del(&self) -> Answer {
        let port = self.port();
        self.vsctl(&["--no-wait", "--if-exists", "del-port", self.bridge, &port])?;
        if let Err(error) = run("ip", &["link", "del", &port], "")
            && !error.msg.contains("Cannot find device")
        {
            return Err(error);
        }
        self.ipam("DEL").map(|_| None)
    }

    fn check(&self) -> Answer {
        let port = self.port();
        let bridge = self
            .vsctl(&["port-to-br", &port])
            .map_err(|e| failure(100, format!("port {port} is not there: {}", e.msg)))?;
        if bridge.trim() != self.bridge {
            return Err(failure(100, format!("port {port} is on bridge {}", bridge.trim())));
        }
        self.ipam("CHECK").map(|_| None)
    }

    fn status(&self) -> Answer {
        self.vsctl(&["br-exists", self.bridge])
            .map(|_| None)
            .map_err(|e| failure(50, format!("bridge {} is not there: {}", self.bridge, e.msg)))
    }

    fn vsctl(&self, args: &[impl AsRef<OsStr>]) -> Result<String, Failure> {
        let db = format!("--db=unix:{}/db.sock", self.run_dir);
        let all = [OsStr::new(&db), OsStr::new("--timeout=60")];
        let all: Vec<&OsStr> = all.into_iter().chain(args.iter().map(AsRef::as_ref)).collect();
        // Too many at once for the socket's backlog: OVS says "Protocol error" for EAGAIN.
        for _ in 0..100 {
            match run("ovs-vsctl", &all, "") {
                Err(busy) if busy.msg.contains("(Protocol error)") => {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                done => return done,
            }
        }
        run("ovs-vsctl", &all, "")
    }

    /// Delegates to `ipam.type` with our own environment and configuration.
    fn ipam(&self, command: &str) -> Result<Option<Value>, Failure> {
        let Some(kind) = self.conf.pointer("/ipam/type").and_then(Value::as_str) else {
            return Ok(None);
        };
        let path = variable("CNI_PATH")?;
        let plugin = path
            .split(':')
            .map(|dir| Path::new(dir).join(kind))
            .find(|plugin| plugin.exists())
            .ok_or_else(|| failure(7, format!("ipam plugin {kind:?} is not in {path}")))?;
        let mut conf = self.conf.clone();
        if let Some(fields) = conf.as_object_mut()
            && self.version == "1.1.0"
        {
            fields.insert("cniVersion".to_owned(), json!(IPAM_VERSION));
        }
        // The plugin's own command may differ from ours: a failed ADD calls DEL.
        let mut delegate = Command::new(plugin);
        delegate.env("CNI_COMMAND", command);
        let output = output(&mut delegate, &conf.to_string())?;
        Ok(serde_json::from_str(&output).ok())
    }
}

/// A locally administered unicast MAC, as the kernel would choose one.
fn random_mac() -> Result<String, Failure> {
    let mut bytes = [0_u8; 5];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|e| failure(5, format!("/dev/urandom: {e}")))?;
    let [a, b, c, d, e] = bytes;
    Ok(format!("02:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}"))
}

/// Runs `work` in another network namespace and comes back.
fn within<T>(netns: &str, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let enter = |path: &str| {
        File::open(path)
            .and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNET)?))
            .map_err(|e| failure(5, format!("netns {path}: {e}")))
    };
    let home = File::open("/proc/self/ns/net").map_err(|e| failure(5, e.to_string()))?;
    enter(netns)?;
    let result = work();
    setns(home, CloneFlags::CLONE_NEWNET).map_err(|e| failure(5, e.to_string()))?;
    result
}

fn ip_batch(lines: &str) -> Result<(), Failure> {
    run("ip", &["-batch", "-"], lines).map(drop)
}

fn run(program: &str, args: &[impl AsRef<OsStr>], stdin: &str) -> Result<String, Failure> {
    output(Command::new(program).args(args), stdin)
}

/// Standard output, or a failure that holds what the command said.
fn output(command: &mut Command, stdin: &str) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let broken = |e: io::Error| failure(5, format!("{name}: {e}"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(broken)?;
    if let Some(mut pipe) = child.stdin.take() {
        // A plugin that fails early does not read.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output().map_err(broken)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(failure(11, format!("{name}: {}{}: {}", said.trim(), complaint.trim(), output.status)))
}
