//! Queues of reconciles, one per namespace.
//!
//! A namespace has at most [`NAMESPACE_RECONCILES`] reconciles at a time, however many of its stages wait or hang.
//! A queue starts with the first trigger of a stage in its namespace.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::channel::mpsc::{self, UnboundedSender};
use kube::runtime::applier;
use kube::runtime::controller::{Config, Error, ReconcileRequest};
use kube::runtime::reflector::Store;
use tokio::task::{JoinError, JoinSet};

use super::context::Context;
use super::reconciler::{ReconcileError, error_policy, reconcile};
use super::watch::Triggers;
use crate::stage_summary::{CachedStage, StageRef};

/// Maximum number of concurrent reconciles of one namespace.
const NAMESPACE_RECONCILES: u16 = 8;
/// Time within which triggers of one stage are combined. A reconcile's own writes come back as watch events, and by then
/// the cache should have the new status.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Runs the reconciles of all namespaces until the triggers end, and then until the running reconciles have ended.
///
/// `stores` has the stages of each watched namespace, or of all namespaces under the key `None`.
pub(super) async fn run(
    mut triggers: Triggers,
    stores: HashMap<Option<String>, Store<CachedStage>>,
    context: Arc<Context>,
) {
    let mut queues: HashMap<String, UnboundedSender<ReconcileRequest<CachedStage>>> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        let trigger = tokio::select! {
            trigger = triggers.next() => trigger,
            Some(ended) = running.join_next() => {
                resume_panic(ended);
                continue;
            }
        };
        let request = match trigger {
            None => break,
            Some(Ok(request)) => request,
            Some(Err(error)) => {
                tracing::warn!(%error, "watch failed, retrying");
                continue;
            }
        };
        let namespace = request.obj_ref.namespace.clone().unwrap_or_default();
        let Some(store) = stores.get(&Some(namespace.clone())).or_else(|| stores.get(&None)) else {
            continue;
        };
        let queue = queues.entry(namespace).or_insert_with(|| {
            let (queue, requests) = mpsc::unbounded();
            let requests = requests.map(Ok::<_, Infallible>);
            let config = Config::default()
                .concurrency(NAMESPACE_RECONCILES)
                .debounce(DEBOUNCE);
            let reconciles = applier(
                |stage, context| Box::pin(reconcile(stage, context)),
                error_policy,
                Arc::clone(&context),
                store.clone(),
                requests,
                config,
            );
            let context = Arc::clone(&context);
            running.spawn(reconciles.for_each(move |result| {
                if let Err(error) = result {
                    handle_error(error, &context);
                }
                std::future::ready(())
            }));
            queue
        });
        // The receiver is dropped only after a panic, which ends the operator.
        queue.unbounded_send(request).unwrap_or_default();
    }
    drop(queues);
    while let Some(ended) = running.join_next().await {
        resume_panic(ended);
    }
}

fn handle_error(error: Error<ReconcileError, Infallible>, context: &Context) {
    match error {
        // The reconcile has logged its own failure.
        Error::ReconcilerFailed(..) => {}
        Error::ObjectNotFound(stage) => {
            let namespace = stage.namespace.unwrap_or_default();
            let stage_ref = StageRef::new(&stage.name).within(&namespace);
            context.metrics.stages.remove_stage(&stage_ref);
            context.reset_failures(&format!("{namespace}/{}", stage.name));
        }
        error => tracing::warn!(%error, "queue of reconciles failed"),
    }
}

/// A panic of a reconcile ends the operator: without its queue, a namespace would be ignored.
fn resume_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}
