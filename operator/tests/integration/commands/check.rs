//! `operator check` against a minimal API server.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::Request;
use axum::http::Method;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::process::Command;

use super::kubeconfig::{not_found, serve};

/// Installation faults that the API server simulates.
#[derive(Clone, Copy)]
struct Cluster {
    has_crd: bool,
    allows_update: bool,
    /// Holder of the Lease at each read; the last one is that of all further reads.
    holders: &'static [&'static str],
}

const HEALTHY: Cluster = Cluster {
    has_crd: true,
    allows_update: true,
    holders: &["operator-1"],
};

async fn handle(cluster: Cluster, lease_reads: &AtomicUsize, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if request.method() == Method::POST && path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" {
        let body = axum::body::to_bytes(request.into_body(), 65_536)
            .await
            .expect("read the body");
        let mut review: Value = serde_json::from_slice(&body).expect("parse the review");
        let verb = &review["spec"]["resourceAttributes"]["verb"];
        let allowed = cluster.allows_update || verb != "update";
        review["status"] = json!({"allowed": allowed});
        return Json(review).into_response();
    }
    let response = match path.as_str() {
        "/apis/streamstage.dev/v1alpha1/streamstages" if cluster.has_crd => {
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": []})
        }
        "/apis/coordination.k8s.io/v1/namespaces/streamstage/leases/streamstage-operator" => {
            let read = lease_reads.fetch_add(1, Ordering::SeqCst);
            let holder = cluster.holders[read.min(cluster.holders.len() - 1)];
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {},
                "spec": {"holderIdentity": holder}})
        }
        _ => return not_found(&path),
    };
    Json(response).into_response()
}

async fn check(cluster: Cluster, leader_timeout: &str) -> Output {
    let lease_reads = Arc::new(AtomicUsize::new(0));
    let router = Router::new().fallback(move |request| {
        let lease_reads = Arc::clone(&lease_reads);
        async move { handle(cluster, &lease_reads, request).await }
    });
    let directory = serve(router).await;
    Command::new(env!("CARGO_BIN_EXE_operator"))
        .args([
            "check",
            "--lease-namespace=streamstage",
            "--leader-timeout",
            leader_timeout,
        ])
        .env("KUBECONFIG", directory.path().join("kubeconfig"))
        .output()
        .await
        .expect("run operator check")
}

#[tokio::test]
async fn a_healthy_installation_passes_with_one_line_per_check() {
    let output = check(HEALTHY, "0").await;
    let lines = String::from_utf8(output.stdout).expect("UTF-8 output");
    assert!(output.status.success(), "{lines}");
    assert!(lines.lines().all(|line| line.starts_with("ok ")), "{lines}");
    assert!(
        lines.contains("permissions on streamstages/status: patch"),
        "{lines}"
    );
    assert!(
        lines.contains("lease streamstage-operator: held by operator-1"),
        "{lines}"
    );
}

#[tokio::test]
async fn the_check_waits_for_a_leader_that_is_not_yet_elected() {
    let electing = Cluster {
        holders: &["", "operator-2"],
        ..HEALTHY
    };
    let output = check(electing, "30").await;
    let lines = String::from_utf8(output.stdout).expect("UTF-8 output");
    assert!(output.status.success(), "{lines}");
    assert!(
        lines.contains("lease streamstage-operator: held by operator-2"),
        "{lines}"
    );
}

#[tokio::test]
async fn each_fault_fails_its_check_with_the_cause() {
    for (cluster, failure) in [
        (
            Cluster {
                has_crd: false,
                ..HEALTHY
            },
            "CRD StreamStage: ",
        ),
        (
            Cluster {
                allows_update: false,
                ..HEALTHY
            },
            "permissions on streamstages/finalizers: missing update",
        ),
        (
            Cluster {
                holders: &[""],
                ..HEALTHY
            },
            "lease streamstage-operator: no leader in the namespace streamstage",
        ),
    ] {
        let output = check(cluster, "0").await;
        let lines = String::from_utf8(output.stdout).expect("UTF-8 output");
        assert_eq!(output.status.code(), Some(1), "{lines}");
        let failed: Vec<&str> = lines.lines().filter(|line| line.starts_with("FAILED")).collect();
        assert_eq!(failed.len(), 1, "{lines}");
        assert!(failed[0].contains(failure), "{lines}");
    }
}
