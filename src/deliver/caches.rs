//! The cached results of a node, and whether the pod of each is dead.

use std::collections::HashMap;
use std::fs::{self, DirEntry};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::Delivery;
use crate::adopt::{CachedAttachment, cached_text, cached_texts, multus_cache, parse_cached};
use crate::liveness::netns::{self, Directories};
use crate::liveness::{Liveness, LivenessReason};
use crate::model::attachment::{Attachment, Key};
use crate::model::flow::MacAddr;
use crate::util::clock::Stamp;

/// A file that was written so long before this boot is of another one: the wall clock is not exact.
const BOOT_TAKES_MS: u64 = 60_000;

/// One cached result.
#[derive(Debug)]
pub(crate) struct CachedFile {
    pub path: PathBuf,
    pub text: String,
    pub cached: CachedAttachment,
    /// When it was written, by the wall clock, in milliseconds.
    pub written_ms: u64,
    /// The file: its inode, and when it was written, in nanoseconds.
    file: (u64, i128),
}

/// The cached results of a node, as they were read once.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    pub files: Vec<CachedFile>,
    /// What is wrong with files that are no cached results.
    pub odd: Vec<String>,
    /// Every file, and when it was changed.
    seen: HashMap<PathBuf, Option<SystemTime>>,
}

impl Caches {
    /// Reads those in these directories and in multus' beside them.
    pub(crate) fn read(directories: &[PathBuf]) -> Self {
        let mut caches = Self::default();
        for directory in with_multus(directories) {
            // Before the texts: what is changed in between is newer.
            caches.seen.extend(stamps(&directory));
            for (path, text) in cached_texts(&directory) {
                match text.and_then(|text| CachedFile::of(path.clone(), text)) {
                    Ok(file) => caches.files.push(file),
                    Err(why) => caches.odd.push(format!("{}: {why}", path.display())),
                }
            }
        }
        caches
    }

    /// Those that were written since.
    ///
    /// # Errors
    /// One of them cannot be read: it may be half written.
    pub(crate) fn newer(&self, directories: &[PathBuf]) -> Result<Vec<CachedFile>, String> {
        let stamps = with_multus(directories).into_iter().flat_map(|dir| stamps(&dir));
        let newer = stamps.filter(|(path, stamp)| self.seen.get(path) != Some(stamp));
        let read = |path: PathBuf| {
            let text = match cached_text(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound => return None,
                text => text.map_err(|e| e.to_string()),
            };
            let file = text.and_then(|text| CachedFile::of(path.clone(), text));
            Some(file.map_err(|why| format!("{}: {why}", path.display())))
        };
        newer.filter_map(|(path, _)| read(path)).collect()
    }
}

fn with_multus(directories: &[PathBuf]) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for directory in directories.iter().flat_map(|dir| [dir.clone(), multus_cache(dir)]) {
        if !all.contains(&directory) {
            all.push(directory);
        }
    }
    all
}

fn stamps(directory: &Path) -> Vec<(PathBuf, Option<SystemTime>)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let changed = |entry: &DirEntry| entry.metadata().and_then(|meta| meta.modified()).ok();
    entries.map(|entry| (entry.path(), changed(&entry))).collect()
}

impl CachedFile {
    fn of(path: PathBuf, text: String) -> Result<Self, String> {
        let cached = parse_cached(&text)?;
        let meta = fs::symlink_metadata(&path).map_err(|e| e.to_string())?;
        if !meta.is_file() {
            return Err("no regular file".to_owned());
        }
        let written = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let written_ms = written.and_then(|at| u64::try_from(at.as_millis()).ok());
        let nanoseconds = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        let file = (meta.ino(), nanoseconds);
        Ok(Self { path, text, cached, written_ms: written_ms.unwrap_or(u64::MAX), file })
    }

    /// Whether this file is still what it was, and no other one with the same text.
    pub(crate) fn is_same(&self, text: &str) -> bool {
        Self::of(self.path.clone(), text.to_owned())
            .is_ok_and(|now| now.text == self.text && now.file == self.file)
    }

