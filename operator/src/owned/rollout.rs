//! Progress of a rollout, as the Deployment controller reports it.

use crds::StreamStageStatus;
use k8s_openapi::api::apps::v1::Deployment;

/// Worker counts of a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RolloutProgress {
    /// Desired workers; `None` before the Deployment exists.
    pub desired: Option<u32>,
    /// Existing workers.
    pub replicas: u32,
    /// Workers with the current pod template.
    pub updated: u32,
    /// Ready workers.
    pub ready: u32,
    /// True if the Deployment controller has observed the current generation, which makes the other counts current.
    pub is_observed: bool,
}

impl RolloutProgress {
    /// Reads the counts from the status of a Deployment.
    #[must_use]
    pub fn from_deployment(deployment: &Deployment) -> Self {
        let count = |replicas: Option<i32>| {
            replicas
                .and_then(|replicas| u32::try_from(replicas).ok())
                .unwrap_or(0)
        };
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

    /// Restores the counts of the last status of the stage, for a reconcile that could not read the Deployment.
    #[must_use]
    pub fn from_status(before: &StreamStageStatus) -> Self {
        Self {
            desired: before.desired_replicas,
            replicas: before.replicas,
            ready: before.ready_replicas,
            ..Self::default()
        }
    }

    /// Ready and desired workers for display, such as `3/5`.
    #[must_use]
    pub fn ready_of_desired(&self) -> String {
        format!("{}/{}", self.ready, self.desired.unwrap_or_default())
    }

    /// Returns true while a rollout replaces pods of an earlier template, or may be about to.
    #[must_use]
    pub fn is_rolling(&self) -> bool {
        !self.is_observed || self.has_outdated_workers()
    }

    /// Returns true if a worker has an earlier pod template.
    #[must_use]
    pub fn has_outdated_workers(&self) -> bool {
        self.updated < self.replicas.min(self.desired.unwrap_or_default())
    }
}

/// Returns true if a rollout made no progress within `progressDeadlineSeconds`, ten minutes by default.
#[must_use]
pub fn exceeded_deadline(deployment: &Deployment) -> bool {
    let status = deployment.status.as_ref();
    let mut conditions = status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten();
    conditions.any(|condition| condition.type_ == "Progressing" && condition.status == "False")
}
