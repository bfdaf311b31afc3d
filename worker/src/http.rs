//! HTTP endpoints of the worker: `/livez`, `/readyz` and `/metrics`.
//!
//! Never changes anything: it serves the health of the stages and the metrics of the process.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use telemetry::http::Caller;
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

/// Answers 200 if every stage is ready, otherwise 503. The JSON body has the health of each stage; another pod gets no
/// details, because errors contain addresses and names.
async fn readyz(State(stages): State<Vec<Arc<Health>>>, Extension(caller): Extension<Caller>) -> Response {
    let stages: BTreeMap<&str, StageHealth> = stages
        .iter()
        .map(|health| (health.stage(), health.snapshot()))
        .collect();
    let (status, summary) = if stages.values().all(StageHealth::is_ready) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    };
    if !caller.is_local {
        return (status, summary).into_response();
    }
    let body = serde_json::to_string(&stages).unwrap_or_default();
    (status, [(CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpSocket;

    use super::*;
    use crate::health::Dependency;

    #[tokio::test]
    async fn only_a_local_caller_reads_the_errors_of_a_stage() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let health = Arc::new(Health::new("stg"));
        health.mark_unavailable(Dependency::Warehouse, "cannot connect to db.internal");
        let stop = CancellationToken::new();
        tokio::spawn(serve(
            listener,
            vec![health],
            Arc::default(),
            Progress::default(),
            stop,
        ));
        // The second address stands for another pod.
        for (from, is_detailed) in [("127.0.0.1:0", true), ("127.0.0.2:0", false)] {
            let socket = TcpSocket::new_v4().expect("a socket");
            socket.bind(from.parse().expect("an address")).expect("bind");
            let mut stream = socket.connect(address).await.expect("connect");
            let request = b"GET /readyz HTTP/1.1\r\nHost: worker\r\n\r\n";
            stream.write_all(request).await.expect("send");
            let mut response = String::new();
            stream.read_to_string(&mut response).await.expect("a response");
            assert!(response.starts_with("HTTP/1.1 503"), "{response}");
            assert_eq!(
                response.contains("db.internal"),
                is_detailed,
                "{from}: {response}"
            );
            assert_eq!(
                response.ends_with("not ready\n"),
                !is_detailed,
                "{from}: {response}"
            );
        }
    }
}
