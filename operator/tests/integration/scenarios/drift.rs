//! Owned objects: creation, and correction of drift.

use serde_json::{Value, json};

use super::api_server::ApiServer;
use super::process::{Process, condition};
use super::stages::{OWNED, cdm, change, create};

/// Creates a stage and reconciles it until it has converged.
async fn converged(spec: Value) -> (ApiServer, Process) {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &spec));
    let process = Process::start(&server);
    process.converge("cdm").await;
    (server, process)
}

#[tokio::test]
async fn owned_objects_are_created_and_deleted_with_the_stage() {
    let (server, _) = converged(json!({})).await;
    for resource in OWNED {
        assert!(server.get(resource, "cdm-worker").is_some(), "{resource}");
    }
    assert_eq!(condition(&server, "cdm", "Ready"), "True AllReady");
    assert_eq!(condition(&server, "cdm", "Reconciling"), "False Converged");

    server.delete("streamstages", "cdm");
    for resource in OWNED {
        assert_eq!(server.list(resource), Vec::<Value>::new(), "{resource}");
    }
}

#[tokio::test]
async fn the_first_reconcile_creates_the_objects_and_the_second_writes_nothing() {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &json!({})));
    let process = Process::start(&server);
    process.reconcile("cdm").await.expect("reconcile");
    let writes = server.take_writes();
    let writes: Vec<String> = writes
        .iter()
        .map(|write| {
            format!(
                "{} {}/{} by {}",
                write.verb, write.resource, write.name, write.manager
            )
        })
        .collect();
    let expected = [
        "apply serviceaccounts/cdm-worker by streamstage-operator",
        "apply configmaps/cdm-worker by streamstage-operator",
        "apply services/cdm-worker by streamstage-operator",
        "apply poddisruptionbudgets/cdm-worker by streamstage-operator",
        "apply deployments/cdm-worker by streamstage-operator",
        "apply deployments/cdm-worker by streamstage-operator-scale",
        "apply streamstages/status/cdm by streamstage-operator",
    ];
    assert_eq!(writes, expected);
    process.reconcile("cdm").await.expect("reconcile");
    assert!(server.take_writes().is_empty());
}

#[tokio::test]
async fn a_restarted_operator_writes_nothing_for_a_converged_stage() {
    let (server, _) = converged(json!({"worker": {"resources": {"limits": {"cpu": "1500m"}}}})).await;
    Process::start(&server).reconcile("cdm").await.expect("reconcile");
    assert!(server.take_writes().is_empty());
}

#[tokio::test]
async fn deleted_objects_are_recreated() {
    let (server, process) = converged(json!({})).await;
    for resource in OWNED {
        server.delete(resource, "cdm-worker");
        process.converge("cdm").await;
        assert!(server.get(resource, "cdm-worker").is_some(), "{resource}");
    }
}

#[tokio::test]
async fn drift_of_owned_fields_is_corrected_and_other_fields_are_untouched() {
    let (server, process) = converged(json!({})).await;
    for (resource, field, edited) in [
        ("serviceaccounts", "/automountServiceAccountToken", json!(true)),
        ("configmaps", "/data/stage.yaml", json!("edited")),
        ("services", "/spec/publishNotReadyAddresses", json!(false)),
        ("poddisruptionbudgets", "/spec/maxUnavailable", json!(2)),
        (
            "deployments",
            "/spec/template/spec/containers/0/image",
            json!("edited"),
        ),
    ] {
        let before = server.get(resource, "cdm-worker").expect(resource);
        server.edit(resource, "cdm-worker", "kubectl", |object| {
            *object.pointer_mut(field).expect(field) = edited;
            object["metadata"]["annotations"]["note"] = json!("mine");
        });
        process.converge("cdm").await;
        let after = server.get(resource, "cdm-worker").expect(resource);
        assert_eq!(after.pointer(field), before.pointer(field), "{resource}");
        assert_eq!(after["metadata"]["annotations"]["note"], "mine", "{resource}");
    }
}

#[tokio::test]
async fn removed_fields_and_labels_are_restored() {
    let (server, process) = converged(json!({})).await;
    server.edit("deployments", "cdm-worker", "kubectl", |object| {
        let labels = object["metadata"]["labels"]
            .as_object_mut()
            .expect("the object has labels");
        labels.remove("app.kubernetes.io/managed-by");
        let pod = object["spec"]["template"]["spec"]
            .as_object_mut()
            .expect("the template has a pod spec");
        pod.remove("securityContext");
    });
    process.converge("cdm").await;
    let after = server
        .get("deployments", "cdm-worker")
        .expect("the Deployment exists");
    assert_eq!(
        after["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "streamstage-operator"
    );
    assert_eq!(
        after["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"],
        true
    );
}

#[tokio::test]
async fn a_field_removed_from_the_spec_is_removed_from_the_deployment() {
    let limits = json!({"worker": {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}});
    let (server, process) = converged(limits).await;
    let live = |server: &ApiServer| {
        let deployment = server
            .get("deployments", "cdm-worker")
            .expect("the Deployment exists");
        deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"].clone()
    };
    assert_eq!(live(&server), json!({"cpu": "1", "memory": "1Gi"}));
    change(
        &server,
        "cdm",
        &json!({"worker": {"resources": {"limits": {"cpu": null}}}}),
    );
    process.converge("cdm").await;
    assert_eq!(live(&server), json!({"memory": "1Gi"}));
    change(&server, "cdm", &json!({"worker": {"resources": null}}));
    process.converge("cdm").await;
    assert_eq!(live(&server), json!({"memory": "256Mi"}));
}

#[tokio::test]
async fn a_change_of_scaling_restarts_no_pod() {
    let (server, process) = converged(json!({"scaling": {"mode": "Manual", "replicas": 2}})).await;
    let template = |server: &ApiServer| {
        server
            .get("deployments", "cdm-worker")
            .expect("the Deployment exists")["spec"]["template"]
            .clone()
    };
    let before = template(&server);
    change(&server, "cdm", &json!({"scaling": {"replicas": 4}}));
    process.converge("cdm").await;
    assert_eq!(template(&server), before);
}

#[tokio::test]
async fn equal_quantities_in_another_notation_are_no_drift() {
    let (server, process) = converged(json!({"worker": {"resources": {
        "requests": {"cpu": "0.009", "memory": "1.5Gi"},
        "limits": {"cpu": 2, "memory": "2e9"},
    }}}))
    .await;
    server.edit("deployments", "cdm-worker", "kube-apiserver", |object| {
        object["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({
            "requests": {"cpu": "9m", "memory": "1536Mi"},
            "limits": {"cpu": "2", "memory": "2G"},
        });
    });
    let writes = process.converge("cdm").await;
    let has_deployment_write = writes.iter().any(|write| write.resource == "deployments");
    assert!(!has_deployment_write, "{writes:?}");
}

#[tokio::test]
async fn a_new_leader_without_a_lag_poll_writes_nothing() {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &json!({"scaling": {"minReplicas": 2}})));
    Process::start(&server).converge("cdm").await;
    server.edit("streamstages", "cdm", "streamstage-operator", |stage| {
        stage["status"]["scaling"]["message"] = json!("lag 7: 2 workers recommended");
        stage["status"]["scaling"]["limitedBy"] = json!("Min");
    });
    let writes = Process::start(&server).converge("cdm").await;
    assert!(writes.is_empty(), "{writes:?}");
}
