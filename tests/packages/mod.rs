//! What `conf/release/make.sh` makes, installed and taken off: the .deb by dpkg, the .rpm by rpm,
//! each in a root directory of its own where their scripts run, and the tarball by its install.sh.
//!
//! The plugin is the real one. A static busybox stands in for the daemon and for the root's
//! commands, a script for `systemctl`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::install_sh::{BARE, BINARY, LIST, Node, said};

/// What make.sh makes. The second time as differently as one machine allows.
fn make(dir: &Path, name: &str) -> PathBuf {
    let plugin = dir.join("plugin");
    if !plugin.exists() {
        let stripped = Command::new("strip").arg("-o").arg(&plugin).arg(BINARY).status();
        assert!(stripped.unwrap().success());
    }
    let out = dir.join(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/release/make.sh");
    let umask = if name == "again" { "077" } else { "022" };
    let mut command = Command::new("sh");
    command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]).arg(script);
    command.arg("--no-image").arg("--out").arg(&out).arg("--plugin").arg(plugin);
    command.args(["--daemon", "/bin/busybox"]);
    command.args(["--manual", env!("CARGO_BIN_EXE_ovs-flow-gc-manual")]);
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    if name == "again" {
        command.env("TMPDIR", dir).env("TZ", "Asia/Kathmandu").env("LC_ALL", "C.UTF-8");
        command.env("OVS_FLOW_GC_LISTEN", "127.0.0.1:1").env("HOSTNAME", "another");
    }
    let (code, text) = said(command.output().expect("sh runs"));
    assert_eq!(code, 0, "{text}");
    out
}

/// The only file of this kind.
fn made(out: &Path, kind: &str) -> PathBuf {
    let files = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    let mut files = files.filter(|path| path.to_str().unwrap().ends_with(kind));
    let file = files.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(files.next().is_none());
    file
}

/// A node whose root has a shell, and a `systemctl` that writes down what it is asked for.
fn fresh() -> Node {
    let node = Node::new();
    for dir in ["bin", "sbin", "usr/bin", "tmp", "var/lib/dpkg/info", "var/lib/dpkg/updates"] {
        fs::create_dir_all(node.at("root").join(dir)).unwrap();
    }
    node.put("root/var/lib/dpkg/status", "");
    fs::copy("/bin/busybox", node.at("root/bin/busybox")).unwrap();
    let chroot = [node.at("root").to_str().unwrap(), "/bin/busybox"].map(str::to_owned);
    // It complains of the directories that are not there.
    Command::new("chroot").args(chroot).args(["--install", "-s"]).output().unwrap();
    node.script("root/bin/systemctl", "echo \"$*\" >>/systemctl.log");
    node
}

/// What systemctl was asked for since the last time.
fn asked(node: &Node) -> Vec<String> {
    let log = node.at("root/systemctl.log");
    let text = fs::read_to_string(&log).unwrap_or_default();
    let _ = fs::remove_file(log);
    text.lines().map(str::to_owned).collect()
}

/// The node's own files, without the tools that [`fresh`] and the package managers bring.
fn own(node: &Node) -> Vec<String> {
    let mut files = node.files();
    let tools = ["bin/", "sbin/", "usr/bin/", "usr/sbin/", "linuxrc", "var/lib/"];
    files.retain(|f| !tools.iter().any(|tool| f.starts_with(tool)) || f.contains("ovs-flow-gc"));
    files.retain(|f| !f.starts_with("var/lib/dpkg/"));
    files
}

const CONFFILE: &str = "root/etc/default/ovs-flow-gc";

