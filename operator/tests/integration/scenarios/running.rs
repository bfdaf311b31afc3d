//! Controller loop: the changes that trigger a reconcile.

use std::sync::Arc;

use operator::controller::{self, Settings};
use operator::metrics::Metrics;
use prometheus_client::registry::Registry;
use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::api_server::{ApiServer, Fault};
use super::process::{condition, defaults, roll_out, wait_until};
use super::stages::{OWNED, annotate, cdm, change, create, put_secret};

/// Starts the controller as `operator run` does, without the command line and the leader election.
pub(crate) fn start_controller(server: &ApiServer) -> (CancellationToken, JoinHandle<()>) {
    start_controller_for(server, &[])
}

/// As [`start_controller`], for a list of namespaces; all namespaces if it is empty.
pub(crate) fn start_controller_for(
    server: &ApiServer,
    namespaces: &[&str],
) -> (CancellationToken, JoinHandle<()>) {
    start_controller_with(server, namespaces, &[])
}

/// As [`start_controller_for`], with an allow-list of hosts.
fn start_controller_with(
    server: &ApiServer,
    namespaces: &[&str],
    allowed_hosts: &[&str],
) -> (CancellationToken, JoinHandle<()>) {
    let stop = CancellationToken::new();
    let allowed_hosts = allowed_hosts
        .iter()
        .map(|pattern| pattern.parse().expect("a pattern of hosts"))
        .collect();
    let (client, controller_stop) = (server.client(), stop.clone());
    let recorder = kube::runtime::events::Recorder::new(client.clone(), "streamstage-operator".into());
    let namespaces = namespaces
        .iter()
        .map(|namespace| (*namespace).to_owned())
        .collect();
    let controller = tokio::spawn(async move {
        let metrics = Metrics::register(&mut Registry::default());
        let settings = Settings {
            namespaces,
            defaults: defaults(),
            allowed_hosts,
        };
        controller::run(
            client,
            settings,
            metrics,
            Arc::default(),
            recorder,
            controller_stop,
        )
        .await;
    });
    (stop, controller)
}

fn has_ready_condition(server: &ApiServer, name: &str, expected: &str) -> bool {
    condition(server, name, "Ready") == expected
}

async fn wait_ready(server: &ApiServer, name: &str) {
    let has_deployment = |server: &ApiServer| server.get("deployments", &format!("{name}-worker")).is_some();
    wait_until(server, "a Deployment", has_deployment).await;
    roll_out(server, name);
    wait_until(server, "Ready=True", |server| {
        has_ready_condition(server, name, "True AllReady")
    })
    .await;
}

#[tokio::test]
async fn every_relevant_change_triggers_a_reconcile() {
    let server = ApiServer::start();
    let (stop, controller) = start_controller(&server);
    create(
        &server,
        &cdm("cdm", &json!({"warehouse": {"authSecretName": "postgres"}})),
    );
    wait_until(&server, "a stalled stage", |server| {
        has_ready_condition(server, "cdm", "False SecretNotFound")
    })
    .await;
    put_secret(
        &server,
        "postgres",
        &json!({"username": "YQ==", "password": "Yg=="}),
    );
    wait_ready(&server, "cdm").await;

    for resource in OWNED {
        server.delete(resource, "cdm-worker");
        wait_until(&server, resource, |server| {
            server.get(resource, "cdm-worker").is_some()
        })
        .await;
    }
    wait_ready(&server, "cdm").await;

    change(&server, "cdm", &json!({"scaling": {"minReplicas": 3}}));
    let replicas = |server: &ApiServer| {
        server.get("deployments", "cdm-worker").unwrap_or_default()["spec"]["replicas"].clone()
    };
    wait_until(&server, "three workers", |server| replicas(server) == 3).await;

    let limited_by = |server: &ApiServer| {
        let stage = server.get("streamstages", "cdm").unwrap_or_default();
        stage["status"]["scaling"]["limitedBy"].clone()
    };
    for (value, is_paused) in [("true", true), ("false", false)] {
        annotate(&server, "cdm", "streamstage.dev/pause-scaling", value);
        wait_until(&server, value, |server| {
            (limited_by(server) == "Paused") == is_paused
        })
        .await;
    }

    server.delete("streamstages", "cdm");
    wait_until(&server, "an empty namespace", |server| {
        OWNED.iter().all(|resource| server.list(resource).is_empty())
    })
    .await;
    stop.cancel();
    controller.await.expect("the controller stops without a panic");
}

