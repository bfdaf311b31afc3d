//! The part of a stage's spec that scaling decisions depend on. No decisions.

use crds::StreamStage;
use crds::stage::{Scaling, ScalingMode};
use kube::ResourceExt as _;

use super::budget::{BudgetNeed, BudgetShare, split};

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
    /// Value of `spec.warehouse.connectionBudget`: maximum number of connections to the warehouse.
    pub connection_budget: Option<u32>,
    /// Share of the stage in the connection budget; `None` without a budget. The whole budget, if only the stage is known.
    pub budget_share: Option<BudgetShare>,
    /// Value of `spec.warehouse.connectionsPerWorker`.
    pub connections_per_worker: u32,
}

impl ScalingSettings {
    /// Maximum number of workers within the connection budget; `None` without a budget.
    #[must_use]
    pub fn max_replicas_by_connections(&self) -> Option<u32> {
        self.budget_share.map(|share| share.max_replicas)
    }

    /// Workers that the stage needs of a connection budget; `is_foreign` for a budget of another namespace.
    #[must_use]
    pub fn budget_need(&self, is_foreign: bool) -> BudgetNeed {
        let scaling = &self.scaling;
        let fixed = match scaling.mode {
            ScalingMode::Manual => scaling.replicas.or(Some(scaling.min_replicas)),
            ScalingMode::External => scaling.replicas,
            ScalingMode::Auto | ScalingMode::Recommend => None,
        };
        let max = scaling.max_replicas.unwrap_or(u32::MAX);
        BudgetNeed {
            connections_per_worker: self.connections_per_worker.max(1),
            min: fixed.unwrap_or(scaling.min_replicas),
            max: fixed.unwrap_or(max.max(scaling.min_replicas)),
            is_foreign,
        }
    }
}

impl From<&StreamStage> for ScalingSettings {
    fn from(stage: &StreamStage) -> Self {
        let spec = &stage.spec;
        let mut settings = Self {
            scaling: spec.scaling.clone(),
            is_suspended: spec.suspend,
            is_paused: is_paused(stage),
            is_group_taken: false,
            connection_budget: spec.warehouse.connection_budget,
            budget_share: None,
            connections_per_worker: spec.warehouse.connections_per_worker,
        };
        let shares = settings
            .connection_budget
            .map(|budget| split(budget, &[settings.budget_need(false)]));
        settings.budget_share = shares.and_then(|mut shares| shares.pop());
        settings
    }
}
