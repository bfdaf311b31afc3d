#![expect(clippy::disallowed_types, reason = "edge: watches the cluster")]
//! Controller of the kind `StreamStage`: maps triggers to stages and runs one reconcile per trigger.
//!
//! Each namespace has a queue of its own, so that a namespace whose reconciles hang or pile up delays no other.
//! A stage is reconciled after a watch event of the stage, of an owned object or of a referenced Secret, after a
//! status-relevant change of its lag, and at a resync. The reconcile itself is [`reconcile`].

mod context;
mod queues;
mod reconciler;
mod watch;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::mpsc;
use futures::{StreamExt as _, stream};
use kube::Client;
use kube::runtime::events::Recorder;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::defaults::WorkerDefaults;
use crate::hosts::HostPattern;
use crate::lag::poller;
use crate::lag::store::LagStore;
use crate::metrics::Metrics;
use crate::report::PublishedEvents;
use crate::stage_summary::StageStore;

pub use self::context::Context;
pub use self::reconciler::{ReconcileError, error_policy, reconcile};

/// Timeout of the API server for one timed step of a reconcile.
const API_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum number of concurrent reconciles of all namespaces: each has the objects that it read in memory.
pub const MAX_RECONCILES: usize = 64;

/// What the operator watches, and what its stages may use.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Watched namespaces; empty for all namespaces.
    pub namespaces: Vec<String>,
    /// Defaults of the workers.
    pub defaults: WorkerDefaults,
    /// Hosts that stages may connect to; empty for the default rule of [`crate::hosts`].
    pub allowed_hosts: Vec<HostPattern>,
}

/// Reconciles the stages of the watched namespaces until `stop`.
pub async fn run(
    client: Client,
    settings: Settings,
    metrics: Metrics,
    lag_store: Arc<LagStore>,
    recorder: Recorder,
    stop: CancellationToken,
) {
    let namespaces: Vec<Option<&str>> = match &settings.namespaces[..] {
        [] => vec![None],
        namespaces => namespaces
            .iter()
            .map(|namespace| Some(namespace.as_str()))
            .collect(),
    };
    let watches = namespaces
        .iter()
        .map(|namespace| watch::watch(&client, *namespace));
    let (triggers, stores): (Vec<_>, Vec<_>) = watches.unzip();
    let stages = stores.iter().cloned().collect();
    let (request_reconcile, reconcile_requests) = mpsc::unbounded();
    let poller = poller::run(
        Arc::clone(&lag_store),
        StageStore::clone(&stages),
        settings.allowed_hosts.clone(),
        metrics.clone(),
        request_reconcile,
        stop.clone(),
    );
    tokio::spawn(poller);
    let context = Arc::new(Context {
        client,
        stages,
        defaults: settings.defaults,
        allowed_hosts: settings.allowed_hosts,
        permits: Semaphore::new(MAX_RECONCILES),
        metrics,
        recorder,
        published_events: PublishedEvents::default(),
        lag_store,
        failures: Mutex::default(),
        api_timeout: API_TIMEOUT,
    });
    let stores = settings
        .namespaces
        .into_iter()
        .map(Some)
        .chain([None])
        .zip(stores);
    let triggers = stream::select(
        stream::select_all(triggers),
        reconcile_requests.map(|stage| Ok(stage.into())),
    );
    let triggers = triggers.take_until(stop.cancelled_owned()).boxed();
    queues::run(triggers, stores.collect(), context).await;
}
