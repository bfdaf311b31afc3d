//! API server in this process, without a socket, with the Kubernetes semantics that the operator relies on.
//!
//! It has objects, server-side apply with field ownership, generations, the status subresource, watches, garbage
//! collection, and faults on demand. It must not contain any knowledge of the operator's behavior.

mod apply;
mod store;

use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::{StreamExt as _, stream};
use http::{Method, header::ACCEPT};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::store::{Key, Store};

/// Successful write of a client.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) verb: &'static str,
    pub(crate) resource: String,
    pub(crate) manager: String,
    pub(crate) name: String,
    pub(crate) body: Value,
}

/// Failure of matching requests.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// Verb of the request: `get`, `list`, `watch`, `apply`, `create` or `patch`.
    pub(crate) verb: &'static str,
    /// Resource, with the subresource if there is one: `streamstages/status`.
    pub(crate) resource: &'static str,
    /// Number of requests that fail.
    pub(crate) times: usize,
    /// Status code and message; `None` means that the request never completes.
    pub(crate) response: Option<(u16, &'static str)>,
}

#[derive(Debug, Default)]
struct Inner {
    store: Store,
    writes: Vec<Write>,
    faults: Vec<Fault>,
    /// Path and query of every request.
    requests: Vec<String>,
    /// Namespace whose owned objects cannot be read: the requests never complete.
    hanging_namespace: Option<&'static str>,
    /// Number of requests that hang.
    hanging_requests: usize,
    /// Number of writes until the client is killed; `None` if it is not to be killed.
    writes_until_kill: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct ApiServer {
    inner: Arc<Mutex<Inner>>,
    /// Resource version, and true if the client is killed: its requests then never complete.
    version: watch::Sender<(u64, bool)>,
}

/// Parsed request.
struct ApiRequest {
    verb: &'static str,
    key: Key,
    subresource: String,
    query: String,
    by_metadata: bool,
}

impl ApiServer {
    pub(crate) fn start() -> Self {
        let inner = Arc::default();
        Self {
            inner,
            version: watch::Sender::default(),
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.router(), "orders")
    }

    /// The same API server, to be served to another process.
    pub(crate) fn router(&self) -> Router {
        Router::new().fallback(handle).with_state(self.clone())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("the lock is not poisoned")
    }

    /// Kills the client right after its `n`th write from now.
    pub(crate) fn kill_after(&self, n: usize) {
        self.inner().writes_until_kill = Some(n);
    }

    /// Waits until the client is killed.
    pub(crate) async fn killed(&self) {
        let mut version = self.version.subscribe();
        let _ = version
            .wait_for(|(_, is_killed)| *is_killed)
            .await
            .expect("the server exists");
    }

    /// Waits until the objects fulfill `condition`.
    pub(crate) async fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        let mut version = self.version.subscribe();
        while !condition(self) {
            version.changed().await.expect("the server exists");
        }
    }

    pub(crate) fn revive(&self) {
        self.inner().writes_until_kill = None;
        self.version.send_modify(|(_, is_killed)| *is_killed = false);
    }

    pub(crate) fn fail(&self, fault: Fault) {
        self.inner().faults.push(fault);
    }

    pub(crate) fn heal(&self) {
        self.inner().faults.clear();
    }

    /// Lets every later read of an object in `namespace` but its stages hang.
    pub(crate) fn hang(&self, namespace: &'static str) {
        self.inner().hanging_namespace = Some(namespace);
    }

    /// Number of requests that hang, or did until their client gave up.
    pub(crate) fn hanging_requests(&self) -> usize {
        self.inner().hanging_requests
    }

    /// Returns true, and counts the request, if it is one that hangs.
    fn hangs(&self, request: &ApiRequest) -> bool {
        let mut inner = self.inner();
        let hangs = request.verb == "get"
            && request.key.resource != "streamstages"
            && inner.hanging_namespace == Some(request.key.namespace.as_str());
        inner.hanging_requests += usize::from(hangs);
        drop(inner);
        if hangs {
            self.version.send_modify(|_| {});
        }
        hangs
    }

