//! Ownership of the replicas: the operator, the user or another autoscaler, by scaling mode.

use serde_json::{Value, json};

use super::api_server::{ApiServer, Write};
use super::process::{Process, condition};
use super::stages::{annotate, cdm, change, create};

async fn converged(spec: Value) -> (ApiServer, Process) {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &spec));
    let process = Process::start(&server);
    process.converge("cdm").await;
    (server, process)
}

fn live_replicas(server: &ApiServer) -> Value {
    server
        .get("deployments", "cdm-worker")
        .expect("the Deployment exists")["spec"]["replicas"]
        .clone()
}

/// Writes the replicas as `kubectl scale` or an autoscaler does.
fn scale(server: &ApiServer, replicas: u32) {
    server.edit("deployments", "cdm-worker", "autoscaler", |deployment| {
        deployment["spec"]["replicas"] = json!(replicas);
    });
}

/// True for each part that a write of the Deployment contains: replicas, template.
fn deployment_write_parts(writes: &[Write]) -> Vec<(bool, bool)> {
    let writes = writes.iter().filter(|write| write.resource == "deployments");
    writes
        .map(|write| {
            let spec = &write.body["spec"];
            (spec["replicas"].is_number(), spec["template"].is_object())
        })
        .collect()
}

#[tokio::test]
async fn replicas_and_template_share_an_apply_only_at_creation() {
    let server = ApiServer::start();
    create(
        &server,
        &cdm("cdm", &json!({"scaling": {"mode": "Manual", "replicas": 3}})),
    );
    let process = Process::start(&server);
    let created = deployment_write_parts(&process.converge("cdm").await);
    assert_eq!(created[0], (true, true));
    assert!(!created[1..].contains(&(true, true)), "{created:?}");

    let both = json!({"worker": {"image": "streamstage/worker:2"}, "scaling": {"replicas": 5}});
    change(&server, "cdm", &both);
    let changed = deployment_write_parts(&process.converge("cdm").await);
    assert_eq!(changed, [(true, false), (false, true)]);
    assert_eq!(live_replicas(&server), 5);
}

#[tokio::test]
async fn a_manual_edit_of_the_replicas_persists_only_if_the_operator_does_not_own_them() {
    for (scaling, initial, after_edit) in [
        (json!({"minReplicas": 2}), 2, 2),
        (json!({"mode": "Manual", "replicas": 3}), 3, 3),
        (json!({"mode": "External", "replicas": 4}), 4, 4),
        (json!({"mode": "External", "minReplicas": 2}), 2, 7),
        (json!({"mode": "Recommend", "minReplicas": 2}), 2, 7),
    ] {
        let (server, process) = converged(json!({"scaling": scaling})).await;
        assert_eq!(live_replicas(&server), initial, "{scaling}");
        scale(&server, 7);
        process.converge("cdm").await;
        assert_eq!(live_replicas(&server), after_edit, "{scaling}");
    }
}

#[tokio::test]
async fn replicas_of_an_autoscaler_survive_changes_of_the_template() {
    let (server, process) = converged(json!({"scaling": {"mode": "External", "minReplicas": 2}})).await;
    for (image, replicas) in [
        ("streamstage/worker:2", 2),
        ("streamstage/worker:3", 6),
        ("streamstage/worker:4", 4),
    ] {
        scale(&server, replicas);
        change(&server, "cdm", &json!({"worker": {"image": image}}));
        process.converge("cdm").await;
        assert_eq!(live_replicas(&server), replicas, "{image}");
        let deployment = server
            .get("deployments", "cdm-worker")
            .expect("the Deployment exists");
        assert_eq!(
            deployment["spec"]["template"]["spec"]["containers"][0]["image"],
            image
        );
    }
}

#[tokio::test]
async fn a_template_change_right_after_creation_leaves_the_replicas_unchanged() {
    let server = ApiServer::start();
    create(
        &server,
        &cdm("cdm", &json!({"scaling": {"mode": "External", "minReplicas": 3}})),
    );
    let process = Process::start(&server);
    process.reconcile("cdm").await.expect("reconcile");
    change(
        &server,
        "cdm",
        &json!({"worker": {"image": "streamstage/worker:2"}}),
    );
    process.converge("cdm").await;
    assert_eq!(live_replicas(&server), 3);
}