#[tokio::test]
async fn stage_changes_arrive_through_the_watch_without_a_new_list() {
    let server = ApiServer::start();
    let (_stop, _controller) = start_controller(&server);
    create(&server, &cdm("cdm", &json!({})));
    wait_ready(&server, "cdm").await;

    server.fail(Fault {
        verb: "list",
        resource: "streamstages",
        times: usize::MAX,
        response: Some((500, "internal")),
    });
    for image in ["streamstage/worker:2", "streamstage/worker:3"] {
        change(&server, "cdm", &json!({"worker": {"image": image}}));
        wait_until(&server, image, |server| {
            server.get("streamstages", "cdm").unwrap_or_default()["status"]["image"] == image
        })
        .await;
    }
    create(&server, &cdm("other", &json!({"source": {"topic": "others"}})));
    wait_ready(&server, "other").await;
}

#[tokio::test]
async fn a_stage_that_cannot_be_parsed_does_not_affect_the_others() {
    let server = ApiServer::start();
    create(&server, &cdm("newer", &json!({"fieldOfANewerVersion": true})));
    let (_stop, _controller) = start_controller(&server);
    create(&server, &cdm("cdm", &json!({})));
    wait_ready(&server, "cdm").await;
    assert!(server.get("deployments", "newer-worker").is_none());

    change(&server, "newer", &json!({"fieldOfANewerVersion": Value::Null}));
    wait_ready(&server, "newer").await;
}

#[tokio::test]
async fn a_group_conflict_is_resolved_when_the_older_stage_is_deleted() {
    let server = ApiServer::start();
    let (_stop, _controller) = start_controller(&server);
    for name in ["older", "cdm"] {
        create(&server, &cdm(name, &json!({"source": {"consumerGroup": "one"}})));
    }
    wait_until(&server, "a consumer group conflict", |server| {
        has_ready_condition(server, "cdm", "False ConsumerGroupConflict")
    })
    .await;
    wait_ready(&server, "older").await;
    server.delete("streamstages", "older");
    wait_ready(&server, "cdm").await;
}

/// Replicas of the Deployment of a stage; `None` without one.
fn replicas(server: &ApiServer, name: &str) -> Option<Value> {
    let deployment = server.get("deployments", &format!("{name}-worker"))?;
    Some(deployment["spec"]["replicas"].clone())
}

#[tokio::test]
async fn a_further_stage_takes_its_share_of_the_connection_budget_at_the_next_poll() {
    let brokers = MockCluster::new(1).expect("start a broker");
    brokers.create_topic("facts", 2, 1).expect("create the topic");
    let server = ApiServer::start();
    let (_stop, _controller) = start_controller_with(&server, &[], &["127.0.0.1", "postgres"]);
    let stage = |name: &str| {
        let spec = json!({
            "source": {"bootstrapServers": [brokers.bootstrap_servers()]},
            "warehouse": {"connectionBudget": 20},
            "scaling": {"mode": "Manual", "replicas": 9, "pollInterval": "1s"},
        });
        cdm(name, &spec)
    };
    for (name, expected) in [("cdm", 9), ("further", 5)] {
        create(&server, &stage(name));
        wait_until(&server, name, |server| {
            replicas(server, "cdm") == Some(json!(expected))
        })
        .await;
    }
    server.delete("streamstages", "further");
    wait_until(&server, "the whole budget", |server| {
        replicas(server, "cdm") == Some(json!(9))
    })
    .await;
}

