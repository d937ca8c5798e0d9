//! What a runtime does with a conflist, as libcni does it (CNI spec 1.1.0, section 4), and
//! single calls to a plugin.
//!
//! ADD, CHECK and GC go forward, DEL in reverse, and DEL stops at the first error. The last
//! result is cached after a whole successful ADD and is the `prevResult` of CHECK and DEL
//! from cniVersion 0.4.0 on. A failed ADD is not followed by DEL: whether a runtime calls it
//! is for the test to say.

use std::ffi::OsString;
use std::process::Command;

use serde_json::{Value, json};

use super::node::Node;
use super::pod::Pod;
use super::run::{Outcome, Running, start};

/// The list that GC hands to the plugins.
#[derive(Clone, Copy, Debug)]
pub enum Valid<'a> {
    /// These attachments; none is `[]`.
    Pods(&'a [&'a Pod]),
    /// `null`, as CRI-O sends it for a network without pods.
    Null,
    /// Neither key.
    Absent,
}

/// One call to a plugin, before it runs.
pub struct Call<'a> {
    node: &'a Node,
    command: Command,
    stdin: Vec<u8>,
}

impl Call<'_> {
    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.command.env(key, value.into());
        self
    }

    /// Takes an environment variable away.
    pub fn without(mut self, key: &str) -> Self {
        self.command.env_remove(key);
        self
    }

    /// The variables of a pod's call.
    pub fn pod(self, pod: &Pod) -> Self {
        self.env("CNI_CONTAINERID", &pod.container)
            .env("CNI_NETNS", pod.netns_path())
            .env("CNI_IFNAME", &pod.ifname)
            .env("CNI_ARGS", pod.args())
    }

    /// The plugin's configuration.
    pub fn conf(self, conf: &Value) -> Self {
        self.stdin(conf.to_string())
    }

    /// Any bytes on standard input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Runs it.
    #[track_caller]
    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    /// Starts it.
    #[track_caller]
    pub fn start(self) -> Running {
        start(self.command, Some(&self.node.netns), &self.stdin)
    }
}

