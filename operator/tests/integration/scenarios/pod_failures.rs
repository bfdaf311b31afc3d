//! Pod failures: they are reported in the stage, and a correction is applied.

use serde_json::{Value, json};

use super::api_server::ApiServer;
use super::process::{Process, condition, message, published_events, roll_out};
use super::stages::{cdm, change, create};

/// Starts a stage with two workers; one pod is not ready and has this status.
async fn start_with_failing_pod(status: &Value) -> (ApiServer, Process) {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &json!({"scaling": {"minReplicas": 2}})));
    let process = Process::start(&server);
    process.reconcile("cdm").await.expect("reconcile");
    server.edit(
        "deployments",
        "cdm-worker",
        "kube-controller-manager",
        |deployment| {
            deployment["status"] =
                json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 1});
        },
    );
    server.edit("pods", "cdm-worker-1", "kubelet", |pod| {
        pod["metadata"]["labels"] = json!({"streamstage.dev/stage": "cdm"});
        pod["status"] = status.clone();
    });
    process.reconcile("cdm").await.expect("reconcile");
    (server, process)
}

fn waiting_status(reason: &str, message: &str) -> Value {
    json!({"containerStatuses": [{
        "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 3,
        "state": {"waiting": {"reason": reason, "message": message}},
        "lastState": {"terminated": {"exitCode": 137}},
    }]})
}

#[tokio::test]
async fn a_pod_failure_is_reported_in_the_stage() {
    let unscheduled = json!({"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"},
    ]});
    for (status, reason, cause) in [
        (
            waiting_status("ImagePullBackOff", "Back-off pulling image"),
            "ImagePullFailed",
            "Back-off pulling image",
        ),
        (
            waiting_status("CrashLoopBackOff", "back-off 10s"),
            "CrashLoop",
            "last exit code 137",
        ),
        (
            waiting_status("CreateContainerConfigError", "no such key"),
            "CrashLoop",
            "no such key",
        ),
        (unscheduled, "Unschedulable", "0/3 nodes are available"),
    ] {
        let (server, _) = start_with_failing_pod(&status).await;
        assert_eq!(condition(&server, "cdm", "Ready"), format!("False {reason}"));
        assert_eq!(
            condition(&server, "cdm", "Stalled"),
            "False NotStalled",
            "{reason}"
        );
        let message = message(&server, "cdm", "Ready");
        for part in ["1 of 2 workers are ready", "pod cdm-worker-1", cause] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(
            published_events(&server.take_writes()).contains(&reason.to_owned()),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn a_crash_loop_causes_no_status_write_per_back_off() {
    let (server, process) = start_with_failing_pod(&waiting_status("CrashLoopBackOff", "back-off 10s")).await;
    server.take_writes();
    server.edit("pods", "cdm-worker-1", "kubelet", |pod| {
        pod["status"] = waiting_status("CrashLoopBackOff", "back-off 20s");
    });
    process.reconcile("cdm").await.expect("reconcile");
    assert!(server.take_writes().is_empty());
}

#[tokio::test]
async fn a_terminating_pod_is_not_a_failure() {
    let (server, process) =
        start_with_failing_pod(&waiting_status("ImagePullBackOff", "Back-off pulling image")).await;
    server.edit("pods", "cdm-worker-1", "kubelet", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2024-02-24T00:00:00Z");
    });
    process.reconcile("cdm").await.expect("reconcile");
    assert_eq!(condition(&server, "cdm", "Ready"), "False NotAllReady");
}

#[tokio::test]
async fn a_failed_pod_creation_is_reported_with_its_cause() {
    for cause in [
        "exceeded quota: compute",
        "violates PodSecurity \"restricted:latest\"",
    ] {
        let (server, process) = start_with_failing_pod(&json!({})).await;
        server.edit("deployments", "cdm-worker", "kube-controller-manager", |deployment| {
            deployment["status"]["conditions"] =
                json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": cause}]);
        });
        process.reconcile("cdm").await.expect("reconcile");
        assert_eq!(condition(&server, "cdm", "Ready"), "False ReplicaFailure");
        assert!(message(&server, "cdm", "Ready").contains(cause));
    }
}

#[tokio::test]
async fn a_corrected_image_is_applied_while_the_old_one_fails() {
    let (server, process) =
        start_with_failing_pod(&waiting_status("ImagePullBackOff", "Back-off pulling image")).await;
    change(
        &server,
        "cdm",
        &json!({"worker": {"image": "streamstage/worker:2"}}),
    );
    process.reconcile("cdm").await.expect("reconcile");
    let deployment = server
        .get("deployments", "cdm-worker")
        .expect("the Deployment exists");
    let image = "/spec/template/spec/containers/0/image";
    assert_eq!(deployment.pointer(image), Some(&json!("streamstage/worker:2")));
    assert_eq!(condition(&server, "cdm", "Reconciling"), "True RollingOut");
    server.delete("pods", "cdm-worker-1");
    roll_out(&server, "cdm");
    let writes = process.converge("cdm").await;
    assert_eq!(condition(&server, "cdm", "Ready"), "True AllReady");
    let events = published_events(&[server.take_writes(), writes].concat());
    assert!(events.contains(&"RolloutCompleted".to_owned()), "{events:?}");
}
