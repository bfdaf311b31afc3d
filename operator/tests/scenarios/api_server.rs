//! An API server in the process, without a socket: as much of Kubernetes as decides what the operator may rely on.
//!
//! Objects by group, resource, namespace and name; server-side apply with owners of single fields; generations;
//! the status subresource; watches; garbage collection; faults on demand.
//! Must never know what the operator is meant to do.

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

use self::store::Key;
use self::store::Store;

/// A write that was stored.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) verb: &'static str,
    pub(crate) resource: String,
    pub(crate) manager: String,
    pub(crate) name: String,
    pub(crate) body: Value,
}

/// What a request meets instead of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// `get`, `list`, `watch`, `apply`, `create` or `patch`.
    pub(crate) verb: &'static str,
    /// With the subresource: `streamstages/status`.
    pub(crate) resource: &'static str,
    /// How often.
    pub(crate) times: usize,
    /// The status code and the words; none: no answer ever.
    pub(crate) answer: Option<(u16, &'static str)>,
}

#[derive(Debug, Default)]
struct Inner {
    store: Store,
    writes: Vec<Write>,
    faults: Vec<Fault>,
    /// Writes until the operator is killed.
    lives: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct ApiServer {
    inner: Arc<Mutex<Inner>>,
    /// The resource version; and whether the operator is dead.
    version: watch::Sender<(u64, bool)>,
}

/// A request, taken apart.
struct Asked {
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
        Client::new(Router::new().fallback(answer).with_state(self.clone()), "orders")
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("nothing panicked while it held the lock")
    }

    /// Lets the operator die right after its `n`th write from now.
    pub(crate) fn kill_after(&self, n: usize) {
        self.inner().lives = Some(n);
    }

    /// Waits until the operator is dead.
    pub(crate) async fn killed(&self) {
        let mut version = self.version.subscribe();
        let _ = version
            .wait_for(|(_, dead)| *dead)
            .await
            .expect("the server lives");
    }

