//! Condition `Ready`: every desired worker is ready, or the failure that prevents it.
//!
//! Must never report workers as failed because of an outage of Kafka: without Kafka no worker can join its group.

use crds::StreamStage;
use crds::status::{ConditionType, Reason};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::conditions::{ConditionState, stage_condition};
use super::pod_failure::find_pod_failure;
use crate::lag::offsets::LagErrorReason;
use crate::lag::view::LagView;
use crate::owned::rollout::RolloutProgress;

/// Time after an outage of Kafka within which workers may still be rejoining their group.
const REJOIN_GRACE: SignedDuration = SignedDuration::from_mins(1);

/// Computes the condition `Ready` of a stage whose objects were applied.
pub(super) fn ready_condition(
    stage: &StreamStage,
    deployment: &Deployment,
    pods: &[Pod],
    (progress, view): (&RolloutProgress, &LagView),
) -> ConditionState {
    if stage.spec.suspend {
        return ConditionState::new(false, Reason::Suspended, "Suspended by spec.suspend");
    }
    let desired = progress.desired.unwrap_or_default();
    let count = format!("{} of {desired} workers are ready", progress.ready);
    if progress.ready >= desired && progress.is_observed {
        return ConditionState::new(true, Reason::AllReady, count);
    }
    if !progress.is_observed {
        let message = format!("{count}; the Deployment controller has not observed the last change");
        return ConditionState::new(false, Reason::NotAllReady, message);
    }
    match find_pod_failure(deployment, pods) {
        Some((reason, cause)) => ConditionState::new(false, reason, format!("{count}: {cause}")),
        None if was_ready(stage) && (is_unreachable(view) || was_unreachable(stage, view.now)) => {
            let message = format!("{count}; all were ready before Kafka became unreachable");
            ConditionState::new(true, Reason::AllReady, message)
        }
        None => ConditionState::new(false, Reason::NotAllReady, count),
    }
}

fn is_unreachable(view: &LagView) -> bool {
    let error = view.tracker.as_ref().and_then(|tracker| tracker.last_error());
    error.is_some_and(|error| error.reason == LagErrorReason::Unreachable)
}

/// Returns true if Kafka was unreachable until less than [`REJOIN_GRACE`] ago.
fn was_unreachable(stage: &StreamStage, now: Timestamp) -> bool {
    let Some(reachable) = stage_condition(stage, ConditionType::SourceReachable) else {
        return false;
    };
    reachable.status == "False" || now.duration_since(reachable.last_transition_time.0) < REJOIN_GRACE
}

fn was_ready(stage: &StreamStage) -> bool {
    stage_condition(stage, ConditionType::Ready).is_some_and(|ready| ready.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::status::change_detection::tests::{stage, status_json, view};

    #[test]
    fn workers_remain_ready_during_an_outage_of_kafka() {
        let deployment = Deployment::default();
        let progress = RolloutProgress {
            desired: Some(2),
            replicas: 2,
            updated: 2,
            ready: 0,
            is_observed: true,
        };
        let is_ready = |before: &Value, view: &LagView| {
            ready_condition(&stage(before), &deployment, &[], (&progress, view)).is_true
        };
        let (reachable, unreachable) = (view(0), view(1));
        assert!(is_ready(
            &status_json("True", "1970-01-01T00:00:00Z"),
            &unreachable
        ));
        assert!(
            is_ready(&status_json("True", "1970-01-01T00:00:00Z"), &reachable),
            "Kafka is reachable since a second ago"
        );
        assert!(
            !is_ready(&status_json("True", "1969-12-31T23:59:00Z"), &reachable),
            "Kafka is reachable since a minute ago"
        );
        assert!(
            !is_ready(&status_json("False", "1970-01-01T00:00:00Z"), &unreachable),
            "the workers were not ready before the outage"
        );
    }
}
