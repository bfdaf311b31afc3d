#![expect(clippy::disallowed_methods, reason = "edge: waits until a deadline")]
//! HTTP endpoints of the operator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use operator::http::serve;
use operator::metrics::Metrics;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(30);

async fn get(address: SocketAddr, path: &str) -> String {
    let until = Instant::now() + DEADLINE;
    let mut stream = loop {
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("send the request");
    let mut response = String::new();
    stream
        .read_to_string(&mut response)
        .await
        .expect("read the response");
    response
}

#[tokio::test]
async fn probes_and_metrics_are_served_until_the_operator_stops() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("bind a free port");
    let address = free.local_addr().expect("read the address");
    drop(free);
    let mut registry = Registry::default();
    Metrics::register(&mut registry).set_leader(true);
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(address, Arc::new(registry), stop.clone()));
    for path in ["/livez", "/readyz"] {
        let response = get(address, path).await;
        assert!(
            response.starts_with("HTTP/1.1 200") && response.ends_with("ok\n"),
            "{path}: {response}"
        );
    }
    let metrics = get(address, "/metrics").await;
    assert!(metrics.contains("streamstage_operator_leader 1"), "{metrics}");
    assert!(get(address, "/missing").await.starts_with("HTTP/1.1 404"));
    stop.cancel();
    let result = tokio::time::timeout(DEADLINE, server).await;
    result
        .expect("the server stops in time")
        .expect("the server does not panic")
        .expect("the server stops without an error");
}

#[tokio::test]
async fn an_address_in_use_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a free port");
    let address = listener.local_addr().expect("read the address");
    let result = serve(address, Arc::default(), CancellationToken::new()).await;
    assert!(result.is_err());
}
