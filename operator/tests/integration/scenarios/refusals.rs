//! Stalled stages: the cause is reported, and the stage recovers once it is fixed.

use serde_json::{Value, json};

use super::api_server::ApiServer;
use super::process::{Process, condition, message, published_events};
use super::stages::{OWNED, cdm, change, create, put_secret};

fn start(stage: &Value) -> (ApiServer, Process) {
    let server = ApiServer::start();
    create(&server, stage);
    let process = Process::start(&server);
    (server, process)
}

async fn assert_stalled(server: &ApiServer, process: &Process, reason: &str, message_parts: &[&str]) {
    process.converge("cdm").await;
    assert_eq!(condition(server, "cdm", "Stalled"), format!("True {reason}"));
    assert_eq!(condition(server, "cdm", "Ready"), format!("False {reason}"));
    let message = message(server, "cdm", "Stalled");
    for part in message_parts {
        assert!(message.contains(part), "{part}: {message}");
    }
}

async fn assert_recovers(server: &ApiServer, process: &Process) {
    process.converge("cdm").await;
    assert_eq!(condition(server, "cdm", "Stalled"), "False NotStalled");
    assert_eq!(condition(server, "cdm", "Ready"), "True AllReady");
}

#[tokio::test]
async fn an_object_of_another_owner_is_not_adopted() {
    for (resource, kind) in OWNED.into_iter().zip([
        "ServiceAccount",
        "ConfigMap",
        "Service",
        "PodDisruptionBudget",
        "Deployment",
    ]) {
        let (server, process) = start(&cdm("cdm", &json!({})));
        server.edit(resource, "cdm-worker", "kubectl", |object| {
            if resource == "deployments" {
                object["spec"] = json!({"replicas": 9, "selector": {}, "template": {}});
                object["status"] = json!({"readyReplicas": 9});
            }
            object["metadata"]["annotations"] = json!({"mine": "yes"});
        });
        let content = |server: &ApiServer| {
            let object = server.get(resource, "cdm-worker").expect(resource);
            (
                object["spec"].clone(),
                object["data"].clone(),
                object["metadata"]["annotations"].clone(),
            )
        };
        let before = content(&server);
        assert_stalled(
            &server,
            &process,
            "ResourceExists",
            &[kind, "cdm-worker", "rename"],
        )
        .await;
        assert_eq!(content(&server), before, "{resource}");
        let stage = server.get("streamstages", "cdm").expect("the stage exists");
        assert_eq!(
            stage["status"]["workers"], "0/0",
            "{resource}: another owner's workers do not count"
        );
        server.delete(resource, "cdm-worker");
        assert_recovers(&server, &process).await;
    }
}

#[tokio::test]
async fn the_younger_of_two_stages_with_one_group_is_stalled_until_the_older_is_deleted() {
    let group = json!({"source": {"consumerGroup": "one"}});
    let (server, process) = start(&cdm("older", &group));
    create(&server, &cdm("cdm", &group));
    process.converge("older").await;
    assert_eq!(condition(&server, "older", "Ready"), "True AllReady");
    assert_stalled(
        &server,
        &process,
        "ConsumerGroupConflict",
        &["orders/older", "facts", "group one"],
    )
    .await;
    assert!(server.get("deployments", "cdm-worker").is_none());
    process.converge("older").await;
    assert_eq!(condition(&server, "older", "Ready"), "True AllReady");
    server.delete("streamstages", "older");
    assert_recovers(&server, &process).await;
}

#[tokio::test]
async fn a_stage_that_is_edited_into_a_conflict_has_no_workers_until_it_is_resolved() {
    for mode in ["Auto", "Recommend", "Manual", "External"] {
        let group = json!({"source": {"consumerGroup": "one"}, "scaling": {"mode": mode, "minReplicas": 2}});
        let (server, process) = start(&cdm("older", &group));
        create(&server, &cdm("cdm", &group));
        change(
            &server,
            "cdm",
            &json!({"source": {"bootstrapServers": ["other:9092"]}}),
        );
        process.converge("older").await;
        assert_recovers(&server, &process).await;
        let replicas = |name: &str| {
            let deployment = server.get("deployments", &format!("{name}-worker"));
            deployment.expect("the Deployment exists")["spec"]["replicas"].clone()
        };
        assert_eq!(replicas("cdm"), 2, "{mode}");

        change(
            &server,
            "cdm",
            &json!({"source": {"bootstrapServers": ["kafka:9092"]}}),
        );
        assert_stalled(&server, &process, "ConsumerGroupConflict", &["no workers"]).await;
        assert_eq!(
            (replicas("older"), replicas("cdm")),
            (json!(2), json!(0)),
            "{mode}"
        );
        let stage = server.get("streamstages", "cdm").expect("the stage exists");
        let scaling = &stage["status"]["scaling"];
        assert_eq!(scaling["limitedBy"], "None", "{mode}");
        assert_eq!(
            scaling["message"], "another stage has the consumer group",
            "{mode}"
        );

        change(
            &server,
            "cdm",
            &json!({"source": {"bootstrapServers": ["other:9092"]}}),
        );
        assert_recovers(&server, &process).await;
        assert_eq!(replicas("cdm"), 2, "{mode}");
    }
}

