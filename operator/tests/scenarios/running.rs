//! The endless loop: which changes lead to a reconcile.

use std::sync::Arc;

use operator::controller;
use operator::metrics::Metrics;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api_server::{ApiServer, Fault};
use crate::process::{condition, defaults, roll_out, until};
use crate::stages::{OWNED, cdm, change, create, secret};

/// `operator run` without the command line and the lease.
fn run(server: &ApiServer) -> (CancellationToken, JoinHandle<()>) {
    let stop = CancellationToken::new();
    let (client, stopped) = (server.client(), stop.clone());
    let recorder = kube::runtime::events::Recorder::new(client.clone(), "streamstage-operator".into());
    let running = tokio::spawn(async move {
        let metrics = Metrics::register(&mut Registry::default());
        controller::run(
            client,
            None,
            defaults(),
            metrics,
            Arc::default(),
            recorder,
            stopped,
        )
        .await;
    });
    (stop, running)
}

fn is(server: &ApiServer, name: &str, wanted: &str) -> bool {
    condition(server, name, "Ready") == wanted
}

async fn ready(server: &ApiServer, name: &str) {
    let has_workers = |server: &ApiServer| server.get("deployments", &format!("{name}-worker")).is_some();
    until(server, "workers", has_workers).await;
    roll_out(server, name);
    until(server, "readiness", |server| is(server, name, "True AllReady")).await;
}

#[tokio::test]
async fn every_change_that_matters_leads_to_a_reconcile() {
    let server = ApiServer::start();
    let (stop, running) = run(&server);
    create(
        &server,
        &cdm("cdm", &json!({"warehouse": {"authSecret": "postgres"}})),
    );
    until(&server, "a refusal", |server| {
        is(server, "cdm", "False SecretNotFound")
    })
    .await;
    secret(
        &server,
        "postgres",
        &json!({"username": "YQ==", "password": "Yg=="}),
    );
    ready(&server, "cdm").await;

    for resource in OWNED {
        server.delete(resource, "cdm-worker");
        until(&server, resource, |server| {
            server.get(resource, "cdm-worker").is_some()
        })
        .await;
    }
    ready(&server, "cdm").await;

    change(&server, "cdm", &json!({"scaling": {"minReplicas": 3}}));
    let replicas = |server: &ApiServer| {
        server.get("deployments", "cdm-worker").unwrap_or_default()["spec"]["replicas"].clone()
    };
    until(&server, "three workers", |server| replicas(server) == 3).await;

    server.delete("streamstages", "cdm");
    until(&server, "an empty namespace", |server| {
        OWNED.iter().all(|resource| server.list(resource).is_empty())
    })
    .await;
    stop.cancel();
    running.await.expect("an operator that stops when it is told to");
}

#[tokio::test]
async fn changes_of_stages_are_heard_of_without_another_list() {
    let server = ApiServer::start();
    let (_stop, _running) = run(&server);
    create(&server, &cdm("cdm", &json!({})));
    ready(&server, "cdm").await;

    server.fail(Fault {
        verb: "list",
        resource: "streamstages",
        times: usize::MAX,
        answer: Some((500, "internal")),
    });
    for image in ["streamstage/worker:2", "streamstage/worker:3"] {
        change(&server, "cdm", &json!({"worker": {"image": image}}));
        until(&server, image, |server| {
            server.get("streamstages", "cdm").unwrap_or_default()["status"]["image"] == image
        })
        .await;
    }
    create(&server, &cdm("other", &json!({"source": {"topic": "others"}})));
    ready(&server, "other").await;
}

#[tokio::test]
async fn unreadable_stage_does_not_stop_the_others() {
    let server = ApiServer::start();
    create(&server, &cdm("newer", &json!({"aFieldOfTomorrow": true})));
    let (_stop, _running) = run(&server);
    create(&server, &cdm("cdm", &json!({})));
    ready(&server, "cdm").await;
    assert!(server.get("deployments", "newer-worker").is_none());

    change(&server, "newer", &json!({"aFieldOfTomorrow": Value::Null}));
    ready(&server, "newer").await;
}

#[tokio::test]
async fn younger_stage_goes_on_by_itself_when_the_elder_is_deleted() {
    let server = ApiServer::start();
    let (_stop, _running) = run(&server);
    for name in ["elder", "cdm"] {
        create(&server, &cdm(name, &json!({"source": {"consumerGroup": "one"}})));
    }
    until(&server, "a conflict", |server| {
        is(server, "cdm", "False Conflict")
    })
    .await;
    ready(&server, "elder").await;
    server.delete("streamstages", "elder");
    ready(&server, "cdm").await;
}

#[tokio::test]
async fn operator_that_was_away_converges_when_it_starts() {
    let server = ApiServer::start();
    let (stop, running) = run(&server);
    create(&server, &cdm("cdm", &json!({})));
    ready(&server, "cdm").await;
    stop.cancel();
    running.await.expect("an operator that stops when it is told to");

    server.delete("services", "cdm-worker");
    change(
        &server,
        "cdm",
        &json!({"worker": {"image": "streamstage/worker:2"}}),
    );
    create(&server, &cdm("other", &json!({"source": {"topic": "others"}})));
    let (_stop, _running) = run(&server);
    ready(&server, "other").await;
    until(&server, "a Service", |server| {
        server.get("services", "cdm-worker").is_some()
    })
    .await;
    until(&server, "the image", |server| {
        server.get("streamstages", "cdm").unwrap_or_default()["status"]["image"] == "streamstage/worker:2"
    })
    .await;
}

#[tokio::test]
async fn failure_is_tried_again_without_a_change() {
    let server = ApiServer::start();
    for answer in [(409, "modified"), (429, "slower"), (500, "internal")] {
        server.fail(Fault {
            verb: "apply",
            resource: "configmaps",
            times: 1,
            answer: Some(answer),
        });
    }
    let (_stop, _running) = run(&server);
    create(&server, &cdm("cdm", &json!({})));
    ready(&server, "cdm").await;
}

#[tokio::test]
async fn missing_permission_is_found_when_it_is_given() {
    let server = ApiServer::start();
    server.fail(Fault {
        verb: "apply",
        resource: "services",
        times: usize::MAX,
        answer: Some((403, "services is forbidden")),
    });
    let (_stop, _running) = run(&server);
    create(&server, &cdm("cdm", &json!({})));
    until(&server, "a refusal", |server| {
        is(server, "cdm", "False Forbidden")
    })
    .await;
    server.heal();
    ready(&server, "cdm").await;
}

#[tokio::test]
async fn forbidden_watch_is_tried_again() {
    let server = ApiServer::start();
    server.fail(Fault {
        verb: "list",
        resource: "streamstages",
        times: 2,
        answer: Some((403, "streamstages is forbidden")),
    });
    let (_stop, _running) = run(&server);
    create(&server, &cdm("cdm", &json!({})));
    ready(&server, "cdm").await;
}
