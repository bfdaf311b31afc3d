//! Operator without its controller loop: a test runs single reconciles, and drops it to simulate a crash.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{self, ObjectRef, store::Writer};
use kube::runtime::watcher::Event;
use operator::controller::{Context, MAX_RECONCILES, ReconcileError, reconcile};
use operator::defaults::{ResourceQuantities, WorkerDefaults};
use operator::metrics::Metrics;
use operator::report::PublishedEvents;
use operator::stage_summary::CachedStage;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::api_server::{ApiServer, Write};

/// Deadline of every wait; generous, for a loaded machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Timeout of a request, so that a fault without a response ends soon.
const API_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct Process {
    pub(crate) context: Arc<Context>,
    registry: Registry,
    writer: Mutex<Writer<CachedStage>>,
    server: ApiServer,
}

pub(crate) fn defaults() -> WorkerDefaults {
    let quantities = |text: &str| Some(text.parse::<ResourceQuantities>().expect("valid quantities").0);
    WorkerDefaults {
        image: "streamstage/worker:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        image_pull_secrets: vec!["registry".to_owned()],
        resources: ResourceRequirements {
            requests: quantities("cpu=100m,memory=64Mi"),
            limits: quantities("memory=256Mi"),
            ..ResourceRequirements::default()
        },
    }
}

impl Process {
    pub(crate) fn start(server: &ApiServer) -> Self {
        let (stages, writer) = reflector::store();
        let client = server.client();
        let mut registry = Registry::default();
        Self {
            context: Arc::new(Context {
                recorder: Recorder::new(client.clone(), "streamstage-operator".into()),
                client,
                stages: [stages].into_iter().collect(),
                defaults: defaults(),
                allowed_hosts: Vec::new(),
                permits: Semaphore::new(MAX_RECONCILES),
                metrics: Metrics::register(&mut registry),
                published_events: PublishedEvents::default(),
                lag_store: Arc::default(),
                failures: Mutex::default(),
                api_timeout: API_TIMEOUT,
            }),
            registry,
            writer: Mutex::new(writer),
            server: server.clone(),
        }
    }

    /// Metrics in the text format of `/metrics`.
    pub(crate) fn metrics_text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("encode the metrics");
        text
    }

    /// Replaces the stage store with the current stages, as a new list of the watch does.
    pub(crate) fn refresh_store(&self) {
        let mut writer = self.writer.lock().expect("the lock is not poisoned");
        writer.apply_watcher_event(&Event::Init);
        for stage in self.server.list("streamstages") {
            let stage = serde_json::from_value(stage).expect("parse the stage");
            writer.apply_watcher_event(&Event::InitApply(stage));
        }
        writer.apply_watcher_event(&Event::InitDone);
    }

    /// Stage as the stage store has it.
    pub(crate) fn cached_stage(&self, name: &str) -> Arc<CachedStage> {
        let reference = ObjectRef::new(name).within("orders");
        self.context
            .stages
            .get(&reference)
            .expect("the store has the stage")
    }

    /// Refreshes the store and reconciles the stage once.
    pub(crate) async fn reconcile(&self, name: &str) -> Result<Action, ReconcileError> {
        self.refresh_store();
        reconcile(self.cached_stage(name), self.context.clone()).await
    }

    /// Reconciles, with pods that become ready, until there are no more writes; returns all writes.
    pub(crate) async fn converge(&self, name: &str) -> Vec<Write> {
        let mut all_writes = Vec::new();
        for _ in 0..10 {
            let before = self.server.version();
            self.reconcile(name).await.expect("reconcile");
            roll_out(&self.server, name);
            let writes = self.server.take_writes();
            if writes.is_empty() && self.server.version() == before {
                return all_writes;
            }
            all_writes.extend(writes);
        }
        unreachable!("still writing after ten reconciles: {all_writes:?}")
    }
}

/// Sets the status of the Deployment as its controller does when every pod is ready.
pub(crate) fn roll_out(server: &ApiServer, name: &str) {
    let name = format!("{name}-worker");
    if server.get("deployments", &name).is_some() {
        server.edit("deployments", &name, "kube-controller-manager", |deployment| {
            let (replicas, generation) = (
                deployment["spec"]["replicas"].clone(),
                deployment["metadata"]["generation"].clone(),
            );
            deployment["status"] = json!({
                "observedGeneration": generation,
                "replicas": replicas,
                "updatedReplicas": replicas,
                "readyReplicas": replicas,
            });
        });
    }
}

/// Waits until the API server fulfills `condition`; panics with `description` at the deadline.
pub(crate) async fn wait_until(
    server: &ApiServer,
    description: &str,
    condition: impl Fn(&ApiServer) -> bool,
) {
    timeout(DEADLINE, server.wait_until(condition))
        .await
        .expect(description);
}

/// Condition of a stage, as `STATUS REASON`; `? ?` if it is not set.
pub(crate) fn condition(server: &ApiServer, name: &str, type_: &str) -> String {
    let condition = find_condition(server, name, type_);
    let [status, reason] =
        ["status", "reason"].map(|field| condition[field].as_str().unwrap_or("?").to_owned());
    format!("{status} {reason}")
}

/// Message of a condition of a stage.
pub(crate) fn message(server: &ApiServer, name: &str, type_: &str) -> String {
    let condition = find_condition(server, name, type_);
    condition["message"].as_str().unwrap_or_default().to_owned()
}

fn find_condition(server: &ApiServer, name: &str, type_: &str) -> Value {
    let stage = server.get("streamstages", name).expect("the stage exists");
    let conditions = stage["status"]["conditions"].as_array().cloned();
    let mut conditions = conditions.unwrap_or_default().into_iter();
    conditions
        .find(|condition| condition["type"] == type_)
        .unwrap_or_default()
}

/// Reasons of the events among the writes, oldest first.
pub(crate) fn published_events(writes: &[Write]) -> Vec<String> {
    let events = writes.iter().filter(|write| write.resource == "events");
    events
        .map(|write| write.body["reason"].as_str().unwrap_or_default().to_owned())
        .collect()
}
