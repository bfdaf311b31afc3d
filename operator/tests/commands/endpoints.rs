#![expect(clippy::disallowed_methods, reason = "edge: waits until a deadline")]
//! The operator's own HTTP endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use operator::metrics::Metrics;
use operator::serve::serve;
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
    stream.write_all(request.as_bytes()).await.expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[tokio::test]
async fn probes_and_figures_are_answered_until_the_operator_stops() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let mut registry = Registry::default();
    Metrics::register(&mut registry).leads(true);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve(address, Arc::new(registry), stop.clone()));
    for path in ["/livez", "/readyz"] {
        let answer = get(address, path).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"),
            "{path}: {answer}"
        );
    }
    let figures = get(address, "/metrics").await;
    assert!(figures.contains("streamstage_operator_leader 1"), "{figures}");
    assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404"));
    stop.cancel();
    let served = tokio::time::timeout(DEADLINE, serving).await;
    served.expect("it stops").expect("no panic").expect("served");
}

#[tokio::test]
async fn a_taken_address_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = taken.local_addr().expect("an address");
    let served = serve(address, Arc::default(), CancellationToken::new()).await;
    assert!(served.is_err());
}
