//! Who decides how many workers there are.

use serde_json::{Value, json};

use crate::api_server::{ApiServer, Write};
use crate::process::{Process, condition};
use crate::stages::{cdm, change, create};

async fn settled(spec: Value) -> (ApiServer, Process) {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &spec));
    let process = Process::start(&server);
    process.settle("cdm").await;
    (server, process)
}

fn live(server: &ApiServer) -> Value {
    server.get("deployments", "cdm-worker").expect("a Deployment")["spec"]["replicas"].clone()
}

/// As `kubectl scale`, or an autoscaler.
fn scale(server: &ApiServer, replicas: u32) {
    server.edit("deployments", "cdm-worker", "autoscaler", |deployment| {
        deployment["spec"]["replicas"] = json!(replicas);
    });
}

fn of_deployments(writes: &[Write]) -> Vec<(bool, bool)> {
    let writes = writes.iter().filter(|write| write.resource == "deployments");
    writes
        .map(|write| {
            let spec = &write.body["spec"];
            (spec["replicas"].is_number(), spec["template"].is_object())
        })
        .collect()
}

#[tokio::test]
async fn replicas_and_template_are_in_one_apply_at_the_creation_only() {
    let server = ApiServer::start();
    create(
        &server,
        &cdm("cdm", &json!({"scaling": {"mode": "Manual", "replicas": 3}})),
    );
    let process = Process::start(&server);
    let created = of_deployments(&process.settle("cdm").await);
    assert_eq!(created[0], (true, true));
    assert!(!created[1..].contains(&(true, true)), "{created:?}");

    let both = json!({"worker": {"image": "streamstage/worker:2"}, "scaling": {"replicas": 5}});
    change(&server, "cdm", &both);
    let changed = of_deployments(&process.settle("cdm").await);
    assert_eq!(changed, [(true, false), (false, true)]);
    assert_eq!(live(&server), 5);
}

#[tokio::test]
async fn number_of_an_edit_by_hand_lasts_only_where_nobody_here_decides() {
    for (scaling, started, kept) in [
        (json!({"minReplicas": 2}), 2, 2),
        (json!({"mode": "Manual", "replicas": 3}), 3, 3),
        (json!({"mode": "External", "replicas": 4}), 4, 4),
        (json!({"mode": "External", "minReplicas": 2}), 2, 7),
        (json!({"mode": "Recommend", "minReplicas": 2}), 2, 7),
    ] {
        let (server, process) = settled(json!({"scaling": scaling})).await;
        assert_eq!(live(&server), started, "{scaling}");
        scale(&server, 7);
        process.settle("cdm").await;
        assert_eq!(live(&server), kept, "{scaling}");
    }
}

#[tokio::test]
async fn number_of_an_autoscaler_outlives_changes_of_the_template() {
    let (server, process) = settled(json!({"scaling": {"mode": "External", "minReplicas": 2}})).await;
    for (image, number) in [
        ("streamstage/worker:2", 2),
        ("streamstage/worker:3", 6),
        ("streamstage/worker:4", 4),
    ] {
        scale(&server, number);
        change(&server, "cdm", &json!({"worker": {"image": image}}));
        process.settle("cdm").await;
        assert_eq!(live(&server), number, "{image}");
        let deployment = server.get("deployments", "cdm-worker").expect("a Deployment");
        assert_eq!(
            deployment["spec"]["template"]["spec"]["containers"][0]["image"],
            image
        );
    }
}

#[tokio::test]
async fn number_of_a_template_change_right_after_the_creation_stays() {
    let server = ApiServer::start();
    create(
        &server,
        &cdm("cdm", &json!({"scaling": {"mode": "External", "minReplicas": 3}})),
    );
    let process = Process::start(&server);
    process.look("cdm").await.expect("a reconcile");
    change(
        &server,
        "cdm",
        &json!({"worker": {"image": "streamstage/worker:2"}}),
    );
    process.settle("cdm").await;
    assert_eq!(live(&server), 3);
}

#[tokio::test]
async fn suspended_stage_has_no_workers_and_gets_them_back_in_every_mode() {
    for mode in ["Auto", "Recommend", "Manual", "External"] {
        let (server, process) = settled(json!({"scaling": {"mode": mode, "minReplicas": 2}})).await;
        change(&server, "cdm", &json!({"suspend": true}));
        process.settle("cdm").await;
        assert_eq!(live(&server), 0, "{mode}");
        assert_eq!(condition(&server, "cdm", "Ready"), "False Suspended", "{mode}");
        assert_eq!(condition(&server, "cdm", "Suspended"), "True Suspended", "{mode}");
        change(&server, "cdm", &json!({"suspend": false}));
        process.settle("cdm").await;
        assert_eq!(live(&server), 2, "{mode}");
        assert_eq!(
            condition(&server, "cdm", "Suspended"),
            "False NotSuspended",
            "{mode}"
        );
    }
}

#[tokio::test]
async fn autoscaler_that_takes_the_last_worker_is_left_alone() {
    let (server, process) = settled(json!({"scaling": {"mode": "External", "minReplicas": 2}})).await;
    scale(&server, 0);
    process.settle("cdm").await;
    assert_eq!(live(&server), 0);
}

#[tokio::test]
async fn connection_budget_caps_the_number() {
    let budget = json!({"scaling": {"mode": "Manual", "replicas": 9}, "warehouse": {"connectionBudget": 7}});
    let (server, _) = settled(budget).await;
    assert_eq!(live(&server), 3);
    let stage = server.get("streamstages", "cdm").expect("a stage");
    assert_eq!(stage["status"]["scaling"]["limitedBy"], "ConnectionBudget");
}
