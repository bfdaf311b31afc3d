//! Bounds of a stage while windows of its schedules are open. Pure.

use std::fmt;

use crds::stage::{Scaling, Schedule};
use k8s_openapi::jiff::Timestamp;

use super::settings::ScalingSettings;

/// Bounds that the open schedules of a stage set, in place of those of `spec.scaling`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledBounds {
    /// Open schedules: their indexes in `spec.scaling.schedules`, ascending.
    pub open_schedules: Vec<u32>,
    /// Minimum number of workers.
    pub min_replicas: u32,
    /// Maximum number of workers; `None` without a maximum.
    pub max_replicas: Option<u32>,
}

impl ScheduledBounds {
    /// Bounds at `now`; `None` if no window is open. An invalid schedule is never open: it stalls the stage.
    ///
    /// The highest minimum applies, and the lowest maximum that is not below it. A bound that no open schedule sets is
    /// that of `spec.scaling`.
    #[must_use]
    pub fn at(scaling: &Scaling, now: Timestamp) -> Option<Self> {
        let schedules = (0..).zip(&scaling.schedules);
        let is_open = |(_, schedule): &(u32, &Schedule)| schedule.is_open(now).unwrap_or(false);
        let (open_schedules, open): (Vec<u32>, Vec<&Schedule>) = schedules.filter(is_open).unzip();
        let highest_min = open.iter().filter_map(|schedule| schedule.min_replicas).max();
        let min_replicas = highest_min.unwrap_or(scaling.min_replicas);
        let maxima = open.iter().filter_map(|schedule| schedule.max_replicas);
        let lowest_max = maxima.filter(|max| *max >= min_replicas).min();
        (!open.is_empty()).then_some(Self {
            open_schedules,
            min_replicas,
            max_replicas: lowest_max.or(scaling.max_replicas),
        })
    }

    /// Returns `settings` with these bounds.
    #[must_use]
    pub fn replace_in(&self, settings: &ScalingSettings) -> ScalingSettings {
        let mut settings = settings.clone();
        settings.scaling.min_replicas = self.min_replicas;
        settings.scaling.max_replicas = self.max_replicas;
        settings
    }
}

impl fmt::Display for ScheduledBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "minReplicas {}", self.min_replicas)?;
        if let Some(max_replicas) = self.max_replicas {
            write!(f, " and maxReplicas {max_replicas}")?;
        }
        let schedules = self
            .open_schedules
            .iter()
            .map(|index| format!("schedules[{index}]"));
        write!(f, " by {}", schedules.collect::<Vec<_>>().join(", "))
    }
}
