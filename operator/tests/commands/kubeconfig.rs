//! An API server of a few lines, and the way to it.

use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Serves `router`, and writes the kubeconfig for it into a folder: `kubeconfig`.
pub(crate) async fn serve(router: Router) -> TempDir {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move { axum::serve(listener, router).await });

    let folder = tempfile::tempdir().expect("a folder");
    let cluster = json!({"name": "here", "cluster": {"server": format!("http://{address}")}});
    let context = json!({"name": "here", "context": {"cluster": "here", "user": "me"}});
    let config = json!({"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context],
        "current-context": "here", "users": [{"name": "me", "user": {}}]});
    let file = folder.path().join("kubeconfig");
    std::fs::write(file, config.to_string()).expect("write the kubeconfig");
    folder
}

pub(crate) fn not_found(path: &str) -> Response {
    let missing = json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 404,
        "reason": "NotFound", "message": format!("{path} not found")});
    (StatusCode::NOT_FOUND, Json(missing)).into_response()
}
