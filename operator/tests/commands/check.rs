//! `operator check` as a process, against an API server of a few lines.

use std::process::Output;

use axum::extract::Request;
use axum::http::Method;
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::kubeconfig::{not_found, serve};

/// What the API server has and allows.
#[derive(Clone, Copy)]
struct Cluster {
    has_definition: bool,
    may_update: bool,
    holder: &'static str,
}

const WELL: Cluster = Cluster {
    has_definition: true,
    may_update: true,
    holder: "operator-1",
};

async fn answer(cluster: Cluster, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if request.method() == Method::POST && path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" {
        let body = axum::body::to_bytes(request.into_body(), 65_536)
            .await
            .expect("a body");
        let mut review: Value = serde_json::from_slice(&body).expect("a review");
        let verb = &review["spec"]["resourceAttributes"]["verb"];
        let allowed = cluster.may_update || verb != "update";
        review["status"] = json!({"allowed": allowed});
        return Json(review).into_response();
    }
    let found = match path.as_str() {
        "/apis/streamstage.dev/v1alpha1/streamstages" if cluster.has_definition => {
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": []})
        }
        "/apis/coordination.k8s.io/v1/namespaces/streamstage/leases/streamstage-operator" => {
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {},
                "spec": {"holderIdentity": cluster.holder}})
        }
        _ => return not_found(&path),
    };
    Json(found).into_response()
}

async fn check(cluster: Cluster) -> Output {
    let router = Router::new().fallback(move |request| answer(cluster, request));
    let folder = serve(router).await;
    Command::new(env!("CARGO_BIN_EXE_operator"))
        .args(["check", "--lease-namespace=streamstage"])
        .env("KUBECONFIG", folder.path().join("kubeconfig"))
        .output()
        .await
        .expect("run operator check")
}

#[tokio::test]
async fn sound_installation_passes_with_a_line_for_each_check() {
    let output = check(WELL).await;
    let lines = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{lines}");
    assert!(lines.lines().all(|line| line.starts_with("ok ")), "{lines}");
    assert!(lines.contains("rights on streamstages/status: patch"), "{lines}");
    assert!(
        lines.contains("lease streamstage-operator: held by operator-1"),
        "{lines}"
    );
}

#[tokio::test]
async fn each_fault_fails_the_check_and_is_named() {
    for (cluster, named) in [
        (
            Cluster {
                has_definition: false,
                ..WELL
            },
            "definition of StreamStage: ",
        ),
        (
            Cluster {
                may_update: false,
                ..WELL
            },
            "rights on streamstages/finalizers: update is missing",
        ),
        (
            Cluster { holder: "", ..WELL },
            "lease streamstage-operator: no operator holds it in the namespace streamstage",
        ),
    ] {
        let output = check(cluster).await;
        let lines = String::from_utf8(output.stdout).expect("text");
        assert_eq!(output.status.code(), Some(1), "{lines}");
        let failed: Vec<&str> = lines.lines().filter(|line| line.starts_with("FAILED")).collect();
        assert_eq!(failed.len(), 1, "{lines}");
        assert!(failed[0].contains(named), "{lines}");
    }
}
