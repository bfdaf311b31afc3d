//! `operator explain` as a process, against an API server of a few lines and an imitated broker.

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::kubeconfig::{not_found, serve};

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
    let answer = async move |request: Request| -> Response {
        match request.uri().path() {
            "/apis/streamstage.dev/v1alpha1/namespaces/orders/streamstages/cdm" => {
                Json(stage).into_response()
            }
            path => not_found(path),
        }
    };
    let folder = serve(Router::new().fallback(answer)).await;
    let output = Command::new(env!("CARGO_BIN_EXE_operator"))
        .args(["explain", name, "--namespace=orders"])
        .env("KUBECONFIG", folder.path().join("kubeconfig"))
        .output()
        .await
        .expect("run operator explain");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_number_of_workers_is_explained_from_two_readings() {
    let brokers = MockCluster::new(1).expect("a broker");
    brokers.create_topic("facts", 4, 1).expect("a topic");
    let (is_success, text, error) = explain(stage(&brokers.bootstrap_servers()), "cdm").await;
    assert!(is_success, "{error}");
    for words in [
        "orders/cdm: topic facts, group orders.cdm, mode Auto",
        "0 records in 4 partitions",
        "workers now            2",
        "ceiling                4, by Partitions",
        "outcome",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[tokio::test]
async fn a_stage_that_is_not_there_is_an_error() {
    let (is_success, _, error) = explain(stage("127.0.0.1:1"), "nobody").await;
    assert!(!is_success && error.contains("not found"), "{error}");
}
