//! What keeps pods from being ready, in the words of whoever refuses them.

use crds::status::Reason;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// The reasons that a kubelet gives for an image that does not come.
const IMAGE_REASONS: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
];

/// The first trouble of a Deployment or its pods, as a reason and the cause in words.
pub(super) fn of(deployment: &Deployment, pods: &[Pod]) -> Option<(Reason, String)> {
    // A pod that is going away has no trouble that a person could end.
    let mut staying = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    staying.find_map(of_pod).or_else(|| replica_failure(deployment))
}

/// Pods that may not be created: a quota, or a Pod Security Standard.
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

fn of_pod(pod: &Pod) -> Option<(Reason, String)> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().flatten();
    let mut containers = containers.chain(status.container_statuses.iter().flatten());
    let found = containers.find_map(of_container).or_else(|| {
        let mut conditions = status.conditions.iter().flatten();
        let unscheduled =
            conditions.find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
        Some((
            Reason::Unschedulable,
            unscheduled.message.clone().unwrap_or_default(),
        ))
    });
    found.map(|(reason, cause)| (reason, format!("pod {name}: {cause}")))
}

fn of_container(container: &ContainerStatus) -> Option<(Reason, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let message = waiting.message.clone().unwrap_or_default();
    if IMAGE_REASONS.contains(&reason) {
        return Some((Reason::ImagePull, format!("{reason}: {message}")));
    }
    let ended = container
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let code = ended.map_or_else(String::new, |ended| {
        format!(", last exit code {}", ended.exit_code)
    });
    match reason {
        // The kubelet's message counts seconds: it would change the status at every look.
        "CrashLoopBackOff" => Some((Reason::CrashLoop, format!("{reason}{code}"))),
        "RunContainerError" | "CreateContainerError" | "CreateContainerConfigError" => {
            Some((Reason::CrashLoop, format!("{reason}: {message}{code}")))
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
        let state = json!({"waiting": {"reason": reason, "message": "its words"}});
        let container = json!({"name": "worker", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state});
        pod(&json!({"containerStatuses": [container]}))
    }

    #[test]
    fn each_reason_of_a_kubelet_has_its_trouble() {
        for (reason, expected) in [
            ("ErrImagePull", Some(Reason::ImagePull)),
            ("ImagePullBackOff", Some(Reason::ImagePull)),
            ("InvalidImageName", Some(Reason::ImagePull)),
            ("CrashLoopBackOff", Some(Reason::CrashLoop)),
            ("CreateContainerConfigError", Some(Reason::CrashLoop)),
            ("ContainerCreating", None),
        ] {
            let found = of(&Deployment::default(), &[waiting(reason)]);
            assert_eq!(found.as_ref().map(|(reason, _)| *reason), expected, "{reason}");
            assert!(
                found.is_none_or(|(_, cause)| cause.starts_with("pod stg-1: ")),
                "{reason}"
            );
        }
    }

    #[test]
    fn a_pod_that_no_node_takes_says_why() {
        let condition = json!({"type": "PodScheduled", "status": "False", "message": "Insufficient memory"});
        let found = of(
            &Deployment::default(),
            &[pod(&json!({"conditions": [condition]}))],
        );
        assert_eq!(
            found,
            Some((Reason::Unschedulable, "pod stg-1: Insufficient memory".to_owned()))
        );
    }

    #[test]
    fn a_pod_that_is_going_away_is_no_trouble() {
        let mut going = waiting("CrashLoopBackOff");
        going.metadata.deletion_timestamp = Some(k8s_openapi::jiff::Timestamp::UNIX_EPOCH.into());
        assert_eq!(of(&Deployment::default(), &[going]), None);
    }
}
