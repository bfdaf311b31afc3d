//! Snapshots of all owned objects and statuses, so that they change only on purpose.

use std::collections::BTreeMap;

use crds::StreamStage;
use k8s_openapi::jiff::Timestamp;
use operator::admission::{SecretKeys, check_stage};
use operator::grants::Grant;
use operator::lag::view::LagView;
use operator::observe::Observed;
use operator::owned::OwnedObjects;
use operator::plan::plan;
use operator::scale::state::ScalingState;
use operator::scale::{ReplicaDecision, ScalingInput, ScalingSettings, decide_replicas};
use operator::status::{DecisionContext, ReconcileOutcome, status};
use operator::validate::{Refusal, validate};
use proptest::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use super::api_server::ApiServer;
use super::process::{Process, defaults};
use super::stages::{cdm, create, full};

fn observed(stage: &Value) -> Observed {
    let stage: StreamStage = serde_json::from_value(stage.clone()).expect("parse the stage");
    let keys = SecretKeys {
        names: ["username", "password"].map(str::to_owned).to_vec(),
        version: "uid/1".to_owned(),
        grant: Grant {
            allows_stages: true,
            allows_clear_text: true,
            ..Grant::default()
        },
    };
    let secrets: BTreeMap<String, Option<SecretKeys>> = stage
        .referenced_secrets()
        .into_iter()
        .map(|(_, name)| (name.to_owned(), Some(keys.clone())))
        .collect();
    Observed {
        admission: check_stage(&stage, &[]),
        stage,
        secrets,
        owned: OwnedObjects::default(),
        pods: Vec::new(),
        pod_service_account: None,
        conflicting_stage: None,
        budget_share: None,
        connection: None,
        view: LagView::default(),
    }
}

/// Decision before the first lag poll.
fn initial_decision(stage: &StreamStage) -> ReplicaDecision {
    let scaling = ScalingState::default();
    decide_replicas(
        &ScalingSettings::from(stage),
        &ScalingInput::new(Timestamp::UNIX_EPOCH, &scaling),
    )
}

fn json(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("serialize to JSON")
}

/// The five owned objects, in the order in which they are applied.
fn planned(stage: &Value) -> Vec<Value> {
    let observed = observed(stage);
    let valid = validate(&observed).expect("the stage is valid");
    let planned = plan(&valid, &defaults(), initial_decision(&observed.stage));
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
fn objects_of_a_minimal_stage() {
    for object in planned(&minimal("cdm")) {
        let kind = object["kind"].as_str().expect("the object has a kind").to_owned();
        insta::assert_json_snapshot!(format!("minimal_{kind}"), object);
    }
}

#[test]
fn objects_of_a_full_stage() {
    for object in planned(&full()) {
        let kind = object["kind"].as_str().expect("the object has a kind").to_owned();
        insta::assert_json_snapshot!(format!("full_{kind}"), object);
    }
}

#[tokio::test]
async fn statuses_change_only_on_purpose() {
    let server = ApiServer::start();
    create(&server, &cdm("cdm", &json!({"scaling": {"minReplicas": 2}})));
    let process = Process::start(&server);
    process.reconcile("cdm").await.expect("reconcile");
    let redact = |status: &Value| {
        let mut status = status.clone();
        for condition in status["conditions"]
            .as_array_mut()
            .expect("the status has conditions")
        {
            condition["lastTransitionTime"] = json!("<time>");
        }
        status
    };
    let live = || redact(&server.get("streamstages", "cdm").expect("the stage exists")["status"]);
    insta::assert_json_snapshot!("status_created", live());
    process.converge("cdm").await;
    insta::assert_json_snapshot!("status_converged", live());

    let refusal = Refusal {
        reason: crds::status::Reason::SecretNotFound,
        message: "spec.warehouse.authSecretName: Secret postgres not found in the namespace of the stage; create it"
            .to_owned(),
    };
    let stage: StreamStage =
        serde_json::from_value(server.get("streamstages", "cdm").expect("the stage exists"))
            .expect("parse the stage");
    let (view, decision) = (LagView::default(), initial_decision(&stage));
    let decided = DecisionContext {
        view: &view,
        decision: &decision,
    };
    let stalled = status(
        &stage,
        ReconcileOutcome::Refused(&refusal, None),
        decided,
        Timestamp::UNIX_EPOCH,
    );
    insta::assert_json_snapshot!(
        "status_refused",
        redact(&serde_json::to_value(stalled).expect("serialize to JSON"))
    );
}

#[test]
fn operator_crd_prints_the_crd() {
    use kube::CustomResourceExt as _;
    let printed = std::process::Command::new(env!("CARGO_BIN_EXE_operator"))
        .arg("crd")
        .output();
    let printed = String::from_utf8(printed.expect("run operator crd").stdout).expect("UTF-8 output");
    let parsed: Value = serde_saphyr::from_str(&printed).expect("parse the YAML");
    assert_eq!(
        parsed,
        serde_json::to_value(StreamStage::crd()).expect("serialize to JSON")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_plan_is_deterministic_and_its_names_are_valid_labels(
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
            let object_name = object["metadata"]["name"].as_str().unwrap_or_default();
            prop_assert!(object_name.len() <= 63 && object_name.starts_with(&name), "{}", object_name);
            prop_assert!(object["spec"]["replicas"].is_null());
        }
    }
}
