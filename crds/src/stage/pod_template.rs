//! Pod template of the workers: the fields of a `PodTemplateSpec` that whoever may write a stage may also set.
//!
//! The operator creates the pods with its own permissions, so a field is allowed only if it gives its author nothing
//! that a stage does not: no other container, no access to the node, no token, no Secret.
//! The stage retains the template as JSON, so that a field that is not allowed is reported and not dropped.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, ConfigMapVolumeSource, EmptyDirVolumeSource, ResourceRequirements, Toleration,
    TopologySpreadConstraint,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names::{is_label_name, is_object_name};

/// Name of the worker container, the only one that a template may change.
pub const WORKER_CONTAINER: &str = "worker";
/// Folder of the stage file and of the Secrets, which no volume may hide.
pub const RESERVED_FOLDER: &str = "/etc/streamstage";
/// Prefix of the volume names of the operator's Secrets.
pub const SECRET_VOLUME_PREFIX: &str = "secret-";
/// Volume name of the operator's stage file.
pub const DOCUMENT_VOLUME: &str = "document";
/// Prefixes of annotations that lower the confinement of a pod.
pub(super) const FORBIDDEN_ANNOTATIONS: [&str; 3] = [
    "container.apparmor.security.beta.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
];
/// Prefix of the priority classes of Kubernetes itself, whose pods evict others.
pub(super) const SYSTEM_PRIORITY_PREFIX: &str = "system-";

/// Pod template of the workers, with the field names of a `PodTemplateSpec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodTemplate {
    /// Labels and annotations of the pods.
    pub metadata: PodMetadata,
    /// Options of the pods.
    pub spec: PodOptions,
}

/// Labels and annotations of the pods. Those of the operator take precedence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodMetadata {
    /// Additional labels.
    pub labels: BTreeMap<String, String>,
    /// Additional annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Options of the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodOptions {
    /// Affinity of the pods.
    pub affinity: Option<Affinity>,
    /// Options of the worker container: at most one item, with the name [`WORKER_CONTAINER`].
    pub containers: Vec<WorkerContainer>,
    /// Image pull Secrets in the namespace of the stage, in addition to the operator's.
    pub image_pull_secrets: Vec<ObjectName>,
    /// Labels of the nodes.
    pub node_selector: BTreeMap<String, String>,
    /// Priority class; not one of Kubernetes itself.
    pub priority_class_name: Option<String>,
    /// `ServiceAccount` in the namespace of the stage that allows stages by its annotation. Default: the operator's.
    pub service_account_name: Option<String>,
    /// Tolerations, in addition to the operator's.
    pub tolerations: Vec<Toleration>,
    /// Topology spread constraints, in addition to the operator's.
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Additional volumes.
    pub volumes: Vec<PodVolume>,
}

/// Options of the worker container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerContainer {
    /// [`WORKER_CONTAINER`].
    pub name: String,
    /// Additional environment variables.
    pub env: Vec<EnvironmentVariable>,
    /// Resource requests and limits; `spec.worker.resources` takes precedence.
    pub resources: ResourceRequirements,
    /// Mounts of the additional volumes.
    pub volume_mounts: Vec<WorkerMount>,
}

/// Environment variable with a literal value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EnvironmentVariable {
    /// Name of the variable.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Mount of an additional volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerMount {
    /// Name of the volume.
    pub name: String,
    /// Absolute path in the container.
    pub mount_path: String,
    /// True to mount without write access.
    pub read_only: bool,
}

/// Additional volume, of exactly one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodVolume {
    /// Name of the volume.
    pub name: String,
    /// Content of a `ConfigMap` in the namespace of the stage.
    pub config_map: Option<ConfigMapVolumeSource>,
    /// Empty folder that lives as long as the pod.
    pub empty_dir: Option<EmptyDirVolumeSource>,
}

/// Name of an object in the namespace of the stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectName {
    /// Name of the object.
    pub name: String,
}

/// Field of a pod template that is not valid: its path within the template, and the cause with the remedy.
pub(super) type InvalidField = (String, String);

impl PodTemplate {
    /// Parses a pod template, as the stage retains it.
    ///
    /// # Errors
    /// Describes the first field that is unknown, not allowed or of another type.
    pub fn parse(given: &BTreeMap<String, Value>) -> Result<Self, String> {
        let given = Value::Object(given.clone().into_iter().collect());
        let parsed: Self = serde_path_to_error::deserialize(&given).map_err(|error| {
            format!(
                "the field `{}` is not valid: {}; correct it",
                error.path(),
                error.inner()
            )
        })?;
        let recognized = serde_json::to_value(&parsed).unwrap_or_default();
        match unrecognized_field(&given, &recognized) {
            None => Ok(parsed),
            Some(path) => Err(format!(
                "the field `{}` is not one that a stage may set: remove it",
                &path[1..]
            )),
        }
    }

