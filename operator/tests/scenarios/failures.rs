//! What the API server refuses or fails at is tried again, and shown when a person must know.

use std::sync::Arc;

use kube::runtime::controller::Action;
use operator::controller::retry;
use serde_json::json;

use crate::api_server::{ApiServer, Fault};
use crate::process::{Process, condition, message, told};
use crate::stages::{cdm, change, create};

fn started() -> (ApiServer, Process) {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &json!({"scaling": {"minReplicas": 2}})));
    let process = Process::start(&server);
    (server, process)
}

fn fault(verb: &'static str, resource: &'static str, answer: (u16, &'static str)) -> Fault {
    Fault {
        verb,
        resource,
        times: usize::MAX,
        answer: Some(answer),
    }
}

/// A reconcile that fails, and what becomes of it.
async fn fails(process: &Process) -> Action {
    let error = process.look("cdm").await.expect_err("a failure");
    retry(process.known("cdm"), &error, Arc::clone(&process.context))
}

#[tokio::test]
async fn passing_failures_are_tried_again_and_leave_no_trace() {
    for answer in [
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
            let (server, process) = started();
            server.fail(Fault {
                times: 1,
                ..fault(verb, resource, answer)
            });
            let action = fails(&process).await;
            assert_ne!(action, Action::await_change(), "{verb} {resource} {answer:?}");
            process.settle("cdm").await;
            assert_eq!(condition(&server, "cdm", "Ready"), "True AllReady");
            assert_eq!(condition(&server, "cdm", "Reconciling"), "False Converged");
        }
    }
}

#[tokio::test]
async fn failed_status_write_is_tried_again() {
    let (server, process) = started();
    server.fail(Fault {
        times: 1,
        ..fault("apply", "streamstages/status", (500, "internal"))
    });
    assert_ne!(fails(&process).await, Action::await_change());
    process.settle("cdm").await;
    assert_eq!(condition(&server, "cdm", "Ready"), "True AllReady");
}

#[tokio::test]
async fn lasting_failure_shows_as_retrying_and_keeps_what_is_known() {
    let (server, process) = started();
    process.settle("cdm").await;
    server.fail(fault("get", "deployments", (500, "etcd is away")));
    for attempt in 1..=4 {
        fails(&process).await;
        let is_shown = condition(&server, "cdm", "Reconciling") == "True Retrying";
        assert_eq!(is_shown, attempt > 2, "attempt {attempt}");
        assert_eq!(condition(&server, "cdm", "Ready"), "True AllReady");
    }
    assert!(message(&server, "cdm", "Reconciling").contains("etcd is away"));
    server.heal();
    process.settle("cdm").await;
    assert_eq!(condition(&server, "cdm", "Reconciling"), "False Converged");
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_asked_again_and_shows_when_it_lasts() {
    let (server, process) = started();
    process.settle("cdm").await;
    let silence = |verb, resource| Fault {
        answer: None,
        ..fault(verb, resource, (0, ""))
    };
    server.fail(silence("get", "streamstages"));
    assert_ne!(fails(&process).await, Action::await_change());
    server.heal();
    server.fail(silence("get", "services"));
    for _ in 0..2 {
        assert_ne!(fails(&process).await, Action::await_change());
    }
    assert_eq!(condition(&server, "cdm", "Reconciling"), "True Retrying");
    assert!(message(&server, "cdm", "Reconciling").contains("did not answer"));
    assert_eq!(condition(&server, "cdm", "Ready"), "True AllReady");
    server.heal();
    process.settle("cdm").await;
    assert_eq!(condition(&server, "cdm", "Reconciling"), "False Converged");
}

#[tokio::test]
async fn missing_permission_to_write_is_shown_in_the_words_of_the_api_server() {
    let (server, process) = started();
    let words = "services is forbidden: User \"operator\" cannot patch resource \"services\"";
    server.fail(fault("apply", "services", (403, words)));
    assert_ne!(fails(&process).await, Action::await_change());
    assert_eq!(condition(&server, "cdm", "Stalled"), "True Forbidden");
    assert_eq!(condition(&server, "cdm", "Ready"), "False Forbidden");
    assert!(message(&server, "cdm", "Stalled").contains(words));
    assert_eq!(told(&server.take_writes()), ["Forbidden"]);
    server.heal();
    process.settle("cdm").await;
    assert_eq!(condition(&server, "cdm", "Stalled"), "False NotStalled");
}

#[tokio::test]
async fn missing_permission_to_read_does_not_make_running_workers_vanish() {
    let (server, process) = started();
    process.settle("cdm").await;
    server.fail(fault("get", "deployments", (403, "deployments is forbidden")));
    fails(&process).await;
    assert_eq!(condition(&server, "cdm", "Stalled"), "True Forbidden");
    let status = server.get("streamstages", "cdm").expect("a stage")["status"].clone();
    assert_eq!(
        (&status["workers"], &status["desiredReplicas"]),
        (&json!("2/2"), &json!(2))
    );
    assert_eq!(told(&server.take_writes()), ["Forbidden"]);
}

#[tokio::test]
async fn refused_object_is_shown_and_its_correction_goes_on() {
    let (server, process) = started();
    let words = "Deployment.apps is invalid: spec.template.spec.containers[0].image: Invalid value";
    server.fail(fault("apply", "deployments", (422, words)));
    assert_ne!(fails(&process).await, Action::await_change());
    assert_eq!(condition(&server, "cdm", "Stalled"), "True Refused");
    assert!(message(&server, "cdm", "Stalled").contains(words));
    server.heal();
    change(
        &server,
        "cdm",
        &json!({"worker": {"image": "streamstage/worker:2"}}),
    );
    process.settle("cdm").await;
    assert_eq!(condition(&server, "cdm", "Stalled"), "False NotStalled");
}

#[tokio::test]
async fn number_that_an_autoscaler_writes_before_it_is_taken_over_stays() {
    let server = ApiServer::start();
    create(
        &server,
        &cdm("cdm", &json!({"scaling": {"mode": "External", "minReplicas": 2}})),
    );
    let process = Process::start(&server);
    // Right after the creation, before the number has a manager of its own.
    server.kill_after(5);
    tokio::select! {
        biased;
        () = server.killed() => {}
        _ = process.look("cdm") => unreachable!("the Deployment is the fifth write"),
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
    Process::start(&server).settle("cdm").await;
    let live = server.get("deployments", "cdm-worker").expect("a Deployment");
    assert_eq!(live["spec"]["replicas"], 6);
}

#[tokio::test]
async fn same_event_is_told_once() {
    let (server, process) = started();
    for _ in 0..3 {
        server.fail(fault("get", "services", (403, "services is forbidden")));
        fails(&process).await;
        server.heal();
        process.look("cdm").await.expect("a reconcile");
    }
    let told = told(&server.take_writes());
    assert_eq!(
        told.iter().filter(|reason| *reason == "Forbidden").count(),
        1,
        "{told:?}"
    );
}
