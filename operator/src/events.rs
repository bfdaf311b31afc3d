//! Events of a reconcile: derived from the difference between two statuses, with the values that a user needs later.
//!
//! Does no I/O: [`crate::report`] publishes the events.

use crds::StreamStageStatus;
use crds::status::ConditionType;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::owned::SECRETS_ANNOTATION;

/// Reasons of the condition `Ready` that are worth a warning; the others only mean that pods are starting.
const POD_FAILURE_REASONS: [&str; 6] = [
    "ImagePullFailed",
    "CrashLoop",
    "OffsetOutOfRange",
    "TopicRecreated",
    "Unschedulable",
    "ReplicaFailure",
];

/// Kubernetes event about a stage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StageEvent {
    /// True for the type `Warning`, false for `Normal`.
    pub is_warning: bool,
    /// Machine-readable reason in `CamelCase`, such as `ScaledUp`.
    pub reason: String,
    /// Human-readable note with values.
    pub note: String,
}

impl StageEvent {
    fn warning(reason: &str, note: &str) -> Self {
        Self {
            is_warning: true,
            reason: reason.to_owned(),
            note: note.to_owned(),
        }
    }

    fn normal(reason: &str, note: String) -> Self {
        Self {
            is_warning: false,
            reason: reason.to_owned(),
            note,
        }
    }
}

/// Returns the events to emit when the status of a stage changes from `before` to `after`.
#[must_use]
pub fn events_between(before: &StreamStageStatus, after: &StreamStageStatus) -> Vec<StageEvent> {
    let conditions = |type_| [before, after].map(|status| condition(status, type_));
    let mut events: Vec<StageEvent> = scaled(before, after).into_iter().collect();
    let [old, new] = conditions(ConditionType::Stalled);
    if let Some(stalled) = new.filter(|new| new.status == "True" && !has_same_reason(old, new)) {
        events.push(StageEvent::warning(&stalled.reason, &stalled.message));
    }
    let [old, new] = conditions(ConditionType::Ready);
    let is_pod_failure = |reason: &str| POD_FAILURE_REASONS.contains(&reason);
    if let Some(ready) = new.filter(|new| is_pod_failure(&new.reason) && !has_same_reason(old, new)) {
        events.push(StageEvent::warning(&ready.reason, &ready.message));
    }
    events.extend(recommendation_changed(before, after));
    let [old, new] = conditions(ConditionType::LagObserved);
    if let Some(unknown) = new.filter(|new| new.status == "False" && !has_same_reason(old, new)) {
        events.push(StageEvent::warning("LagUnavailable", &unknown.message));
    }
    let [old, new] = conditions(ConditionType::PartitionsStuck);
    if let Some(stuck) = new.filter(|new| new.status == "True" && !has_same_reason(old, new)) {
        events.push(StageEvent::warning("PartitionStuck", &stuck.message));
    }
    let [old, new] = conditions(ConditionType::Reconciling);
    if old.is_some_and(|old| old.reason == "RollingOut") && new.is_some_and(|new| new.reason == "Converged") {
        let note = format!("Rolled out: {} workers run {}", after.workers, after.image);
        events.push(StageEvent::normal("RolloutCompleted", note));
    }
    events
}

/// Returns an event if the digest of the referenced Secrets differs between two states of the Deployment.
#[must_use]
pub fn credentials_rotated(before: Option<&Deployment>, after: &Deployment) -> Option<StageEvent> {
    let digest = |deployment: &Deployment| {
        let template = deployment.spec.as_ref().map(|spec| &spec.template)?;
        template
            .metadata
            .as_ref()?
            .annotations
            .as_ref()?
            .get(SECRETS_ANNOTATION)
            .cloned()
    };
    let old = digest(before?)?;
    let note = "Referenced Secret changed; rolling the workers";
    digest(after)
        .filter(|new| *new != old)
        .map(|_| StageEvent::normal("CredentialsRotated", note.to_owned()))
}

fn recommendation_changed(before: &StreamStageStatus, after: &StreamStageStatus) -> Option<StageEvent> {
    let recommended = after
        .recommended_replicas
        .filter(|_| after.recommended_replicas != before.recommended_replicas)?;
    let note = format!(
        "Recommended {recommended} workers, current {}: {}",
        after.desired_replicas.unwrap_or_default(),
        scaling_message(after)
    );
    Some(StageEvent::normal("RecommendationChanged", note))
}

/// Explanation of the replica count, from `status.scaling.message`.
fn scaling_message(status: &StreamStageStatus) -> &str {
    status
        .scaling
        .as_ref()
        .map_or("", |scaling| scaling.message.as_str())
}

fn scaled(before: &StreamStageStatus, after: &StreamStageStatus) -> Option<StageEvent> {
    let (from, to) = (before.desired_replicas?, after.desired_replicas?);
    let reason = match (from, to) {
        (from, to) if from == to => return None,
        (0, _) => "Activated",
        (_, 0) => "Deactivated",
        (from, to) if to > from => "ScaledUp",
        _ => "ScaledDown",
    };
    let note = format!("Scaled from {from} to {to} workers: {}", scaling_message(after));
    Some(StageEvent::normal(reason, note))
}

