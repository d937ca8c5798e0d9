//! The commands of docs/kubernetes.md, word for word, by the real kubectl against an API server that
//! keeps what it is given. It is a stand-in: no distribution packages kube-apiserver. It proves that
//! kubectl takes the files and the commands, and not what a kubelet does with them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::manifests::{array, at, run, text, yaml};

const PAGE: &str = "docs/kubernetes.md";

/// Plural, kind, whether it is in a namespace.
type Resource = (&'static str, &'static str, bool);

/// Resources by group and version.
const RESOURCES: [(&str, &[Resource]); 4] = [
    ("v1", &[("namespaces", "Namespace", false), ("serviceaccounts", "ServiceAccount", true)]),
    ("apps/v1", &[("daemonsets", "DaemonSet", true)]),
    (
        "rbac.authorization.k8s.io/v1",
        &[
            ("clusterroles", "ClusterRole", false),
            ("clusterrolebindings", "ClusterRoleBinding", false),
        ],
    ),
    (
        "security.openshift.io/v1",
        &[("securitycontextconstraints", "SecurityContextConstraints", false)],
    ),
];

/// What an API server has and was asked to change.
#[derive(Default)]
struct Kept {
    objects: BTreeMap<String, Value>,
    /// Method and path of each change.
    changes: Vec<String>,
}

type Shared = Arc<Mutex<Kept>>;

/// Answers each request in a thread; it ends with the tests' process.
fn serve() -> (String, Shared) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let kept = Shared::default();
    let shared = Arc::clone(&kept);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(&shared);
            thread::spawn(move || connection(&stream, &shared));
        }
    });
    (url, kept)
}

fn connection(stream: &TcpStream, kept: &Mutex<Kept>) {
    let mut reader = BufReader::new(stream);
    while let Some((method, path, body)) = request(&mut reader) {
        let (status, answer) = answer(&method, &path, &body, &mut kept.lock().unwrap());
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        let mut stream = stream;
        if stream.write_all(format!("{head}{answer}").as_bytes()).is_err() {
            return;
        }
    }
}

/// Method, path without the query, body; none at the end.
fn request(reader: &mut BufReader<&TcpStream>) -> Option<(String, String, Value)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let method = words.next()?.to_owned();
    let path = words.next()?.split('?').next()?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((method, path, serde_json::from_slice(&body).unwrap_or_default()))
}

fn answer(method: &str, path: &str, body: &Value, kept: &mut Kept) -> (u16, Value) {
    let missing = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": "NotFound", "code": 404, "message": "not found", "details": {} });
    if method != "GET" {
        let what = body["metadata"]["name"].as_str().unwrap_or_default();
        let named = if method == "POST" { format!("{path}/{what}") } else { path.to_owned() };
        kept.changes.push(format!("{method} {named}"));
    }
    match method {
        "POST" => {
            let mut object = body.clone();
            let metadata = &mut object["metadata"];
            let key = format!("{path}/{}", metadata["name"].as_str().unwrap());
            (metadata["uid"], metadata["generation"]) = (json!(key), json!(1));
            metadata["resourceVersion"] = json!("1");
            if object["kind"] == "DaemonSet" {
                // As on a cluster of one node where it runs.
                object["status"] = json!({ "observedGeneration": 1, "desiredNumberScheduled": 1,
                    "updatedNumberScheduled": 1, "currentNumberScheduled": 1, "numberReady": 1,
                    "numberAvailable": 1 });
            }
            kept.objects.insert(key, object.clone());
            (201, object)
        }
        "DELETE" => match kept.objects.remove(path) {
            Some(_) => (200, json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" })),
            None => (404, missing),
        },
        _ => match discovery(path).or_else(|| kept.objects.get(path).cloned()) {
            Some(found) => (200, found),
            None => list(path, kept).map_or((404, missing), |list| (200, list)),
        },
    }
}

/// What kubectl asks first.
fn discovery(path: &str) -> Option<Value> {
    let groups = || {
        let named = RESOURCES.iter().filter_map(|(version, _)| version.split_once('/'));
        named.map(|(group, version)| {
            let version =
                json!({ "groupVersion": format!("{group}/{version}"), "version": version });
            json!({ "name": group, "versions": [version], "preferredVersion": version })
        })
    };
    match path {
        "/api" => return Some(json!({ "kind": "APIVersions", "versions": ["v1"] })),
        "/apis" => {
            return Some(json!({ "kind": "APIGroupList", "apiVersion": "v1",
                "groups": groups().collect::<Vec<_>>() }));
        }
        _ => {}
    }
    let version = path.strip_prefix("/apis/").or_else(|| path.strip_prefix("/api/"))?;
    let (_, resources) = RESOURCES.iter().find(|(known, _)| *known == version)?;
    let verbs = ["get", "list", "watch", "create", "patch", "delete"];
    let resources: Vec<Value> = resources
        .iter()
        .map(|(name, kind, namespaced)| {
            json!({ "name": name, "kind": kind, "namespaced": namespaced, "singularName": "",
                "verbs": verbs })
        })
        .collect();
    Some(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
        "resources": resources }))
}

fn list(path: &str, kept: &Kept) -> Option<Value> {
    let last = path.rsplit('/').next()?;
    let resources =
        || RESOURCES.iter().flat_map(|(version, all)| all.iter().map(move |r| (version, r)));
    let (version, (_, kind, _)) = resources().find(|(_, (name, ..))| *name == last)?;
    let below = format!("{path}/");
    let items: Vec<&Value> =
        kept.objects.iter().filter(|(key, _)| key.starts_with(&below)).map(|(_, o)| o).collect();
    Some(json!({ "kind": format!("{kind}List"), "apiVersion": version,
        "metadata": { "resourceVersion": "1" }, "items": items }))
}

