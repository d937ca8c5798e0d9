//! A containerd with CRI, asked for sandboxes as the kubelet asks: RunPodSandbox calls the
//! chain through libcni, and makes the network namespace in /run/netns.

use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerState, ContainerStatusRequest, CreateContainerRequest, ImageSpec,
    ImageStatusRequest, LinuxPodSandboxConfig, ListPodSandboxRequest, PodSandboxConfig,
    PodSandboxMetadata, PodSandboxState, PodSandboxStatusRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::containerd::Containerd;
use super::host::command;
use super::node::Node;
use super::run::{eventually, run, sleep_ms};

/// A containerd with CRI. Dropping it ends its sandboxes, too.
pub struct Runtime<'a> {
    // Fields are dropped in order: its processes end, then what is left of them is taken away.
    containerd: Containerd<'a>,
    leftovers: Leftovers<'a>,
    /// For the calls.
    tokio: tokio::runtime::Runtime,
    sandboxes: AtomicU32,
}

/// A sandbox that CRI made.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// `CNI_CONTAINERID`.
    pub id: String,
    /// The pod's UID.
    pub uid: String,
    /// The pod's name; its namespace is `default`.
    pub name: String,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// The pause process.
    pub pid: i32,
}

impl Sandbox {
    /// Takes the network namespace away, as a node's clean-up script would.
    #[track_caller]
    pub fn delete_netns(&self) {
        let mut ip = command("ip");
        ip.args(["netns", "del"]).arg(self.netns.file_name().unwrap());
        run(ip, None, b"").ok();
    }
}

impl<'a> Deref for Runtime<'a> {
    type Target = Containerd<'a>;

    fn deref(&self) -> &Containerd<'a> {
        &self.containerd
    }
}

impl<'a> DerefMut for Runtime<'a> {
    fn deref_mut(&mut self) -> &mut Containerd<'a> {
        &mut self.containerd
    }
}

impl<'a> Runtime<'a> {
    /// Starts one on the node.
    #[track_caller]
    pub fn start(node: &'a Node) -> Self {
        let containerd = Containerd::start_with_cri(node);
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sandboxes = AtomicU32::new(0);
        let runtime = Self { containerd, leftovers: Leftovers(node), tokio, sandboxes };
        runtime.answers();
        runtime
    }

    /// Waits until CRI answers: later than `ctr version`.
    #[track_caller]
    pub fn answers(&self) {
        eventually("CRI answers", || self.try_list().is_ok());
    }

    /// RunPodSandbox.
    #[track_caller]
    pub fn run_sandbox(&self, name: &str) -> Sandbox {
        self.try_run_sandbox(name).unwrap_or_else(|e| panic!("{name}: {e}\n{}", self.log()))
    }

    /// RunPodSandbox, or what failed.
    pub fn try_run_sandbox(&self, name: &str) -> Result<Sandbox, Status> {
        let number = self.sandboxes.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{:08x}-0000-4000-8000-{number:012x}", std::process::id());
        let config = self.sandbox_config(name, &uid, number);
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        let id = self.call(async |mut cri| cri.run_pod_sandbox(request).await)?.pod_sandbox_id;
        let netns = netns_of(self.leftovers.0, &id).expect("ADD was called");
        let pid = self.pause_pid(&id);
        Ok(Sandbox { id, uid, name: name.to_owned(), netns, pid })
    }

