#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: watches the cluster and takes the time of a reconcile"
)]
//! Which changes lead to a reconcile, and the reconcile itself.
//!
//! Everything that matters to a stage leads here: the stage, the objects that it owns, the Secrets that it names.
//! Must never decide anything: every step of the reconcile has a module of its own.

mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::{StreamStage, StreamStageStatus};
use futures::StreamExt as _;
use futures::channel::mpsc;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::core::error_boundary::DeserializeGuard;
use kube::runtime::controller::{self, Action, Config};
use kube::runtime::events::Recorder;
use kube::{Api, Client, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::apply::{apply, pause};
use crate::defaults::Defaults;
use crate::events;
use crate::lag::view::View;
use crate::metrics::Metrics;
use crate::observe::{Observed, observe};
use crate::outline::{Guarded, Stages};
use crate::owned;
use crate::plan::{Applied, Resources, plan};
use crate::policy;
use crate::poll::{self, Lags, Place};
use crate::report::{self, Told};
use crate::scale::{Known, Rules, Wanted, wanted};
use crate::status::{Decided, Outcome, is_settled, is_stalled, retrying, status};
use crate::validate::{Refusal, validate};

/// Another look at a stage that is as it should be, at the latest: a watch may have missed something.
const SETTLED: Duration = Duration::from_mins(5);
/// Another look at a stage whose pods are on their way: what keeps them shows on the pods, which are not watched.
const UNSETTLED: Duration = Duration::from_secs(5);
/// How long the API server may take for a step of a reconcile.
const PATIENCE: Duration = Duration::from_secs(15);
/// Steps that a reconcile has.
const STEPS: u32 = 4;

/// Reconciles at a time: what they read is in memory together.
const CONCURRENCY: u16 = 8;
/// Changes within this time lead to one reconcile: its own writes come back as changes, and the stage's new status
/// should be known by then.
const CALM: Duration = Duration::from_millis(100);

/// What every reconcile works with.
pub struct Context {
    /// The cluster.
    pub client: Client,
    /// The stages of the cluster.
    pub stages: Stages,
    /// What a stage gets that does not say otherwise.
    pub defaults: Defaults,
    /// The figures of the operator.
    pub metrics: Metrics,
    /// Where events go.
    pub recorder: Recorder,
    /// The events that went there.
    pub told: Told,
    /// What is known of the stages' lags.
    pub lags: Arc<Lags>,
    /// Failures in a row, by stage.
    pub failures: Mutex<HashMap<String, u32>>,
    /// How long the API server may take for a step of a reconcile.
    pub patience: Duration,
}

/// Why a reconcile has to be tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server failed, or refused.
    #[error(transparent)]
    Kubernetes(#[from] kube::Error),
    /// The API server did not answer in time.
    #[error("the API server did not answer within {0:?}; look after it, and what its webhooks wait for")]
    Timeout(Duration),
    /// The stage has fields that this operator does not know.
    #[error("not readable as a StreamStage: {0}; upgrade the operator, or correct the resource")]
    Unreadable(String),
}

/// Keeps the stages of `namespace`, or of all, until `stop`.
pub async fn run(
    client: Client,
    namespace: Option<&str>,
    defaults: Defaults,
    metrics: Metrics,
    lags: Arc<Lags>,
    recorder: Recorder,
    stop: CancellationToken,
) {
    let (controller, stages) = watch::controller(&client, namespace);
    let (news, changed) = mpsc::unbounded();
    let polling = poll::run(
        Arc::clone(&lags),
        stages.clone(),
        metrics.clone(),
        news,
        stop.clone(),
    );
    tokio::spawn(polling);
    let context = Arc::new(Context {
        client,
        stages,
        defaults,
        metrics,
        recorder,
        told: Told::default(),
        lags,
        failures: Mutex::default(),
        patience: PATIENCE,
    });
    let reconciles = controller
        .reconcile_on(changed)
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(CALM))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(reconcile, retry, Arc::clone(&context));
    reconciles
        .for_each(async |result| match result {
            // What failed in a reconcile was logged with the time of the next attempt.
            Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => {}
            Err(controller::Error::ObjectNotFound(gone)) => {
                let namespace = gone.namespace.clone().unwrap_or_default();
                context.metrics.forget(&Place::new(&gone.name).within(&namespace));
                context.forget_failures(&format!("{}/{}", gone.namespace.unwrap_or_default(), gone.name));
            }
            Err(error) => tracing::warn!(%error, "a watch is tried again"),
        })
        .await;
}

