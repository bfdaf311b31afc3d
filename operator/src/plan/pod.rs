//! Pod spec of a worker: satisfies the `restricted` Pod Security Standard, with a read-only root file system.

use std::collections::BTreeMap;

use crds::StreamStage;
use crds::stage::{DOCUMENT_VOLUME, PodOptions, RESERVED_FOLDER, SECRET_VOLUME_PREFIX, WORKER_CONTAINER};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, HTTPGetAction, LocalObjectReference,
    PodSecurityContext, PodSpec, Probe, SeccompProfile, SecretVolumeSource, SecurityContext, Toleration,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::config_map::STAGE_FILE;
use super::pod_options;
use crate::defaults::WorkerDefaults;
use crate::owned::{object_name, selector};

/// Port of `/livez`, `/readyz` and `/metrics`.
pub(super) const HTTP_PORT: i32 = 8080;
/// Name of [`HTTP_PORT`] in the pod and in the Service.
pub(super) const HTTP_PORT_NAME: &str = "metrics";
/// User and group id of the published images.
const USER_ID: i64 = 65_532;
/// File mode of a mounted Secret: readable by owner and group.
const SECRET_MODE: i32 = 0o440;
/// Seconds of the termination grace period beyond the time after which a worker exits whatever it waits for.
const EXIT_GRACE_SECONDS: u64 = 5;
/// Seconds after which a worker on an unreachable node is replaced; the Kubernetes default is 300. A short time is safe:
/// the position check fences off the old worker.
const NODE_FAILURE_TOLERATION_SECONDS: i64 = 30;
/// Taints that Kubernetes sets on a node that failed or is unreachable.
const NODE_FAILURE_TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Builds the pod spec with the options of the stage.
pub(super) fn plan(stage: &StreamStage, options: &PodOptions, defaults: &WorkerDefaults) -> PodSpec {
    pod_options::apply(base(stage, options, defaults), options)
}

fn base(stage: &StreamStage, options: &PodOptions, defaults: &WorkerDefaults) -> PodSpec {
    let pull_secrets = defaults.image_pull_secrets.iter().cloned();
    PodSpec {
        containers: vec![container(stage, options, defaults)],
        service_account_name: Some(object_name(stage)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: Some(pull_secrets.map(|name| LocalObjectReference { name }).collect()),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER_ID),
            run_as_group: Some(USER_ID),
            fs_group: Some(USER_ID),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        termination_grace_period_seconds: Some(termination_grace_seconds(stage)),
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
        tolerations: Some(NODE_FAILURE_TAINTS.map(toleration).to_vec()),
        volumes: Some(volumes(stage)),
        ..PodSpec::default()
    }
}

fn toleration(taint: &str) -> Toleration {
    Toleration {
        key: Some(taint.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        toleration_seconds: Some(NODE_FAILURE_TOLERATION_SECONDS),
        ..Toleration::default()
    }
}

fn container(stage: &StreamStage, options: &PodOptions, defaults: &WorkerDefaults) -> Container {
    let worker = &stage.spec.worker;
    let image = if worker.image.is_empty() {
        &defaults.image
    } else {
        &worker.image
    };
    let arguments = [
        "run".to_owned(),
        format!("--file={RESERVED_FOLDER}/{STAGE_FILE}"),
        format!("--secrets-dir={RESERVED_FOLDER}/secrets"),
        format!("--listen=0.0.0.0:{HTTP_PORT}"),
    ];
    Container {
        name: WORKER_CONTAINER.to_owned(),
        image: Some(image.clone()),
        image_pull_policy: Some(defaults.image_pull_policy.clone()),
        args: Some(arguments.to_vec()),
        ports: Some(vec![ContainerPort {
            name: Some(HTTP_PORT_NAME.to_owned()),
            container_port: HTTP_PORT,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(pod_options::resources(
            &worker.resources,
            options,
            &defaults.resources,
        )),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        // A worker listens within a second of its start, and stays alive while it waits for a dependency.
        startup_probe: Some(probe("/livez", 1, 60)),
        liveness_probe: Some(probe("/livez", 10, 3)),
        // An outage of a dependency for up to half a minute does not make the worker unready.
        readiness_probe: Some(probe("/readyz", 2, 15)),
        // The status of the stage has the reason for which a worker stopped, which its last log line has.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts(stage)),
        ..Container::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(HTTP_PORT_NAME.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

/// Termination grace period: time to close the open batch, to commit it, and to exit.
fn termination_grace_seconds(stage: &StreamStage) -> i64 {
    let shutdown = stage.shutdown_timeout().as_secs();
    i64::try_from(shutdown + EXIT_GRACE_SECONDS).unwrap_or(i64::MAX)
}

/// Volume names of the referenced Secrets, each Secret once, by volume name.
fn secret_volumes(stage: &StreamStage) -> BTreeMap<String, String> {
    let mut names: Vec<&str> = stage
        .referenced_secrets()
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    names.sort_unstable();
    names.dedup();
    let volumes = (0..).map(|index: u32| format!("{SECRET_VOLUME_PREFIX}{index}"));
    volumes.zip(names.into_iter().map(str::to_owned)).collect()
}

fn volumes(stage: &StreamStage) -> Vec<Volume> {
    let document = Volume {
        name: DOCUMENT_VOLUME.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: object_name(stage),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let secrets = secret_volumes(stage).into_iter().map(|(volume, secret)| Volume {
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
        name: DOCUMENT_VOLUME.to_owned(),
        mount_path: format!("{RESERVED_FOLDER}/{STAGE_FILE}"),
        sub_path: Some(STAGE_FILE.to_owned()),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let secrets = secret_volumes(stage)
        .into_iter()
        .map(|(volume, secret)| VolumeMount {
            name: volume,
            mount_path: format!("{RESERVED_FOLDER}/secrets/{secret}"),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    [document].into_iter().chain(secrets).collect()
}