    fn sandbox_config(&self, name: &str, uid: &str, number: u32) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.to_owned(),
                namespace: "default".to_owned(),
                attempt: number,
            }),
            hostname: name.to_owned(),
            log_directory: self.leftovers.0.dir.join("logs").display().to_string(),
            linux: Some(LinuxPodSandboxConfig::default()),
            ..PodSandboxConfig::default()
        }
    }

    /// CreateContainer and StartContainer: the exit status, and what it wrote, once it has ended.
    #[track_caller]
    pub fn run_container(&self, sandbox: &Sandbox, mut config: ContainerConfig) -> (i32, String) {
        config.log_path = format!("{}.log", sandbox.id);
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config.clone()),
            sandbox_config: Some(self.sandbox_config(&sandbox.name, &sandbox.uid, 0)),
        };
        let id = self.call(async |mut cri| cri.create_container(request).await).unwrap();
        let id = id.container_id;
        let request = StartContainerRequest { container_id: id.clone() };
        self.call(async |mut cri| cri.start_container(request).await).unwrap();
        let mut code = None;
        eventually("the container ends", || {
            let request = ContainerStatusRequest { container_id: id.clone(), verbose: false };
            let status = self.call(async |mut cri| cri.container_status(request).await).unwrap();
            let status = status.status.unwrap();
            let ended = status.state == i32::from(ContainerState::ContainerExited);
            code = ended.then_some(status.exit_code);
            ended
        });
        let log = self.leftovers.0.dir.join("logs").join(config.log_path);
        (code.unwrap(), fs::read_to_string(log).unwrap_or_default())
    }

    /// StopPodSandbox: DEL, and the namespace goes.
    #[track_caller]
    pub fn stop_sandbox(&self, sandbox: &Sandbox) {
        let request = StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        self.call(async |mut cri| cri.stop_pod_sandbox(request).await).unwrap();
    }

    /// RemovePodSandbox.
    #[track_caller]
    pub fn remove_sandbox(&self, sandbox: &Sandbox) {
        let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        self.call(async |mut cri| cri.remove_pod_sandbox(request).await).unwrap();
    }

    /// Kills the pause process; the runtime calls no DEL for that.
    #[track_caller]
    pub fn kill_pause(&self, sandbox: &Sandbox) {
        kill(Pid::from_raw(sandbox.pid), Signal::SIGKILL).unwrap();
        let not_ready = |list: Vec<(String, bool)>| list.contains(&(sandbox.id.clone(), false));
        eventually("the runtime has noticed", || self.try_list().is_ok_and(not_ready));
    }

    /// ListPodSandbox: id, and whether it is ready.
    pub fn try_list(&self) -> Result<Vec<(String, bool)>, Status> {
        let request = ListPodSandboxRequest { filter: None };
        let list = self.call(async |mut cri| cri.list_pod_sandbox(request).await)?;
        let ready = i32::from(PodSandboxState::SandboxReady);
        Ok(list.items.into_iter().map(|item| (item.id, item.state == ready)).collect())
    }

    /// ImageStatus, which the kubelet asks before it pulls: whether there is an image of this name.
    #[track_caller]
    pub fn has_image(&self, name: &str) -> bool {
        let image = ImageSpec { image: name.to_owned(), ..ImageSpec::default() };
        let request = ImageStatusRequest { image: Some(image), verbose: false };
        let socket = self.socket();
        let status = self.tokio.block_on(async {
            ImageServiceClient::new(connect(socket).await?).image_status(request).await
        });
        status.unwrap().into_inner().image.is_some()
    }

    #[track_caller]
    fn pause_pid(&self, id: &str) -> i32 {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let status = self.call(async |mut cri| cri.pod_sandbox_status(request).await).unwrap();
        let info: Value = serde_json::from_str(&status.info["info"]).unwrap();
        info["pid"].as_i64().unwrap().try_into().unwrap()
    }

    /// One call over a connection of its own.
    fn call<T>(
        &self,
        call: impl AsyncFnOnce(RuntimeServiceClient<Channel>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Status> {
        let socket = self.socket();
        self.tokio.block_on(async {
            let channel = connect(socket).await?;
            call(RuntimeServiceClient::new(channel)).await.map(tonic::Response::into_inner)
        })
    }
}

async fn connect(socket: PathBuf) -> Result<Channel, Status> {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|e| Status::unavailable(e.to_string()))
}

/// What a sandbox leaves on the machine when nobody stops it.
struct Leftovers<'a>(&'a Node);

impl Drop for Leftovers<'_> {
    fn drop(&mut self) {
        for call in self.0.calls() {
            let Some(netns) = netns_in(&call) else { continue };
            if netns.exists() {
                let mut ip = command("ip");
                ip.args(["netns", "del"]).arg(netns.file_name().unwrap_or_default());
                run(ip, None, b"");
            }
            let Some(id) = call.split(' ').nth(1) else { continue };
            for group in cgroups(id) {
                // Until its last process is gone, it stays.
                for _ in 0..50 {
                    if fs::remove_dir(&group).is_ok() || !group.exists() {
                        break;
                    }
                    sleep_ms(5);
                }
            }
        }
    }
}

/// Of a sandbox: one (version 2), or one a controller.
fn cgroups(id: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_dir(root).into_iter().flatten().flatten();
    let roots = controllers.map(|controller| controller.path()).chain([root.to_owned()]);
    roots.map(|root| root.join("k8s.io").join(id)).filter(|group| group.exists()).collect()
}

/// What ADD was given.
fn netns_of(node: &Node, id: &str) -> Option<PathBuf> {
    let add = format!("ADD {id} ");
    node.calls().iter().find(|call| call.starts_with(&add)).and_then(|call| netns_in(call))
}

/// The last word of a line of the call log, if it is a namespace that containerd made.
fn netns_in(call: &str) -> Option<PathBuf> {
    let path = call.rsplit(' ').next()?.trim_matches('"');
    let name = Path::new(path).file_name()?.to_str()?;
    let netns = Path::new("/run/netns").join(name);
    (name.starts_with("cni-") && path.contains("/run/netns/")).then_some(netns)
}
