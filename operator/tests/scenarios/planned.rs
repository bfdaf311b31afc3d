//! Every object and every status changes on purpose only.

use std::collections::BTreeMap;

use crds::StreamStage;
use crds::status::ScalingStatus;
use k8s_openapi::jiff::Timestamp;
use operator::lag::view::View;
use operator::observe::{Keys, Observed};
use operator::owned::Owned;
use operator::plan::plan;
use operator::scale::{Known, Rules, Wanted, wanted};
use operator::status::{Decided, Outcome, status};
use operator::validate::{Refusal, validate};
use proptest::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::process::{Process, defaults};
use crate::stages::{cdm, create, full};

fn observed(stage: &Value) -> Observed {
    let stage: StreamStage = serde_json::from_value(stage.clone()).expect("a stage");
    let keys = Keys {
        names: ["username", "password"].map(str::to_owned).to_vec(),
        digest: vec![1, 2, 3, 4, 5, 6, 7, 8],
    };
    let secrets: BTreeMap<String, Option<Keys>> = stage
        .secrets()
        .into_iter()
        .map(|(_, name)| (name.to_owned(), Some(keys.clone())))
        .collect();
    Observed {
        stage,
        secrets,
        owned: Owned::default(),
        pods: Vec::new(),
        rival: None,
        connection: None,
        view: View::default(),
    }
}

/// What is decided while nothing is known of the lag.
fn decision(stage: &StreamStage) -> Wanted {
    let before = ScalingStatus::default();
    wanted(
        &Rules::from(stage),
        &Known::nothing(Timestamp::UNIX_EPOCH, &before),
    )
}

fn json(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("JSON")
}

/// The five objects, in the order in which they are written.
fn planned(stage: &Value) -> Vec<Value> {
    let observed = observed(stage);
    let valid = validate(&observed).expect("a valid stage");
    let planned = plan(&valid, &defaults(), decision(&observed.stage));
    vec![
        json(&planned.service_account),
        json(&planned.config_map),
        json(&planned.service),
        json(&planned.disruption_budget),
        json(&planned.deployment),
    ]
}

fn minimal(name: &str) -> Value {
    let mut stage = cdm(name, &json!({}));
    stage["metadata"]["uid"] = json!("uid-1");
    stage
}

#[test]
fn objects_of_the_smallest_stage() {
    for object in planned(&minimal("cdm")) {
        let kind = object["kind"].as_str().expect("a kind").to_owned();
        insta::assert_json_snapshot!(format!("minimal_{kind}"), object);
    }
}

#[test]
fn objects_of_a_stage_that_says_everything() {
    for object in planned(&full()) {
        let kind = object["kind"].as_str().expect("a kind").to_owned();
        insta::assert_json_snapshot!(format!("full_{kind}"), object);
    }
}

#[tokio::test]
async fn statuses() {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &json!({"scaling": {"minReplicas": 2}})));
    let process = Process::start(&server);
    process.look("cdm").await.expect("a reconcile");
    let redacted = |status: &Value| {
        let mut status = status.clone();
        for condition in status["conditions"].as_array_mut().expect("conditions") {
            condition["lastTransitionTime"] = json!("<time>");
        }
        status
    };
    let live = || redacted(&server.get("streamstages", "cdm").expect("a stage")["status"]);
    insta::assert_json_snapshot!("status_created", live());
    process.settle("cdm").await;
    insta::assert_json_snapshot!("status_converged", live());

    let refusal = Refusal {
        reason: crds::status::Reason::SecretNotFound,
        message: "spec.warehouse.authSecret: there is no Secret postgres in the namespace; create it"
            .to_owned(),
    };
    let stage: StreamStage =
        serde_json::from_value(server.get("streamstages", "cdm").expect("a stage")).expect("a stage");
    let (view, wanted) = (View::default(), decision(&stage));
    let decided = Decided {
        view: &view,
        wanted: &wanted,
    };
    let refused = status(
        &stage,
        Outcome::Refused(&refusal, None),
        decided,
        Timestamp::UNIX_EPOCH,
    );
    insta::assert_json_snapshot!(
        "status_refused",
        redacted(&serde_json::to_value(refused).expect("JSON"))
    );
}

#[test]
fn command_crd_prints_the_definition() {
    use kube::CustomResourceExt as _;
    let printed = std::process::Command::new(env!("CARGO_BIN_EXE_operator"))
        .arg("crd")
        .output();
    let printed = String::from_utf8(printed.expect("the operator").stdout).expect("text");
    let read: Value = serde_saphyr::from_str(&printed).expect("YAML");
    assert_eq!(read, serde_json::to_value(StreamStage::crd()).expect("JSON"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn plan_is_a_function_with_names_that_are_labels(
        name in "[a-z]([a-z0-9-]{0,50}[a-z0-9])?",
        replicas in 0_u32..1000,
        wait in 1_u32..60,
    ) {
        let mut stage = minimal(&name);
        stage["spec"]["scaling"] = json!({"mode": "Manual", "replicas": replicas});
        stage["spec"]["batch"] = json!({"maxWait": format!("{wait}s")});
        let objects = planned(&stage);
        prop_assert_eq!(&objects, &planned(&stage));
        for object in objects {
            let found = object["metadata"]["name"].as_str().unwrap_or_default();
            prop_assert!(found.len() <= 63 && found.starts_with(&name), "{}", found);
            prop_assert!(object["spec"]["replicas"].is_null());
        }
    }
}