impl Node {
    /// A call to one plugin. Its standard input is empty until [`Call::conf`] or
    /// [`Call::stdin`] say otherwise.
    pub fn call(&self, plugin: &str, verb: &str) -> Call<'_> {
        let mut command = self.command(self.plugin(plugin));
        command.env("CNI_COMMAND", verb).env("CNI_PATH", self.cni_bin());
        Call { node: self, command, stdin: Vec::new() }
    }

    /// The configuration that libcni hands to a plugin of the conflist.
    #[track_caller]
    pub fn plugin_conf(&self, plugin: &str, pod: Option<&Pod>, prev: Option<&Value>) -> Value {
        let list = self.conflist();
        let confs = list["plugins"].as_array().unwrap();
        let conf = confs.iter().find(|conf| conf["type"] == plugin).expect(plugin);
        inject(&list, conf, pod, prev)
    }

    /// ADD through the whole chain. Returns the last result, or what failed.
    pub fn try_add(&self, pod: &Pod) -> Result<Value, Outcome> {
        let list = self.conflist();
        let mut result = None;
        for conf in list["plugins"].as_array().unwrap() {
            let conf = inject(&list, conf, Some(pod), result.as_ref());
            let outcome = self.call_for(&conf, "ADD", pod).run();
            if !outcome.succeeded() {
                return Err(outcome);
            }
            result = Some(outcome.json());
        }
        let result = result.expect("the conflist has plugins");
        self.results.lock().unwrap().insert(cache_key(pod), result.clone());
        Ok(result)
    }

    /// DEL, which must succeed; then the sandbox goes, as with a runtime.
    #[track_caller]
    pub fn del(&self, pod: &Pod) {
        self.try_del(pod).unwrap_or_else(|failed| panic!("DEL: {failed}"));
        self.kill_sandbox(pod);
    }

    /// DEL through the whole chain. The sandbox stays.
    pub fn try_del(&self, pod: &Pod) -> Result<(), Outcome> {
        let list = self.conflist();
        let prev = self.cached(pod, &list);
        for conf in list["plugins"].as_array().unwrap().iter().rev() {
            let conf = inject(&list, conf, Some(pod), prev.as_ref());
            let outcome = self.call_for(&conf, "DEL", pod).run();
            if !outcome.succeeded() {
                return Err(outcome);
            }
        }
        self.results.lock().unwrap().remove(&cache_key(pod));
        Ok(())
    }

    /// CHECK through the whole chain. Needs cniVersion 0.4.0.
    #[track_caller]
    pub fn try_check(&self, pod: &Pod) -> Result<(), Outcome> {
        let list = self.conflist();
        must_know("CHECK", "0.4.0", &list);
        let prev = self.cached(pod, &list);
        for conf in list["plugins"].as_array().unwrap() {
            let conf = inject(&list, conf, Some(pod), prev.as_ref());
            let outcome = self.call_for(&conf, "CHECK", pod).run();
            if !outcome.succeeded() {
                return Err(outcome);
            }
        }
        Ok(())
    }

    /// GC on every plugin; the errors of all. libcni would first DEL what it has cached and
    /// the list does not name: here that cache is lost, which is when GC matters. Needs
    /// cniVersion 1.1.0.
    #[track_caller]
    pub fn gc(&self, valid: Valid<'_>) -> Vec<Outcome> {
        let list = self.conflist();
        must_know("GC", "1.1.0", &list);
        let attachments = match valid {
            Valid::Pods(pods) => Some(
                pods.iter()
                    .map(|pod| json!({"containerID": pod.container, "ifname": pod.ifname}))
                    .collect(),
            ),
            Valid::Null => Some(Value::Null),
            Valid::Absent => None,
        };
        let confs = list["plugins"].as_array().unwrap().clone();
        confs
            .into_iter()
            .map(|mut conf| {
                if let Some(attachments) = &attachments {
                    // libcni writes both: the second name came from a slip in the spec.
                    conf["cni.dev/valid-attachments"] = attachments.clone();
                    conf["cni.dev/attachments"] = attachments.clone();
                }
                self.call_node(&inject(&list, &conf, None, None), "GC").run()
            })
            .filter(|outcome| !outcome.succeeded())
            .collect()
    }

    /// STATUS on every plugin, until one fails. Needs cniVersion 1.1.0.
    #[track_caller]
    pub fn status(&self) -> Result<(), Outcome> {
        let list = self.conflist();
        must_know("STATUS", "1.1.0", &list);
        for conf in list["plugins"].as_array().unwrap() {
            let outcome = self.call_node(&inject(&list, conf, None, None), "STATUS").run();
            if !outcome.succeeded() {
                return Err(outcome);
            }
        }
        Ok(())
    }

    /// Forgets the cached result, as a runtime whose state was wiped: DEL comes without
    /// `prevResult`.
    pub fn forget_result(&self, pod: &Pod) {
        self.results.lock().unwrap().remove(&cache_key(pod));
    }

    /// A call to the plugin that a configuration names, for a pod.
    pub fn call_for(&self, conf: &Value, verb: &str, pod: &Pod) -> Call<'_> {
        self.call_node(conf, verb).pod(pod)
    }

    fn call_node(&self, conf: &Value, verb: &str) -> Call<'_> {
        self.call(conf["type"].as_str().expect("type"), verb).conf(conf)
    }

    fn cached(&self, pod: &Pod, list: &Value) -> Option<Value> {
        if older(list, "0.4.0") {
            return None;
        }
        self.results.lock().unwrap().get(&cache_key(pod)).cloned()
    }
}

/// Versions sort as text: 0.3.1, 0.4.0, 1.0.0, 1.1.0.
fn older(list: &Value, version: &str) -> bool {
    list["cniVersion"].as_str().unwrap() < version
}

/// A test that asks for a verb which a runtime would not call means something else.
#[track_caller]
fn must_know(verb: &str, since: &str, list: &Value) {
    assert!(!older(list, since), "no runtime calls {verb} below cniVersion {since}");
}

fn cache_key(pod: &Pod) -> (String, String) {
    (pod.container.clone(), pod.ifname.clone())
}

/// What libcni adds to a plugin's part of the list: name, version, the result so far, and
/// the runtime's values for the capabilities that the plugin has (which it takes out).
fn inject(list: &Value, conf: &Value, pod: Option<&Pod>, prev: Option<&Value>) -> Value {
    let mut conf = conf.clone();
    let fields = conf.as_object_mut().unwrap();
    fields.insert("name".to_owned(), list["name"].clone());
    fields.insert("cniVersion".to_owned(), list["cniVersion"].clone());
    let capabilities = fields.shift_remove("capabilities").unwrap_or_default();
    let mac = pod.and_then(|pod| pod.wanted_mac.as_ref());
    if let (Some(mac), Some(true)) = (mac, capabilities["mac"].as_bool()) {
        fields.insert("runtimeConfig".to_owned(), json!({"mac": mac}));
    }
    if let Some(prev) = prev {
        fields.insert("prevResult".to_owned(), prev.clone());
    }
    conf
}
