//! Whether every worker that should run does, and what keeps those from it that do not.
//!
//! Must never blame a worker for what is not its own: without Kafka none can be a member of its group.

use crds::StreamStage;
use crds::status::{ConditionType, Reason};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::progress::Progress;
use super::{condition, trouble};
use crate::lag::UnknownReason;
use crate::lag::view::View;

/// How long workers may take to find their group again once Kafka is back.
const REJOIN: SignedDuration = SignedDuration::from_mins(1);

/// Whether every worker that should run does, and what keeps those from it that do not.
pub(super) fn ready(
    stage: &StreamStage,
    deployment: &Deployment,
    pods: &[Pod],
    (progress, view): (&Progress, &View),
) -> (bool, (Reason, String)) {
    if stage.spec.suspend {
        return (false, (Reason::Suspended, "paused by spec.suspend".to_owned()));
    }
    let desired = progress.desired.unwrap_or_default();
    let count = format!("{} of {desired} workers are ready", progress.ready);
    if progress.ready >= desired && progress.is_observed {
        return (true, (Reason::AllReady, count));
    }
    if !progress.is_observed {
        return (
            false,
            (Reason::NotAllReady, format!("{count}, before the last change")),
        );
    }
    match trouble::of(deployment, pods) {
        Some((reason, cause)) => (false, (reason, format!("{count}: {cause}"))),
        // Without Kafka no worker is a member of its group, and nothing is wrong with any of them.
        None if was_ready(stage) && (is_unreachable(view) || was_unreachable(stage, view.now)) => (
            true,
            (
                Reason::AllReady,
                format!("{count}, all were while Kafka answered"),
            ),
        ),
        None => (false, (Reason::NotAllReady, count)),
    }
}

fn is_unreachable(view: &View) -> bool {
    let failure = view.track.as_ref().and_then(|track| track.failure());
    failure.is_some_and(|failure| failure.reason == UnknownReason::Unreachable)
}

/// Whether Kafka has been back for a moment only: the workers are still finding their group.
fn was_unreachable(stage: &StreamStage, now: Timestamp) -> bool {
    let Some(reachable) = condition(stage, ConditionType::SourceReachable) else {
        return false;
    };
    reachable.status == "False" || now.duration_since(reachable.last_transition_time.0) < REJOIN
}

fn was_ready(stage: &StreamStage) -> bool {
    condition(stage, ConditionType::Ready).is_some_and(|ready| ready.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::status::news::tests::{stage, told, view};

    #[test]
    fn workers_that_lose_kafka_are_as_ready_as_they_were() {
        let deployment = Deployment::default();
        let progress = Progress {
            desired: Some(2),
            replicas: 2,
            updated: 2,
            ready: 0,
            is_observed: true,
        };
        let is_ready =
            |before: &Value, view: &View| ready(&stage(before), &deployment, &[], (&progress, view)).0;
        let (answers, fails) = (view(0), view(1));
        assert!(is_ready(&told("True", "1970-01-01T00:00:00Z"), &fails));
        assert!(
            is_ready(&told("True", "1970-01-01T00:00:00Z"), &answers),
            "Kafka is back for a second"
        );
        assert!(
            !is_ready(&told("True", "1969-12-31T23:59:00Z"), &answers),
            "Kafka has been there for a minute"
        );
        assert!(
            !is_ready(&told("False", "1970-01-01T00:00:00Z"), &fails),
            "they were not ready before"
        );
    }
}
