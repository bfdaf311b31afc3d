//! How far the Deployment's controller has come.

use crds::StreamStageStatus;
use crds::status::Reason;
use k8s_openapi::api::apps::v1::Deployment;

/// Whether pods of an older template are being replaced, or may soon be.
#[must_use]
pub fn is_rolling(deployment: &Deployment) -> bool {
    let progress = Progress::of(deployment);
    !progress.is_observed || matches!(progress.reconciling(false), (true, (Reason::RollingOut, _)))
}

/// Numbers of workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// That should exist; none before there is a Deployment.
    pub(super) desired: Option<u32>,
    /// That exist.
    pub(super) replicas: u32,
    /// That have the newest template.
    pub(super) updated: u32,
    /// That are ready.
    pub(super) ready: u32,
    /// Whether the other numbers are about the Deployment as it is now.
    pub(super) is_observed: bool,
}

impl Progress {
    /// Reads the numbers of a Deployment.
    pub(super) fn of(deployment: &Deployment) -> Self {
        let count = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
        let spec = deployment.spec.as_ref();
        let status = deployment.status.clone().unwrap_or_default();
        Self {
            desired: Some(count(spec.map_or(Some(1), |spec| spec.replicas))),
            replicas: count(status.replicas),
            updated: count(status.updated_replicas),
            ready: count(status.ready_replicas),
            is_observed: status.observed_generation >= deployment.metadata.generation,
        }
    }

    /// The numbers of an earlier look.
    pub(super) fn known(before: &StreamStageStatus) -> Self {
        Self {
            desired: before.desired_replicas,
            replicas: before.replicas,
            ready: before.ready_replicas,
            ..Self::default()
        }
    }

    /// Ready workers of those that should exist, such as `3/5`.
    pub(super) fn workers(&self) -> String {
        format!("{}/{}", self.ready, self.desired.unwrap_or_default())
    }

    /// Whether pods are still being replaced, added or taken away; `is_edited` when the resource just was.
    pub(super) fn reconciling(&self, is_edited: bool) -> (bool, (Reason, String)) {
        let Self {
            desired,
            replicas,
            updated,
            ready,
            is_observed,
        } = *self;
        let desired = desired.unwrap_or_default();
        if !is_observed {
            let message = "the Deployment's controller has yet to see the last change".to_owned();
            let reason = if is_edited {
                Reason::RollingOut
            } else {
                Reason::Scaling
            };
            (true, (reason, message))
        } else if updated < replicas.min(desired) {
            let message = format!("{updated} of {desired} workers have the newest template");
            (true, (Reason::RollingOut, message))
        } else if replicas != desired || ready < desired {
            (
                true,
                (
                    Reason::Scaling,
                    format!("{replicas} workers exist, {ready} are ready, {desired} are wanted"),
                ),
            )
        } else {
            (
                false,
                (Reason::Converged, "everything is as the resource says".to_owned()),
            )
        }
    }
}
