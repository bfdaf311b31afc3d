//! The part of a stage's spec that scaling decisions depend on. Data only.

use crds::StreamStage;
use crds::stage::Scaling;
use kube::ResourceExt as _;

/// Annotation of a stage: `true` pauses its scaling. Any other value has no effect.
pub const PAUSE_ANNOTATION: &str = "streamstage.dev/pause-scaling";

/// Returns true if [`PAUSE_ANNOTATION`] pauses the scaling of `stage`.
#[must_use]
pub fn is_paused(stage: &StreamStage) -> bool {
    let value = stage.annotations().get(PAUSE_ANNOTATION);
    value.is_some_and(|value| value == "true")
}

/// Scaling settings of a stage, from several sections of its spec.
#[derive(Clone, Debug)]
pub struct ScalingSettings {
    /// Value of `spec.scaling`.
    pub scaling: Scaling,
    /// Value of `spec.suspend`.
    pub is_suspended: bool,
    /// Whether [`PAUSE_ANNOTATION`] pauses the scaling.
    pub is_paused: bool,
    /// True if another stage has the consumer group, so that no worker of this one may join it.
    pub is_group_taken: bool,
    /// Value of `spec.warehouse.connectionBudget`: maximum number of connections of all workers together.
    pub connection_budget: Option<u32>,
    /// Value of `spec.warehouse.connectionsPerWorker`.
    pub connections_per_worker: u32,
}

impl ScalingSettings {
    /// Maximum number of workers within the connection budget; `None` without a budget.
    #[must_use]
    pub fn max_replicas_by_connections(&self) -> Option<u32> {
        let budget = self.connection_budget?;
        Some(budget / self.connections_per_worker.max(1))
    }
}

impl From<&StreamStage> for ScalingSettings {
    fn from(stage: &StreamStage) -> Self {
        let spec = &stage.spec;
        Self {
            scaling: spec.scaling.clone(),
            is_suspended: spec.suspend,
            is_paused: is_paused(stage),
            is_group_taken: false,
            connection_budget: spec.warehouse.connection_budget,
            connections_per_worker: spec.warehouse.connections_per_worker,
        }
    }
}