    /// A number that another text or file would hardly have: a pod's next life may have the same text.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.text, self.file).hash(&mut hasher);
        // Tools read JSON numbers as doubles.
        hasher.finish() >> 11
    }

    /// The calls of its DEL.
    ///
    /// # Errors
    /// [`Delivery::of_cached`].
    pub(crate) fn delivery(&self) -> Result<Delivery, String> {
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Delivery::of_cached(name, &self.text)
    }

    fn interfaces(&self) -> impl Iterator<Item = &Value> {
        self.cached.result.get("interfaces").and_then(Value::as_array).into_iter().flatten()
    }

    /// The paths of its network namespace, as the runtime and the plugins wrote them down.
    pub(crate) fn sandboxes(&self) -> Vec<&str> {
        let marked = self.interfaces().filter_map(|i| i.get("sandbox")?.as_str());
        marked.chain(self.cached.netns.as_deref()).filter(|path| !path.is_empty()).collect()
    }

    /// Its interface on the host, if that is one end of a veth: no veth outlives a boot, or its
    /// namespace.
    fn living_veth(&self) -> Option<&str> {
        let number = |name: &str, what: &str| {
            fs::read_to_string(Path::new("/sys/class/net").join(name).join(what)).ok()
        };
        let is_veth = |name: &str| {
            let ends = number(name, "iflink").zip(number(name, "ifindex"));
            !name.contains('/') && ends.is_some_and(|(peer, own)| peer != own)
        };
        self.host_interfaces().into_iter().find(|name| is_veth(name))
    }

    /// Its interfaces on the host, maybe a bridge among them.
    pub(crate) fn host_interfaces(&self) -> Vec<&str> {
        let on_host =
            |i: &&Value| i.get("sandbox").and_then(Value::as_str).unwrap_or_default().is_empty();
        self.interfaces().filter(on_host).filter_map(|i| i.get("name")?.as_str()).collect()
    }

    /// All addresses in its result.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let result = &self.cached.result;
        let ips = result.get("ips").and_then(Value::as_array).into_iter().flatten();
        let texts = ips.filter_map(|ip| ip.get("address")?.as_str());
        // Of a result of cniVersion 0.2.0.
        let old = ["/ip4/ip", "/ip6/ip"].into_iter().filter_map(|at| result.pointer(at)?.as_str());
        let parse = |text: &str| text.split('/').next()?.parse::<IpAddr>().ok();
        texts.chain(old).filter_map(parse).map(|ip| ip.to_canonical()).collect()
    }

    /// The MACs of its interfaces in the pod.
    pub(crate) fn macs(&self) -> Vec<MacAddr> {
        let in_pod =
            |i: &&Value| i.get("sandbox").and_then(Value::as_str).is_some_and(|s| !s.is_empty());
        let macs =
            self.interfaces().filter(in_pod).filter_map(|i| i.get("mac")?.as_str()?.parse().ok());
        macs.filter(|mac: &MacAddr| !mac.is_unusable()).collect()
    }
}

/// What is known of the pod of a cached result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alive,
    Dead(LivenessReason),
    /// Dead, and nothing but the absence of its namespace's path says so: no record of it is left.
    Unrecorded,
    Unknown(String),
}

/// What says that a pod is dead.
pub(crate) struct Evidence {
    pub boot_id: String,
    /// Whom sweeps found dead, and tombstones; of one key the last life last.
    pub dead: Vec<Attachment>,
    /// Who has a record that no sweep made a tombstone.
    pub active: Vec<Key>,
    /// Directories of namespaces in which a living pod's namespace is seen.
    pub directories: Directories,
    /// An operator says that the directories of namespaces are seen here as they are.
    pub trusted: bool,
}

impl Evidence {
    /// The dead's record.
    pub(crate) fn record(&self, file: &CachedFile) -> Option<&Attachment> {
        self.dead.iter().rfind(|record| record.key == file.cached.key)
    }

