//! Which events a reconcile leads to: what a person would want to know afterwards, with the figures.
//!
//! Must never publish: see [`crate::report`].

use crds::StreamStageStatus;
use crds::status::ConditionType;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::owned::SECRETS_ANNOTATION;

/// Something that happened to a stage.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Happened {
    /// Whether a person should look at it.
    pub is_warning: bool,
    /// One word, such as `ScaledUp`.
    pub reason: String,
    /// What happened, with the figures.
    pub note: String,
}

/// What happened between two statuses of a stage.
#[must_use]
pub fn between(before: &StreamStageStatus, after: &StreamStageStatus) -> Vec<Happened> {
    let mut happened: Vec<Happened> = scaled(before, after).into_iter().collect();
    let [was, is] = [before, after].map(|status| condition(status, ConditionType::Stalled));
    if let Some(stalled) = is.filter(|is| is.status == "True" && !same(was, is)) {
        happened.push(warning(&stalled.reason, &stalled.message));
    }
    let [was, is] = [before, after].map(|status| condition(status, ConditionType::Ready));
    let troubles = ["ImagePull", "CrashLoop", "Unschedulable", "ReplicaFailure"];
    if let Some(ready) = is.filter(|is| troubles.contains(&is.reason.as_str()) && !same(was, is)) {
        happened.push(warning(&ready.reason, &ready.message));
    }
    happened.extend(recommended(before, after));
    let [was, is] = [before, after].map(|status| condition(status, ConditionType::LagObserved));
    if let Some(unknown) = is.filter(|is| is.status == "False" && !same(was, is)) {
        happened.push(warning("LagUnavailable", &unknown.message));
    }
    let [was, is] = [before, after].map(|status| condition(status, ConditionType::PartitionsStuck));
    if let Some(stuck) = is.filter(|is| is.status == "True" && !same(was, is)) {
        happened.push(warning("PartitionStuck", &stuck.message));
    }
    let [was, is] = [before, after].map(|status| condition(status, ConditionType::Reconciling));
    if was.is_some_and(|was| was.reason == "RollingOut") && is.is_some_and(|is| is.reason == "Converged") {
        let note = format!("{} workers run {}", after.workers, after.image);
        happened.push(normal("RolloutCompleted", note));
    }
    happened
}

/// Whether the Secrets of the stage changed between two states of its Deployment.
#[must_use]
pub fn rotated(before: Option<&Deployment>, after: &Deployment) -> Option<Happened> {
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
    let was = digest(before?)?;
    let note = "a Secret that the stage names has changed: its workers are being replaced";
    digest(after)
        .filter(|is| *is != was)
        .map(|_| normal("CredentialsRotated", note.to_owned()))
}

fn recommended(before: &StreamStageStatus, after: &StreamStageStatus) -> Option<Happened> {
    let number = after
        .recommended_replicas
        .filter(|_| after.recommended_replicas != before.recommended_replicas)?;
    let note = format!(
        "{number} workers, {} are wanted: {}",
        after.desired_replicas.unwrap_or_default(),
        why(after)
    );
    Some(normal("Recommended", note))
}

fn why(status: &StreamStageStatus) -> &str {
    status
        .scaling
        .as_ref()
        .map_or("", |scaling| scaling.message.as_str())
}

fn scaled(before: &StreamStageStatus, after: &StreamStageStatus) -> Option<Happened> {
    let (from, to) = (before.desired_replicas?, after.desired_replicas?);
    let why = why(after);
    let reason = match (from, to) {
        (from, to) if from == to => return None,
        (0, _) => "Activated",
        (_, 0) => "Deactivated",
        (from, to) if to > from => "ScaledUp",
        _ => "ScaledDown",
    };
    Some(normal(reason, format!("from {from} to {to} workers: {why}")))
}

fn condition(status: &StreamStageStatus, type_: ConditionType) -> Option<&Condition> {
    let type_ = type_.to_string();
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
}

