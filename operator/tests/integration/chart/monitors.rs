//! Selectors of the monitors, compared with the Service of the chart and the pods that the operator plans.

use std::collections::BTreeMap;

use crds::StreamStage;
use k8s_openapi::jiff::Timestamp;
use operator::admission::check_stage;
use operator::defaults::WorkerDefaults;
use operator::lag::view::LagView;
use operator::observe::Observed;
use operator::owned::OwnedObjects;
use operator::plan::plan;
use operator::scale::state::ScalingState;
use operator::scale::{ScalingInput, ScalingSettings, decide_replicas};
use operator::validate::validate;
use serde_json::{Value, json};

use super::helm::{ALL_FEATURES, find_object, render_objects};

/// Pod template of the workers, as the operator plans it.
fn worker_template() -> Value {
    let document = "{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, \
        metadata: {name: cdm, namespace: orders, uid: '1'}, \
        spec: {layer: cdm, source: {bootstrapServers: ['kafka:9092'], topic: facts}, \
        warehouse: {host: postgres, database: orders}}}";
    let stage: StreamStage = serde_saphyr::from_str(document).expect("parse the stage");
    let observed = Observed {
        admission: check_stage(&stage, &[]),
        stage,
        secrets: BTreeMap::default(),
        owned: OwnedObjects::default(),
        pods: Vec::new(),
        pod_service_account: None,
        conflicting_stage: None,
        budget_share: None,
        connection: None,
        view: LagView::default(),
    };
    let valid = validate(&observed).expect("the stage is valid");
    let scaling = ScalingState::default();
    let decision = decide_replicas(
        &ScalingSettings::from(&observed.stage),
        &ScalingInput::new(Timestamp::UNIX_EPOCH, &scaling),
    );
    let defaults = WorkerDefaults {
        image: "streamstage/worker:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        image_pull_secrets: Vec::new(),
        resources: k8s_openapi::api::core::v1::ResourceRequirements::default(),
    };
    json!(plan(&valid, &defaults, decision).deployment)["spec"]["template"].clone()
}

/// Returns true if the selector of the monitor is not empty and matches the labels.
fn selects(monitor: &Value, labels: &Value) -> bool {
    let selector = monitor["spec"]["selector"]["matchLabels"].as_object();
    selector.is_some_and(|selector| {
        !selector.is_empty()
            && selector
                .iter()
                .all(|(label, value)| labels.get(label) == Some(value))
    })
}

#[test]
fn the_service_monitor_selects_the_service_and_the_port_of_the_operator() {
    let objects = render_objects(ALL_FEATURES);
    let monitor: Value = find_object(&objects, "ServiceMonitor", "streamstage-operator");
    let service: Value = find_object(&objects, "Service", "streamstage-operator");
    assert!(selects(&monitor, &service["metadata"]["labels"]), "{monitor}");
    assert_eq!(
        monitor["spec"]["endpoints"][0]["port"],
        service["spec"]["ports"][0]["name"]
    );
}

#[test]
fn the_pod_monitor_selects_the_pods_and_the_port_of_the_workers() {
    let monitor: Value = find_object(&render_objects(ALL_FEATURES), "PodMonitor", "streamstage-workers");
    let pod = worker_template();
    assert!(selects(&monitor, &pod["metadata"]["labels"]), "{monitor} {pod}");
    assert_eq!(
        monitor["spec"]["podMetricsEndpoints"][0]["port"],
        pod["spec"]["containers"][0]["ports"][0]["name"]
    );
}

#[test]
fn a_worker_cannot_flood_the_monitoring_or_pose_as_the_operator() {
    let monitor: Value = find_object(&render_objects(ALL_FEATURES), "PodMonitor", "streamstage-workers");
    let spec = &monitor["spec"];
    for limit in [
        "sampleLimit",
        "labelLimit",
        "labelNameLengthLimit",
        "labelValueLengthLimit",
    ] {
        assert!(
            spec[limit].as_u64().is_some_and(|limit| limit > 0),
            "{limit}: {spec}"
        );
    }
    let endpoint = &spec["podMetricsEndpoints"][0];
    assert_eq!(endpoint["honorLabels"], false);
    assert_eq!(endpoint["metricRelabelings"][0]["action"], "keep");
    assert_eq!(
        endpoint["metricRelabelings"][0]["regex"],
        "(streamstage_worker|process)_.*"
    );
}
