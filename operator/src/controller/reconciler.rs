#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the stage and measures the duration of a reconcile"
)]
//! One reconcile of one stage: runs the steps, and reports the result in the status, metrics, events and log.
//!
//! Makes no decision itself: every step is a module of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::status::LimitedBy;
use crds::{StreamStage, StreamStageStatus};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use kube::core::error_boundary::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use tracing::Instrument as _;
use uuid::Uuid;

use super::context::Context;
use crate::apply::{apply, apply_suspension};
use crate::backoff;
use crate::events::{credentials_rotated, events_between};
use crate::lag::view::LagView;
use crate::observe::{Observed, observe};
use crate::owned;
use crate::owned::rollout::RolloutProgress;
use crate::plan::{Applied, Resources, plan};
use crate::policy;
use crate::report;
use crate::scale::state::ScalingState;
use crate::scale::{ReplicaDecision, ScalingInput, ScalingSettings, decide_replicas};
use crate::stage_summary::{CachedStage, StageRef};
use crate::status::{
    DecisionContext, ReconcileOutcome, is_converged, is_stalled, scaling_state_after, stalled_since, status,
    status_with_retry,
};
use crate::validate::{Refusal, validate};

/// Maximum time until the next reconcile of a converged stage: a watch may have missed an event.
const RESYNC_INTERVAL: Duration = Duration::from_mins(5);
/// Time until the next reconcile of a stage in progress: failures show on its pods, which are not watched.
const PROGRESS_REQUEUE: Duration = Duration::from_secs(5);
/// Timed steps of a reconcile: read the stage, observe, apply, report.
const TIMED_STEPS: u32 = 4;

/// Error that ends a reconcile and requeues the stage.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Request to the API server failed or was rejected.
    #[error(transparent)]
    Kubernetes(#[from] kube::Error),
    /// Timeout of a request to the API server.
    #[error("the API server did not answer within {0:?}; check its health and its admission webhooks")]
    Timeout(Duration),
    /// Resource with fields that this operator version does not know; it is not requeued.
    #[error("cannot parse the resource as a StreamStage: {0}; upgrade the operator, or correct the resource")]
    Unreadable(String),
}

/// Reconciles one stage, in a tracing span with its name and an id, by which the log lines of a reconcile are found.
///
/// # Errors
/// Fails if the stage must be requeued; the failure is logged and, unless it is short, reported in the status.
pub async fn reconcile(cached: Arc<CachedStage>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let permit = context.permits.acquire().await;
    // At the level `error` no filter that shows a line of the reconcile hides the span.
    let span = tracing::error_span!(
        "reconcile",
        namespace = cached.namespace(),
        stage = cached.name_any(),
        reconcile_id = %Uuid::new_v4(),
    );
    let action = Box::pin(reconcile_measured(&cached, &context))
        .instrument(span)
        .await;
    drop(permit);
    action
}

/// Reconciles one stage, records the result in metrics and log, and returns when to reconcile it again.
async fn reconcile_measured(cached: &CachedStage, context: &Context) -> Result<Action, ReconcileError> {
    let start = Instant::now();
    let key = stage_key(cached);
    let stage_ref = StageRef::new(&cached.name_any()).within(&cached.namespace().unwrap_or_default());
    let result = with_timeout(
        context.api_timeout * TIMED_STEPS,
        reconcile_latest(cached, context),
    )
    .await;
    let label = match &result {
        // The API server garbage-collects the owned objects.
        Ok(None) => {
            context.metrics.stages.remove_stage(&stage_ref);
            return Ok(Action::await_change());
        }
        Ok(Some(status)) if is_stalled(status) => "stalled",
        Ok(Some(_)) => "success",
        Err(_) => "error",
    };
    context.metrics.record_reconcile(label, start.elapsed());
    match &result {
        Ok(_) => context.reset_failures(&key),
        Err(error @ ReconcileError::Unreadable(_)) => {
            // The status of such a resource cannot be written, so an alert on the metric reports it.
            context.lag_store.remove(&stage_ref);
            context.metrics.stages.set_stalled(&stage_ref, true);
            tracing::error!(%error, "stage skipped: unknown fields");
        }
        Err(error) => {
            let failures = context.failure_count(&key) + 1;
            let delay = backoff::retry_delay(failures, &key);
            tracing::warn!(failures, ?delay, %error, "reconcile failed, requeued");
        }
    }
    let delay = result?.map_or(PROGRESS_REQUEUE, |status| {
        requeue_delay(&status, Timestamp::now(), &key)
    });
    Ok(Action::requeue(delay))
}

