//! HTTP endpoints of the worker: `/livez`, `/readyz` and `/metrics`.
//!
//! Never changes anything: it serves the health of the stages and the metrics of the process.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use telemetry::progress::Progress;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::{Health, StageHealth};

/// Serves the health of `stages`, and the `progress` and metrics of the process, until `stop` is cancelled.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    stages: Vec<Arc<Health>>,
    registry: Arc<Registry>,
    progress: Progress,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = telemetry::http::router(registry, progress).route("/readyz", get(readyz).with_state(stages));
    telemetry::http::serve(listener, router, stop).await
}

/// Answers 200 if every stage is ready, otherwise 503; the JSON body has the health of each stage.
async fn readyz(State(stages): State<Vec<Arc<Health>>>) -> impl IntoResponse {
    let stages: BTreeMap<&str, StageHealth> = stages
        .iter()
        .map(|health| (health.stage(), health.snapshot()))
        .collect();
    let status = if stages.values().all(StageHealth::is_ready) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::to_string(&stages).unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/json")], body)
}