    /// Whether the pod of a cached result is dead. A sandbox with a path that is there is not
    /// delivered, whoever calls it dead: plugins enter the path that the result names.
    pub(crate) fn judge(&self, file: &CachedFile) -> Verdict {
        let key = &file.cached.key;
        let record = self.record(file);
        let sandboxes = file.sandboxes();
        for path in &sandboxes {
            let at = Path::new(path);
            let is_odd = at.components().any(|part| part == Component::ParentDir);
            if !at.is_absolute() || at.starts_with("/proc") || is_odd {
                return Verdict::Unknown(format!("its sandbox is at {path}, which tells nothing"));
            }
            match fs::symlink_metadata(path) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Ok(_) if record.is_none() => return Verdict::Alive,
                Ok(_) => return Verdict::Unknown(format!("{path} is there")),
                Err(e) => return Verdict::Unknown(format!("{path}: {e}")),
            }
        }
        match record.filter(|record| !record.unrecorded).map(|r| netns::judge(r, &self.boot_id)) {
            Some(Liveness::Dead(why)) => return Verdict::Dead(why),
            Some(Liveness::Alive) => return Verdict::Alive,
            Some(Liveness::Unknown(why)) => return Verdict::Unknown(why.to_string()),
            None if self.active.contains(key) => {
                return Verdict::Unknown(
                    "no sweep has called it dead (`ovs-flow-gc sweep`)".to_owned(),
                );
            }
            None => {}
        }
        let Some(path) = sandboxes.first() else {
            return Verdict::Unknown("its cached result names no sandbox".to_owned());
        };
        let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
        // Neither a clock nor an operator is believed against what is seen.
        let against = if sandboxes.iter().any(|path| self.directories.is_another(path)) {
            Some(format!("{} is another directory than at a living pod's ADD", parent.display()))
        } else {
            file.living_veth().map(|name| format!("its {name} is there"))
        };
        let older = file.written_ms.saturating_add(BOOT_TAKES_MS) < booted_ms();
        if older && !has_other_mounts() && against.is_none() {
            return Verdict::Dead(LivenessReason::OtherBoot);
        }
        if sandboxes.iter().all(|path| self.directories.lack(path)) {
            return Verdict::Unrecorded;
        }
        if let Some(why) = against {
            return Verdict::Unknown(why);
        }
        if self.trusted && parent.is_dir() {
            return Verdict::Unrecorded;
        }
        Verdict::Unknown(format!(
            "no record of it is left, and no living pod shows that {} is seen as it is",
            parent.display()
        ))
    }
}

/// When this boot began, by the wall clock, in milliseconds.
fn booted_ms() -> u64 {
    let now = Stamp::now();
    now.wall_ms.saturating_sub(now.boot_ms)
}