#[tokio::test]
async fn one_group_on_two_clusters_or_topics_is_not_a_conflict() {
    for other in [
        json!({"bootstrapServers": ["other:9092"]}),
        json!({"topic": "others"}),
    ] {
        let group = json!({"source": {"consumerGroup": "one"}});
        let (server, process) = start(&cdm("older", &group));
        create(&server, &cdm("cdm", &group));
        change(&server, "cdm", &json!({"source": other}));
        assert_recovers(&server, &process).await;
    }
}

#[tokio::test]
async fn a_stage_recovers_from_a_missing_secret_or_key() {
    let auth = json!({"warehouse": {"authSecretName": "postgres"}});
    let (server, process) = start(&cdm("cdm", &auth));
    assert_stalled(
        &server,
        &process,
        "SecretNotFound",
        &["spec.warehouse.authSecretName", "Secret postgres", "create it"],
    )
    .await;
    let stage = server.get("streamstages", "cdm").expect("the stage exists");
    assert_eq!(stage["status"]["desiredReplicas"], Value::Null);
    put_secret(&server, "postgres", &json!({"user": "YQ=="}));
    assert_stalled(&server, &process, "SecretNotFound", &["no key username"]).await;
    put_secret(
        &server,
        "postgres",
        &json!({"username": "YQ==", "password": "Yg=="}),
    );
    assert_recovers(&server, &process).await;
}

#[tokio::test]
async fn running_workers_are_unaffected_by_a_missing_secret() {
    let auth = json!({"warehouse": {"authSecretName": "postgres"}, "scaling": {"minReplicas": 2}});
    let (server, process) = start(&cdm("cdm", &auth));
    put_secret(
        &server,
        "postgres",
        &json!({"username": "YQ==", "password": "Yg=="}),
    );
    assert_recovers(&server, &process).await;
    server.delete("secrets", "postgres");
    assert_stalled(&server, &process, "SecretNotFound", &["postgres"]).await;
    let deployment = server
        .get("deployments", "cdm-worker")
        .expect("the Deployment exists");
    assert_eq!(deployment["spec"]["replicas"], 2);
    let stage = server.get("streamstages", "cdm").expect("the stage exists");
    assert_eq!(stage["status"]["workers"], "2/2");
}

#[tokio::test]
async fn a_stage_that_cannot_be_parsed_counts_as_stalled_in_the_metrics() {
    let (server, process) = start(&cdm("cdm", &json!({"fieldOfANewerVersion": true})));
    let has_stalled_metric = |value: u8| {
        let stalled = "streamstage_operator_stalled{namespace=\"orders\",stage=\"cdm\"}";
        let line = format!("{stalled} {value}");
        process.metrics_text().lines().any(|metric| metric == line)
    };
    process.reconcile("cdm").await.expect_err("the field is unknown");
    assert!(has_stalled_metric(1), "{}", process.metrics_text());
    change(&server, "cdm", &json!({"fieldOfANewerVersion": Value::Null}));
    assert_recovers(&server, &process).await;
    assert!(has_stalled_metric(0), "{}", process.metrics_text());
}

#[tokio::test]
async fn a_suspended_stage_has_no_workers_even_if_it_is_stalled() {
    let auth = json!({"warehouse": {"authSecretName": "postgres"}, "scaling": {"minReplicas": 2}});
    let (server, process) = start(&cdm("cdm", &auth));
    let keys = json!({"username": "YQ==", "password": "Yg=="});
    put_secret(&server, "postgres", &keys);
    assert_recovers(&server, &process).await;
    server.delete("secrets", "postgres");
    change(&server, "cdm", &json!({"suspend": true}));
    assert_stalled(&server, &process, "SecretNotFound", &["postgres"]).await;
    let replicas = |server: &ApiServer| {
        let deployment = server.get("deployments", "cdm-worker");
        deployment.expect("the Deployment exists")["spec"]["replicas"].clone()
    };
    assert_eq!(replicas(&server), 0);

    change(&server, "cdm", &json!({"suspend": false}));
    put_secret(&server, "postgres", &keys);
    assert_recovers(&server, &process).await;
    assert_eq!(replicas(&server), 2);
}

