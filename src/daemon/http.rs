//! `/metrics`, `/healthz`, `/readyz`, and the page at `/`.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use log::warn;

use super::metrics::{OPENMETRICS, PLAIN, plain};
use super::page::page;
use super::{Error, Shared, requests};

/// Opens the port.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|source| Error::Listen { address, source })
}

/// Serves until the runtime ends.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/", get(overview))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(shared);
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
}

/// OpenMetrics for who asks for it (Prometheus does), the older text format for the rest.
async fn metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let open = accept.into_iter().any(|value| value.contains("application/openmetrics-text"));
    shared.metrics.replicas(&shared.replicas.status());
    let calls = Arc::clone(&shared);
    let counted = tokio::task::spawn_blocking(move || requests::count_calls(&calls)).await;
    if let Err(failed) = counted {
        warn!("calls are not counted: {failed}");
    }
    match shared.metrics.encode() {
        Ok(text) if open => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Ok(text) => ([(header::CONTENT_TYPE, PLAIN)], plain(&text)).into_response(),
        Err(failed) => (StatusCode::INTERNAL_SERVER_ERROR, failed.to_string()).into_response(),
    }
}

/// Records are read from a disk, perhaps: not on the thread that serves the others.
async fn overview(State(shared): State<Arc<Shared>>) -> Response {
    let read = tokio::task::spawn_blocking(move || page(requests::overview(&shared))).await;
    match read {
        Ok(page) => Html(page).into_response(),
        Err(failed) => (StatusCode::INTERNAL_SERVER_ERROR, failed.to_string()).into_response(),
    }
}

async fn healthz(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    answer(shared.progress.healthy(shared.wakeup.now()))
}

async fn readyz(State(shared): State<Arc<Shared>>) -> (StatusCode, String) {
    answer(shared.progress.ready())
}

fn answer(state: Result<(), String>) -> (StatusCode, String) {
    match state {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
