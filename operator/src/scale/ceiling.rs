//! Upper bound of a stage's replicas. Pure.

use crds::status::LimitedBy;

use super::settings::ScalingSettings;

/// Upper bound of the replicas, and the setting it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// Number of workers; `u32::MAX` without a limit.
    pub replicas: u32,
    /// Tightest of the limits.
    pub by: LimitedBy,
}

/// Computes `min(maxReplicas, partitions, share in the connection budget)`. Limits that are not set, and an
/// unknown partition count (`None`), are left out.
#[must_use]
pub fn ceiling(settings: &ScalingSettings, partitions: Option<usize>) -> Ceiling {
    let partitions = partitions.map(|partitions| u32::try_from(partitions).unwrap_or(u32::MAX));
    [
        (partitions, LimitedBy::Partitions),
        (settings.scaling.max_replicas, LimitedBy::Max),
        (
            settings.max_replicas_by_connections(),
            LimitedBy::ConnectionBudget,
        ),
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