/// Brings one stage to what its resource says.
///
/// # Errors
/// What has to be tried again.
pub async fn reconcile(known: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let begun = Instant::now();
    let place = Place::new(&known.name_any()).within(&known.namespace().unwrap_or_default());
    let result = within(context.patience * STEPS, look(&known, &context)).await;
    let outcome = match &result {
        // Its objects go with it, by their owner reference.
        Ok(None) => {
            context.metrics.forget(&place);
            return Ok(Action::await_change());
        }
        Ok(Some(status)) if is_stalled(status) => "refused",
        Ok(Some(_)) => "done",
        Err(_) => "failed",
    };
    if matches!(result, Err(ReconcileError::Unreadable(_))) {
        // A status cannot be written to it: an alert is what tells of it.
        context.lags.forget(&place);
        context.metrics.stalled(&place, true);
    }
    context.metrics.reconciled(outcome, begun.elapsed());
    let is_settled = result?.is_some_and(|status| is_settled(&status));
    let key = key(&*known);
    context.forget_failures(&key);
    Ok(Action::requeue(if is_settled {
        policy::spread(SETTLED, key)
    } else {
        UNSETTLED
    }))
}

/// Keeps a stage as it is now: what the watch has told of it may be old, and is not all of it. None for one that is
/// being deleted.
async fn look(known: &Guarded, context: &Context) -> Result<Option<StreamStageStatus>, ReconcileError> {
    let namespace = known.namespace().unwrap_or_default();
    let stages: Api<DeserializeGuard<StreamStage>> = Api::namespaced(context.client.clone(), &namespace);
    let Some(now) = stages.get_opt(&known.name_any()).await? else {
        return Ok(None);
    };
    match now.0 {
        Ok(stage) if stage.metadata.deletion_timestamp.is_some() => Ok(None),
        Ok(stage) => Ok(Some(Box::pin(keep(&stage, context)).await?)),
        Err(invalid) => Err(ReconcileError::Unreadable(invalid.error)),
    }
}

async fn keep(stage: &StreamStage, context: &Context) -> Result<StreamStageStatus, ReconcileError> {
    let before = stage.status.clone().unwrap_or_default();
    let observing = Box::pin(observe(stage, &context.stages, &context.lags, &context.client));
    let observed = match within(context.patience, observing).await {
        Ok(observed) => observed,
        Err(error) => return Err(explain(stage, None, error, context).await),
    };
    let deployment = own_deployment(&observed);
    let scaling = before.scaling.clone().unwrap_or_default();
    let wanted = wanted(&Rules::from(stage), &observed.known(&scaling));
    let settling = Box::pin(settle(&observed, wanted.clone(), context));
    let settled = match within(context.patience, settling).await {
        Ok(settled) => settled,
        Err(error) => return Err(explain(stage, Some(&observed), error, context).await),
    };
    let outcome = match &settled {
        Ok(applied) => Outcome::Applied(applied, &observed.pods),
        Err(refusal) => Outcome::Refused(refusal, deployment),
    };
    let decided = Decided {
        view: &observed.view,
        wanted: &wanted,
    };
    let after = status(stage, outcome, decided, observed.view.now);
    report::write_status(stage, &after, &context.client, &context.metrics).await?;
    let place = Place::new(stage.name()).within(stage.namespace());
    context.metrics.scaled(&place, &before, &after);
    let rotated = settled
        .iter()
        .filter_map(|applied| events::rotated(deployment, &applied.deployment));
    let happened = events::between(&before, &after)
        .into_iter()
        .chain(rotated)
        .collect();
    report::publish(stage, happened, &context.recorder, &context.told).await;
    Ok(after)
}