/// Whether this process is seen to have other mounts than the node's first process.
fn has_other_mounts() -> bool {
    let mounts = |process| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    mounts("self").zip(mounts("1")).is_some_and(|(own, first)| own != first)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::model::attachment::Netns;

    fn cached(dir: &Path, sandbox: &str) -> PathBuf {
        let text = json!({
            "kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "networkName": "podnet",
            "result": {
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": sandbox}],
                "ips": [{"address": "10.0.0.5/24"}, {"address": "fd00::5/64"}, {"address": "x"}],
                "ip4": {"ip": "10.0.0.6/24"}, "ip6": {"ip": "::ffff:10.0.0.7/120"},
            },
        });
        let path = dir.join("podnet-c1-eth0");
        crate::store::replace(&path, text.to_string().as_bytes()).unwrap();
        path
    }

    fn evidence(trusted: bool) -> Evidence {
        let boot_id = crate::util::clock::boot_id().unwrap();
        let directories = Directories::default();
        let (dead, active) = (Vec::new(), Vec::new());
        Evidence { boot_id, dead, active, directories, trusted }
    }

    fn verdict(dir: &Path, sandbox: &str, trusted: bool) -> Verdict {
        cached(dir, sandbox);
        let Caches { files, odd, .. } = Caches::read(&[dir.to_owned()]);
        assert_eq!((files.len(), odd.len()), (1, 0), "{odd:?}");
        evidence(trusted).judge(&files[0])
    }

    #[test]
    fn a_sandbox_without_a_record_is_judged_by_what_shows_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let gone = at("gone");
        assert_eq!(verdict(dir.path(), &at(""), true), Verdict::Alive, "it is there");
        assert_eq!(verdict(dir.path(), &gone, true), Verdict::Unrecorded);
        for (sandbox, trusted) in [
            (gone.as_str(), false),
            ("/proc/999999999/ns/net", true),
            ("//proc/999999999/ns/net", true),
            ("/./proc/999999999/ns/net", true),
            ("/nonexistent/..", true),
            ("/nonexistent/directory/ns", true),
            ("relative", true),
            ("", true),
        ] {
            let unknown = verdict(dir.path(), sandbox, trusted);
            assert!(matches!(unknown, Verdict::Unknown(_)), "{sandbox} {unknown:?}");
        }
    }

    #[test]
    fn a_cached_result_of_another_boot_is_the_deads() {
        let dir = tempfile::tempdir().unwrap();
        let path = cached(dir.path(), &dir.path().join("gone").display().to_string());
        let booted = UNIX_EPOCH + Duration::from_millis(booted_ms());
        let judged = |written: SystemTime| {
            fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
            evidence(false).judge(&Caches::read(&[dir.path().to_owned()]).files[0])
        };
        let dead = judged(booted - Duration::from_secs(3600));
        assert_eq!(dead, Verdict::Dead(LivenessReason::OtherBoot));
        let soon = judged(booted - Duration::from_secs(30));
        assert!(matches!(soon, Verdict::Unknown(_)), "{soon:?}");
    }

    #[test]
    fn neither_a_clock_nor_an_operator_overrules_another_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = cached(dir.path(), &dir.path().join("gone").display().to_string());
        let file = fs::File::options().write(true).open(path).unwrap();
        let files = |written: SystemTime| {
            file.set_modified(written).unwrap();
            Caches::read(&[dir.path().to_owned()]).files
        };
        let (now, before) = (files(SystemTime::now()), files(UNIX_EPOCH));
        let mut trusted = evidence(true);
        assert_eq!(trusted.judge(&now[0]), Verdict::Unrecorded);
        let mut living = Attachment::new(
            Key { container: "c2".parse().unwrap(), ..now[0].cached.key.clone() },
            1,
            trusted.boot_id.clone(),
            Stamp::now(),
        );
        living.netns = Some(Netns::of_path(dir.path().join("c2").display().to_string()));
        trusted.directories = Directories::of(&vec![living].into(), &trusted.boot_id);
        for file in [&now[0], &before[0]] {
            let unknown = trusted.judge(file);
            assert!(matches!(unknown, Verdict::Unknown(_)), "{unknown:?}");
        }
    }

    #[test]
    fn the_same_text_in_another_file_is_another_life() {
        let dir = tempfile::tempdir().unwrap();
        let read = || Caches::read(&[dir.path().to_owned()]).files.remove(0);
        let path = cached(dir.path(), "/run/netns/x");
        let (first, again) = (read(), read());
        assert!(first.digest() == again.digest() && first.is_same(&again.text));
        cached(dir.path(), "/run/netns/x");
        let next = read();
        assert!(first.text == next.text && first.digest() != next.digest());
        assert!(!first.is_same(&next.text));
        fs::File::options().write(true).open(path).unwrap().set_modified(UNIX_EPOCH).unwrap();
        assert!(read().digest() != next.digest());
    }

    #[test]
    fn what_a_result_holds() {
        let dir = tempfile::tempdir().unwrap();
        cached(dir.path(), "/run/netns/x");
        let files = Caches::read(&[dir.path().to_owned()]).files;
        let addresses: Vec<String> = files[0].addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.0.0.5", "fd00::5", "10.0.0.6", "10.0.0.7"]);
        assert_eq!(files[0].host_interfaces(), ["veth1"]);
    }

    #[test]
    fn what_is_no_cached_result_is_said_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let good = cached(dir.path(), "/run/netns/x");
        crate::store::replace(&at("torn"), b"{\"kind\": \"cniC").unwrap();
        crate::store::replace(&at("empty"), b"").unwrap();
        fs::create_dir(at("directory")).unwrap();
        std::os::unix::fs::symlink(&good, at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let caches = Caches::read(&[dir.path().to_owned()]);
        assert_eq!((caches.files.len(), caches.odd.len()), (1, 4), "{:?}", caches.odd);
        let newer = || caches.newer(&[dir.path().to_owned()]);
        assert_eq!(newer().unwrap().len(), 0);
        let text = fs::read(&good).unwrap();
        crate::store::replace(&at("newer"), &text).unwrap();
        assert_eq!(newer().unwrap().len(), 1);
        crate::store::replace(&at("newer"), &text[..20]).unwrap();
        assert!(newer().unwrap_err().contains("newer: "));
    }
}
