//! A server between the source and containerd that passes on what containerd says, and lies
//! about the list. No runtime can be told to, so this is the tests' own.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use k8s_cri::v1::*;
use tokio::net::{UnixListener, UnixStream};
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// What it does to a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Nothing.
    None,
    /// The first of them only.
    CutShort,
    /// Nobody.
    Empty,
    /// Two that nobody has.
    AnotherNodes,
    /// One twice.
    Twice,
    /// One without an id.
    Nameless,
    /// A state that CRI does not have.
    OddState,
    /// An error.
    Refused,
    /// More than anybody would list.
    TooLarge,
}

impl Lie {
    /// All but the truth.
    pub(crate) const ALL: [Self; 8] = [
        Self::CutShort,
        Self::Empty,
        Self::AnotherNodes,
        Self::Twice,
        Self::Nameless,
        Self::OddState,
        Self::Refused,
        Self::TooLarge,
    ];
}

/// The server. It runs until the test's process ends.
pub(crate) struct Liar {
    /// Where it listens.
    pub(crate) socket: PathBuf,
    lie: Arc<Mutex<Lie>>,
}

impl Liar {
    /// Starts one in front of `real`.
    pub(crate) fn start(real: &Path, socket: &Path) -> Self {
        let lie = Arc::new(Mutex::new(Lie::None));
        let between = Between { real: real.to_owned(), lie: Arc::clone(&lie) };
        let at = socket.to_owned();
        let (bound, is_bound) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio.block_on(async {
                let incoming = Incoming(UnixListener::bind(at).unwrap());
                bound.send(()).unwrap();
                let service = RuntimeServiceServer::new(between);
                Server::builder().add_service(service).serve_with_incoming(incoming).await
            })
        });
        is_bound.recv().unwrap();
        Self { socket: socket.to_owned(), lie }
    }

    /// What it says from now on.
    pub(crate) fn tell(&self, lie: Lie) {
        *self.lie.lock().unwrap() = lie;
    }
}

struct Incoming(UnixListener);

impl Stream for Incoming {
    type Item = std::io::Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_accept(cx).map(|accepted| Some(accepted.map(|(stream, _)| stream)))
    }
}

struct Between {
    real: PathBuf,
    lie: Arc<Mutex<Lie>>,
}

impl Between {
    async fn real(&self) -> Result<RuntimeServiceClient<Channel>, Status> {
        let real = self.real.clone();
        let connector = tower::service_fn(move |_| {
            let real = real.clone();
            async move { UnixStream::connect(real).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connector).await;
        channel.map(RuntimeServiceClient::new).map_err(|e| Status::unavailable(e.to_string()))
    }
}

/// The list as the lie has it.
fn lied(lie: Lie, mut items: Vec<PodSandbox>) -> Result<Vec<PodSandbox>, Status> {
    // Whatever containerd's order is, the cut falls on the same ones.
    items.sort_by_key(|item| item.metadata.clone().unwrap_or_default().name);
    match lie {
        Lie::None => {}
        Lie::CutShort => items.truncate(1),
        Lie::Empty => items.clear(),
        Lie::AnotherNodes => {
            for item in &mut items {
                item.id = item.id.chars().rev().collect();
            }
        }
        Lie::Twice => items.extend(items.first().cloned()),
        Lie::Nameless => items[0].id.clear(),
        Lie::OddState => items[0].state = 7,
        Lie::Refused => return Err(Status::internal("no\nlist")),
        Lie::TooLarge => {
            let long = "x".repeat(20 << 20);
            items[0].annotations.insert("long".to_owned(), long);
        }
    }
    Ok(items)
}

macro_rules! between {
    ($($call:ident($request:ident) -> $response:ident,)*) => {
        #[tonic::async_trait]
        impl RuntimeService for Between {
            type GetContainerEventsStream = tonic::Streaming<ContainerEventResponse>;

            async fn version(
                &self,
                request: Request<VersionRequest>,
            ) -> Result<Response<VersionResponse>, Status> {
                self.real().await?.version(request.into_inner()).await
            }

            async fn pod_sandbox_status(
                &self,
                request: Request<PodSandboxStatusRequest>,
            ) -> Result<Response<PodSandboxStatusResponse>, Status> {
                self.real().await?.pod_sandbox_status(request.into_inner()).await
            }

            async fn list_pod_sandbox(
                &self,
                request: Request<ListPodSandboxRequest>,
            ) -> Result<Response<ListPodSandboxResponse>, Status> {
                let list = self.real().await?.list_pod_sandbox(request.into_inner()).await?;
                let lie = *self.lie.lock().unwrap();
                let items = lied(lie, list.into_inner().items)?;
                Ok(Response::new(ListPodSandboxResponse { items }))
            }

            async fn get_container_events(
                &self,
                _: Request<GetEventsRequest>,
            ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
                Err(Status::unimplemented("get_container_events"))
            }

            $(async fn $call(
                &self,
                _: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented(stringify!($call)))
            })*
        }
    };
}

between! {
    run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse,
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse,
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse,
    create_container(CreateContainerRequest) -> CreateContainerResponse,
    start_container(StartContainerRequest) -> StartContainerResponse,
    stop_container(StopContainerRequest) -> StopContainerResponse,
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse,
    list_containers(ListContainersRequest) -> ListContainersResponse,
    container_status(ContainerStatusRequest) -> ContainerStatusResponse,
    update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse,
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse,
    exec_sync(ExecSyncRequest) -> ExecSyncResponse,
    exec(ExecRequest) -> ExecResponse,
    attach(AttachRequest) -> AttachResponse,
    port_forward(PortForwardRequest) -> PortForwardResponse,
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse,
    list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse,
    pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse,
    list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse,
    update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse,
    status(StatusRequest) -> StatusResponse,
    checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse,
    list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse,
    list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse,
    runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse,
}
