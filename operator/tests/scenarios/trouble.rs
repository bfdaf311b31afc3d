//! What keeps pods from being ready shows in the stage, and a correction goes through.

use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::process::{Process, condition, message, roll_out, told};
use crate::stages::{cdm, change, create};

/// A stage of two workers, with one pod in `status` that keeps it from being ready.
async fn broken(status: &Value) -> (ApiServer, Process) {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &json!({"scaling": {"minReplicas": 2}})));
    let process = Process::start(&server);
    process.look("cdm").await.expect("a reconcile");
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
    process.look("cdm").await.expect("a reconcile");
    (server, process)
}

fn waiting(reason: &str, words: &str) -> Value {
    json!({"containerStatuses": [{
        "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 3,
        "state": {"waiting": {"reason": reason, "message": words}},
        "lastState": {"terminated": {"exitCode": 137}},
    }]})
}

#[tokio::test]
async fn trouble_of_a_pod_is_copied_into_the_stage() {
    let unscheduled = json!({"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available"},
    ]});
    for (status, reason, words) in [
        (
            waiting("ImagePullBackOff", "Back-off pulling image"),
            "ImagePull",
            "Back-off pulling image",
        ),
        (
            waiting("CrashLoopBackOff", "back-off 10s"),
            "CrashLoop",
            "last exit code 137",
        ),
        (
            waiting("CreateContainerConfigError", "no such key"),
            "CrashLoop",
            "no such key",
        ),
        (unscheduled, "Unschedulable", "0/3 nodes are available"),
    ] {
        let (server, _) = broken(&status).await;
        assert_eq!(condition(&server, "cdm", "Ready"), format!("False {reason}"));
        assert_eq!(
            condition(&server, "cdm", "Stalled"),
            "False NotStalled",
            "{reason}"
        );
        let message = message(&server, "cdm", "Ready");
        for word in ["1 of 2 workers are ready", "pod cdm-worker-1", words] {
            assert!(message.contains(word), "{word}: {message}");
        }
        assert!(
            told(&server.take_writes()).contains(&reason.to_owned()),
            "{reason}"
        );
    }
}

#[tokio::test]
async fn crash_loop_writes_no_status_for_each_back_off() {
    let (server, process) = broken(&waiting("CrashLoopBackOff", "back-off 10s")).await;
    server.take_writes();
    server.edit("pods", "cdm-worker-1", "kubelet", |pod| {
        pod["status"] = waiting("CrashLoopBackOff", "back-off 20s");
    });
    process.look("cdm").await.expect("a reconcile");
    assert!(server.take_writes().is_empty());
}

#[tokio::test]
async fn pod_that_is_going_away_is_no_trouble() {
    let (server, process) = broken(&waiting("ImagePullBackOff", "Back-off pulling image")).await;
    server.edit("pods", "cdm-worker-1", "kubelet", |pod| {
        pod["metadata"]["deletionTimestamp"] = json!("2024-02-24T00:00:00Z");
    });
    process.look("cdm").await.expect("a reconcile");
    assert_eq!(condition(&server, "cdm", "Ready"), "False NotAllReady");
}

#[tokio::test]
async fn pods_that_may_not_be_created_are_told_with_the_cause() {
    for words in [
        "exceeded quota: compute",
        "violates PodSecurity \"restricted:latest\"",
    ] {
        let (server, process) = broken(&json!({})).await;
        server.edit("deployments", "cdm-worker", "kube-controller-manager", |deployment| {
            deployment["status"]["conditions"] =
                json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": words}]);
        });
        process.look("cdm").await.expect("a reconcile");
        assert_eq!(condition(&server, "cdm", "Ready"), "False ReplicaFailure");
        assert!(message(&server, "cdm", "Ready").contains(words));
    }
}

#[tokio::test]
async fn corrected_image_is_applied_while_the_old_one_is_broken() {
    let (server, process) = broken(&waiting("ImagePullBackOff", "Back-off pulling image")).await;
    change(
        &server,
        "cdm",
        &json!({"worker": {"image": "streamstage/worker:2"}}),
    );
    process.look("cdm").await.expect("a reconcile");
    let deployment = server.get("deployments", "cdm-worker").expect("a Deployment");
    let image = "/spec/template/spec/containers/0/image";
    assert_eq!(deployment.pointer(image), Some(&json!("streamstage/worker:2")));
    assert_eq!(condition(&server, "cdm", "Reconciling"), "True RollingOut");
    server.delete("pods", "cdm-worker-1");
    roll_out(&server, "cdm");
    let writes = process.settle("cdm").await;
    assert_eq!(condition(&server, "cdm", "Ready"), "True AllReady");
    let told = told(&[server.take_writes(), writes].concat());
    assert!(told.contains(&"RolloutCompleted".to_owned()), "{told:?}");
}
