//! A containerd of the node's own, driven by `ctr`, which calls CNI itself.
//!
//! `ctr run --cni` knows one conflist directory and one plugin directory, and the shim one
//! runtime directory, all compiled in. So containerd and `ctr` each see the node's
//! directories there, in a mount namespace of their own; the host's stay as they are.
//! Not by `ip netns exec`: the /sys it mounts hides the cgroups from runc.
//!
//! With CRI ([`super::cri`]) it makes the pods' network namespaces itself, in the host's
//! /run/netns, where everybody must see them: that one is shared with the host.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::node::Node;
use super::run::{Outcome, Running, eventually, spawn, start};

/// The commands of the pods' root file system.
const APPLETS: [&str; 5] = ["sh", "sleep", "true", "ip", "cat"];

/// Mounts what is in `$1` over what is compiled in, and becomes the rest of the arguments.
const IN_ITS_PLACE: &str = "dir=$1; shift
    mkdir -p /run/containerd &&
    mount --bind $dir/run-containerd /run/containerd &&
    mount --bind $dir/etc /etc &&
    mount --bind $dir/opt /opt &&
    mount --bind $dir/var-lib /var/lib &&
    exec \"$@\"";

/// Goes before [`IN_ITS_PLACE`] with CRI: where the host shares its mounts, only /run/netns
/// stays shared.
const BUT_NETNS: &str = "while read -r _ _ _ _ at _; do
        # One that is gone by now is another test's.
        case $at in /run/netns*) continue ;; esac
        mount --make-private $at 2>/dev/null || ! mountpoint -q $at || exit
    done < /proc/self/mountinfo
    ";

/// Image references of CRI are whole; this one is pulled from nowhere.
const PAUSE: &str = "localhost/pause:test";

/// A running containerd. Dropping it ends its tasks, its shims and itself.
pub struct Containerd<'a> {
    node: &'a Node,
    dir: PathBuf,
    cri: bool,
    child: Option<Child>,
}

impl<'a> Containerd<'a> {
    /// Starts one on the node, without CRI, images or registries.
    #[track_caller]
    pub fn start(node: &'a Node) -> Self {
        Self::make(node, false)
    }

    /// Starts one with CRI and a pause image: see [`super::cri`].
    #[track_caller]
    pub(super) fn start_with_cri(node: &'a Node) -> Self {
        let containerd = Self::make(node, true);
        containerd.import_pause_image();
        containerd
    }

    #[track_caller]
    fn make(node: &'a Node, cri: bool) -> Self {
        let dir = node.dir.join("containerd");
        make_root_fs(&dir.join("rootfs"));
        fs::create_dir_all(node.dir.join("run-containerd")).unwrap();
        // What the kubelet would find on a node, and CRI copies into a sandbox.
        fs::write(node.dir.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
        fs::write(node.dir.join("etc/resolv.conf"), "").unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        let disabled = if cri { "" } else { "\"io.containerd.grpc.v1.cri\", " };
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [{disabled}\
             \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \
             \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.aufs\", \
             \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n\
             sandbox_image = {PAUSE:?}\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc"),
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let mut containerd = Self { node, dir, cri, child: None };
        containerd.start_again();
        containerd
    }

    /// Starts it after [`stop`](Self::stop).
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log"));
        let mut command = self.in_its_place("containerd");
        command.arg("-c").arg(self.dir.join("config.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.unwrap());
        let mut child = spawn(&mut command, Some(&self.node.netns));
        eventually("containerd answers", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", self.log());
            self.ctr(&["version"]).succeeded()
        });
        self.child = Some(child);
    }

    /// Stops it; what it started runs on.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        self.child.take().unwrap().wait().unwrap();
    }

    /// Waits for its end, after a SIGKILL.
    #[track_caller]
    pub fn end_killed(&mut self) {
        self.child.take().unwrap().wait().unwrap();
    }