/// Returns when to reconcile a stage again, if no watch reports a change before.
///
/// A stalled stage waits for as long as it has been stalled: its cause may be an object that is not watched.
fn requeue_delay(status: &StreamStageStatus, now: Timestamp, key: &str) -> Duration {
    let stalled_for = stalled_since(status).map(|since| {
        let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        elapsed.clamp(PROGRESS_REQUEUE, RESYNC_INTERVAL)
    });
    match stalled_for {
        Some(delay) => backoff::with_jitter(delay, key),
        None if is_converged(status) => backoff::with_jitter(RESYNC_INTERVAL, key),
        None => PROGRESS_REQUEUE,
    }
}

/// Reads the stage and reconciles it: the cache may be stale and has only a part of it. Returns `None` for a stage that
/// is deleted or being deleted.
async fn reconcile_latest(
    cached: &CachedStage,
    context: &Context,
) -> Result<Option<StreamStageStatus>, ReconcileError> {
    let namespace = cached.namespace().unwrap_or_default();
    let stages: Api<DeserializeGuard<StreamStage>> = Api::namespaced(context.client.clone(), &namespace);
    let name = cached.name_any();
    let Some(latest) = with_timeout(context.api_timeout, stages.get_opt(&name)).await? else {
        return Ok(None);
    };
    match latest.0 {
        Ok(stage) if stage.metadata.deletion_timestamp.is_some() => Ok(None),
        Ok(stage) => Ok(Some(Box::pin(reconcile_stage(&stage, context)).await?)),
        Err(invalid) => Err(ReconcileError::Unreadable(invalid.error)),
    }
}

/// Runs the steps of a reconcile: observe, decide on the replicas, validate, plan, apply, compute the status, report.
async fn reconcile_stage(
    stage: &StreamStage,
    context: &Context,
) -> Result<StreamStageStatus, ReconcileError> {
    let before = stage.status.clone().unwrap_or_default();
    let observing = observe(
        stage,
        &context.stages,
        &context.lag_store,
        &context.allowed_hosts,
        &context.client,
    );
    let observed = match with_timeout(context.api_timeout, Box::pin(observing)).await {
        Ok(observed) => observed,
        Err(error) => return Err(report_failure(stage, None, error, context).await),
    };
    let deployment = own_deployment(&observed);
    let input = observed.scaling_input(limited_by(&before));
    let settings = observed.scaling_settings();
    let mut decision = decide_replicas(&settings, &input);
    let is_outdated = |deployment| RolloutProgress::from_deployment(deployment).has_outdated_workers();
    if deployment.is_some_and(is_outdated) {
        decision.state.expect_another_capacity();
    }
    let applying = validate_and_apply(&observed, decision.clone(), context);
    let result = match with_timeout(context.api_timeout, Box::pin(applying)).await {
        Ok(result) => result,
        Err(error) => return Err(report_failure(stage, Some(&observed), error, context).await),
    };
    let outcome = match &result {
        Ok(applied) => ReconcileOutcome::Applied(applied, &observed.pods),
        Err(refusal) => ReconcileOutcome::Refused(refusal, deployment),
    };
    let decision_context = DecisionContext {
        view: &observed.view,
        decision: &decision,
    };
    let after = status(stage, outcome, decision_context, observed.view.now);
    let writing = report::write_status(stage, &after, &context.client, &context.metrics);
    with_timeout(context.api_timeout, writing).await?;
    let stage_ref = StageRef::new(stage.name()).within(stage.namespace());
    let scaling = scaling_state_after(&before, &after, decision_context);
    context.lag_store.replace_scaling(&stage_ref, scaling);
    context
        .metrics
        .stages
        .record_scale_event(&stage_ref, &before, &after);
    let rotated = result
        .iter()
        .filter_map(|applied| credentials_rotated(deployment, &applied.deployment));
    let events = events_between(&before, &after)
        .into_iter()
        .chain(rotated)
        .collect();
    report::publish(stage, events, &context.recorder, &context.published_events).await;
    Ok(after)
}

fn limited_by(status: &StreamStageStatus) -> LimitedBy {
    status
        .scaling
        .as_ref()
        .map_or(LimitedBy::None, |scaling| scaling.limited_by)
}

/// Fails a step that takes longer than `timeout`: the API server does not answer.
async fn with_timeout<T, E: Into<ReconcileError>>(
    timeout: Duration,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, ReconcileError> {
    match tokio::time::timeout(timeout, step).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(ReconcileError::Timeout(timeout)),
    }
}

/// Returns the Deployment that the stage owns; `None` if it is missing, or if another owner has one of this name.
fn own_deployment(observed: &Observed) -> Option<&Deployment> {
    let deployment = observed.owned.deployment.as_ref();
    deployment.filter(|deployment| owned::is_owned_by(&observed.stage, &deployment.metadata))
}

