//! The worker's own HTTP endpoints: `/livez`, `/readyz` and `/metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::{Condition, Health};

/// What the endpoints show.
#[derive(Clone)]
pub struct Shown {
    /// The stages of this process.
    pub stages: Vec<Arc<Health>>,
    /// The figures of this process.
    pub registry: Arc<Registry>,
}

/// Serves until `stop`.
///
/// # Errors
/// When the listener does not work.
pub async fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken) -> std::io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "serving /livez, /readyz and /metrics");
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shown);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// 200 when every stage is ready, else 503; the body says why, stage by stage.
async fn readyz(State(shown): State<Shown>) -> impl IntoResponse {
    let conditions: BTreeMap<&str, Condition> = shown
        .stages
        .iter()
        .map(|health| (health.stage(), health.condition()))
        .collect();
    let ready = conditions.values().all(Condition::is_ready);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::to_string(&conditions).unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/json")], body)
}

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &shown.registry) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(CONTENT_TYPE, content_type)], text)
        }
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(CONTENT_TYPE, "text/plain")],
            error.to_string(),
        ),
    }
}
