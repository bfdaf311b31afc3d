//! An operator's process, as far as it is no endless loop: it can be started, asked for one reconcile, and dropped.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{self, ObjectRef, store::Writer};
use kube::runtime::watcher::Event;
use operator::controller::{Context, ReconcileError, reconcile};
use operator::defaults::{Amounts, Defaults};
use operator::metrics::Metrics;
use operator::outline::Guarded;
use operator::report::Told;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::api_server::{ApiServer, Write};

/// Longer than anything here takes on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Longer than the API server of these scenarios takes for a step, unless it does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Process {
    pub(crate) context: Arc<Context>,
    registry: Registry,
    writer: Mutex<Writer<Guarded>>,
    server: ApiServer,
}

pub(crate) fn defaults() -> Defaults {
    let amounts = |text: &str| Some(text.parse::<Amounts>().expect("amounts").0);
    Defaults {
        image: "streamstage/worker:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        image_pull_secrets: vec!["registry".to_owned()],
        resources: ResourceRequirements {
            requests: amounts("cpu=100m,memory=64Mi"),
            limits: amounts("memory=256Mi"),
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
                stages,
                defaults: defaults(),
                metrics: Metrics::register(&mut registry),
                told: Told::default(),
                lags: Arc::default(),
                failures: Mutex::default(),
                patience: PATIENCE,
            }),
            registry,
            writer: Mutex::new(writer),
            server: server.clone(),
        }
    }

    /// What /metrics answers.
    pub(crate) fn figures(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text");
        text
    }

    /// Learns of the stages as they are.
    pub(crate) fn refresh(&self) {
        let mut writer = self
            .writer
            .lock()
            .expect("nothing panicked while it held the lock");
        writer.apply_watcher_event(&Event::Init);
        for stage in self.server.list("streamstages") {
            let stage = serde_json::from_value(stage).expect("an object");
            writer.apply_watcher_event(&Event::InitApply(stage));
        }
        writer.apply_watcher_event(&Event::InitDone);
    }

    /// The stage as the operator knows it.
    pub(crate) fn known(&self, name: &str) -> Arc<Guarded> {
        let reference = ObjectRef::new(name).within("orders");
        self.context.stages.get(&reference).expect("a known stage")
    }

    /// One reconcile.
    pub(crate) async fn look(&self, name: &str) -> Result<Action, ReconcileError> {
        self.refresh();
        reconcile(self.known(name), self.context.clone()).await
    }

    /// Reconciles, with pods that do what they should, until nothing is left to write; returns what was written.
    pub(crate) async fn settle(&self, name: &str) -> Vec<Write> {
        let mut all = Vec::new();
        for _ in 0..10 {
            let before = self.server.version();
            self.look(name).await.expect("a reconcile");
            roll_out(&self.server, name);
            let writes = self.server.take_writes();
            if writes.is_empty() && self.server.version() == before {
                return all;
            }
            all.extend(writes);
        }
        unreachable!("still writing after ten reconciles: {all:?}")
    }
}

/// Does what the Deployment's controller does, when every pod becomes ready.
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

/// Waits until `holds`.
pub(crate) async fn until(server: &ApiServer, promise: &str, holds: impl Fn(&ApiServer) -> bool) {
    timeout(DEADLINE, server.until(holds)).await.expect(promise);
}

/// A condition of a stage, as `<status> <reason>`.
pub(crate) fn condition(server: &ApiServer, name: &str, type_: &str) -> String {
    let found = details(server, name, type_);
    let [status, reason] = ["status", "reason"].map(|field| found[field].as_str().unwrap_or("?").to_owned());
    format!("{status} {reason}")
}

/// The message of a condition of a stage.
pub(crate) fn message(server: &ApiServer, name: &str, type_: &str) -> String {
    let found = details(server, name, type_);
    found["message"].as_str().unwrap_or_default().to_owned()
}

fn details(server: &ApiServer, name: &str, type_: &str) -> Value {
    let stage = server.get("streamstages", name).expect("a stage");
    let conditions = stage["status"]["conditions"].as_array().cloned();
    let mut conditions = conditions.unwrap_or_default().into_iter();
    conditions
        .find(|condition| condition["type"] == type_)
        .unwrap_or_default()
}

/// The reasons of the events, the oldest first.
pub(crate) fn told(writes: &[Write]) -> Vec<String> {
    let events = writes.iter().filter(|write| write.resource == "events");
    events
        .map(|write| write.body["reason"].as_str().unwrap_or_default().to_owned())
        .collect()
}
