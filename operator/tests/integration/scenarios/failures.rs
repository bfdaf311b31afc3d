//! API server errors: transient ones are retried, terminal and lasting ones are reported.

use std::sync::Arc;

use kube::runtime::controller::Action;
use operator::controller::error_policy;
use serde_json::json;

use super::api_server::{ApiServer, Fault};
use super::process::{Process, condition, message, published_events};
use super::stages::{cdm, change, create};

fn start() -> (ApiServer, Process) {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &json!({"scaling": {"minReplicas": 2}})));
    let process = Process::start(&server);
    (server, process)
}

fn fault(verb: &'static str, resource: &'static str, response: (u16, &'static str)) -> Fault {
    Fault {
        verb,
        resource,
        times: usize::MAX,
        response: Some(response),
    }
}

/// Runs a reconcile that must fail, and returns what the controller does next.
async fn fail_reconcile(process: &Process) -> Action {
    let error = process.reconcile("cdm").await.expect_err("the reconcile fails");
    error_policy(process.cached_stage("cdm"), &error, Arc::clone(&process.context))
}

#[tokio::test]
async fn transient_errors_are_retried_and_not_reported() {
    for response in [
        (409, "the object has been modified"),
        (429, "too many requests"),
        (500, "internal"),
        (503, "etcd"),
    ] {
        for (verb, resource) in [
            ("get", "deployments"),
            ("apply", "services"),
            ("apply", "deployments"),
        ] {
            let (server, process) = start();
            server.fail(Fault {
                times: 1,
                ..fault(verb, resource, response)
            });
            let action = fail_reconcile(&process).await;
            assert_ne!(action, Action::await_change(), "{verb} {resource} {response:?}");
            process.converge("cdm").await;
            assert_eq!(condition(&server, "cdm", "Ready"), "True AllReady");
            assert_eq!(condition(&server, "cdm", "Reconciling"), "False Converged");
        }
    }
}

#[tokio::test]
async fn a_failed_status_write_is_retried() {
    let (server, process) = start();
    server.fail(Fault {
        times: 1,
        ..fault("apply", "streamstages/status", (500, "internal"))
    });
    assert_ne!(fail_reconcile(&process).await, Action::await_change());
    process.converge("cdm").await;
    assert_eq!(condition(&server, "cdm", "Ready"), "True AllReady");
}

#[tokio::test]
async fn a_lasting_error_is_reported_as_retrying_and_retains_ready() {
    let (server, process) = start();
    process.converge("cdm").await;
    server.fail(fault("get", "deployments", (500, "etcd is unavailable")));
    for attempt in 1..=4 {
        fail_reconcile(&process).await;
        let is_reported = condition(&server, "cdm", "Reconciling") == "True Retrying";
        assert_eq!(is_reported, attempt > 2, "attempt {attempt}");
        assert_eq!(condition(&server, "cdm", "Ready"), "True AllReady");
    }
    assert!(message(&server, "cdm", "Reconciling").contains("etcd is unavailable"));
    server.heal();
    process.converge("cdm").await;
    assert_eq!(condition(&server, "cdm", "Reconciling"), "False Converged");
}

#[tokio::test]
async fn requests_without_a_response_time_out_and_are_reported_when_they_last() {
    let (server, process) = start();
    process.converge("cdm").await;
    let no_response = |verb, resource| Fault {
        response: None,
        ..fault(verb, resource, (0, ""))
    };
    server.fail(no_response("get", "streamstages"));
    assert_ne!(fail_reconcile(&process).await, Action::await_change());
    server.heal();
    server.fail(no_response("get", "services"));
    for _ in 0..2 {
        assert_ne!(fail_reconcile(&process).await, Action::await_change());
    }
    assert_eq!(condition(&server, "cdm", "Reconciling"), "True Retrying");
    assert!(message(&server, "cdm", "Reconciling").contains("did not answer"));
    assert_eq!(condition(&server, "cdm", "Ready"), "True AllReady");
    server.heal();
    process.converge("cdm").await;
    assert_eq!(condition(&server, "cdm", "Reconciling"), "False Converged");
}

#[tokio::test]
async fn a_missing_write_permission_is_reported_with_the_message_of_the_api_server() {
    let (server, process) = start();
    let message_text = "services is forbidden: User \"operator\" cannot patch resource \"services\"";
    server.fail(fault("apply", "services", (403, message_text)));
    assert_ne!(fail_reconcile(&process).await, Action::await_change());
    assert_eq!(condition(&server, "cdm", "Stalled"), "True Forbidden");
    assert_eq!(condition(&server, "cdm", "Ready"), "False Forbidden");
    assert!(message(&server, "cdm", "Stalled").contains(message_text));
    assert_eq!(published_events(&server.take_writes()), ["Forbidden"]);
    server.heal();
    process.converge("cdm").await;
    assert_eq!(condition(&server, "cdm", "Stalled"), "False NotStalled");
}

#[tokio::test]
async fn a_missing_read_permission_retains_the_reported_workers() {
    let (server, process) = start();
    process.converge("cdm").await;
    server.fail(fault("get", "deployments", (403, "deployments is forbidden")));
    fail_reconcile(&process).await;
    assert_eq!(condition(&server, "cdm", "Stalled"), "True Forbidden");
    let status = server.get("streamstages", "cdm").expect("the stage exists")["status"].clone();
    assert_eq!(
        (&status["workers"], &status["desiredReplicas"]),
        (&json!("2/2"), &json!(2))
    );
    assert_eq!(published_events(&server.take_writes()), ["Forbidden"]);
}

#[tokio::test]
async fn a_rejected_object_is_reported_and_its_correction_is_applied() {
    let (server, process) = start();
    let message_text = "Deployment.apps is invalid: spec.template.spec.containers[0].image: Invalid value";
    server.fail(fault("apply", "deployments", (422, message_text)));
    assert_ne!(fail_reconcile(&process).await, Action::await_change());
    assert_eq!(condition(&server, "cdm", "Stalled"), "True ObjectRejected");
    assert!(message(&server, "cdm", "Stalled").contains(message_text));
    server.heal();
    change(
        &server,
        "cdm",
        &json!({"worker": {"image": "streamstage/worker:2"}}),
    );
    process.converge("cdm").await;
    assert_eq!(condition(&server, "cdm", "Stalled"), "False NotStalled");
}

#[tokio::test]
async fn replicas_that_an_autoscaler_writes_during_creation_are_retained() {
    let server = ApiServer::start();
    create(
        &server,
        &cdm("cdm", &json!({"scaling": {"mode": "External", "minReplicas": 2}})),
    );
    let process = Process::start(&server);
    // Crash right after the Deployment is created, before the replicas have their own field manager.
    server.kill_after(5);
    tokio::select! {
        biased;
        () = server.killed() => {}
        _ = process.reconcile("cdm") => unreachable!("the fifth write creates the Deployment"),
    }
    server.revive();
    server.edit("deployments", "cdm-worker", "autoscaler", |deployment| {
        deployment["spec"]["replicas"] = json!(6);
    });
    change(
        &server,
        "cdm",
        &json!({"worker": {"image": "streamstage/worker:2"}}),
    );
    Process::start(&server).converge("cdm").await;
    let live = server
        .get("deployments", "cdm-worker")
        .expect("the Deployment exists");
    assert_eq!(live["spec"]["replicas"], 6);
}

#[tokio::test]
async fn a_repeated_event_is_published_once() {
    let (server, process) = start();
    for _ in 0..3 {
        server.fail(fault("get", "services", (403, "services is forbidden")));
        fail_reconcile(&process).await;
        server.heal();
        process.reconcile("cdm").await.expect("reconcile");
    }
    let events = published_events(&server.take_writes());
    assert_eq!(
        events.iter().filter(|reason| *reason == "Forbidden").count(),
        1,
        "{events:?}"
    );
}
