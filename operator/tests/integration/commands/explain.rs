//! `operator explain` against a minimal API server and a mock broker.

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};
use tokio::process::Command;

use super::kubeconfig::{not_found, serve};

fn stage(servers: &str) -> Value {
    json!({
        "apiVersion": "streamstage.dev/v1alpha1",
        "kind": "StreamStage",
        "metadata": {"name": "cdm", "namespace": "orders", "uid": "1"},
        "spec": {
            "layer": "cdm",
            "source": {"bootstrapServers": [servers], "topic": "facts"},
            "warehouse": {"host": "postgres", "database": "orders"},
            "scaling": {"pollInterval": "1s"},
        },
        "status": {"desiredReplicas": 2, "readyReplicas": 2},
    })
}

async fn explain(stage: Value, name: &str) -> (bool, String, String) {
    let handle = async move |request: Request| -> Response {
        match request.uri().path() {
            "/apis/streamstage.dev/v1alpha1/namespaces/orders/streamstages/cdm" => {
                Json(stage).into_response()
            }
            path => not_found(path),
        }
    };
    let directory = serve(Router::new().fallback(handle)).await;
    let output = Command::new(env!("CARGO_BIN_EXE_operator"))
        .args([
            "explain",
            name,
            "--namespace=orders",
            "--allowed-hosts=127.0.0.1,*.svc",
        ])
        .env("KUBECONFIG", directory.path().join("kubeconfig"))
        .output()
        .await
        .expect("run operator explain");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8 output");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_decision_is_explained_from_two_polls() {
    let brokers = MockCluster::new(1).expect("start a broker");
    brokers.create_topic("facts", 4, 1).expect("create the topic");
    let (is_success, text, error) = explain(stage(&brokers.bootstrap_servers()), "cdm").await;
    assert!(is_success, "{error}");
    for line in [
        "orders/cdm: topic facts, group orders.cdm, mode Auto",
        "0 records in 4 partitions",
        "current replicas       2",
        "ceiling                4, by Partitions",
        "result",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[tokio::test]
async fn a_missing_stage_is_an_error() {
    let (is_success, _, error) = explain(stage("127.0.0.1:1"), "missing").await;
    assert!(!is_success && error.contains("not found"), "{error}");
}