    /// Sends it a signal, e.g. SIGSTOP.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().expect("it runs").id();
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Takes away all that it knows, while it is stopped.
    #[track_caller]
    pub fn wipe_state(&self) {
        assert!(self.child.is_none(), "it runs");
        for part in ["root", "state"] {
            fs::remove_dir_all(self.dir.join(part)).unwrap();
        }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    /// Any `ctr` command.
    #[track_caller]
    pub fn ctr(&self, args: &[&str]) -> Outcome {
        self.start_ctr(args).wait()
    }

    /// `ctr run --rm --cni`: ADD, the command, DEL. The container id that CNI sees is
    /// `default-<id>`.
    #[track_caller]
    pub fn run(&self, id: &str, command: &[&str]) -> Outcome {
        self.start_run(id, command).wait()
    }

    /// The same, not waited for: `ctr` runs as long as the pod does.
    #[track_caller]
    pub fn start_run(&self, id: &str, command: &[&str]) -> Running {
        let root_fs = self.dir.join("rootfs").display().to_string();
        let mut args = vec!["run", "--rm", "--cni", "--rootfs", &root_fs, id];
        args.extend(command);
        self.start_ctr(&args)
    }

    /// The process id of a pod's first process, once it runs.
    #[track_caller]
    pub fn task_pid(&self, id: &str) -> i32 {
        let mut pid = None;
        eventually(&format!("{id} runs"), || {
            let tasks = self.ctr(&["tasks", "ls"]).stdout;
            let row = tasks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let mut row = row.filter(|words| words.first() == Some(&id) && words[2] == "RUNNING");
            pid = row.next().and_then(|words| words[1].parse().ok());
            pid.is_some()
        });
        pid.unwrap()
    }

    /// Kills a pod's processes and takes the container away, without CNI: nobody calls DEL.
    #[track_caller]
    pub fn wipe(&self, id: &str) {
        let pid = self.task_pid(id);
        self.ctr(&["tasks", "kill", "-s", "SIGKILL", id]).ok();
        eventually(&format!("{id} is dead"), || {
            !Path::new(&format!("/proc/{pid}/ns/net")).exists()
        });
        self.ctr(&["tasks", "rm", "-f", id]);
        self.ctr(&["containers", "rm", id]).ok();
    }

    /// What containerd logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn start_ctr(&self, args: &[&str]) -> Running {
        let mut command = self.in_its_place("ctr");
        command.arg("-a").arg(self.dir.join("sock")).args(args);
        start(command, Some(&self.node.netns), b"")
    }

    fn in_its_place(&self, program: &str) -> Command {
        let mut command = self.node.command("unshare");
        let script = if self.cri {
            command.args(["--propagation", "unchanged"]);
            format!("{BUT_NETNS}{IN_ITS_PLACE}")
        } else {
            IN_ITS_PLACE.to_owned()
        };
        command.args(["--mount", "sh", "-c", &script, "sh"]).arg(&self.node.dir).arg(program);
        command
    }

    /// The sandboxes' image. Again after [`wipe_state`](Self::wipe_state): there is nowhere to pull
    /// it from.
    #[track_caller]
    pub fn import_pause_image(&self) {
        self.import_image(PAUSE, &self.dir.join("rootfs"));
    }

    /// An image of a root file system, as `docker save` writes it.
    #[track_caller]
    pub fn import_image(&self, name: &str, root_fs: &Path) {
        let image = self.dir.join("image");
        let _ = fs::remove_dir_all(&image);
        fs::create_dir_all(&image).unwrap();
        let at = |name: &str| image.join(name).display().to_string();
        let (layer, root_fs) = (at("layer.tar"), root_fs.display().to_string());
        self.node.run("tar", &["-C", &root_fs, "-cf", &layer, "."]).ok();
        let sum = self.node.run("sha256sum", &[&layer]).ok();
        let digest = format!("sha256:{}", sum.split_whitespace().next().unwrap());
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/bin/sleep", "2147483647"]},
            "rootfs": {"type": "layers", "diff_ids": [digest]},
        });
        fs::write(at("config.json"), config.to_string()).unwrap();
        let manifest =
            json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
        fs::write(at("manifest.json"), manifest.to_string()).unwrap();
        let archive = self.dir.join("image.tar").display().to_string();
        let files = ["manifest.json", "config.json", "layer.tar"];
        self.node
            .run(
                "tar",
                &[&["-C", &image.display().to_string(), "-cf", &archive], &files[..]].concat(),
            )
            .ok();
        let import = ["-n", "k8s.io", "images", "import", "--snapshotter", "native"];
        self.ctr(&[&import[..], &["--all-platforms", &archive]].concat()).ok();
    }

    /// Shims, by the socket that only they were given.
    fn shims(&self) -> Vec<Pid> {
        let sock = self.dir.join("sock").display().to_string();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        processes
            .filter_map(|process| {
                let pid = process.file_name().to_str()?.parse().ok()?;
                let line = fs::read_to_string(process.path().join("cmdline")).ok()?;
                let ours = line.starts_with("/usr/bin/containerd-shim") && line.contains(&sock);
                ours.then_some(Pid::from_raw(pid))
            })
            .collect()
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Its sandboxes are ended below: a test that fails may have left it stopped.
            if !self.cri {
                for id in self.ctr(&["tasks", "ls", "-q"]).stdout.lines() {
                    self.ctr(&["tasks", "rm", "-f", id]);
                }
            }
            if let Ok(pid) = child.id().try_into() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
            }
            let _ = child.wait();
        }
        for shim in self.shims() {
            for task in children(shim) {
                let _ = kill(task, Signal::SIGKILL);
            }
            let _ = kill(shim, Signal::SIGKILL);
        }
    }
}

/// The processes that a process started.
fn children(of: Pid) -> Vec<Pid> {
    let path = format!("/proc/{of}/task/{of}/children");
    let list = fs::read_to_string(path).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// A root file system of one static busybox.
fn make_root_fs(dir: &Path) {
    for part in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(dir.join(part)).unwrap();
    }
    fs::copy("/bin/busybox", dir.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", dir.join("bin").join(applet)).unwrap();
    }
}
