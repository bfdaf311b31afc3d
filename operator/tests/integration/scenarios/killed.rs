//! Crashes: an operator that is killed after any of its writes leads to the same objects.

use serde_json::{Value, json};
use tokio::select;

use super::api_server::ApiServer;
use super::process::Process;
use super::stages::{OWNED, cdm, change, create};

/// All objects, without the fields that differ between runs.
fn objects(server: &ApiServer) -> Vec<Value> {
    let resources = OWNED.into_iter().chain(["streamstages"]);
    let mut objects: Vec<Value> = resources.flat_map(|resource| server.list(resource)).collect();
    objects.iter_mut().for_each(remove_run_specific_fields);
    objects
}

fn remove_run_specific_fields(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|field, _| {
                let times = ["creationTimestamp", "lastTransitionTime", "lastScaleTime", "time"];
                field != "uid" && field != "resourceVersion" && !times.contains(&field.as_str())
            });
            fields.values_mut().for_each(remove_run_specific_fields);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_run_specific_fields),
        _ => {}
    }
}

/// Kills an operator after each write that `change` causes, and compares the final objects of its successor with those
/// of an undisturbed run. Returns the number of writes.
async fn assert_crash_safe(before: Option<Value>, change: impl Fn(&ApiServer)) -> usize {
    let start = async || {
        let server = ApiServer::start();
        if let Some(before) = &before {
            create(&server, before);
            Process::start(&server).converge("cdm").await;
        }
        change(&server);
        server
    };
    let undisturbed = start().await;
    let writes = Process::start(&undisturbed).converge("cdm").await.len();
    for n in 1..=writes {
        let server = start().await;
        server.kill_after(n);
        let first = Process::start(&server);
        select! {
            biased;
            () = server.killed() => {}
            _ = first.converge("cdm") => unreachable!("killed after {n} of {writes} writes"),
        }
        drop(first);
        server.revive();
        server.take_writes();
        Process::start(&server).converge("cdm").await;
        assert_eq!(
            objects(&server),
            objects(&undisturbed),
            "killed after write {n} of {writes}"
        );
    }
    writes
}

#[tokio::test]
async fn a_crash_during_creation_leaves_no_trace() {
    let stage = cdm("cdm", &json!({"scaling": {"minReplicas": 3}}));
    let writes = assert_crash_safe(None, |server| create(server, &stage)).await;
    assert!(writes >= 7, "{writes}");
}

#[tokio::test]
async fn a_crash_during_a_rollout_leaves_no_trace() {
    let before = cdm("cdm", &json!({"scaling": {"minReplicas": 3}}));
    let writes = assert_crash_safe(Some(before), |server| {
        change(
            server,
            "cdm",
            &json!({"worker": {"image": "streamstage/worker:9"}}),
        );
    });
    assert!(writes.await >= 2);
}

#[tokio::test]
async fn a_crash_during_scaling_and_a_config_change_leaves_no_trace() {
    let before = cdm("cdm", &json!({"scaling": {"mode": "Manual", "replicas": 3}}));
    let writes = assert_crash_safe(Some(before), |server| {
        change(
            server,
            "cdm",
            &json!({"scaling": {"replicas": 5}, "timezone": "Europe/Moscow"}),
        );
    });
    assert!(writes.await >= 4);
}

#[tokio::test]
async fn a_crash_during_suspension_leaves_no_trace() {
    let before = cdm("cdm", &json!({"scaling": {"mode": "External"}}));
    let writes = assert_crash_safe(Some(before), |server| {
        change(server, "cdm", &json!({"suspend": true}));
    });
    assert!(writes.await >= 2);
}