    /// Returns every field with a value that is not allowed.
    pub(super) fn invalid_fields(&self) -> Vec<InvalidField> {
        let mut invalid = Vec::new();
        let mut require = |is_valid: bool, field: String, message: &str| {
            if !is_valid {
                invalid.push((field, message.to_owned()));
            }
        };
        for annotation in self.metadata.annotations.keys() {
            let is_allowed = !FORBIDDEN_ANNOTATIONS
                .iter()
                .any(|prefix| annotation.starts_with(prefix));
            let message = "lowers the confinement of the pods: remove it";
            require(is_allowed, format!("metadata.annotations.{annotation}"), message);
        }
        let options = &self.spec;
        let names = [
            ("spec.serviceAccountName", options.service_account_name.as_ref()),
            ("spec.priorityClassName", options.priority_class_name.as_ref()),
        ];
        for (field, name) in names {
            let is_valid = name.is_none_or(|name| is_object_name(name));
            require(is_valid, field.to_owned(), INVALID_NAME);
        }
        let priority_class = options.priority_class_name.as_deref().unwrap_or_default();
        require(
            !priority_class.starts_with(SYSTEM_PRIORITY_PREFIX),
            "spec.priorityClassName".to_owned(),
            "is a priority class of Kubernetes itself: use another one",
        );
        for (index, secret) in options.image_pull_secrets.iter().enumerate() {
            let field = format!("spec.imagePullSecrets[{index}].name");
            require(is_object_name(&secret.name), field, INVALID_NAME);
        }
        options.check_containers(&mut require);
        options.check_volumes(&mut require);
        invalid
    }
}

/// Cause and remedy of an object name that is not valid.
const INVALID_NAME: &str =
    "is not the name of an object: use lower-case letters, digits, `-` and `.`, at most 253 characters";

impl PodOptions {
    fn check_containers(&self, require: &mut impl FnMut(bool, String, &str)) {
        require(
            self.containers.len() <= 1,
            "spec.containers".to_owned(),
            "has more than one container: remove all but `worker`",
        );
        for (index, container) in self.containers.iter().enumerate() {
            let field = format!("spec.containers[{index}]");
            require(
                container.name == WORKER_CONTAINER,
                format!("{field}.name"),
                "is not `worker`, the only container of a worker pod: remove the container",
            );
            let has_claims = container.resources.claims.is_some();
            let message = "claims a device: remove it";
            require(!has_claims, format!("{field}.resources.claims"), message);
            for (index, variable) in container.env.iter().enumerate() {
                let is_name = !variable.name.is_empty()
                    && variable
                        .name
                        .bytes()
                        .all(|byte| byte.is_ascii_graphic() && byte != b'=');
                let message = "is not the name of a variable: use letters, digits and `_`";
                require(is_name, format!("{field}.env[{index}].name"), message);
            }
            for (index, mount) in container.volume_mounts.iter().enumerate() {
                let field = format!("{field}.volumeMounts[{index}]");
                let is_extra = self.volumes.iter().any(|volume| volume.name == mount.name);
                let message = "is not one of the volumes of the pod template: add the volume";
                require(is_extra, format!("{field}.name"), message);
                let message = "is not an absolute path outside of `/etc/streamstage`: use another one";
                require(
                    is_free_path(&mount.mount_path),
                    format!("{field}.mountPath"),
                    message,
                );
            }
        }
    }

    fn check_volumes(&self, require: &mut impl FnMut(bool, String, &str)) {
        for (index, volume) in self.volumes.iter().enumerate() {
            let field = format!("spec.volumes[{index}]");
            let is_reserved = volume.name == DOCUMENT_VOLUME || volume.name.starts_with(SECRET_VOLUME_PREFIX);
            require(
                is_label_name(&volume.name) && !is_reserved,
                format!("{field}.name"),
                "is not a free volume name: use lower-case letters, digits and `-`, not `document` or `secret-…`",
            );
            require(
                volume.config_map.is_some() != volume.empty_dir.is_some(),
                field.clone(),
                "needs exactly one of configMap and emptyDir: remove one, or add one",
            );
            if let Some(config_map) = &volume.config_map {
                let field = format!("{field}.configMap.name");
                require(is_object_name(&config_map.name), field, INVALID_NAME);
            }
        }
    }
}

