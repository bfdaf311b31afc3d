//! The most workers that a stage may have.

use crds::StreamStage;
use crds::status::LimitedBy;

/// The most workers, and what they follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// Workers.
    pub replicas: u32,
    /// The tightest of the limits.
    pub by: LimitedBy,
}

/// `min(maxReplicas, partitions, connectionBudget / connectionsPerWorker)`, as far as these are known.
#[must_use]
pub fn ceiling(stage: &StreamStage, partitions: Option<usize>) -> Ceiling {
    let warehouse = &stage.spec.warehouse;
    let connections = warehouse
        .connection_budget
        .map(|budget| budget / warehouse.connections_per_worker.max(1));
    let partitions = partitions.map(|partitions| u32::try_from(partitions).unwrap_or(u32::MAX));
    [
        (partitions, LimitedBy::Partitions),
        (stage.spec.scaling.max_replicas, LimitedBy::Max),
        (connections, LimitedBy::ConnectionBudget),
    ]
    .into_iter()
    .filter_map(|(replicas, by)| {
        Some(Ceiling {
            replicas: replicas?,
            by,
        })
    })
    .min_by_key(|ceiling| ceiling.replicas)
    .unwrap_or(Ceiling {
        replicas: u32::MAX,
        by: LimitedBy::None,
    })
}
