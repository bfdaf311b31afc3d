//! Options of a stage for its pods, added to the operator's pod spec. What the operator sets remains.

use crds::stage::{PodOptions, PodVolume, WorkerContainer};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, LocalObjectReference, PodSpec, ResourceRequirements, Volume, VolumeMount,
};

/// Adds the options to a pod spec.
pub(super) fn apply(mut pod: PodSpec, options: &PodOptions) -> PodSpec {
    for (container, options) in pod.containers.iter_mut().zip(&options.containers) {
        apply_to_worker(container, options);
    }
    pod.affinity.clone_from(&options.affinity);
    pod.node_selector = (!options.node_selector.is_empty()).then(|| options.node_selector.clone());
    pod.priority_class_name.clone_from(&options.priority_class_name);
    if let Some(name) = &options.service_account_name {
        pod.service_account_name = Some(name.clone());
    }
    let secrets = options.image_pull_secrets.iter();
    pod.image_pull_secrets
        .get_or_insert_default()
        .extend(secrets.map(|secret| LocalObjectReference {
            name: secret.name.clone(),
        }));
    let tolerations = options.tolerations.iter().cloned();
    pod.tolerations.get_or_insert_default().extend(tolerations);
    // Kubernetes accepts one constraint per topology and policy; the one of the stage replaces the operator's.
    let own = options.topology_spread_constraints.iter();
    let constraints = pod.topology_spread_constraints.get_or_insert_default();
    constraints.retain(|constraint| {
        let is_replaced = own.clone().any(|own| {
            own.topology_key == constraint.topology_key
                && own.when_unsatisfiable == constraint.when_unsatisfiable
        });
        !is_replaced
    });
    constraints.extend(own.clone().cloned());
    pod.volumes
        .get_or_insert_default()
        .extend(options.volumes.iter().map(volume));
    pod
}

fn apply_to_worker(container: &mut Container, options: &WorkerContainer) {
    let variables = options.env.iter().map(|variable| EnvVar {
        name: variable.name.clone(),
        value: Some(variable.value.clone()),
        ..EnvVar::default()
    });
    container.env = (!options.env.is_empty()).then(|| variables.collect());
    let mounts = options.volume_mounts.iter().map(|mount| VolumeMount {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: Some(mount.read_only),
        ..VolumeMount::default()
    });
    container.volume_mounts.get_or_insert_default().extend(mounts);
}

fn volume(volume: &PodVolume) -> Volume {
    Volume {
        name: volume.name.clone(),
        config_map: volume.config_map.clone(),
        empty_dir: volume.empty_dir.clone(),
        ..Volume::default()
    }
}

/// Requests and limits of the worker container: of `spec.worker.resources`, else of the pod template, else the defaults.
pub(super) fn resources(
    stage: &ResourceRequirements,
    options: &PodOptions,
    defaults: &ResourceRequirements,
) -> ResourceRequirements {
    let template = options.containers.first().map(|container| &container.resources);
    let first = |quantities: fn(&ResourceRequirements) -> Option<_>| {
        quantities(stage)
            .or_else(|| template.and_then(quantities))
            .or_else(|| quantities(defaults))
    };
    ResourceRequirements {
        requests: first(|resources| resources.requests.clone()),
        limits: first(|resources| resources.limits.clone()),
        ..ResourceRequirements::default()
    }
}