#[tokio::test]
async fn two_addresses_of_one_cluster_are_a_conflict_as_soon_as_both_are_polled() {
    let brokers = MockCluster::new(2).expect("start the brokers");
    brokers.create_topic("facts", 2, 1).expect("create the topic");
    let servers = brokers.bootstrap_servers();
    let (first, second) = servers.split_once(',').expect("two addresses");
    let server = ApiServer::start();
    let (_stop, _controller) = start_controller_with(&server, &[], &["127.0.0.1", "postgres"]);
    let source = |address: &str| json!({"source": {"consumerGroup": "one", "bootstrapServers": [address]}});
    create(&server, &cdm("older", &source(first)));
    wait_until(&server, "a worker", |server| {
        replicas(server, "older") == Some(json!(1))
    })
    .await;
    create(&server, &cdm("cdm", &source(second)));
    wait_until(&server, "a consumer group conflict", |server| {
        condition(server, "cdm", "Stalled") == "True ConsumerGroupConflict"
            && replicas(server, "cdm") != Some(json!(1))
    })
    .await;
    assert_eq!(condition(&server, "older", "Stalled"), "False NotStalled");
    assert_eq!(replicas(&server, "older"), Some(json!(1)));
    server.delete("streamstages", "older");
    wait_until(&server, "a worker", |server| {
        replicas(server, "cdm") == Some(json!(1))
    })
    .await;
}

#[tokio::test]
async fn an_operator_converges_after_changes_during_its_downtime() {
    let server = ApiServer::start();
    let (stop, controller) = start_controller(&server);
    create(&server, &cdm("cdm", &json!({})));
    wait_ready(&server, "cdm").await;
    stop.cancel();
    controller.await.expect("the controller stops without a panic");

    server.delete("services", "cdm-worker");
    change(
        &server,
        "cdm",
        &json!({"worker": {"image": "streamstage/worker:2"}}),
    );
    create(&server, &cdm("other", &json!({"source": {"topic": "others"}})));
    let (_stop, _controller) = start_controller(&server);
    wait_ready(&server, "other").await;
    wait_until(&server, "a Service", |server| {
        server.get("services", "cdm-worker").is_some()
    })
    .await;
    wait_until(&server, "the image", |server| {
        server.get("streamstages", "cdm").unwrap_or_default()["status"]["image"] == "streamstage/worker:2"
    })
    .await;
}

#[tokio::test]
async fn a_failed_reconcile_is_retried_without_a_change() {
    let server = ApiServer::start();
    for response in [(409, "modified"), (429, "slower"), (500, "internal")] {
        server.fail(Fault {
            verb: "apply",
            resource: "configmaps",
            times: 1,
            response: Some(response),
        });
    }
    let (_stop, _controller) = start_controller(&server);
    create(&server, &cdm("cdm", &json!({})));
    wait_ready(&server, "cdm").await;
}

#[tokio::test]
async fn a_granted_permission_takes_effect_without_a_restart() {
    let server = ApiServer::start();
    server.fail(Fault {
        verb: "apply",
        resource: "services",
        times: usize::MAX,
        response: Some((403, "services is forbidden")),
    });
    let (_stop, _controller) = start_controller(&server);
    create(&server, &cdm("cdm", &json!({})));
    wait_until(&server, "a stalled stage", |server| {
        has_ready_condition(server, "cdm", "False Forbidden")
    })
    .await;
    server.heal();
    wait_ready(&server, "cdm").await;
}

#[tokio::test]
async fn a_forbidden_watch_is_retried() {
    let server = ApiServer::start();
    server.fail(Fault {
        verb: "list",
        resource: "streamstages",
        times: 2,
        response: Some((403, "streamstages is forbidden")),
    });
    let (_stop, _controller) = start_controller(&server);
    create(&server, &cdm("cdm", &json!({})));
    wait_ready(&server, "cdm").await;
}
