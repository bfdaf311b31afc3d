//! Minimal API server for the commands under test, and a kubeconfig for it.

use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Serves `router` and returns a directory with the file `kubeconfig`, which points to it.
pub(crate) async fn serve(router: Router) -> TempDir {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a free port");
    let address = listener.local_addr().expect("read the address");
    tokio::spawn(async move { axum::serve(listener, router).await });

    let directory = tempfile::tempdir().expect("create a directory");
    let cluster = json!({"name": "test", "cluster": {"server": format!("http://{address}")}});
    let context = json!({"name": "test", "context": {"cluster": "test", "user": "test"}});
    let config = json!({"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context],
        "current-context": "test", "users": [{"name": "test", "user": {}}]});
    let file = directory.path().join("kubeconfig");
    std::fs::write(file, config.to_string()).expect("write the kubeconfig");
    directory
}

pub(crate) fn not_found(path: &str) -> Response {
    let missing = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 404,
        "reason": "NotFound", "message": format!("{path} not found")});
    (StatusCode::NOT_FOUND, Json(missing)).into_response()
}
