//! Helm, and the documents that it makes of the chart.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use k8s_openapi::api::core::v1::PodSpec;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The version whose objects the chart is rendered for; Helm as built from source assumes an ancient one.
const KUBERNETES: &str = "1.33.0";

/// Values that turn everything on.
pub(crate) const EVERYTHING: &[&str] = &[
    "migration.enabled=true",
    "migration.warehouse.host=postgres",
    "migration.warehouse.database=orders",
    "migration.warehouse.authSecret=orders-postgres",
    "monitoring.serviceMonitor=true",
    "monitoring.podMonitor=true",
    "monitoring.prometheusRule=true",
    "monitoring.grafanaDashboard=true",
    "monitoring.labels.prometheus=main",
    "networkPolicy.enabled=true",
    "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
    "image.registry=registry.example.com/team",
    "image.pullSecrets[0].name=registry",
    "operator.podLabels.team=orders",
    "operator.podAnnotations.note=kept",
    "operator.nodeSelector.disk=ssd",
    "operator.tolerations[0].key=spot",
    "operator.tolerations[0].operator=Exists",
    "operator.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1",
    "operator.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key=disk",
    "operator.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].operator=Exists",
    "operator.priorityClassName=system-cluster-critical",
];

/// A file of the repository.
pub(crate) fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Runs Helm, which the project's own script installs where it is missing.
pub(crate) fn helm(arguments: &[&str]) -> Output {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let tools = Command::new(file("e2e/cluster/tools"))
            .arg("helm")
            .output()
            .expect("run e2e/cluster/tools");
        let said = String::from_utf8_lossy(&tools.stderr);
        assert!(tools.status.success(), "{said}");
        PathBuf::from(String::from_utf8_lossy(&tools.stdout).trim())
    });
    Command::new(folder.join("helm"))
        .args(arguments)
        .output()
        .expect("run helm")
}

/// The text that the chart renders to, in a release named `streamstage`; or what Helm says against the values.
pub(crate) fn text(values: &[&str]) -> Result<String, String> {
    let chart = file("chart");
    let mut arguments = vec![
        "template",
        "streamstage",
        chart.to_str().expect("a path in UTF-8"),
    ];
    arguments.extend(["--namespace", "streamstage", "--kube-version", KUBERNETES]);
    arguments.extend(values.iter().flat_map(|value| ["--set", *value]));
    let output = helm(&arguments);
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).expect("YAML in UTF-8"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The objects that the chart renders to.
pub(crate) fn objects(values: &[&str]) -> Vec<Value> {
    let text = text(values).expect("values that the chart takes");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let objects: Vec<Value> = documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect();
    assert!(!objects.is_empty());
    objects
}

/// The one object of this kind and name.
pub(crate) fn one<T: DeserializeOwned>(objects: &[Value], kind: &str, name: &str) -> T {
    let mut found = objects
        .iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let object = found.next().expect("an object of this kind and name");
    assert!(found.next().is_none(), "{kind} {name} is rendered twice");
    serde_json::from_value(object.clone()).expect("an object of its kind")
}

/// Every pod that the objects lead to, with the name of the object.
pub(crate) fn pods(objects: &[Value]) -> Vec<(String, PodSpec)> {
    objects
        .iter()
        .filter_map(|object| {
            let pod = match object["kind"].as_str()? {
                "Pod" => &object["spec"],
                _ => object.pointer("/spec/template/spec")?,
            };
            let name = format!(
                "{} {}",
                object["kind"].as_str()?,
                object["metadata"]["name"].as_str()?
            );
            Some((name, serde_json::from_value(pod.clone()).expect("a pod")))
        })
        .collect()
}