/// A kubectl that finds that server, in a directory for `PATH`.
struct Kubectl {
    dir: TempDir,
    kept: Shared,
}

impl Kubectl {
    fn new() -> Self {
        let (url, kept) = serve();
        let dir = TempDir::new().unwrap();
        // No schema is served for kubectl to compare with; the types of this crate's tests do.
        let script = format!(
            "#!/bin/sh\ncase $1 in apply) set -- \"$@\" --validate=false ;; esac\n\
             PATH=${{PATH#*:}}; export PATH\nexec kubectl -s {url} \"$@\"\n"
        );
        let file = dir.path().join("kubectl");
        fs::write(&file, script).unwrap();
        run(Command::new("chmod").arg("755").arg(file), "");
        Self { dir, kept }
    }

    /// Runs the commands of a page at the top of the repository.
    #[track_caller]
    fn sh(&self, script: &str) -> String {
        let path = std::env::var("PATH").unwrap();
        run(
            Command::new("timeout")
                .args(["60", "sh", "-euc", script])
                .current_dir(at(""))
                .env("PATH", format!("{}:{path}", self.dir.path().display()))
                .env("HOME", self.dir.path()),
            "",
        )
    }

    fn objects(&self) -> Vec<Value> {
        self.kept.lock().unwrap().objects.values().cloned().collect()
    }
}

/// The commands of a section, or of a part of one; they begin with `$ ` and go on in the next line.
#[track_caller]
fn commands(of: &str, from: &str, to: &str) -> Vec<String> {
    let after = of.split_once(from).unwrap_or_else(|| panic!("{from}: not there")).1;
    let part = after.split_once(to).map_or(after, |(part, _)| part);
    let mut found: Vec<String> = Vec::new();
    for block in part.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match (line.strip_prefix("$ "), found.last_mut()) {
                (Some(command), _) => found.push(command.to_owned()),
                (None, Some(last)) => last.push_str(&format!("\n{line}")),
                (None, None) => panic!("no command: {line}"),
            }
        }
    }
    assert!(!found.is_empty(), "{from}");
    found
}

fn variants() -> Vec<String> {
    let entries = fs::read_dir(at("conf/kubernetes/overlays")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_commands_of_the_page_install_and_uninstall_each_variant() {
    let page = text(PAGE);
    let image = commands(&page, "**With a registry", "**Without one**");
    assert!(image[0].starts_with("IMAGE="), "{image:?}");
    let install = commands(&page, "## Installing", "\n## ");
    let uninstall = commands(&page, "## Uninstalling", "\n## ");
    let (choice, install) = install.split_first().unwrap();
    let named: Vec<&str> = choice.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').collect();
    for variant in variants() {
        assert!(named.contains(&variant.as_str()), "{variant}: {choice}");
        let kubectl = Kubectl::new();
        let set = format!("{}\nVARIANT={variant}\n", image[0]);
        kubectl.sh(&(set.clone() + &install.join("\n")));
        let objects = kubectl.objects();
        let wanted = yaml(&text(&format!("conf/kubernetes/rendered/{variant}.yaml")));
        assert_eq!(objects.len(), wanted.len(), "{variant}");
        let pushed = image[0].strip_prefix("IMAGE=").unwrap();
        let daemon_set = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        let pod = &daemon_set["spec"]["template"]["spec"];
        for container in array(&pod["initContainers"]).iter().chain(array(&pod["containers"])) {
            assert_eq!(container["image"], pushed, "{variant}");
        }
        // Once more changes nothing.
        let before = kubectl.kept.lock().unwrap().changes.len();
        let said = kubectl.sh(&(set.clone() + &install.join("\n")));
        assert!(said.contains("unchanged") && !said.contains("created"), "{said}");
        assert_eq!(kubectl.kept.lock().unwrap().changes.len(), before, "{said}");

        kubectl.sh(&(set.clone() + &uninstall.join("\n")));
        assert!(kubectl.objects().is_empty(), "{variant}: {:?}", kubectl.objects());
        let changes = kubectl.kept.lock().unwrap().changes.split_off(before);
        let at = |change: &str| {
            let path = "/apis/apps/v1/namespaces/ovs-flow-gc/daemonsets";
            let wanted = format!("{change} {path}");
            changes.iter().position(|c| c.starts_with(&wanted)).unwrap_or_else(|| {
                panic!("{wanted}: {changes:?}");
            })
        };
        assert!(at("DELETE") < at("POST"), "no daemon runs where the state is removed");
        // Whoever finds nothing left does no harm and gets no error.
        kubectl.sh(&(set + &uninstall.join("\n")));
        assert!(kubectl.objects().is_empty(), "{variant}");
    }
}

/// `kubectl apply -f` of one file, as the page has it for images that were imported.
#[test]
fn kubectl_reads_each_rendered_file() {
    let kubectl = Kubectl::new();
    let files: Vec<PathBuf> = crate::manifests::files("conf/kubernetes/rendered", "yaml");
    assert_eq!(files.len(), 2 * variants().len());
    for file in files {
        let command = format!("kubectl apply --dry-run=client -f '{}'", file.display());
        let said = kubectl.sh(&command);
        let objects = yaml(&fs::read_to_string(&file).unwrap());
        assert_eq!(said.matches("(dry run)").count(), objects.len(), "{said}");
    }
    assert!(kubectl.objects().is_empty());
    assert!(text(PAGE).contains("`kubectl apply -f conf/kubernetes/rendered/default.yaml`"));
}