fn same(was: Option<&Condition>, is: &Condition) -> bool {
    was.is_some_and(|was| was.status == is.status && was.reason == is.reason)
}

fn warning(reason: &str, note: &str) -> Happened {
    Happened {
        is_warning: true,
        reason: reason.to_owned(),
        note: note.to_owned(),
    }
}

fn normal(reason: &str, note: String) -> Happened {
    Happened {
        is_warning: false,
        reason: reason.to_owned(),
        note,
    }
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
        between(before, after)
            .into_iter()
            .map(|happened| happened.reason)
            .collect()
    }

    #[test]
    fn a_changed_number_is_told_by_its_direction() {
        let with = |desired| status(desired, "Ready", "True", "AllReady");
        for (from, to, reason) in [
            (0, 2, "Activated"),
            (2, 0, "Deactivated"),
            (1, 3, "ScaledUp"),
            (3, 1, "ScaledDown"),
        ] {
            let happened = between(&with(from), &with(to));
            assert_eq!(happened[0].reason, reason);
            assert!(
                happened[0]
                    .note
                    .starts_with(&format!("from {from} to {to} workers")),
                "{}",
                happened[0].note
            );
        }
        assert_eq!(between(&with(2), &with(2)), []);
        assert_eq!(
            between(&StreamStageStatus::default(), &with(2)),
            [],
            "a first status moves nothing"
        );
    }

    #[test]
    fn a_stalled_stage_is_told_once_as_a_warning() {
        let fine = status(1, "Stalled", "False", "NotStalled");
        let stalled = status(1, "Stalled", "True", "SecretNotFound");
        let happened = between(&fine, &stalled);
        assert!(
            happened[0].is_warning && happened[0].reason == "SecretNotFound",
            "{happened:?}"
        );
        assert_eq!(reasons(&stalled, &stalled), [""; 0]);
    }

    #[test]
    fn trouble_of_pods_is_told_and_waiting_for_them_is_not() {
        let fine = status(1, "Ready", "True", "AllReady");
        assert_eq!(
            reasons(&fine, &status(1, "Ready", "False", "ImagePull")),
            ["ImagePull"]
        );
        assert_eq!(
            reasons(&fine, &status(1, "Ready", "False", "NotAllReady")),
            [""; 0]
        );
    }

    #[test]
    fn a_lag_that_is_no_longer_known_and_a_stuck_partition_are_told_once() {
        for (type_, sound, sick, reason, event) in [
            ("LagObserved", "True", "False", "Unreachable", "LagUnavailable"),
            ("PartitionsStuck", "False", "True", "Stuck", "PartitionStuck"),
        ] {
            let before = status(1, type_, sound, "Sound");
            let after = status(1, type_, sick, reason);
            assert_eq!(reasons(&before, &after), [event]);
            assert_eq!(reasons(&after, &after), [""; 0]);
            assert_eq!(reasons(&after, &before), [""; 0]);
        }
    }

    #[test]
    fn a_recommendation_is_told_when_it_changes() {
        let recommending = |number| StreamStageStatus {
            recommended_replicas: Some(number),
            ..status(1, "Ready", "True", "AllReady")
        };
        assert_eq!(reasons(&recommending(1), &recommending(3)), ["Recommended"]);
        assert_eq!(reasons(&recommending(3), &recommending(3)), [""; 0]);
    }

    #[test]
    fn the_end_of_a_rollout_is_told() {
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
    fn credentials_are_rotated_when_the_digest_of_the_secrets_changes() {
        let deployment = |digest: &str| -> Deployment {
            let annotations = json!({SECRETS_ANNOTATION: digest});
            let template = json!({"metadata": {"annotations": annotations}});
            serde_json::from_value(json!({"spec": {"selector": {}, "template": template}}))
                .expect("a Deployment")
        };
        let (one, other) = (deployment("1"), deployment("2"));
        assert!(rotated(Some(&one), &other).is_some());
        assert!(rotated(Some(&one), &one).is_none());
        assert!(rotated(None, &one).is_none(), "a new stage rotates nothing");
    }
}