    /// Path and query of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.inner().requests.clone()
    }

    /// Resource version of the latest change.
    pub(crate) fn version(&self) -> u64 {
        self.inner().store.version()
    }

    /// Returns the writes since the last call.
    pub(crate) fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.inner().writes)
    }

    pub(crate) fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.get_in("orders", resource, name)
    }

    pub(crate) fn get_in(&self, namespace: &str, resource: &str, name: &str) -> Option<Value> {
        let key = Key::new(resource, namespace, name);
        self.inner().store.get(&key).cloned()
    }

    pub(crate) fn list(&self, resource: &str) -> Vec<Value> {
        self.inner()
            .store
            .select(&Key::new(resource, "", ""), "")
            .cloned()
            .collect()
    }

    /// Updates an object as another client than the operator; `change` gets a new object if it does not exist.
    pub(crate) fn edit(&self, resource: &str, name: &str, manager: &str, change: impl FnOnce(&mut Value)) {
        self.edit_in("orders", resource, name, manager, change);
    }

    /// As [`Self::edit`], in another namespace.
    pub(crate) fn edit_in(
        &self,
        namespace: &str,
        resource: &str,
        name: &str,
        manager: &str,
        change: impl FnOnce(&mut Value),
    ) {
        let key = Key::new(resource, namespace, name);
        self.inner().store.update(&key, manager, change);
        self.notify_watches();
    }

    /// Deletes an object and its dependents.
    pub(crate) fn delete(&self, resource: &str, name: &str) {
        self.inner().store.delete(&Key::new(resource, "orders", name));
        self.notify_watches();
    }

    fn notify_watches(&self) {
        let latest = self.inner().store.version();
        self.version.send_modify(|(version, _)| *version = latest);
    }

    /// Returns the fault for this request, and counts it.
    fn take_fault(&self, request: &ApiRequest) -> Option<Fault> {
        let mut inner = self.inner();
        let resource = request.resource();
        let fault = inner
            .faults
            .iter_mut()
            .find(|fault| fault.times > 0 && fault.verb == request.verb && fault.resource == resource)?;
        fault.times -= 1;
        Some(fault.clone())
    }

    fn write(&self, request: &ApiRequest, body: Value) -> (u16, Value) {
        let mut inner = self.inner();
        let manager = parameter(&request.query, "fieldManager");
        let stored = match request.verb {
            "apply" => inner
                .store
                .apply(&request.key, &request.subresource, &manager, &body),
            "patch" => inner.store.merge(&request.key, &body),
            _ => inner.store.create(&request.key, &body),
        };
        let Ok(response) = stored else {
            return stored.unwrap_or_else(|(code, message)| (code, failure_status(code, &message)));
        };
        inner.writes.push(Write {
            verb: request.verb,
            resource: request.resource(),
            manager,
            name: response.1["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            body,
        });
        if let Some(writes) = &mut inner.writes_until_kill {
            *writes = writes.saturating_sub(1);
            if *writes == 0 {
                self.version.send_modify(|(_, is_killed)| *is_killed = true);
            }
        }
        response
    }

    fn read(&self, request: &ApiRequest) -> (u16, Value) {
        let inner = self.inner();
        if request.verb == "get" {
            let object = inner.store.get(&request.key).cloned();
            let missing = || {
                (
                    404,
                    failure_status(404, &format!("{} not found", request.key.name)),
                )
            };
            return object.map_or_else(missing, |object| (200, object));
        }
        let selector = parameter(&request.query, "labelSelector");
        let items = inner.store.select(&request.key, &selector);
        let items: Vec<Value> = items
            .map(|item| representation(item, request.by_metadata))
            .collect();
        let version = inner.store.version().to_string();
        (
            200,
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    /// Streams every change after the requested resource version.
    fn watch(&self, request: ApiRequest) -> Body {
        let from: u64 = parameter(&request.query, "resourceVersion")
            .parse()
            .unwrap_or_default();
        let selector = parameter(&request.query, "labelSelector");
        let state = (self.clone(), self.version.subscribe(), from);
        let changes = stream::unfold(state, move |(server, mut version, from)| {
            let (key, selector, by_metadata) = (request.key.clone(), selector.clone(), request.by_metadata);
            async move {
                let _ = version.wait_for(|(version, _)| *version > from).await.ok()?;
                let (latest, changes) = {
                    let store = &server.inner().store;
                    (store.version(), store.changes(&key, &selector, from))
                };
                let lines = changes.iter().map(|change| {
                    let object = representation(&change.object, by_metadata);
                    format!("{}\n", json!({"type": change.kind, "object": object}))
                });
                let lines: String = lines.collect();
                Some((
                    Ok::<_, std::convert::Infallible>(lines),
                    (server, version, latest),
                ))
            }
        });
        Body::from_stream(changes.filter(|lines| {
            let is_some = lines.as_ref().is_ok_and(|lines| !lines.is_empty());
            async move { is_some }
        }))
    }
}

impl ApiRequest {
    /// Parses `/apis/GROUP/VERSION[/namespaces/NAMESPACE]/RESOURCE[/NAME[/SUBRESOURCE]]`, or `/api/VERSION/…`.
    fn from_http(request: &Request) -> Self {
        let path: Vec<&str> = request.uri().path().trim_matches('/').split('/').collect();
        let (group, rest) = if path[0] == "api" {
            ("", &path[2..])
        } else {
            (path[1], &path[3..])
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            rest => ("", rest),
        };
        let query = request.uri().query().unwrap_or_default().to_owned();
        let part = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
        let header =
            |name: http::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
        let is_apply = header(http::header::CONTENT_TYPE) == Some("application/apply-patch+yaml");
        let verb = match *request.method() {
            Method::GET if query.contains("watch=true") => "watch",
            Method::GET if part(1).is_empty() => "list",
            Method::GET => "get",
            Method::PATCH if is_apply => "apply",
            Method::PATCH => "patch",
            _ => "create",
        };
        Self {
            verb,
            key: Key {
                group: group.to_owned(),
                resource: part(0),
                namespace: namespace.to_owned(),
                name: part(1),
            },
            subresource: part(2),
            query,
            by_metadata: header(ACCEPT).is_some_and(|accept| accept.contains("as=PartialObjectMetadata")),
        }
    }

    fn resource(&self) -> String {
        let parts = [self.key.resource.as_str(), self.subresource.as_str()];
        parts.join("/").trim_end_matches('/').to_owned()
    }
}

async fn handle(State(server): State<ApiServer>, request: Request) -> Response {
    let api_request = ApiRequest::from_http(&request);
    server.inner().requests.push(request.uri().to_string());
    if server.hangs(&api_request) {
        return std::future::pending().await;
    }
    let body = to_bytes(request.into_body(), usize::MAX)
        .await
        .expect("read the body");
    if server.version.borrow().1 {
        return std::future::pending().await;
    }
    match server.take_fault(&api_request).map(|fault| fault.response) {
        Some(None) => return std::future::pending().await,
        Some(Some((code, message))) => {
            return respond(code, Body::from(failure_status(code, message).to_string()));
        }
        None => {}
    }
    let (code, value) = match api_request.verb {
        "watch" => return respond(200, server.watch(api_request)),
        "get" | "list" => server.read(&api_request),
        _ => server.write(
            &api_request,
            serde_json::from_slice(&body).expect("parse the body"),
        ),
    };
    server.notify_watches();
    if server.version.borrow().1 {
        return std::future::pending().await;
    }
    respond(code, Body::from(value.to_string()))
}

fn respond(code: u16, body: Body) -> Response {
    let response = Response::builder().status(code);
    response
        .header("content-type", "application/json")
        .body(body)
        .expect("build the response")
}

fn failure_status(code: u16, message: &str) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason, "message": message, "code": code})
}

fn representation(object: &Value, by_metadata: bool) -> Value {
    if by_metadata {
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
    } else {
        object.clone()
    }
}

fn parameter(query: &str, name: &str) -> String {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(key, _)| *key == name).map_or("", |(_, value)| value);
    value.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",")
}
