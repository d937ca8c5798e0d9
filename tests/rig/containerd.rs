//! A containerd of the node's own, driven by `ctr`, which calls CNI itself.
//!
//! `ctr run --cni` knows one conflist directory and one plugin directory, and the shim one
//! runtime directory, all compiled in. So containerd and `ctr` each see the node's
//! directories there, in a mount namespace of their own; the host's stay as they are.
//! Not by `ip netns exec`: the /sys it mounts hides the cgroups from runc.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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

/// A running containerd. Dropping it ends its tasks, its shims and itself.
pub struct Containerd<'a> {
    node: &'a Node,
    dir: PathBuf,
    child: Child,
}

impl<'a> Containerd<'a> {
    /// Starts one on the node, without CRI, images or registries.
    #[track_caller]
    pub fn start(node: &'a Node) -> Self {
        let dir = node.dir.join("containerd");
        make_root_fs(&dir.join("rootfs"));
        fs::create_dir_all(node.dir.join("run-containerd")).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \
             \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \
             \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.aufs\", \
             \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc"),
        );
        fs::write(dir.join("config.toml"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = in_its_place(node, "containerd");
        command.arg("-c").arg(dir.join("config.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = spawn(&mut command, Some(&node.netns));
        let containerd = Self { node, dir, child };
        eventually("containerd answers", || containerd.ctr(&["version"]).succeeded());
        containerd
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
        let mut command = in_its_place(self.node, "ctr");
        command.arg("-a").arg(self.dir.join("sock")).args(args);
        start(command, Some(&self.node.netns), b"")
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
        for id in self.ctr(&["tasks", "ls", "-q"]).stdout.lines() {
            self.ctr(&["tasks", "rm", "-f", id]);
        }
        if let Ok(pid) = self.child.id().try_into() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
        for shim in self.shims() {
            let _ = kill(shim, Signal::SIGKILL);
        }
    }
}

fn in_its_place(node: &Node, program: &str) -> Command {
    let mut command = node.command("unshare");
    command.args(["--mount", "sh", "-c", IN_ITS_PLACE, "sh"]).arg(&node.dir).arg(program);
    command
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
