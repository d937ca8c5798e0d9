//! Births and deaths in a range of thirty addresses, with deliveries: two runtimes' caches and
//! multus' side by side, and nothing of the living is touched.

use std::collections::BTreeMap;
use std::time::Instant;

use super::*;

/// `OFG_DELIVER_STEPS` asks for more.
const STEPS: u32 = 150;
/// Of thirty addresses the gateway has one.
const MOST_ALIVE: usize = 18;

struct Churn {
    node: Node,
    random: u64,
    /// With the directory that has its cached result.
    living: Vec<(Attached, PathBuf)>,
    dead: BTreeMap<String, (Attached, PathBuf)>,
    /// The dead whose sandbox the runtime still knows.
    known: Vec<String>,
    calls_seen: usize,
    births: u32,
    delivered: usize,
}

impl Churn {
    fn new() -> Self {
        let node = node("deliver_churn");
        let mut conflist = node.conflist();
        conflist["plugins"][0]["ipam"]["ranges"] = json!([[{"subnet": "10.9.0.0/27"}]]);
        node.set_conflist(conflist);
        // From here on sweeps leave notes.
        deliver(&node, &[]).ok();
        let (living, dead, known) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { node, random: 7, living, dead, known, calls_seen: 0, births: 0, delivered: 0 }
    }

    fn random(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.random >> 33).unwrap() % below
    }

    /// containerd's, multus' beside it, and CRI-O's.
    fn caches(&self) -> [PathBuf; 3] {
        let own = results(&self.node);
        let multus = own.with_file_name("multus").join("results");
        [own, multus, self.node.dir.join("crio/results")]
    }

    fn birth(&mut self) {
        self.births += 1;
        let pod = self.node.pod(&format!("p{}", self.births));
        let result = match self.node.try_add(&pod) {
            Ok(result) => result,
            Err(failed) => {
                // What died since the last delivery has all addresses.
                assert!(failed.to_string().contains("no IP addresses"), "{failed}");
                self.node.run("ip", &["netns", "del", &pod.netns]).ok();
                return self.deliver(&[]);
            }
        };
        let pod = self.node.attached(&pod, result);
        let directory = self.caches()[self.random(3)].clone();
        write_cached(&directory, &cached(&self.node, &pod));
        // Some records are lost: the cached result and the namespace are what is left of those.
        if self.random(6) == 0 {
            let record = format!("podnet/{}:eth0.json", pod.container);
            fs::remove_file(self.node.state_dir.join(record)).unwrap();
        }
        self.living.push((pod, directory));
    }

    /// The runtime calls DEL, or never does.
    fn death(&mut self) {
        let index = self.random(self.living.len());
        let (pod, directory) = self.living.swap_remove(index);
        match self.random(5) {
            0 => {
                self.node.try_del(&pod).unwrap();
                fs::remove_file(self.cached_file(&pod, &directory)).unwrap();
                self.node.vanish(&pod, Port::Gone);
                return;
            }
            // It will, but its sandbox is still there.
            1 => {
                let sandbox = self.node.dir.join("sandboxes").join(&pod.container);
                fs::create_dir_all(sandbox).unwrap();
                self.known.push(pod.container.clone());
                self.node.vanish(&pod, Port::Stays);
            }
            2 => self.node.vanish(&pod, Port::Gone),
            _ => self.node.vanish(&pod, Port::Stays),
        }
        self.dead.insert(pod.container.clone(), (pod, directory));
    }

    fn cached_file(&self, pod: &Attached, directory: &Path) -> PathBuf {
        directory.join(format!("podnet-{}-{}", pod.container, pod.ifname))
    }

    /// The runtime forgets a sandbox without a DEL.
    fn forget(&mut self) {
        if let Some(container) = self.known.pop() {
            fs::remove_dir(self.node.dir.join("sandboxes").join(container)).unwrap();
        }
    }

    #[track_caller]
    fn deliver(&mut self, more: &[&str]) {
        let crio = self.caches()[2].display().to_string();
        let own = results(&self.node).display().to_string();
        let caches = ["--cache-dir", &own, "--cache-dir", &crio];
        let outcome = deliver(&self.node, &[&caches[..], more].concat());
        let found = outcome.json();
        for one in found["dead"].as_array().unwrap() {
            let container = one["containerID"].as_str().unwrap().to_owned();
            assert!(self.dead.contains_key(&container), "it lives: {outcome}");
            if one["state"] == "delivered" {
                assert!(!self.known.contains(&container), "the runtime knows it: {outcome}");
                self.dead.remove(&container);
                self.delivered += 1;
            }
        }
        self.nothing_living_was_touched();
    }

    #[track_caller]
    fn nothing_living_was_touched(&mut self) {
        let calls = self.node.calls();
        for call in calls[self.calls_seen..].iter().filter(|call| call.starts_with("DEL")) {
            let lives = |(pod, _): &&(Attached, PathBuf)| call.contains(pod.container.as_str());
            assert!(self.living.iter().find(lives).is_none(), "{call}");
        }
        self.calls_seen = calls.len();
        let rows = self.node.ports("br0");
        for (pod, directory) in &self.living {
            assert!(rows.contains(&pod.port), "{}: its row", pod.name);
            assert!(self.cached_file(pod, directory).exists(), "{}: its cached result", pod.name);
            let lease = fs::read_to_string(self.node.dir.join("ipam/podnet").join(&pod.ip));
            assert!(lease.is_ok_and(|text| text.starts_with(&pod.container)), "{}", pod.name);
        }
    }

    fn step(&mut self) {
        match self.random(20) {
            0..8 if self.living.len() < MOST_ALIVE => self.birth(),
            8..14 if self.living.len() > 2 => self.death(),
            14..16 => self.forget(),
            16..18 => drop(self.node.admin(&["sweep", "--yes"])),
            18 => self.deliver(&[]),
            _ => {}
        }
    }
}

#[test]
fn churn_with_deliveries_touches_nothing_that_lives() {
    let steps = std::env::var("OFG_DELIVER_STEPS").map_or(STEPS, |steps| steps.parse().unwrap());
    let (since, mut churn) = (Instant::now(), Churn::new());
    for _ in 0..steps {
        churn.step();
    }
    while !churn.known.is_empty() {
        churn.forget();
    }
    churn.node.admin(&["sweep", "--yes"]).ok();
    // At the end more may be dead without a record than live: a person's word.
    churn.deliver(&["--yes"]);
    eprintln!(
        "{steps} steps: {} births, {} deliveries in {:?}",
        churn.births,
        churn.delivered,
        since.elapsed()
    );
    assert!(churn.dead.is_empty(), "{:?}", churn.dead.keys());
    assert_eq!(churn.node.ports("br0").len(), churn.living.len());
    for (pod, _) in &churn.living {
        assert_eq!(left(&churn.node, pod)[..3], [1; 3], "{}", pod.name);
    }
}
