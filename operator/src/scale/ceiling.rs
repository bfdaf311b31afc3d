//! The most workers that a stage may have.

use crds::status::LimitedBy;

use super::rules::Rules;

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
pub fn ceiling(rules: &Rules, partitions: Option<usize>) -> Ceiling {
    let partitions = partitions.map(|partitions| u32::try_from(partitions).unwrap_or(u32::MAX));
    [
        (partitions, LimitedBy::Partitions),
        (rules.scaling.max_replicas, LimitedBy::Max),
        (rules.affordable(), LimitedBy::ConnectionBudget),
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
