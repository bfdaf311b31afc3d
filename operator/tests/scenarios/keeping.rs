//! A stage has its five objects, and keeps them.

use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::process::{Process, condition};
use crate::stages::{OWNED, cdm, change, create};

/// A stage that has all that it should.
async fn settled(spec: Value) -> (ApiServer, Process) {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &spec));
    let process = Process::start(&server);
    process.settle("cdm").await;
    (server, process)
}

#[tokio::test]
async fn created_stage_gets_five_objects_that_go_with_it() {
    let (server, _) = settled(json!({})).await;
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
async fn first_reconcile_creates_and_the_second_writes_nothing() {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &json!({})));
    let process = Process::start(&server);
    process.look("cdm").await.expect("a reconcile");
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
    process.look("cdm").await.expect("a reconcile");
    assert!(server.take_writes().is_empty());
}

#[tokio::test]
async fn converged_stage_is_not_written_again_by_another_process() {
    let (server, _) = settled(json!({"worker": {"resources": {"limits": {"cpu": "1500m"}}}})).await;
    Process::start(&server).look("cdm").await.expect("a reconcile");
    assert!(server.take_writes().is_empty());
}

#[tokio::test]
async fn deleted_objects_come_back() {
    let (server, process) = settled(json!({})).await;
    for resource in OWNED {
        server.delete(resource, "cdm-worker");
        process.settle("cdm").await;
        assert!(server.get(resource, "cdm-worker").is_some(), "{resource}");
    }
}

#[tokio::test]
async fn edited_fields_of_the_operator_come_back_and_others_stay() {
    let (server, process) = settled(json!({})).await;
    for (resource, own, edited) in [
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
            *object.pointer_mut(own).expect(own) = edited;
            object["metadata"]["annotations"]["note"] = json!("mine");
        });
        process.settle("cdm").await;
        let after = server.get(resource, "cdm-worker").expect(resource);
        assert_eq!(after.pointer(own), before.pointer(own), "{resource}");
        assert_eq!(after["metadata"]["annotations"]["note"], "mine", "{resource}");
    }
}

#[tokio::test]
async fn removed_fields_and_labels_of_the_operator_come_back() {
    let (server, process) = settled(json!({})).await;
    server.edit("deployments", "cdm-worker", "kubectl", |object| {
        let labels = object["metadata"]["labels"].as_object_mut().expect("labels");
        labels.remove("app.kubernetes.io/managed-by");
        let pod = object["spec"]["template"]["spec"].as_object_mut().expect("a pod");
        pod.remove("securityContext");
    });
    process.settle("cdm").await;
    let after = server.get("deployments", "cdm-worker").expect("a Deployment");
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
async fn field_that_the_stage_no_longer_has_goes_from_the_deployment() {
    let limits = json!({"worker": {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}});
    let (server, process) = settled(limits).await;
    let live = |server: &ApiServer| {
        let deployment = server.get("deployments", "cdm-worker").expect("a Deployment");
        deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"].clone()
    };
    assert_eq!(live(&server), json!({"cpu": "1", "memory": "1Gi"}));
    change(
        &server,
        "cdm",
        &json!({"worker": {"resources": {"limits": {"cpu": null}}}}),
    );
    process.settle("cdm").await;
    assert_eq!(live(&server), json!({"memory": "1Gi"}));
    change(&server, "cdm", &json!({"worker": {"resources": null}}));
    process.settle("cdm").await;
    assert_eq!(live(&server), json!({"memory": "256Mi"}));
}

#[tokio::test]
async fn change_of_scaling_restarts_no_pod() {
    let (server, process) = settled(json!({"scaling": {"mode": "Manual", "replicas": 2}})).await;
    let template = |server: &ApiServer| {
        server.get("deployments", "cdm-worker").expect("a Deployment")["spec"]["template"].clone()
    };
    let before = template(&server);
    change(&server, "cdm", &json!({"scaling": {"replicas": 4}}));
    process.settle("cdm").await;
    assert_eq!(template(&server), before);
}

#[tokio::test]
async fn quantities_in_any_spelling_are_not_written_again() {
    let (server, process) = settled(json!({"worker": {"resources": {
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
    let writes = process.settle("cdm").await;
    let is_written = writes.iter().any(|write| write.resource == "deployments");
    assert!(!is_written, "{writes:?}");
}

#[tokio::test]
async fn successor_that_has_yet_to_read_the_lag_writes_nothing() {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &json!({"scaling": {"minReplicas": 2}})));
    Process::start(&server).settle("cdm").await;
    server.edit("streamstages", "cdm", "streamstage-operator", |stage| {
        stage["status"]["scaling"]["message"] = json!("lag 7 asks for 2");
        stage["status"]["scaling"]["limitedBy"] = json!("Min");
    });
    let writes = Process::start(&server).settle("cdm").await;
    assert!(writes.is_empty(), "{writes:?}");
}
