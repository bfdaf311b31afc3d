//! Step 5 of a reconcile: computes the status of the stage from the outcome.
//!
//! Does no I/O and reads no clock: the time is an argument. The status reports what the API server returned or a refusal,
//! never what was only planned.

mod change_detection;
pub(crate) mod conditions;
mod lag_conditions;
mod pod_failure;
mod ready;
pub mod report_policy;
mod rollout;

use crds::stage::WORKER_CONTAINER;
use crds::status::{ConditionType, Decision, LimitedBy, Reason, ScalingStatus};
use crds::{StreamStage, StreamStageStatus};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use self::conditions::{
    ConditionState, ConditionUpdate, find_condition, has_status, merge_conditions, stage_condition,
};
use self::rollout::reconciling_condition;
use crate::lag::view::LagView;
use crate::owned::STAGE_LABEL;
use crate::owned::rollout::RolloutProgress;
use crate::plan::{Applied, Resources};
use crate::scale::load::Load;
use crate::scale::state::{ScalingState, ScalingStep};
use crate::scale::{LagState, ReplicaDecision};
use crate::validate::Refusal;

pub use self::change_detection::{StatusDifference, status_difference, would_scale};

/// Maximum number of decisions in the status, as in the CRD.
const MAX_DECISIONS: usize = 10;

/// Outcome of a reconcile, with the objects that it read or wrote.
#[derive(Clone, Copy, Debug)]
pub enum ReconcileOutcome<'a> {
    /// Every object is as planned. The pods are empty if all of them are ready.
    Applied(&'a Resources<Applied>, &'a [Pod]),
    /// A terminal error, with the live Deployment if the stage owns one.
    Refused(&'a Refusal, Option<&'a Deployment>),
    /// A terminal error before the owned objects were read.
    Unread(&'a Refusal),
}

/// Replica decision of a reconcile, with the lag that it was based on.
#[derive(Clone, Copy, Debug)]
pub struct DecisionContext<'a> {
    /// Lag of the stage.
    pub view: &'a LagView,
    /// Decision on the replicas.
    pub decision: &'a ReplicaDecision,
}

/// Returns the status of `stage` after a reconcile.
#[must_use]
pub fn status(
    stage: &StreamStage,
    outcome: ReconcileOutcome<'_>,
    context: DecisionContext<'_>,
    now: Timestamp,
) -> StreamStageStatus {
    let before = stage.status.clone().unwrap_or_default();
    let (progress, image) = match outcome {
        ReconcileOutcome::Applied(applied, _) => (
            RolloutProgress::from_deployment(&applied.deployment),
            worker_image(&applied.deployment),
        ),
        ReconcileOutcome::Refused(_, Some(deployment)) => (
            RolloutProgress::from_deployment(deployment),
            worker_image(deployment),
        ),
        ReconcileOutcome::Refused(_, None) => (RolloutProgress::default(), String::new()),
        ReconcileOutcome::Unread(_) => (RolloutProgress::from_status(&before), before.image.clone()),
    };
    let mut updates = outcome_conditions(stage, outcome, &progress, context.view);
    updates.extend(lag_conditions::visible_updates(
        stage,
        context.view,
        context.decision,
    ));
    let (lag, lagging_partitions) = lag_conditions::lag_status(&before, context.view);
    let step = scaling_step(&before, progress.desired);
    StreamStageStatus {
        observed_generation: stage.metadata.generation.unwrap_or_default(),
        replicas: progress.replicas,
        ready_replicas: progress.ready,
        desired_replicas: progress.desired,
        recommended_replicas: match context.view.lag_state() {
            LagState::Pending => before.recommended_replicas,
            _ => context.decision.recommended,
        },
        workers: progress.ready_of_desired(),
        selector: format!("{STAGE_LABEL}={}", stage.name()),
        consumer_group: stage.consumer_group(),
        image,
        lag,
        lagging_partitions,
        scaling: Some(scaling_status(outcome, &before, context, (step, now))),
        decisions: decisions(&before, context, step, now),
        conditions: merge_conditions(stage, &before, updates, now),
    }
}

/// Returns the present status with the error of a failed reconcile in the condition `Reconciling`.
#[must_use]
pub fn status_with_retry(stage: &StreamStage, error: &str, now: Timestamp) -> StreamStageStatus {
    let mut status = stage.status.clone().unwrap_or_default();
    let update = ConditionUpdate {
        type_: ConditionType::Reconciling,
        state: ConditionState::new(true, Reason::Retrying, error),
    };
    status.conditions = merge_conditions(stage, &status, vec![update], now);
    status
}

/// Computes `status.scaling`, after `step` if there was one.
fn scaling_status(
    outcome: ReconcileOutcome<'_>,
    before: &StreamStageStatus,
    context: DecisionContext<'_>,
    (step, now): (Option<(u32, u32)>, Timestamp),
) -> ScalingStatus {
    let previous = before.scaling.clone().unwrap_or_default();
    let DecisionContext { view, decision } = context;
    // The message contains the lag, so it is updated together with `status.lag`. After a change of leader the message of
    // the previous leader remains until the lag has been polled.
    let is_reported = match decision.reason {
        Reason::FollowsLag => {
            decision.limited_by == previous.limited_by
                && decision.open_schedules == previous.open_schedules
                && lag_conditions::changed_lag(before.lag.as_ref(), view).is_none()
        }
        Reason::LagPending => !previous.message.is_empty(),
        _ => false,
    };
    let limited_by = match outcome {
        ReconcileOutcome::Applied(..) => decision.limited_by,
        // No bound limits a stage that has lost its consumer group.
        _ if decision.reason == Reason::ConsumerGroupConflict => decision.limited_by,
        _ => previous.limited_by,
    };
    let message = if is_reported && step.is_none() {
        previous.message
    } else {
        decision.message.clone()
    };
    let recommendation = decision.recommendation.or(previous.recommendation);
    ScalingStatus {
        open_schedules: decision.open_schedules.clone(),
        ..state_after(context, step, now).to_status(limited_by, message, recommendation)
    }
}