/// The plugin where runtimes look for it, the command where a shell does, units of these paths,
/// and nothing started or edited.
fn assert_is_installed(node: &Node, text: &str) {
    assert!(text.contains("nothing calls it yet"), "{text}");
    assert_eq!(asked(node), ["daemon-reload", "try-restart ovs-flow-gcd.service"]);
    assert_eq!(node.list(), LIST);
    let version = Command::new("chroot")
        .args([node.at("root").to_str().unwrap(), "/usr/sbin/ovs-flow-gc", "--version"])
        .output();
    assert!(version.unwrap().status.success());
    let mode = |path: &str| fs::metadata(node.at(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("root/opt/cni/bin/ovs-flow-gc"), 0o755);
    assert_eq!(mode("root/usr/sbin/ovs-flow-gcd"), 0o755);
    let unit =
        |name: &str| fs::read_to_string(node.at("root/usr/lib/systemd/system").join(name)).unwrap();
    assert!(unit("ovs-flow-gcd.service").contains("\nExecStart=/usr/sbin/ovs-flow-gcd\n"));
    let sweep = unit("ovs-flow-gc-sweep.service");
    assert!(sweep.contains("\nExecStart=/opt/cni/bin/ovs-flow-gc sweep --only-dead\n"));
    let deliver = unit("ovs-flow-gc-deliver.service");
    assert!(deliver.contains("\nExecStart=/opt/cni/bin/ovs-flow-gc deliver\n"));
    for path in [
        CONFFILE,
        "root/usr/lib/systemd/system/ovs-flow-gc-deliver.path",
        "root/usr/share/man/man1/ovs-flow-gc-deliver.1.gz",
        "root/usr/share/man/man1/ovs-flow-gc-self-install.1.gz",
        "root/usr/share/bash-completion/completions/ovs-flow-gc",
        "root/usr/share/doc/ovs-flow-gc/docs/install.md",
        "root/usr/share/doc/ovs-flow-gc/THIRD-PARTY.txt",
    ] {
        assert!(fs::metadata(node.at(path)).unwrap().len() > 0, "{path}");
    }
}

/// `ovs-flow-gc`, as the package installed it.
fn gc(node: &Node, words: &[&str]) -> String {
    let mut command = Command::new(node.at("root/opt/cni/bin/ovs-flow-gc"));
    command.args(words).env("OVS_RUNDIR", node.ovs());
    let (code, text) = said(command.output().unwrap());
    assert_eq!(code, 0, "{words:?}: {text}");
    text
}

/// From an installed package to one that is taken off, by these commands of the package manager.
fn through_its_life(node: &Node, manager: impl Fn(&str) -> (i32, String)) {
    let before = own(node);
    let (code, text) = manager("install");
    assert_eq!(code, 0, "{text}");
    assert_is_installed(node, &text);
    let root = node.at("root").display().to_string();
    let text = gc(node, &["self-install", "--root", &root]);
    assert!(text.contains("ovs-flow-gc: this one is there already"), "{text}");
    assert!(node.list().contains("ovs-flow-gc"));

    let (code, text) = manager("remove");
    assert!(code != 0, "{text}");
    for said in ["/etc/cni/net.d/10-ovs.conflist", "is NOT removed", "'ovs-flow-gc self-uninstall'"]
    {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert_eq!(asked(node), [""; 0], "nothing is stopped");
    assert!(node.at("root/opt/cni/bin/ovs-flow-gc").exists());

    // An upgrade is no removal, and what the operator wrote stays.
    node.put(CONFFILE, "OVS_RUNDIR=/elsewhere\n");
    let (code, text) = manager("upgrade");
    assert!(code == 0 && !text.contains("nothing calls it yet"), "{text}");
    assert!(node.at("root/opt/cni/bin/ovs-flow-gc").exists());
    assert!(fs::read_to_string(node.at(CONFFILE)).unwrap().contains("/elsewhere"));
    assert_eq!(asked(node), ["daemon-reload", "try-restart ovs-flow-gcd.service"]);

    gc(node, &["conflist", "remove", &format!("{root}/etc/cni/net.d/10-ovs.conflist")]);
    let (code, text) = manager("remove");
    assert_eq!(code, 0, "{text}");
    let units = "disable --now ovs-flow-gcd.service ovs-flow-gc-sweep.timer \
                 ovs-flow-gc-deliver.path ovs-flow-gc-deliver.timer";
    assert_eq!(asked(node), [units, "daemon-reload"]);
    assert!(!node.at("root/opt/cni/bin/ovs-flow-gc").exists());

    // The other way: the command that the refusal names takes the binary as well.
    assert_eq!(manager("install").0, 0);
    gc(node, &["self-install", "--root", &root]);
    gc(node, &["self-uninstall", "--root", &root]);
    assert!(!node.at("root/opt/cni/bin/ovs-flow-gc").exists());
    let (code, text) = manager("remove");
    assert_eq!(code, 0, "{text}");
    manager("purge");
    asked(node);
    let kept = |f: &String| !f.starts_with("etc/default/ovs-flow-gc.rpmsave");
    let left: Vec<_> = own(node).into_iter().filter(kept).collect();
    assert_eq!((left, node.list()), (before, LIST.to_owned()));
}

fn dpkg(deb: &Path) {
    let node = fresh();
    through_its_life(&node, |what| {
        let mut command = Command::new("dpkg");
        command.arg("--root").arg(node.at("root")).arg("--force-bad-path");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        match what {
            "remove" => command.args(["--remove", "ovs-flow-gc"]),
            "purge" => command.args(["--purge", "ovs-flow-gc"]),
            _ => command.arg("--install").arg(deb),
        };
        said(command.output().unwrap())
    });
}

fn rpm(file: &Path) {
    let node = fresh();
    through_its_life(&node, |what| {
        let mut command = Command::new("rpm");
        // Of the root's shell no package is known.
        command.arg("--root").arg(node.at("root")).args([
            "--force-debian",
            "--nodeps",
            "--dbpath",
            "/var/lib/rpm",
        ]);
        match what {
            "remove" => command.args(["--erase", "ovs-flow-gc"]),
            "install" => command.arg("--install").arg(file),
            "upgrade" => command.args(["--upgrade", "--force"]).arg(file),
            _ => return (0, String::new()),
        };
        said(command.output().unwrap())
    });
}

/// Unpacked somewhere, with neither cargo nor sources.
fn tarball(file: &Path) {
    let node = Node::new();
    fs::create_dir(node.at("unpacked")).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(file).arg("-C").arg(node.at("unpacked"));
    assert!(tar.status().unwrap().success());
    let mut trees = fs::read_dir(node.at("unpacked")).unwrap();
    let tree = trees.next().unwrap().unwrap().path();
    assert!(trees.next().is_none(), "one directory, named after the release");
    assert!(tree.join("docs/install.md").exists() && tree.join("conf/kubernetes").is_dir());
    let script = |command: &str| {
        let mut sh = node.under(&["sh"], &tree.join("install.sh"), command, &[]);
        sh.env("HOME", node.at("unpacked"));
        said(sh.output().unwrap())
    };
    let (code, text) = script("install");
    assert_eq!(code, 0, "{text}");
    assert!(node.list().contains("ovs-flow-gc") && node.unit("timer").exists(), "{text}");
    let installed = fs::read(node.binary()).unwrap();
    assert!(installed == fs::read(tree.join("ovs-flow-gc")).unwrap());
    let (code, text) = script("uninstall");
    assert_eq!(code, 0, "{text}");
    assert_eq!((node.files(), node.list()), (BARE.map(str::to_owned).into(), LIST.to_owned()));
    let (code, text) = script("demo");
    assert!(code == 1 && text.contains("demo.sh is not there"), "{text}");
}

#[test]
fn a_release_is_the_same_twice_and_each_form_is_installed_and_taken_off() {
    let dir = TempDir::new().unwrap();
    let out = make(dir.path(), "first");
    let again = make(dir.path(), "again");
    let name = format!("SHA256SUMS-{}", std::env::consts::ARCH);
    let sums = |out: &Path| fs::read_to_string(out.join(&name)).unwrap();
    assert_eq!(sums(&out), sums(&again));
    assert_eq!(sums(&out).lines().count(), 4, "{}", sums(&out));
    let checked = Command::new("sha256sum").args(["-c", &name]).current_dir(&out).output();
    assert!(checked.unwrap().status.success());
    if std::env::consts::ARCH == "x86_64" {
        let page = include_str!("../../docs/install.md");
        for line in sums(&out).lines() {
            let name = line.split_whitespace().nth(1).unwrap();
            assert!(page.contains(name), "docs/install.md says nothing of {name}");
        }
    }
    dpkg(&made(&out, ".deb"));
    rpm(&made(&out, ".rpm"));
    tarball(&made(&out, ".tar.gz"));
}
