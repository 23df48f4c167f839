//! The HTTP server: the filter for proxies, metrics, and health.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tracing::warn;

use super::filter::Filters;
use super::readiness::Readiness;
use super::request::chain;
use super::telemetry::ControllerMetrics;

/// The state from which requests are answered.
pub struct HttpState {
    /// The filters of all versions.
    pub filters: Filters,
    /// The metrics of this process.
    pub metrics: ControllerMetrics,
    /// Whether the replica is ready.
    pub readiness: Readiness,
}

/// Binds the address before anything else is done, so that a wrong one is reported at once.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("--listen {address}: {error}"))
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, served: Arc<HttpState>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/filter/{file}", get(filter))
        .with_state(served);
    axum::serve(listener, router).await
}

async fn ready(State(served): State<Arc<HttpState>>) -> Response {
    match served.readiness.answer() {
        Ok(words) => words.into_response(),
        Err(words) => (StatusCode::SERVICE_UNAVAILABLE, words).into_response(),
    }
}

async fn metrics(State(served): State<Arc<HttpState>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], served.metrics.text()).into_response()
}

/// `/filter/<sha256>.wasm`
async fn filter(State(served): State<Arc<HttpState>>, Path(file): Path<String>) -> Response {
    let response = match file.strip_suffix(".wasm") {
        None => StatusCode::NOT_FOUND.into_response(),
        Some(sha256) => match served.filters.file(sha256).await {
            Ok(Some(bytes)) => ([(header::CONTENT_TYPE, "application/wasm")], bytes.as_ref().clone()).into_response(),
            Ok(None) => (StatusCode::NOT_FOUND, "there is no such filter\n").into_response(),
            Err(error) => {
                warn!(sha256, error = chain(&error), "the filter of another version could not be read");
                StatusCode::SERVICE_UNAVAILABLE.into_response()
            }
        },
    };
    served.metrics.filter_requested(response.status().as_u16());
    response
}