#[tokio::test]
async fn suspension_removes_the_workers_and_resuming_restores_them_in_every_mode() {
    for mode in ["Auto", "Recommend", "Manual", "External"] {
        let (server, process) = converged(json!({"scaling": {"mode": mode, "minReplicas": 2}})).await;
        change(&server, "cdm", &json!({"suspend": true}));
        process.converge("cdm").await;
        assert_eq!(live_replicas(&server), 0, "{mode}");
        assert_eq!(condition(&server, "cdm", "Ready"), "False Suspended", "{mode}");
        assert_eq!(condition(&server, "cdm", "Suspended"), "True Suspended", "{mode}");
        change(&server, "cdm", &json!({"suspend": false}));
        process.converge("cdm").await;
        assert_eq!(live_replicas(&server), 2, "{mode}");
        assert_eq!(
            condition(&server, "cdm", "Suspended"),
            "False NotSuspended",
            "{mode}"
        );
    }
}

#[tokio::test]
async fn a_paused_stage_retains_its_workers_until_the_annotation_is_removed() {
    let (server, process) = converged(json!({"scaling": {"minReplicas": 2}})).await;
    let pause = |value| annotate(&server, "cdm", "streamstage.dev/pause-scaling", value);
    pause("true");
    change(&server, "cdm", &json!({"scaling": {"minReplicas": 5}}));
    process.converge("cdm").await;
    assert_eq!(live_replicas(&server), 2);
    assert_eq!(condition(&server, "cdm", "ScalingActive"), "False Paused");
    let stage = server.get("streamstages", "cdm").expect("the stage exists");
    assert_eq!(stage["status"]["scaling"]["limitedBy"], "Paused");

    change(&server, "cdm", &json!({"suspend": true}));
    process.converge("cdm").await;
    assert_eq!(live_replicas(&server), 0, "a suspension takes precedence");
    change(&server, "cdm", &json!({"suspend": false}));
    pause("false");
    process.converge("cdm").await;
    assert_eq!(live_replicas(&server), 5);
}

#[tokio::test]
async fn an_autoscaler_may_scale_to_zero() {
    let (server, process) = converged(json!({"scaling": {"mode": "External", "minReplicas": 2}})).await;
    scale(&server, 0);
    process.converge("cdm").await;
    assert_eq!(live_replicas(&server), 0);
}

#[tokio::test]
async fn the_connection_budget_caps_the_replicas() {
    let budget = json!({"scaling": {"mode": "Manual", "replicas": 9}, "warehouse": {"connectionBudget": 7}});
    let (server, _) = converged(budget).await;
    assert_eq!(live_replicas(&server), 3);
    let stage = server.get("streamstages", "cdm").expect("the stage exists");
    assert_eq!(stage["status"]["scaling"]["limitedBy"], "ConnectionBudget");
}

#[tokio::test]
async fn the_stages_of_a_warehouse_share_its_connection_budget() {
    let stage = |topic: &str, budget: Value| {
        json!({
            "source": {"topic": topic},
            "scaling": {"mode": "Manual", "replicas": 9},
            "warehouse": {"connectionBudget": budget},
        })
    };
    let (server, process) = converged(stage("a", json!(20))).await;
    assert_eq!(live_replicas(&server), 9);
    create(&server, &cdm("further", &stage("b", Value::Null)));
    process.converge("further").await;
    process.converge("cdm").await;
    assert_eq!(live_replicas(&server), 5);
    let status = |name: &str| {
        let stage = server.get("streamstages", name).expect("the stage exists");
        stage["status"]["scaling"]["message"].clone()
    };
    for name in ["cdm", "further"] {
        assert_eq!(
            status(name),
            "9 replicas set in spec.scaling (mode Manual); 5 replicas: limited by the connection budget of the \
             warehouse: 20 connections shared by 2 stages",
        );
    }
    change(&server, "further", &json!({"suspend": true}));
    process.converge("further").await;
    process.converge("cdm").await;
    assert_eq!(live_replicas(&server), 9);
}