    /// Waits until the objects are such.
    pub(crate) async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let mut version = self.version.subscribe();
        while !holds(self) {
            version.changed().await.expect("the server lives");
        }
    }

    pub(crate) fn revive(&self) {
        self.inner().lives = None;
        self.version.send_modify(|(_, dead)| *dead = false);
    }

    pub(crate) fn fail(&self, fault: Fault) {
        self.inner().faults.push(fault);
    }

    pub(crate) fn heal(&self) {
        self.inner().faults.clear();
    }

    /// The version of the newest change.
    pub(crate) fn version(&self) -> u64 {
        self.inner().store.version()
    }

    /// The writes since the last time, and forgets them.
    pub(crate) fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.inner().writes)
    }

    pub(crate) fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.inner()
            .store
            .get(&Key::new(resource, "orders", name))
            .cloned()
    }

    pub(crate) fn list(&self, resource: &str) -> Vec<Value> {
        self.inner()
            .store
            .select(&Key::new(resource, "", ""), "")
            .cloned()
            .collect()
    }

    /// Writes as somebody else than the operator; `change` takes the object as it is, or an empty one.
    pub(crate) fn edit(&self, resource: &str, name: &str, manager: &str, change: impl FnOnce(&mut Value)) {
        let key = Key::new(resource, "orders", name);
        self.inner().store.update(&key, manager, change);
        self.announce();
    }

    /// Deletes an object and everything that it owns.
    pub(crate) fn delete(&self, resource: &str, name: &str) {
        self.inner().store.delete(&Key::new(resource, "orders", name));
        self.announce();
    }

    fn announce(&self) {
        let latest = self.inner().store.version();
        self.version.send_modify(|(version, _)| *version = latest);
    }

    /// The fault that this request meets.
    fn fault(&self, asked: &Asked) -> Option<Fault> {
        let mut inner = self.inner();
        let resource = asked.resource();
        let fault = inner
            .faults
            .iter_mut()
            .find(|fault| fault.times > 0 && fault.verb == asked.verb && fault.resource == resource)?;
        fault.times -= 1;
        Some(fault.clone())
    }

    fn write(&self, asked: &Asked, body: Value) -> (u16, Value) {
        let mut inner = self.inner();
        let manager = parameter(&asked.query, "fieldManager");
        let stored = match asked.verb {
            "apply" => inner.store.apply(&asked.key, &asked.subresource, &manager, &body),
            "patch" => inner.store.merge(&asked.key, &body),
            _ => inner.store.create(&asked.key, &body),
        };
        let Ok(object) = stored else {
            return stored.unwrap_or_else(|(code, message)| (code, failure(code, &message)));
        };
        inner.writes.push(Write {
            verb: asked.verb,
            resource: asked.resource(),
            manager,
            name: object.1["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            body,
        });
        if let Some(lives) = &mut inner.lives {
            *lives = lives.saturating_sub(1);
            if *lives == 0 {
                self.version.send_modify(|(_, dead)| *dead = true);
            }
        }
        object
    }

    fn read(&self, asked: &Asked) -> (u16, Value) {
        let inner = self.inner();
        if asked.verb == "get" {
            let found = inner.store.get(&asked.key).cloned();
            let missing = || (404, failure(404, &format!("{} not found", asked.key.name)));
            return found.map_or_else(missing, |found| (200, found));
        }
        let selector = parameter(&asked.query, "labelSelector");
        let items = inner.store.select(&asked.key, &selector);
        let items: Vec<Value> = items.map(|item| shown(item, asked.by_metadata)).collect();
        let version = inner.store.version().to_string();
        (
            200,
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    /// Every change after the version that is asked for, as it happens.
    fn watch(&self, asked: Asked) -> Body {
        let from: u64 = parameter(&asked.query, "resourceVersion")
            .parse()
            .unwrap_or_default();
        let selector = parameter(&asked.query, "labelSelector");
        let state = (self.clone(), self.version.subscribe(), from);
        let changes = stream::unfold(state, move |(server, mut version, from)| {
            let (key, selector, by_metadata) = (asked.key.clone(), selector.clone(), asked.by_metadata);
            async move {
                let _ = version.wait_for(|(version, _)| *version > from).await.ok()?;
                let (latest, changes) = {
                    let store = &server.inner().store;
                    (store.version(), store.changes(&key, &selector, from))
                };
                let lines = changes.iter().map(|change| {
                    let object = shown(&change.object, by_metadata);
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

impl Asked {
    /// `/apis/<group>/<version>[/namespaces/<namespace>]/<resource>[/<name>[/<subresource>]]`, or `/api/<version>/…`.
    fn of(request: &Request) -> Self {
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

async fn answer(State(server): State<ApiServer>, request: Request) -> Response {
    let asked = Asked::of(&request);
    let body = to_bytes(request.into_body(), usize::MAX).await.expect("a body");
    if server.version.borrow().1 {
        return std::future::pending().await;
    }
    match server.fault(&asked).map(|fault| fault.answer) {
        Some(None) => return std::future::pending().await,
        Some(Some((code, message))) => return respond(code, Body::from(failure(code, message).to_string())),
        None => {}
    }
    let (code, value) = match asked.verb {
        "watch" => return respond(200, server.watch(asked)),
        "get" | "list" => server.read(&asked),
        _ => server.write(&asked, serde_json::from_slice(&body).expect("JSON")),
    };
    server.announce();
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
        .expect("a response")
}

fn failure(code: u16, message: &str) -> Value {
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

fn shown(object: &Value, by_metadata: bool) -> Value {
    if by_metadata {
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
    } else {
        object.clone()
    }
}

fn parameter(query: &str, name: &str) -> String {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs
        .find(|(known, _)| *known == name)
        .map_or("", |(_, value)| value);
    value.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",")
}
