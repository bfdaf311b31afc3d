#![expect(clippy::disallowed_types, reason = "edge: watches the cluster")]
//! Controller of the kind `StreamStage`: maps triggers to stages and runs one reconcile per trigger.
//!
//! A stage is reconciled after a watch event of the stage, of an owned object or of a referenced Secret, after a
//! status-relevant change of its lag, and at a resync. The reconcile itself is [`reconcile`].

mod context;
mod reconciler;
mod watch;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use futures::channel::mpsc;
use kube::Client;
use kube::runtime::controller::{self, Config};
use kube::runtime::events::Recorder;
use tokio_util::sync::CancellationToken;

use crate::defaults::WorkerDefaults;
use crate::lag::poller;
use crate::lag::store::LagStore;
use crate::metrics::Metrics;
use crate::report::PublishedEvents;
use crate::stage_summary::StageRef;

pub use self::context::Context;
pub use self::reconciler::{ReconcileError, error_policy, reconcile};

/// Timeout of the API server for one timed step of a reconcile.
const API_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum number of concurrent reconciles: each has the objects that it read in memory.
const CONCURRENCY: u16 = 8;
/// Time within which triggers of one stage are combined. A reconcile's own writes come back as watch events, and by then
/// the cache should have the new status.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Reconciles the stages of `namespace`, or of all namespaces if it is `None`, until `stop`.
pub async fn run(
    client: Client,
    namespace: Option<&str>,
    defaults: WorkerDefaults,
    metrics: Metrics,
    lag_store: Arc<LagStore>,
    recorder: Recorder,
    stop: CancellationToken,
) {
    let (controller, stages) = watch::controller(&client, namespace);
    let (request_reconcile, reconcile_requests) = mpsc::unbounded();
    let poller = poller::run(
        Arc::clone(&lag_store),
        stages.clone(),
        metrics.clone(),
        request_reconcile,
        stop.clone(),
    );
    tokio::spawn(poller);
    let context = Arc::new(Context {
        client,
        stages,
        defaults,
        metrics,
        recorder,
        published_events: PublishedEvents::default(),
        lag_store,
        failures: Mutex::default(),
        api_timeout: API_TIMEOUT,
    });
    let reconciles = controller
        .reconcile_on(reconcile_requests)
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, error_policy, Arc::clone(&context));
    reconciles
        .for_each(async |result| match result {
            // The reconcile has logged its own failure.
            Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
            Err(controller::Error::ObjectNotFound(stage)) => {
                let namespace = stage.namespace.unwrap_or_default();
                let stage_ref = StageRef::new(&stage.name).within(&namespace);
                context.metrics.stages.remove_stage(&stage_ref);
                context.reset_failures(&format!("{namespace}/{}", stage.name));
            }
            Err(error) => tracing::warn!(%error, "watch failed, retrying"),
        })
        .await;
}