#[tokio::test]
async fn a_rotated_secret_changes_one_annotation_and_emits_an_event() {
    let auth = json!({"warehouse": {"authSecretName": "postgres"}});
    let (server, process) = start(&cdm("cdm", &auth));
    put_secret(
        &server,
        "postgres",
        &json!({"username": "YQ==", "password": "Yg=="}),
    );
    assert_recovers(&server, &process).await;
    let spec = |server: &ApiServer| {
        server
            .get("deployments", "cdm-worker")
            .expect("the Deployment exists")["spec"]
            .clone()
    };
    let mut before = spec(&server);
    put_secret(
        &server,
        "postgres",
        &json!({"username": "YQ==", "password": "Yw=="}),
    );
    let writes = process.converge("cdm").await;
    assert!(
        published_events(&writes).contains(&"CredentialsRotated".to_owned()),
        "{:?}",
        published_events(&writes)
    );
    let after = spec(&server);
    let annotation = "/template/metadata/annotations/streamstage.dev~1secrets";
    assert_ne!(before.pointer(annotation), after.pointer(annotation));
    *before.pointer_mut(annotation).expect(annotation) =
        after.pointer(annotation).cloned().unwrap_or_default();
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_rule_that_an_old_crd_lacks_is_validated_by_the_operator() {
    let invalid = json!({"scaling": {"minReplicas": 5, "maxReplicas": 2}, "timezone": "Nowhere"});
    let (server, process) = start(&cdm("cdm", &invalid));
    assert_stalled(
        &server,
        &process,
        "ConfigInvalid",
        &["spec.scaling.minReplicas", "spec.timezone"],
    )
    .await;
    assert!(OWNED.iter().all(|resource| server.list(resource).is_empty()));
    change(&server, "cdm", &json!({"scaling": null, "timezone": "UTC"}));
    assert_recovers(&server, &process).await;
}

#[tokio::test]
async fn a_field_that_a_pod_template_may_not_have_is_reported_with_its_path() {
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
        (json!({"spec": {"hostNetwork": true}}), "spec.hostNetwork"),
        (
            json!({"spec": {"containers": [{"name": "proxy"}]}}),
            "spec.containers[0].name",
        ),
    ] {
        let (server, process) = start(&cdm("cdm", &json!({"worker": {"podTemplate": template}})));
        assert_stalled(&server, &process, "ConfigInvalid", &[path]).await;
        change(&server, "cdm", &json!({"worker": {"podTemplate": null}}));
        assert_recovers(&server, &process).await;
    }
}

#[tokio::test]
async fn pod_options_are_added_but_cannot_override_what_the_operator_sets() {
    let template = json!({
        "metadata": {
            "labels": {"streamstage.dev/stage": "other", "team": "orders"},
            "annotations": {"streamstage.dev/document": "forged", "note": "kept"},
        },
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "containers": [
                {"name": "worker", "env": [{"name": "RUST_LOG", "value": "debug"}]},
            ],
        },
    });
    let (server, process) = start(&cdm("cdm", &json!({"worker": {"podTemplate": template}})));
    assert_recovers(&server, &process).await;
    let live = server
        .get("deployments", "cdm-worker")
        .expect("the Deployment exists")["spec"]["template"]
        .clone();
    assert_eq!(live["metadata"]["labels"]["streamstage.dev/stage"], "cdm");
    assert_eq!(live["metadata"]["labels"]["team"], "orders");
    assert_eq!(live["spec"]["nodeSelector"], json!({"disk": "ssd"}));
    let containers = live["spec"]["containers"]
        .as_array()
        .expect("the pod has containers")
        .clone();
    let container_named = |name: &str| {
        containers
            .iter()
            .find(|container| container["name"] == name)
            .expect("the container exists")
    };
    assert_eq!(live["metadata"]["annotations"]["note"], "kept");
    assert_ne!(
        live["metadata"]["annotations"]["streamstage.dev/document"],
        "forged"
    );
    assert_eq!(live["spec"]["serviceAccountName"], "cdm-worker");
    assert_eq!(live["spec"]["automountServiceAccountToken"], false);
    assert_eq!(containers.len(), 1);
    assert_eq!(
        container_named("worker")["env"],
        json!([{"name": "RUST_LOG", "value": "debug"}])
    );
    assert_eq!(container_named("worker")["image"], "streamstage/worker:1");
}
