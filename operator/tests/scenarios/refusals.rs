//! What stands in the way of a stage is named, and the stage goes on once it is gone.

use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::process::{Process, condition, message, told};
use crate::stages::{OWNED, cdm, change, create, secret};

fn started(stage: &Value) -> (ApiServer, Process) {
    let server = ApiServer::start();
    create(&server, stage);
    let process = Process::start(&server);
    (server, process)
}

async fn refused(server: &ApiServer, process: &Process, reason: &str, words: &[&str]) {
    process.settle("cdm").await;
    assert_eq!(condition(server, "cdm", "Stalled"), format!("True {reason}"));
    assert_eq!(condition(server, "cdm", "Ready"), format!("False {reason}"));
    let message = message(server, "cdm", "Stalled");
    for word in words {
        assert!(message.contains(word), "{word}: {message}");
    }
}

async fn goes_on(server: &ApiServer, process: &Process) {
    process.settle("cdm").await;
    assert_eq!(condition(server, "cdm", "Stalled"), "False NotStalled");
    assert_eq!(condition(server, "cdm", "Ready"), "True AllReady");
}

#[tokio::test]
async fn object_of_somebody_else_is_not_taken_over() {
    for (resource, kind) in OWNED.into_iter().zip([
        "ServiceAccount",
        "ConfigMap",
        "Service",
        "PodDisruptionBudget",
        "Deployment",
    ]) {
        let (server, process) = started(&cdm("cdm", &json!({})));
        server.edit(resource, "cdm-worker", "kubectl", |object| {
            if resource == "deployments" {
                object["spec"] = json!({"replicas": 9, "selector": {}, "template": {}});
                object["status"] = json!({"readyReplicas": 9});
            }
            object["metadata"]["annotations"] = json!({"mine": "yes"});
        });
        let wishes = |server: &ApiServer| {
            let object = server.get(resource, "cdm-worker").expect(resource);
            (
                object["spec"].clone(),
                object["data"].clone(),
                object["metadata"]["annotations"].clone(),
            )
        };
        let before = wishes(&server);
        refused(&server, &process, "NameTaken", &[kind, "cdm-worker", "rename"]).await;
        assert_eq!(wishes(&server), before, "{resource}");
        let stage = server.get("streamstages", "cdm").expect("a stage");
        assert_eq!(
            stage["status"]["workers"], "0/0",
            "the workers of {resource} are another's"
        );
        server.delete(resource, "cdm-worker");
        goes_on(&server, &process).await;
    }
}

#[tokio::test]
async fn of_two_stages_with_one_group_the_younger_is_refused_until_the_elder_is_gone() {
    let group = json!({"source": {"consumerGroup": "one"}});
    let (server, process) = started(&cdm("elder", &group));
    create(&server, &cdm("cdm", &group));
    process.settle("elder").await;
    assert_eq!(condition(&server, "elder", "Ready"), "True AllReady");
    refused(
        &server,
        &process,
        "Conflict",
        &["orders/elder", "facts", "group one"],
    )
    .await;
    assert!(server.get("deployments", "cdm-worker").is_none());
    process.settle("elder").await;
    assert_eq!(condition(&server, "elder", "Ready"), "True AllReady");
    server.delete("streamstages", "elder");
    goes_on(&server, &process).await;
}

#[tokio::test]
async fn one_group_on_two_clusters_or_two_topics_is_no_conflict() {
    for other in [
        json!({"bootstrapServers": ["other:9092"]}),
        json!({"topic": "others"}),
    ] {
        let group = json!({"source": {"consumerGroup": "one"}});
        let (server, process) = started(&cdm("elder", &group));
        create(&server, &cdm("cdm", &group));
        change(&server, "cdm", &json!({"source": other}));
        goes_on(&server, &process).await;
    }
}

#[tokio::test]
async fn missing_secret_or_key_is_named_and_awaited() {
    let auth = json!({"warehouse": {"authSecret": "postgres"}});
    let (server, process) = started(&cdm("cdm", &auth));
    refused(
        &server,
        &process,
        "SecretNotFound",
        &["spec.warehouse.authSecret", "Secret postgres", "create it"],
    )
    .await;
    let stage = server.get("streamstages", "cdm").expect("a stage");
    assert_eq!(stage["status"]["desiredReplicas"], Value::Null);
    secret(&server, "postgres", &json!({"user": "YQ=="}));
    refused(&server, &process, "SecretNotFound", &["no key username"]).await;
    secret(
        &server,
        "postgres",
        &json!({"username": "YQ==", "password": "Yg=="}),
    );
    goes_on(&server, &process).await;
}

#[tokio::test]
async fn workers_run_on_while_their_secret_is_missing() {
    let auth = json!({"warehouse": {"authSecret": "postgres"}, "scaling": {"minReplicas": 2}});
    let (server, process) = started(&cdm("cdm", &auth));
    secret(
        &server,
        "postgres",
        &json!({"username": "YQ==", "password": "Yg=="}),
    );
    goes_on(&server, &process).await;
    server.delete("secrets", "postgres");
    refused(&server, &process, "SecretNotFound", &["postgres"]).await;
    let deployment = server.get("deployments", "cdm-worker").expect("a Deployment");
    assert_eq!(deployment["spec"]["replicas"], 2);
    let stage = server.get("streamstages", "cdm").expect("a stage");
    assert_eq!(stage["status"]["workers"], "2/2");
}