/// Validates, plans and applies the stage. The inner error is a terminal one.
async fn validate_and_apply(
    observed: &Observed,
    decision: ReplicaDecision,
    context: &Context,
) -> kube::Result<Result<Resources<Applied>, Refusal>> {
    let valid = match validate(observed) {
        Ok(valid) => valid,
        Err(refusal) => {
            // Neither `spec.suspend` nor a conflict leaves workers to an invalid stage.
            let is_stopped = observed.stage.spec.suspend || observed.scaling_settings().is_group_taken;
            if let Some(deployment) = own_deployment(observed).filter(|_| is_stopped) {
                apply_suspension(deployment.clone(), &decision, &context.client, &context.metrics).await?;
            }
            return Ok(Err(refusal));
        }
    };
    let planned = plan(&valid, &context.defaults, decision);
    let applied = apply(planned, observed.owned.clone(), &context.client, &context.metrics);
    Ok(Ok(Box::pin(applied).await?))
}

/// Reports a failed reconcile in the status and returns the error, so that the stage is requeued.
///
/// Terminal errors are reported at once, transient errors from the third failure in a row. `observed` is `None` if the
/// observe step itself failed.
async fn report_failure(
    stage: &StreamStage,
    observed: Option<&Observed>,
    error: ReconcileError,
    context: &Context,
) -> ReconcileError {
    let now = Timestamp::now();
    let before = stage.status.clone().unwrap_or_default();
    let empty_view = LagView {
        now,
        scaling: Arc::new(ScalingState::from(&before)),
        ..LagView::default()
    };
    let (view, input) = match observed {
        Some(observed) => (&observed.view, observed.scaling_input(limited_by(&before))),
        None => (&empty_view, ScalingInput::new(now, &empty_view.scaling)),
    };
    let settings = observed.map_or_else(|| ScalingSettings::from(stage), Observed::scaling_settings);
    let decision = decide_replicas(&settings, &input);
    let decision_context = DecisionContext {
        view,
        decision: &decision,
    };
    let refusal = match &error {
        ReconcileError::Kubernetes(error) => policy::classify(error),
        _ => None,
    };
    let outcome = match (&refusal, observed) {
        (Some(refusal), Some(observed)) => Some(ReconcileOutcome::Refused(refusal, own_deployment(observed))),
        (Some(refusal), None) => Some(ReconcileOutcome::Unread(refusal)),
        (None, _) => None,
    };
    let after = match outcome {
        Some(outcome) => status(stage, outcome, decision_context, now),
        None if context.failure_count(&stage_key(stage)) >= policy::UNREPORTED_FAILURES => {
            status_with_retry(stage, &error.to_string(), now)
        }
        None => return error,
    };
    let writing = report::write_status(stage, &after, &context.client, &context.metrics);
    if let Err(error) = with_timeout(context.api_timeout, writing).await {
        tracing::warn!(%error, "failed to write status");
    }
    let events = events_between(&before, &after);
    report::publish(stage, events, &context.recorder, &context.published_events).await;
    error
}

/// Returns when to retry a failed reconcile, and counts the failure. An unreadable stage waits for its next change.
#[expect(
    clippy::needless_pass_by_value,
    reason = "signature that the controller requires"
)]
pub fn error_policy(cached: Arc<CachedStage>, error: &ReconcileError, context: Arc<Context>) -> Action {
    if matches!(error, ReconcileError::Unreadable(_)) {
        return Action::await_change();
    }
    let key = stage_key(&*cached);
    let failures = context.count_failure(&key);
    Action::requeue(backoff::retry_delay(failures, &key))
}

/// Key of [`Context::failures`].
fn stage_key(stage: &impl ResourceExt) -> String {
    format!("{}/{}", stage.namespace().unwrap_or_default(), stage.name_any())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_stalled_stage_is_reread_ever_more_rarely() {
        let since = Timestamp::from_second(1_000_000).expect("a time");
        let stalled = format!(
            "{{conditions: [{{type: Stalled, status: 'True', reason: ConfigInvalid, message: m, \
             lastTransitionTime: '{since}'}}]}}"
        );
        let stalled: StreamStageStatus = serde_saphyr::from_str(&stalled).expect("a status");
        let mut now = since;
        let mut rereads = 0;
        while now < since + SignedDuration::from_hours(1) {
            let delay = requeue_delay(&stalled, now, "orders/stg");
            assert!(
                delay <= RESYNC_INTERVAL && delay >= PROGRESS_REQUEUE * 3 / 4,
                "{delay:?}"
            );
            now += SignedDuration::try_from(delay).expect("a delay");
            rereads += 1;
        }
        assert!((12..30).contains(&rereads), "{rereads} in an hour");
        let progressing = StreamStageStatus::default();
        assert_eq!(requeue_delay(&progressing, now, "orders/stg"), PROGRESS_REQUEUE);
    }
}
