//! What the monitors select, beside the objects that the chart and the operator make.

use std::collections::BTreeMap;

use crds::status::ScalingStatus;
use k8s_openapi::jiff::Timestamp;
use operator::defaults::Defaults;
use operator::lag::view::View;
use operator::observe::Observed;
use operator::owned::Owned;
use operator::plan::plan;
use operator::scale::{Known, Rules, wanted};
use operator::validate::validate;
use serde_json::{Value, json};

use crate::helm::{EVERYTHING, objects, one};

/// The workers of a stage, as the operator plans them.
fn workers() -> Value {
    let text = "{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, \
        metadata: {name: cdm, namespace: orders, uid: '1'}, \
        spec: {layer: cdm, source: {bootstrapServers: ['kafka:9092'], topic: facts}, \
        warehouse: {host: postgres, database: orders}}}";
    let observed = Observed {
        stage: serde_saphyr::from_str(text).expect("a stage"),
        secrets: BTreeMap::default(),
        owned: Owned::default(),
        pods: Vec::new(),
        rival: None,
        connection: None,
        view: View::default(),
    };
    let valid = validate(&observed).expect("a valid stage");
    let before = ScalingStatus::default();
    let wanted = wanted(
        &Rules::from(&observed.stage),
        &Known::nothing(Timestamp::UNIX_EPOCH, &before),
    );
    let defaults = Defaults {
        image: "streamstage/worker:1".to_owned(),
        image_pull_policy: "IfNotPresent".to_owned(),
        image_pull_secrets: Vec::new(),
        resources: k8s_openapi::api::core::v1::ResourceRequirements::default(),
    };
    json!(plan(&valid, &defaults, wanted).deployment)["spec"]["template"].clone()
}

/// Whether labels have everything that a monitor asks for, which is something.
fn selects(monitor: &Value, labels: &Value) -> bool {
    let asked = monitor["spec"]["selector"]["matchLabels"].as_object();
    asked.is_some_and(|asked| {
        !asked.is_empty()
            && asked
                .iter()
                .all(|(label, value)| labels.get(label) == Some(value))
    })
}

#[test]
fn the_operators_monitor_selects_its_service_and_a_port_of_it() {
    let objects = objects(EVERYTHING);
    let monitor: Value = one(&objects, "ServiceMonitor", "streamstage-operator");
    let service: Value = one(&objects, "Service", "streamstage-operator");
    assert!(selects(&monitor, &service["metadata"]["labels"]), "{monitor}");
    assert_eq!(
        monitor["spec"]["endpoints"][0]["port"],
        service["spec"]["ports"][0]["name"]
    );
}

#[test]
fn the_workers_monitor_selects_the_pods_that_the_operator_plans_and_a_port_of_them() {
    let monitor: Value = one(&objects(EVERYTHING), "PodMonitor", "streamstage-workers");
    let pod = workers();
    assert!(selects(&monitor, &pod["metadata"]["labels"]), "{monitor} {pod}");
    assert_eq!(
        monitor["spec"]["podMetricsEndpoints"][0]["port"],
        pod["spec"]["containers"][0]["ports"][0]["name"]
    );
}