#[tokio::test]
async fn an_unreadable_stage_is_told_in_the_figures_until_it_is_readable() {
    let (server, process) = started(&cdm("cdm", &json!({"aFieldOfTomorrow": true})));
    let told = |number: u8| {
        let stalled = "streamstage_operator_stalled{namespace=\"orders\",stage=\"cdm\"}";
        let line = format!("{stalled} {number}");
        process.figures().lines().any(|found| found == line)
    };
    process.look("cdm").await.expect_err("a field that is not known");
    assert!(told(1), "{}", process.figures());
    change(&server, "cdm", &json!({"aFieldOfTomorrow": Value::Null}));
    goes_on(&server, &process).await;
    assert!(told(0), "{}", process.figures());
}

#[tokio::test]
async fn a_pause_stops_the_workers_of_a_refused_stage_too() {
    let auth = json!({"warehouse": {"authSecret": "postgres"}, "scaling": {"minReplicas": 2}});
    let (server, process) = started(&cdm("cdm", &auth));
    let keys = json!({"username": "YQ==", "password": "Yg=="});
    secret(&server, "postgres", &keys);
    goes_on(&server, &process).await;
    server.delete("secrets", "postgres");
    change(&server, "cdm", &json!({"suspend": true}));
    refused(&server, &process, "SecretNotFound", &["postgres"]).await;
    let replicas = |server: &ApiServer| {
        let deployment = server.get("deployments", "cdm-worker");
        deployment.expect("a Deployment")["spec"]["replicas"].clone()
    };
    assert_eq!(replicas(&server), 0);

    change(&server, "cdm", &json!({"suspend": false}));
    secret(&server, "postgres", &keys);
    goes_on(&server, &process).await;
    assert_eq!(replicas(&server), 2);
}

#[tokio::test]
async fn rotated_secret_changes_one_annotation_and_is_told() {
    let auth = json!({"warehouse": {"authSecret": "postgres"}});
    let (server, process) = started(&cdm("cdm", &auth));
    secret(
        &server,
        "postgres",
        &json!({"username": "YQ==", "password": "Yg=="}),
    );
    goes_on(&server, &process).await;
    let spec =
        |server: &ApiServer| server.get("deployments", "cdm-worker").expect("a Deployment")["spec"].clone();
    let mut before = spec(&server);
    secret(
        &server,
        "postgres",
        &json!({"username": "YQ==", "password": "Yw=="}),
    );
    let writes = process.settle("cdm").await;
    assert!(
        told(&writes).contains(&"CredentialsRotated".to_owned()),
        "{:?}",
        told(&writes)
    );
    let after = spec(&server);
    let annotation = "/template/metadata/annotations/streamstage.dev~1secrets";
    assert_ne!(before.pointer(annotation), after.pointer(annotation));
    *before.pointer_mut(annotation).expect(annotation) =
        after.pointer(annotation).cloned().unwrap_or_default();
    assert_eq!(before, after);
}

#[tokio::test]
async fn rule_that_an_old_definition_does_not_check_is_checked_here() {
    let wrong = json!({"scaling": {"minReplicas": 5, "maxReplicas": 2}, "timezone": "Nowhere"});
    let (server, process) = started(&cdm("cdm", &wrong));
    refused(
        &server,
        &process,
        "ConfigInvalid",
        &["spec.scaling.minReplicas", "spec.timezone"],
    )
    .await;
    assert!(OWNED.iter().all(|resource| server.list(resource).is_empty()));
    change(&server, "cdm", &json!({"scaling": null, "timezone": "UTC"}));
    goes_on(&server, &process).await;
}

#[tokio::test]
async fn unknown_field_of_the_pod_template_is_refused_with_its_path() {
    for (template, path) in [
        (
            json!({"spec": {"nodeSelectors": {"a": "b"}}}),
            "spec.nodeSelectors",
        ),
        (
            json!({"spec": {"containers": [{"name": "worker", "enw": []}]}}),
            "spec.containers[0].enw",
        ),
        (
            json!({"spec": {"containers": "worker"}}),
            "spec.worker.podTemplate",
        ),
    ] {
        let (server, process) = started(&cdm("cdm", &json!({"worker": {"podTemplate": template}})));
        refused(&server, &process, "ConfigInvalid", &[path]).await;
        change(&server, "cdm", &json!({"worker": {"podTemplate": null}}));
        goes_on(&server, &process).await;
    }
}

#[tokio::test]
async fn pod_template_is_merged_but_cannot_take_the_labels_away() {
    let template = json!({
        "metadata": {"labels": {"streamstage.dev/stage": "other", "team": "orders"}},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "containers": [
                {"name": "worker", "env": [{"name": "RUST_LOG", "value": "debug"}]},
                {"name": "proxy", "image": "proxy:1"},
            ],
        },
    });
    let (server, process) = started(&cdm("cdm", &json!({"worker": {"podTemplate": template}})));
    goes_on(&server, &process).await;
    let live = server.get("deployments", "cdm-worker").expect("a Deployment")["spec"]["template"].clone();
    assert_eq!(live["metadata"]["labels"]["streamstage.dev/stage"], "cdm");
    assert_eq!(live["metadata"]["labels"]["team"], "orders");
    assert_eq!(live["spec"]["nodeSelector"], json!({"disk": "ssd"}));
    let containers = live["spec"]["containers"].as_array().expect("containers").clone();
    let named = |name: &str| {
        containers
            .iter()
            .find(|container| container["name"] == name)
            .expect("a container")
    };
    assert_eq!(containers.len(), 2);
    assert_eq!(
        named("worker")["env"],
        json!([{"name": "RUST_LOG", "value": "debug"}])
    );
    assert_eq!(named("worker")["image"], "streamstage/worker:1");
    assert_eq!(*named("proxy"), json!({"name": "proxy", "image": "proxy:1"}));
}