/// A step that fails when it takes too long: the API server does not answer then.
async fn within<T, E: Into<ReconcileError>>(
    patience: Duration,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, ReconcileError> {
    match tokio::time::timeout(patience, step).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(ReconcileError::Timeout(patience)),
    }
}

/// The stage's Deployment, unless another's has its name.
fn own_deployment(observed: &Observed) -> Option<&Deployment> {
    let deployment = observed.owned.deployment.as_ref();
    deployment.filter(|deployment| owned::is_own(&observed.stage, &deployment.metadata))
}

/// Validates, plans and applies.
async fn settle(
    observed: &Observed,
    wanted: Wanted,
    context: &Context,
) -> kube::Result<Result<Resources<Applied>, Refusal>> {
    let valid = match validate(observed) {
        Ok(valid) => valid,
        Err(refusal) => {
            // Whatever else is wrong: a pause stops the workers.
            if let Some(deployment) = own_deployment(observed).filter(|_| observed.stage.spec.suspend) {
                pause(deployment.clone(), &wanted, &context.client, &context.metrics).await?;
            }
            return Ok(Err(refusal));
        }
    };
    let planned = plan(&valid, &context.defaults, wanted);
    let applied = apply(planned, observed.owned.clone(), &context.client, &context.metrics);
    Ok(Ok(Box::pin(applied).await?))
}

/// Shows a failure in the status, when a person must mend it or when it lasts, and hands it on to be tried again.
///
/// `observed` is none when nothing could be read.
async fn explain(
    stage: &StreamStage,
    observed: Option<&Observed>,
    error: ReconcileError,
    context: &Context,
) -> ReconcileError {
    let now = Timestamp::now();
    let scaling = stage
        .status
        .as_ref()
        .and_then(|status| status.scaling.clone())
        .unwrap_or_default();
    let nothing = View {
        now,
        ..View::default()
    };
    let (view, known) = match observed {
        Some(observed) => (&observed.view, observed.known(&scaling)),
        None => (&nothing, Known::nothing(now, &scaling)),
    };
    let wanted = wanted(&Rules::from(stage), &known);
    let decided = Decided {
        view,
        wanted: &wanted,
    };
    let refusal = match &error {
        ReconcileError::Kubernetes(error) => policy::refusal(error),
        _ => None,
    };
    let after = match (refusal, observed) {
        (Some(refusal), Some(observed)) => status(
            stage,
            Outcome::Refused(&refusal, own_deployment(observed)),
            decided,
            now,
        ),
        (Some(refusal), None) => status(stage, Outcome::Unread(&refusal), decided, now),
        (None, _) if context.failed(stage) >= policy::PASSING => retrying(stage, &error.to_string(), now),
        (None, _) => return error,
    };
    if let Err(error) = report::write_status(stage, &after, &context.client, &context.metrics).await {
        tracing::warn!(namespace = stage.namespace(), stage = stage.name(), %error, "status not written");
    }
    let happened = events::between(&stage.status.clone().unwrap_or_default(), &after);
    report::publish(stage, happened, &context.recorder, &context.told).await;
    error
}

/// Decides when a stage that failed is tried again.
#[expect(clippy::needless_pass_by_value, reason = "the controller hands its own over")]
pub fn retry(known: Arc<Guarded>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let (namespace, stage) = (known.namespace().unwrap_or_default(), known.name_any());
    if matches!(error, ReconcileError::Unreadable(_)) {
        tracing::error!(namespace, stage, %error, "a stage is left alone");
        return Action::await_change();
    }
    let key = key(&*known);
    let failures = context.count_failure(&key);
    let delay = policy::delay(failures, &key);
    tracing::warn!(namespace, stage, failures, ?delay, %error, "tried again later");
    Action::requeue(delay)
}

impl Context {
    fn count_failure(&self, key: &str) -> u32 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.to_owned()).or_default();
        *count += 1;
        *count
    }

    fn failed(&self, stage: &StreamStage) -> u32 {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&key(stage)).copied().unwrap_or_default()
    }

    fn forget_failures(&self, key: &str) {
        self.failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }
}

fn key(stage: &impl ResourceExt) -> String {
    format!("{}/{}", stage.namespace().unwrap_or_default(), stage.name_any())
}
