//! HTTP endpoints for probes and Prometheus.
//!
//! A connection serves one request and is closed then. Neither many clients nor one that never finishes its request
//! delay a probe or a shutdown.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::progress::Progress;

/// Content type of the `OpenMetrics` text format.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Maximum number of open connections. One more closes the oldest, which most probably waits for a slow client.
const MAX_CONNECTIONS: usize = 64;
/// Time in which a client must send its request and receive the response.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay after a connection could not be accepted, for example because too many files are open.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Where a request comes from; every handler can extract it as an [`Extension`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// True for a process of the same host or pod, which includes `kubectl port-forward`.
    pub is_local: bool,
}

impl From<IpAddr> for Caller {
    /// Other loopback addresses do not count: a service mesh forwards the requests of other pods from them.
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self {
            is_local: address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST,
        }
    }
}

/// Returns the routes `/livez`, which is 200 unless a step of the process is stalled, and `/metrics`.
pub fn router(registry: Arc<Registry>, progress: Progress) -> Router {
    Router::new()
        .route("/livez", get(livez).with_state(progress))
        .route("/metrics", get(metrics).with_state(registry))
}

/// Serves `router` until `stop` is cancelled.
///
/// # Errors
/// If the listener fails.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> std::io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "serving /livez, /readyz and /metrics");
    let mut connections: VecDeque<AbortHandle> = VecDeque::with_capacity(MAX_CONNECTIONS);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let (stream, caller) = match accepted {
            Ok((stream, address)) => (stream, Caller::from(address.ip())),
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection, retrying");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        if connections.len() == MAX_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let service = TowerToHyperService::new(router.clone().layer(Extension(caller)));
        let connection = http1::Builder::new()
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        let connection = tokio::spawn(tokio::time::timeout(CONNECTION_TIMEOUT, connection));
        connections.push_back(connection.abort_handle());
    }
}

/// Answers 200, or 503 with the steps that are stalled.
async fn livez(State(progress): State<Progress>) -> impl IntoResponse {
    let stalled = progress.stalled();
    if stalled.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("stalled: {stalled}\n"))
    }
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => (StatusCode::OK, [(CONTENT_TYPE, OPENMETRICS)], text),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(CONTENT_TYPE, "text/plain")],
            error.to_string(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;

    use super::*;

    /// Deadline of a response, and of a shutdown.
    const DEADLINE: Duration = Duration::from_secs(5);

    async fn start(progress: Progress) -> (SocketAddr, CancellationToken, JoinHandle<std::io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let router = router(Arc::default(), progress);
        (address, stop.clone(), tokio::spawn(serve(listener, router, stop)))
    }

    async fn get_livez(address: SocketAddr) -> String {
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            stream
                .write_all(b"GET /livez HTTP/1.1\r\nHost: worker\r\n\r\n")
                .await?;
            let mut response = String::new();
            stream.read_to_string(&mut response).await?;
            std::io::Result::Ok(response)
        };
        let response = tokio::time::timeout(DEADLINE, exchange).await;
        response.expect("no response").expect("a response")
    }

    #[tokio::test]
    async fn clients_with_half_a_request_delay_neither_a_probe_nor_a_shutdown() {
        let (address, stop, server) = start(Progress::default()).await;
        let mut clients = Vec::new();
        for _ in 0..MAX_CONNECTIONS * 3 {
            let mut client = TcpStream::connect(address).await.expect("a connection");
            client.write_all(b"GET /livez HT").await.expect("half a request");
            clients.push(client);
        }
        assert!(get_livez(address).await.starts_with("HTTP/1.1 200"));
        let mut closed = [0];
        let read = tokio::time::timeout(DEADLINE, clients[0].read(&mut closed)).await;
        assert_eq!(
            read.expect("the oldest connection is open").unwrap_or_default(),
            0
        );
        stop.cancel();
        let stopped = tokio::time::timeout(DEADLINE, server).await;
        stopped
            .expect("the server did not stop")
            .expect("no panic")
            .expect("no error");
    }

    #[tokio::test]
    async fn a_connection_is_closed_after_its_response() {
        let (address, ..) = start(Progress::default()).await;
        // The response ends with the connection.
        assert!(get_livez(address).await.ends_with("ok\n"));
    }

    #[tokio::test]
    async fn a_stalled_step_is_a_failed_liveness_probe() {
        let progress = Progress::with_limit(Duration::ZERO);
        let (address, ..) = start(progress.clone()).await;
        assert!(get_livez(address).await.starts_with("HTTP/1.1 200"), "idle");
        let step = progress.begin_step("stg commit", "write a batch");
        let response = get_livez(address).await;
        assert!(
            response.starts_with("HTTP/1.1 503") && response.contains("stg commit: write a batch"),
            "{response}"
        );
        drop(step);
        assert!(
            get_livez(address).await.starts_with("HTTP/1.1 200"),
            "the step has ended"
        );
    }
}
