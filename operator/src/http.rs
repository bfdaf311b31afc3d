//! HTTP endpoints of the operator: `/livez`, `/readyz` and `/metrics`.
//!
//! Readiness checks no dependency: a standby is ready to become the leader.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::routing::get;
use prometheus_client::registry::Registry;
use telemetry::progress::Progress;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves the endpoints on `address` until `stop` is cancelled.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    registry: Arc<Registry>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let router =
        telemetry::http::router(registry, Progress::default()).route("/readyz", get(async || "ok\n"));
    telemetry::http::serve(listener, router, stop).await
}
