//! What a resource says of the number of workers: all that a decision looks at of it. Data alone.

use crds::StreamStage;
use crds::stage::Scaling;

/// What a user says of the number of workers.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `spec.scaling`.
    pub scaling: Scaling,
    /// `spec.suspend`.
    pub is_suspended: bool,
    /// `spec.warehouse.connectionBudget`: connections that all workers together may hold.
    pub connection_budget: Option<u32>,
    /// `spec.warehouse.connectionsPerWorker`.
    pub connections_per_worker: u32,
}

impl Rules {
    /// The workers that the connection budget is enough for; none without a budget.
    #[must_use]
    pub fn affordable(&self) -> Option<u32> {
        let budget = self.connection_budget?;
        Some(budget / self.connections_per_worker.max(1))
    }
}

impl From<&StreamStage> for Rules {
    fn from(stage: &StreamStage) -> Self {
        let spec = &stage.spec;
        Self {
            scaling: spec.scaling.clone(),
            is_suspended: spec.suspend,
            connection_budget: spec.warehouse.connection_budget,
            connections_per_worker: spec.warehouse.connections_per_worker,
        }
    }
}