/// Scaling state after a reconcile that made `step`, if there was one.
fn state_after(context: DecisionContext<'_>, step: Option<(u32, u32)>, now: Timestamp) -> ScalingState {
    let DecisionContext { view, decision } = context;
    let mut state = decision.state.clone();
    if let Some((from, to)) = step {
        let step = ScalingStep {
            time: now,
            from,
            to,
            limited_by: decision.limited_by,
        };
        // Only a scale-up by the lag is judged by its effect on the lag.
        let load = view
            .fresh_load()
            .filter(|_| decision.reason == Reason::FollowsLag);
        state.record_step(step, load);
    }
    state
}

/// Scaling state after a reconcile that changed the status from `before` to `after`.
#[must_use]
pub fn scaling_state_after(
    before: &StreamStageStatus,
    after: &StreamStageStatus,
    context: DecisionContext<'_>,
) -> ScalingState {
    let step = scaling_step(before, after.desired_replicas);
    state_after(context, step, context.view.now)
}

/// Change of the desired replicas.
fn scaling_step(before: &StreamStageStatus, desired: Option<u32>) -> Option<(u32, u32)> {
    let step = before.desired_replicas.zip(desired);
    step.filter(|(from, to)| from != to)
}

/// Returns the last [`MAX_DECISIONS`] scaling steps, newest first; `step` is the one of this reconcile.
fn decisions(
    before: &StreamStageStatus,
    context: DecisionContext<'_>,
    step: Option<(u32, u32)>,
    now: Timestamp,
) -> Vec<Decision> {
    let load = context.view.fresh_load();
    let newest = step.map(|(from, to)| Decision {
        time: now,
        from,
        to,
        reason: context.decision.message.clone(),
        limited_by: context.decision.limited_by,
        lag: load.map(Load::total_lag),
        drain_seconds: lag_conditions::drain_seconds(load),
    });
    newest
        .into_iter()
        .chain(before.decisions.iter().cloned())
        .take(MAX_DECISIONS)
        .collect()
}

fn worker_image(deployment: &Deployment) -> String {
    let pod = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let worker = pod.and_then(|pod| {
        pod.containers
            .iter()
            .find(|container| container.name == WORKER_CONTAINER)
    });
    worker
        .and_then(|container| container.image.clone())
        .unwrap_or_default()
}

/// Conditions that follow from the outcome: `Ready`, `Reconciling`, `Stalled` and `Suspended`.
fn outcome_conditions(
    stage: &StreamStage,
    outcome: ReconcileOutcome<'_>,
    progress: &RolloutProgress,
    view: &LagView,
) -> Vec<ConditionUpdate> {
    let (ready, reconciling, stalled) = match outcome {
        ReconcileOutcome::Refused(refusal, _) | ReconcileOutcome::Unread(refusal) => (
            ConditionState::new(false, refusal.reason, &refusal.message),
            ConditionState::new(false, Reason::Converged, "Waiting for manual intervention"),
            ConditionState::new(true, refusal.reason, &refusal.message),
        ),
        ReconcileOutcome::Applied(applied, pods) => (
            ready::ready_condition(stage, &applied.deployment, pods, (progress, view)),
            reconciling_condition(progress, is_spec_changed(stage)),
            ConditionState::new(false, Reason::NotStalled, "No blocking error"),
        ),
    };
    let suspended = if stage.spec.suspend {
        ConditionState::new(true, Reason::Suspended, "Suspended by spec.suspend")
    } else {
        ConditionState::new(false, Reason::NotSuspended, "Not suspended")
    };
    [
        (ConditionType::Ready, ready),
        (ConditionType::Reconciling, reconciling),
        (ConditionType::Stalled, stalled),
        (ConditionType::Suspended, suspended),
    ]
    .into_iter()
    .map(|(type_, state)| ConditionUpdate { type_, state })
    .collect()
}

/// Returns true if the spec changed since the last status, or if the rollout of that change is still in progress.
fn is_spec_changed(stage: &StreamStage) -> bool {
    let observed = stage.status.as_ref().map(|status| status.observed_generation);
    let reconciling = stage_condition(stage, ConditionType::Reconciling);
    observed != stage.metadata.generation
        || reconciling.is_some_and(|condition| condition.reason == Reason::RollingOut.to_string())
}

/// Returns true if nothing is in progress and nothing is wrong, so that the next resync is soon enough.
#[must_use]
pub fn is_converged(status: &StreamStageStatus) -> bool {
    let limited_by = status.scaling.as_ref().map(|scaling| scaling.limited_by);
    has_status(status, ConditionType::Reconciling, "False")
        && !is_stalled(status)
        && (has_status(status, ConditionType::Ready, "True") || limited_by == Some(LimitedBy::Suspended))
}

/// Time since which the stage needs manual intervention; `None` if it does not.
#[must_use]
pub fn stalled_since(status: &StreamStageStatus) -> Option<Timestamp> {
    let stalled = find_condition(status, ConditionType::Stalled)?;
    (stalled.status == "True").then_some(stalled.last_transition_time.0)
}

/// Returns true if the stage needs manual intervention: the condition `Stalled` is `True`.
#[must_use]
pub fn is_stalled(status: &StreamStageStatus) -> bool {
    stalled_since(status).is_some()
}