fn condition(status: &StreamStageStatus, type_: ConditionType) -> Option<&Condition> {
    let type_ = type_.to_string();
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}

/// Returns true if status and reason are unchanged; a change of the message alone emits no event.
fn has_same_reason(old: Option<&Condition>, new: &Condition) -> bool {
    old.is_some_and(|old| old.status == new.status && old.reason == new.reason)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn status(desired: u32, type_: &str, status: &str, reason: &str) -> StreamStageStatus {
        let condition = Condition {
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            message: "the cause".to_owned(),
            observed_generation: None,
            reason: reason.to_owned(),
            status: status.to_owned(),
            type_: type_.to_owned(),
        };
        StreamStageStatus {
            desired_replicas: Some(desired),
            conditions: vec![condition],
            ..StreamStageStatus::default()
        }
    }

    fn reasons(before: &StreamStageStatus, after: &StreamStageStatus) -> Vec<String> {
        events_between(before, after)
            .into_iter()
            .map(|event| event.reason)
            .collect()
    }

    #[test]
    fn a_scaling_step_emits_an_event_of_its_direction() {
        let with = |desired| status(desired, "Ready", "True", "AllReady");
        for (from, to, reason) in [
            (0, 2, "Activated"),
            (2, 0, "Deactivated"),
            (1, 3, "ScaledUp"),
            (3, 1, "ScaledDown"),
        ] {
            let events = events_between(&with(from), &with(to));
            assert_eq!(events[0].reason, reason);
            assert!(
                events[0]
                    .note
                    .starts_with(&format!("Scaled from {from} to {to} workers")),
                "{}",
                events[0].note
            );
        }
        assert_eq!(events_between(&with(2), &with(2)), []);
        assert_eq!(
            events_between(&StreamStageStatus::default(), &with(2)),
            [],
            "a first status is not a scaling step"
        );
    }

    #[test]
    fn a_stalled_stage_emits_one_warning() {
        let healthy = status(1, "Stalled", "False", "NotStalled");
        let stalled = status(1, "Stalled", "True", "SecretNotFound");
        let events = events_between(&healthy, &stalled);
        assert!(
            events[0].is_warning && events[0].reason == "SecretNotFound",
            "{events:?}"
        );
        assert_eq!(reasons(&stalled, &stalled), [""; 0]);
    }

    #[test]
    fn a_pod_failure_emits_a_warning_and_a_starting_pod_does_not() {
        let healthy = status(1, "Ready", "True", "AllReady");
        assert_eq!(
            reasons(&healthy, &status(1, "Ready", "False", "ImagePullFailed")),
            ["ImagePullFailed"]
        );
        assert_eq!(
            reasons(&healthy, &status(1, "Ready", "False", "NotAllReady")),
            [""; 0]
        );
    }

    #[test]
    fn an_unknown_lag_and_a_stuck_partition_emit_one_event_each() {
        for (type_, healthy, unhealthy, reason, event) in [
            ("LagObserved", "True", "False", "Unreachable", "LagUnavailable"),
            ("PartitionsStuck", "False", "True", "Stuck", "PartitionStuck"),
        ] {
            let before = status(1, type_, healthy, "Healthy");
            let after = status(1, type_, unhealthy, reason);
            assert_eq!(reasons(&before, &after), [event]);
            assert_eq!(reasons(&after, &after), [""; 0]);
            assert_eq!(reasons(&after, &before), [""; 0]);
        }
    }

    #[test]
    fn a_changed_recommendation_emits_an_event() {
        let recommending = |replicas| StreamStageStatus {
            recommended_replicas: Some(replicas),
            ..status(1, "Ready", "True", "AllReady")
        };
        assert_eq!(
            reasons(&recommending(1), &recommending(3)),
            ["RecommendationChanged"]
        );
        assert_eq!(reasons(&recommending(3), &recommending(3)), [""; 0]);
    }

    #[test]
    fn a_completed_rollout_emits_an_event() {
        let converged = status(1, "Reconciling", "False", "Converged");
        assert_eq!(
            reasons(&status(1, "Reconciling", "True", "RollingOut"), &converged),
            ["RolloutCompleted"]
        );
        assert_eq!(
            reasons(&status(1, "Reconciling", "True", "Scaling"), &converged),
            [""; 0]
        );
    }

    #[test]
    fn a_changed_secrets_digest_emits_credentials_rotated() {
        let deployment = |digest: &str| -> Deployment {
            let annotations = json!({SECRETS_ANNOTATION: digest});
            let template = json!({"metadata": {"annotations": annotations}});
            serde_json::from_value(json!({"spec": {"selector": {}, "template": template}}))
                .expect("a Deployment")
        };
        let (old, new) = (deployment("1"), deployment("2"));
        assert!(credentials_rotated(Some(&old), &new).is_some());
        assert!(credentials_rotated(Some(&old), &old).is_none());
        assert!(
            credentials_rotated(None, &old).is_none(),
            "a new stage rotates nothing"
        );
    }
}
