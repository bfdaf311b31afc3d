//! Helm, and the objects that it renders from the chart.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use k8s_openapi::api::core::v1::PodSpec;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Kubernetes version to render for; a Helm that is built from source assumes a very old one.
const KUBERNETES_VERSION: &str = "1.33.0";

/// Values that enable every optional feature.
pub(crate) const ALL_FEATURES: &[&str] = &[
    "migration.enabled=true",
    "migration.warehouse.host=postgres",
    "migration.warehouse.database=orders",
    "migration.warehouse.authSecretName=orders-postgres",
    "monitoring.serviceMonitor=true",
    "monitoring.podMonitor=true",
    "monitoring.prometheusRule=true",
    "monitoring.grafanaDashboard=true",
    "monitoring.labels.prometheus=main",
    "networkPolicy.enabled=true",
    "rbac.aggregateClusterRoles=true",
    "rbac.requireCreatePods=true",
    "allowedHosts[0]=*.example.com",
    "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
    "image.registry=registry.example.com/team",
    "imagePullSecrets[0].name=registry",
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

/// Path of a file of the repository.
pub(crate) fn repository_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Runs Helm; the project's script `e2e/cluster/tools` installs it if it is missing.
pub(crate) fn helm(arguments: &[&str]) -> Output {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        let tools = Command::new(repository_path("e2e/cluster/tools"))
            .arg("helm")
            .output()
            .expect("run e2e/cluster/tools");
        let stderr = String::from_utf8_lossy(&tools.stderr);
        assert!(tools.status.success(), "{stderr}");
        PathBuf::from(String::from_utf8_lossy(&tools.stdout).trim())
    });
    Command::new(directory.join("helm"))
        .args(arguments)
        .output()
        .expect("run helm")
}

/// Renders the chart as the release `streamstage`. An error is the message of Helm.
pub(crate) fn render(values: &[&str]) -> Result<String, String> {
    let chart = repository_path("chart");
    let mut arguments = vec![
        "template",
        "streamstage",
        chart.to_str().expect("the path is UTF-8"),
    ];
    arguments.extend(["--namespace", "streamstage", "--kube-version", KUBERNETES_VERSION]);
    arguments.extend(values.iter().flat_map(|value| ["--set", *value]));
    let output = helm(&arguments);
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).expect("UTF-8 output"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Renders the chart and parses its objects.
pub(crate) fn render_objects(values: &[&str]) -> Vec<Value> {
    let text = render(values).expect("the values are valid");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("parse the YAML");
    let objects: Vec<Value> = documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect();
    assert!(!objects.is_empty());
    objects
}

/// Finds the object of this kind and name, which must be unique.
pub(crate) fn find_object<T: DeserializeOwned>(objects: &[Value], kind: &str, name: &str) -> T {
    let mut matching = objects
        .iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let object = matching.next().expect("the object exists");
    assert!(matching.next().is_none(), "{kind} {name} is rendered twice");
    serde_json::from_value(object.clone()).expect("parse the object")
}

/// Specs of all pods and pod templates, with kind and name of their object.
pub(crate) fn pod_specs(objects: &[Value]) -> Vec<(String, PodSpec)> {
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
            Some((
                name,
                serde_json::from_value(pod.clone()).expect("parse the pod spec"),
            ))
        })
        .collect()
}
