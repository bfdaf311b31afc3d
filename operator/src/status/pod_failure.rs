//! Failures that prevent pods from being ready, with the cause as the kubelet, the scheduler or the API server states it.

use crds::status::Reason;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// Reasons of the kubelet for an image that cannot be pulled.
const IMAGE_PULL_REASONS: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
];

/// Reasons for which a worker stops until a manual intervention; its log has them with a colon.
const STOP_REASONS: [Reason; 2] = [Reason::TopicRecreated, Reason::OffsetOutOfRange];

/// Finds the first failure of the pods, or else of the Deployment; returns the condition's reason and the cause.
pub(super) fn find_pod_failure(deployment: &Deployment, pods: &[Pod]) -> Option<(Reason, String)> {
    // A failure of a pod that is being deleted needs no action by a user.
    let mut active = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    active
        .find_map(pod_failure)
        .or_else(|| replica_failure(deployment))
}

/// Failure to create pods, because of a quota or a Pod Security Standard.
fn replica_failure(deployment: &Deployment) -> Option<(Reason, String)> {
    let status = deployment.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let failure =
        conditions.find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    Some((
        Reason::ReplicaFailure,
        failure.message.clone().unwrap_or_default(),
    ))
}

fn pod_failure(pod: &Pod) -> Option<(Reason, String)> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().flatten();
    let mut containers = containers.chain(status.container_statuses.iter().flatten());
    let failure = containers.find_map(container_failure).or_else(|| {
        let mut conditions = status.conditions.iter().flatten();
        let unscheduled =
            conditions.find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
        Some((
            Reason::Unschedulable,
            unscheduled.message.clone().unwrap_or_default(),
        ))
    });
    failure.map(|(reason, cause)| (reason, format!("pod {name}: {cause}")))
}

/// Reason for which a worker stopped until a manual intervention, with its last log line from there on.
///
/// It lasts until the worker is ready again, because a restarted worker stops for the same reason.
fn stop_reason(container: &ContainerStatus) -> Option<(Reason, String)> {
    let states = [container.state.as_ref(), container.last_state.as_ref()];
    let terminated = states
        .into_iter()
        .flatten()
        .find_map(|state| state.terminated.as_ref())
        .filter(|_| !container.ready)?;
    let log = terminated.message.as_deref()?;
    STOP_REASONS.into_iter().find_map(|reason| {
        let start = log.rfind(&format!("{reason}: "))?;
        let cause = log[start..].split(['\n', '"']).next()?;
        Some((reason, cause.to_owned()))
    })
}

fn container_failure(container: &ContainerStatus) -> Option<(Reason, String)> {
    let stopped = stop_reason(container);
    if stopped.is_some() {
        return stopped;
    }
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let message = waiting.message.clone().unwrap_or_default();
    if IMAGE_PULL_REASONS.contains(&reason) {
        return Some((Reason::ImagePullFailed, format!("{reason}: {message}")));
    }
    let terminated = container
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let exit_code = terminated.map_or_else(String::new, |terminated| {
        format!(", last exit code {}", terminated.exit_code)
    });
    match reason {
        // The kubelet's message counts seconds, which would change the status at every reconcile.
        "CrashLoopBackOff" => Some((Reason::CrashLoop, format!("{reason}{exit_code}"))),
        "RunContainerError" | "CreateContainerError" | "CreateContainerConfigError" => {
            Some((Reason::CrashLoop, format!("{reason}: {message}{exit_code}")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "stg-1"}, "status": status})).expect("a pod")
    }

    fn waiting(reason: &str) -> Pod {
        let state = json!({"waiting": {"reason": reason, "message": "the message"}});
        let container = json!({"name": "worker", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state});
        pod(&json!({"containerStatuses": [container]}))
    }

    #[test]
    fn each_waiting_reason_of_the_kubelet_maps_to_a_condition_reason() {
        for (reason, expected) in [
            ("ErrImagePull", Some(Reason::ImagePullFailed)),
            ("ImagePullBackOff", Some(Reason::ImagePullFailed)),
            ("InvalidImageName", Some(Reason::ImagePullFailed)),
            ("CrashLoopBackOff", Some(Reason::CrashLoop)),
            ("CreateContainerConfigError", Some(Reason::CrashLoop)),
            ("ContainerCreating", None),
        ] {
            let failure = find_pod_failure(&Deployment::default(), &[waiting(reason)]);
            assert_eq!(failure.as_ref().map(|(reason, _)| *reason), expected, "{reason}");
            assert!(
                failure.is_none_or(|(_, cause)| cause.starts_with("pod stg-1: ")),
                "{reason}"
            );
        }
    }

    #[test]
    fn a_stop_of_the_worker_has_the_reason_and_the_remedy_of_its_last_log_line() {
        let log = "{\"message\":\"other\"}\nError: stage stg failed\n\nCaused by:\n    \
            TopicRecreated: orders: the positions belong to 1; run `worker reset-offsets`\n";
        let terminated = json!({"terminated": {"exitCode": 1, "message": log}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let running = json!({"running": {}});
        let container = |ready: bool, state: &Value, last_state: &Value| {
            json!({"name": "worker", "ready": ready, "restartCount": 1, "image": "", "imageID": "",
                "state": state, "lastState": last_state})
        };
        let find = |container: Value| {
            find_pod_failure(
                &Deployment::default(),
                &[pod(&json!({"containerStatuses": [container]}))],
            )
        };
        let expected = Some((
            Reason::TopicRecreated,
            "pod stg-1: TopicRecreated: orders: the positions belong to 1; run `worker reset-offsets`"
                .to_owned(),
        ));
        assert_eq!(find(container(false, &waiting, &terminated)), expected);
        assert_eq!(find(container(false, &running, &terminated)), expected);
        assert_eq!(find(container(false, &terminated, &json!({}))), expected);
        assert_eq!(find(container(true, &running, &terminated)), None);
    }

    #[test]
    fn an_unschedulable_pod_reports_the_schedulers_message() {
        let condition = json!({"type": "PodScheduled", "status": "False", "message": "Insufficient memory"});
        let failure = find_pod_failure(
            &Deployment::default(),
            &[pod(&json!({"conditions": [condition]}))],
        );
        assert_eq!(
            failure,
            Some((Reason::Unschedulable, "pod stg-1: Insufficient memory".to_owned()))
        );
    }

    #[test]
    fn a_pod_that_is_being_deleted_is_not_a_failure() {
        let mut deleted = waiting("CrashLoopBackOff");
        deleted.metadata.deletion_timestamp = Some(k8s_openapi::jiff::Timestamp::UNIX_EPOCH.into());
        assert_eq!(find_pod_failure(&Deployment::default(), &[deleted]), None);
    }
}
