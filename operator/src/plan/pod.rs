//! The pod of a worker: it satisfies the `restricted` Pod Security Standard, and cannot write anywhere.

use std::collections::BTreeMap;

use crds::StreamStage;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, HTTPGetAction, LocalObjectReference,
    PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource,
    SecurityContext, Toleration, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::config_map::DOCUMENT;
use crate::defaults::Defaults;
use crate::owned::{name, selector};

/// The port of `/livez`, `/readyz` and `/metrics`.
pub(super) const PORT: i32 = 8080;
/// The name of [`PORT`].
pub(super) const PORT_NAME: &str = "metrics";
/// The container that `spec.worker.podTemplate` addresses by this name.
const CONTAINER: &str = "worker";
/// The user and group of the published images.
const USER: i64 = 65_532;
/// Readable by the group alone.
const SECRET_MODE: i32 = 0o440;
/// Seconds that a worker may take to end its batch, beside the time that the batch itself may take.
const STOP_SECONDS: u64 = 30;
/// Seconds after which a worker is started elsewhere when its node does not answer: its partitions are read by others
/// already, and two workers of one partition change nothing.
const LOST_NODE_SECONDS: i64 = 30;
/// What Kubernetes taints such a node with.
const LOST_NODE: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub(super) fn plan(stage: &StreamStage, defaults: &Defaults) -> PodSpec {
    let pull_secrets = defaults.image_pull_secrets.iter().cloned();
    PodSpec {
        containers: vec![container(stage, defaults)],
        service_account_name: Some(name(stage)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: Some(pull_secrets.map(|name| LocalObjectReference { name }).collect()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(grace_seconds(stage)),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(LabelSelector {
                match_labels: Some(selector(stage)),
                ..LabelSelector::default()
            }),
            ..TopologySpreadConstraint::default()
        }]),
        tolerations: Some(LOST_NODE.map(bear).to_vec()),
        volumes: Some(volumes(stage)),
        ..PodSpec::default()
    }
}

fn bear(taint: &str) -> Toleration {
    Toleration {
        key: Some(taint.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(LOST_NODE_SECONDS),
        ..Toleration::default()
    }
}

fn container(stage: &StreamStage, defaults: &Defaults) -> Container {
    let own = &stage.spec.worker;
    let image = if own.image.is_empty() {
        &defaults.image
    } else {
        &own.image
    };
    let arguments = [
        "run",
        "--file=/etc/streamstage/stage.yaml",
        "--secrets-dir=/etc/streamstage/secrets",
        "--listen=0.0.0.0:8080",
    ];
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image.clone()),
        image_pull_policy: Some(defaults.image_pull_policy.clone()),
        args: Some(arguments.map(str::to_owned).to_vec()),
        ports: Some(vec![ContainerPort {
            name: Some(PORT_NAME.to_owned()),
            container_port: PORT,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(resources(&own.resources, &defaults.resources)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        // A worker that starts listens within a second; one that waits for a service is alive all the time.
        startup_probe: Some(probe("/livez", 1, 60)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        // A service that is away for half a minute is waited for; it makes nobody unready.
        readiness_probe: Some(probe("/readyz", 2, 15)),
        volume_mounts: Some(mounts(stage)),
        ..Container::default()
    }
}

/// The stage's own requests and limits, or the defaults for the half that it leaves out.
fn resources(own: &ResourceRequirements, defaults: &ResourceRequirements) -> ResourceRequirements {
    ResourceRequirements {
        requests: own.requests.clone().or_else(|| defaults.requests.clone()),
        limits: own.limits.clone().or_else(|| defaults.limits.clone()),
        ..ResourceRequirements::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

/// Time to close the open batch and to write it.
fn grace_seconds(stage: &StreamStage) -> i64 {
    let batch = stage.spec.batch.max_wait.as_std().as_secs();
    i64::try_from(batch + STOP_SECONDS).unwrap_or(i64::MAX)
}

/// The Secrets that the stage names, each once, with the volume that holds it.
fn secrets(stage: &StreamStage) -> BTreeMap<String, String> {
    let mut names: Vec<&str> = stage.secrets().into_iter().map(|(_, name)| name).collect();
    names.sort_unstable();
    names.dedup();
    let volumes = (0..).map(|index: u32| format!("secret-{index}"));
    volumes.zip(names.into_iter().map(str::to_owned)).collect()
}

fn volumes(stage: &StreamStage) -> Vec<Volume> {
    let document = Volume {
        name: "document".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: name(stage),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let secrets = secrets(stage).into_iter().map(|(volume, secret)| Volume {
        name: volume,
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(SECRET_MODE),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    });
    [document].into_iter().chain(secrets).collect()
}

fn mounts(stage: &StreamStage) -> Vec<VolumeMount> {
    let document = VolumeMount {
        name: "document".to_owned(),
        mount_path: format!("/etc/streamstage/{DOCUMENT}"),
        sub_path: Some(DOCUMENT.to_owned()),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let secrets = secrets(stage).into_iter().map(|(volume, secret)| VolumeMount {
        name: volume,
        mount_path: format!("/etc/streamstage/secrets/{secret}"),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    [document].into_iter().chain(secrets).collect()
}