/// Returns true for an absolute path in normal form that neither hides nor is within the folder of the stage file.
fn is_free_path(path: &str) -> bool {
    let Some(relative) = path.strip_prefix('/') else {
        return false;
    };
    let is_normal = relative
        .split('/')
        .all(|part| !matches!(part, "" | "." | "..") && !part.contains([':', '\0']));
    let is_within = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    is_normal && !is_within(path, RESERVED_FOLDER) && !is_within(RESERVED_FOLDER, path)
}

/// Path of the first field of `given` that `recognized` lacks, such as `.spec.hostNetwork`. The types ignore unknown
/// fields, so they are found by a comparison with what was parsed.
fn unrecognized_field(given: &Value, recognized: &Value) -> Option<String> {
    match (given, recognized) {
        (Value::Object(given), recognized) => {
            given
                .iter()
                .filter(|(_, value)| !value.is_null())
                .find_map(|(field, value)| {
                    let inner = recognized.get(field).map_or(Some(String::new()), |recognized| {
                        unrecognized_field(value, recognized)
                    });
                    inner.map(|inner| format!(".{field}{inner}"))
                })
        }
        (Value::Array(given), Value::Array(recognized)) => {
            let mut pairs = given.iter().zip(recognized).enumerate();
            pairs.find_map(|(index, (given, recognized))| {
                unrecognized_field(given, recognized).map(|inner| format!("[{index}]{inner}"))
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(template: Value) -> Result<PodTemplate, String> {
        PodTemplate::parse(&serde_json::from_value(template).expect("an object"))
    }

    /// Fields that a stage may not set: the path, and the pod template with the field as YAML.
    const NOT_ALLOWED: &str = "
        metadata.ownerReferences: {metadata: {ownerReferences: []}}
        metadata.namespace: {metadata: {namespace: kube-system}}
        spec.nodeSelectors: {spec: {nodeSelectors: {a: b}}}
        spec.affinity.nodeAfinity: {spec: {affinity: {nodeAfinity: {}}}}
        spec.hostNetwork: {spec: {hostNetwork: true}}
        spec.hostPID: {spec: {hostPID: false}}
        spec.hostIPC: {spec: {hostIPC: true}}
        spec.hostUsers: {spec: {hostUsers: true}}
        spec.shareProcessNamespace: {spec: {shareProcessNamespace: true}}
        spec.nodeName: {spec: {nodeName: n}}
        spec.schedulerName: {spec: {schedulerName: s}}
        spec.runtimeClassName: {spec: {runtimeClassName: r}}
        spec.securityContext: {spec: {securityContext: {runAsUser: 0}}}
        spec.automountServiceAccountToken: {spec: {automountServiceAccountToken: true}}
        spec.serviceAccount: {spec: {serviceAccount: admin}}
        spec.initContainers: {spec: {initContainers: [{name: a}]}}
        spec.ephemeralContainers: {spec: {ephemeralContainers: [{name: a}]}}
        spec.resourceClaims: {spec: {resourceClaims: [{name: a}]}}
        spec.volumes[0].hostPath: {spec: {volumes: [{name: v, hostPath: {path: /}}]}}
        spec.volumes[0].secret: {spec: {volumes: [{name: v, secret: {secretName: s}}]}}
        spec.volumes[0].projected: {spec: {volumes: [{name: v, projected: {sources: []}}]}}
        spec.volumes[0].csi: {spec: {volumes: [{name: v, csi: {driver: d}}]}}
        spec.containers: {spec: {containers: worker}}
        spec.containers[0].enw: {spec: {containers: [{name: worker, enw: []}]}}
        spec.containers[0].securityContext: {spec: {containers: [{name: worker, securityContext: {privileged: true}}]}}
        spec.containers[0].envFrom: {spec: {containers: [{name: worker, envFrom: [{secretRef: {name: s}}]}]}}
        spec.containers[0].env[0].valueFrom: {spec: {containers: [{name: worker, env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]}]}}
        spec.containers[0].volumeMounts[0].subPath: {spec: {containers: [{name: worker, volumeMounts: [{name: v, subPath: ..}]}]}}
        spec.containers[0].image: {spec: {containers: [{name: worker, image: i}]}}
        spec.containers[0].command: {spec: {containers: [{name: worker, command: [sh]}]}}
        spec.containers[0].lifecycle: {spec: {containers: [{name: worker, lifecycle: {}}]}}
    ";

    #[test]
    fn a_field_that_a_stage_may_not_set_is_reported_with_its_path() {
        for line in NOT_ALLOWED.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (path, template) = line.split_once(": ").expect("path and template");
            let error = parse(serde_saphyr::from_str(template).expect("YAML")).expect_err(path);
            assert!(error.contains(&format!("`{path}`")), "{template}: {error}");
        }
    }

    #[test]
    fn a_value_that_would_widen_the_rights_of_the_pods_is_reported() {
        let apparmor = "container.apparmor.security.beta.kubernetes.io/worker";
        let mount = |path: &str| {
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}],
                "containers": [{"name": "worker", "volumeMounts": [{"name": "v", "mountPath": path}]}]}})
        };
        let worker = json!({"name": "worker"});
        let mount_path = "spec.containers[0].volumeMounts[0].mountPath";
        for (template, field) in [
            (
                json!({"metadata": {"annotations": {(apparmor): "unconfined"}}}),
                "metadata.annotations.container",
            ),
            (
                json!({"spec": {"priorityClassName": "system-node-critical"}}),
                "spec.priorityClassName",
            ),
            (
                json!({"spec": {"priorityClassName": "A b"}}),
                "spec.priorityClassName",
            ),
            (
                json!({"spec": {"serviceAccountName": "../../team-b"}}),
                "spec.serviceAccountName",
            ),
            (
                json!({"spec": {"imagePullSecrets": [{"name": "a/b"}]}}),
                "spec.imagePullSecrets[0].name",
            ),
            (
                json!({"spec": {"imagePullSecrets": [{}]}}),
                "spec.imagePullSecrets[0].name",
            ),
            (
                json!({"spec": {"containers": [{"name": "proxy"}]}}),
                "spec.containers[0].name",
            ),
            (
                json!({"spec": {"containers": [worker, {"name": "worker"}]}}),
                "spec.containers",
            ),
            (
                json!({"spec": {"containers": [{"name": "worker", "env": [{"name": "A=B"}]}]}}),
                "spec.containers[0].env[0].name",
            ),
            (
                json!({"spec": {"containers": [{"name": "worker", "resources": {"claims": [{"name": "gpu"}]}}]}}),
                "spec.containers[0].resources.claims",
            ),
            (
                json!({"spec": {"containers": [{"name": "worker", "volumeMounts": [{"name": "secret-0", "mountPath": "/a"}]}]}}),
                "spec.containers[0].volumeMounts[0].name",
            ),
            (
                json!({"spec": {"volumes": [{"name": "secret-0", "emptyDir": {}}]}}),
                "spec.volumes[0].name",
            ),
            (
                json!({"spec": {"volumes": [{"name": "document", "emptyDir": {}}]}}),
                "spec.volumes[0].name",
            ),
            (json!({"spec": {"volumes": [{"name": "v"}]}}), "spec.volumes[0]"),
            (
                json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "../x"}}]}}),
                "spec.volumes[0].configMap.name",
            ),
            (mount("/etc/streamstage/secrets"), mount_path),
            (mount("/etc/streamstage"), mount_path),
            (mount("/etc"), mount_path),
            (mount("/"), mount_path),
            (mount("//etc/streamstage"), mount_path),
            (mount("/a/../etc"), mount_path),
            (mount("relative"), mount_path),
        ] {
            let parsed = parse(template.clone()).expect("known fields only");
            let invalid = parsed.invalid_fields();
            assert!(
                invalid.iter().any(|(path, _)| path.starts_with(field)),
                "{template}: {invalid:?}"
            );
        }
    }

    #[test]
    fn every_allowed_option_is_accepted() {
        let template = json!({
            "metadata": {"labels": {"team": "orders"}, "annotations": {"note": "kept"}},
            "spec": {
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]}}},
                "containers": [{
                    "name": "worker",
                    "env": [{"name": "RUST_LOG", "value": "debug"}],
                    "resources": {"limits": {"memory": "1Gi"}},
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "ca", "mountPath": "/etc/streamstage-ca", "readOnly": true}],
                }],
                "imagePullSecrets": [{"name": "registry"}],
                "nodeSelector": {"disk": "ssd"},
                "priorityClassName": "batch",
                "serviceAccountName": "orders",
                "tolerations": [{"key": "spot", "operator": "Exists"}],
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
                "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}, {"name": "ca", "configMap": {"name": "ca.example"}}],
            },
        });
        let parsed = parse(template).expect("allowed fields only");
        assert_eq!(parsed.invalid_fields(), []);
    }
}
