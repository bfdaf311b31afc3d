//! An operator that is killed between any two of its writes leads to the same objects.

use serde_json::{Value, json};
use tokio::select;

use crate::api_server::ApiServer;
use crate::process::Process;
use crate::stages::{OWNED, cdm, change, create};

/// All that is there, without what no two runs have in common.
fn objects(server: &ApiServer) -> Vec<Value> {
    let resources = OWNED.into_iter().chain(["streamstages"]);
    let mut objects: Vec<Value> = resources.flat_map(|resource| server.list(resource)).collect();
    objects.iter_mut().for_each(timeless);
    objects
}

fn timeless(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|field, _| {
                let times = ["creationTimestamp", "lastTransitionTime", "lastScaleTime", "time"];
                field != "uid" && field != "resourceVersion" && !times.contains(&field.as_str())
            });
            fields.values_mut().for_each(timeless);
        }
        Value::Array(items) => items.iter_mut().for_each(timeless),
        _ => {}
    }
}

/// Kills an operator after each of the writes that `change` leads to, and compares where its successor ends.
async fn survives(before: Option<Value>, change: impl Fn(&ApiServer)) -> usize {
    let changed = async || {
        let server = ApiServer::start();
        if let Some(before) = &before {
            create(&server, before);
            Process::start(&server).settle("cdm").await;
        }
        change(&server);
        server
    };
    let undisturbed = changed().await;
    let writes = Process::start(&undisturbed).settle("cdm").await.len();
    for n in 1..=writes {
        let server = changed().await;
        server.kill_after(n);
        let first = Process::start(&server);
        select! {
            biased;
            () = server.killed() => {}
            _ = first.settle("cdm") => unreachable!("killed after {n} of {writes} writes"),
        }
        drop(first);
        server.revive();
        server.take_writes();
        Process::start(&server).settle("cdm").await;
        assert_eq!(
            objects(&server),
            objects(&undisturbed),
            "killed after write {n} of {writes}"
        );
    }
    writes
}

#[tokio::test]
async fn killed_while_it_creates() {
    let stage = cdm("cdm", &json!({"scaling": {"minReplicas": 3}}));
    let writes = survives(None, |server| create(server, &stage)).await;
    assert!(writes >= 7, "{writes}");
}

#[tokio::test]
async fn killed_while_it_rolls_out_another_image() {
    let before = cdm("cdm", &json!({"scaling": {"minReplicas": 3}}));
    let writes = survives(Some(before), |server| {
        change(
            server,
            "cdm",
            &json!({"worker": {"image": "streamstage/worker:9"}}),
        );
    });
    assert!(writes.await >= 2);
}

#[tokio::test]
async fn killed_while_it_scales_and_changes_the_document() {
    let before = cdm("cdm", &json!({"scaling": {"mode": "Manual", "replicas": 3}}));
    let writes = survives(Some(before), |server| {
        change(
            server,
            "cdm",
            &json!({"scaling": {"replicas": 5}, "timezone": "Europe/Moscow"}),
        );
    });
    assert!(writes.await >= 4);
}

#[tokio::test]
async fn killed_while_it_suspends() {
    let before = cdm("cdm", &json!({"scaling": {"mode": "External"}}));
    let writes = survives(Some(before), |server| {
        change(server, "cdm", &json!({"suspend": true}));
    });
    assert!(writes.await >= 2);
}
