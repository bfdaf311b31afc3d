//! Health of a stage: unavailable dependencies and blocked partitions.
//!
//! An outage is logged once at its start and once at its end, not at every retry. It affects readiness, never
//! liveness, because a restart does not repair a dependency. No I/O: [`crate::http`] serves it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// Service that a stage depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependency {
    /// Kafka, as the source.
    Source,
    /// Redis.
    ReferenceData,
    /// PostgreSQL.
    Warehouse,
    /// Kafka, for the output topic and the dead letter topic.
    Output,
}

impl Dependency {
    /// Every dependency, in the order of declaration. A stage need not use all of them.
    pub const ALL: [Self; 4] = [Self::Source, Self::ReferenceData, Self::Warehouse, Self::Output];

    /// Value of the metric label `dependency`, and key in the JSON of `/readyz`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::ReferenceData => "reference_data",
            Self::Warehouse => "warehouse",
            Self::Output => "output",
        }
    }
}

/// Health of a stage at one moment, in the form of the JSON of `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StageHealth {
    /// Number of partitions assigned to this worker; `None` before the group's first assignment.
    pub partitions: Option<usize>,
    /// Cause of each outage, by dependency.
    pub unavailable: BTreeMap<Dependency, String>,
    /// Cause of each block, by partition. A partition blocks at a record that fails for an unknown reason.
    pub blocked: BTreeMap<i32, String>,
}

impl StageHealth {
    /// Returns true if the worker is a member of the group and every dependency is available.
    ///
    /// A blocked partition does not count, because the other partitions continue.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.partitions.is_some() && self.unavailable.is_empty()
    }
}

/// Health of one stage, shared by the tasks and threads of the stage.
#[derive(Debug)]
pub struct Health {
    stage: String,
    current: Mutex<StageHealth>,
}

impl Health {
    /// Creates the health of a stage that has not joined its group yet.
    #[must_use]
    pub fn new(stage: &str) -> Self {
        Self {
            stage: stage.to_owned(),
            current: Mutex::default(),
        }
    }

    /// Name of the stage.
    #[must_use]
    pub fn stage(&self) -> &str {
        &self.stage
    }

    /// Returns a copy of the current health.
    #[must_use]
    pub fn snapshot(&self) -> StageHealth {
        self.lock().clone()
    }

    /// Sets the number of assigned partitions, at every assignment of the group.
    pub fn set_assigned_partitions(&self, partitions: usize) {
        self.lock().partitions = Some(partitions);
    }

    /// Records that a dependency is unavailable. Logs only the start of an outage.
    pub fn mark_unavailable(&self, dependency: Dependency, cause: &str) {
        let previous = self.lock().unavailable.insert(dependency, cause.to_owned());
        if previous.is_none() {
            tracing::warn!(
                stage = self.stage,
                dependency = dependency.name(),
                cause,
                "dependency unavailable, retrying"
            );
        }
    }

    /// Records that a dependency is available. Logs only the end of an outage.
    pub fn mark_available(&self, dependency: Dependency) {
        if self.lock().unavailable.remove(&dependency).is_some() {
            tracing::info!(
                stage = self.stage,
                dependency = dependency.name(),
                "dependency recovered"
            );
        }
    }

    /// Returns true during an outage of the dependency.
    #[must_use]
    pub fn is_unavailable(&self, dependency: Dependency) -> bool {
        self.lock().unavailable.contains_key(&dependency)
    }

    /// Records that a partition is blocked at a record, and logs it at every retry of that record.
    pub fn block_partition(&self, partition: i32, cause: String) {
        tracing::error!(stage = self.stage, partition, cause, "partition blocked");
        self.lock().blocked.insert(partition, cause);
    }

    /// Records that a partition continues. Does nothing if it was not blocked.
    pub fn unblock_partition(&self, partition: i32) {
        if self.lock().blocked.remove(&partition).is_some() {
            tracing::info!(stage = self.stage, partition, "partition unblocked");
        }
    }

    fn lock(&self) -> MutexGuard<'_, StageHealth> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_ready_as_a_member_with_every_dependency_available() {
        let health = Health::new("stg");
        assert!(!health.snapshot().is_ready(), "not a member yet");
        health.set_assigned_partitions(0);
        assert!(
            health.snapshot().is_ready(),
            "a member without partitions is ready"
        );
        health.mark_unavailable(Dependency::ReferenceData, "connection refused");
        assert!(!health.snapshot().is_ready());
        health.mark_available(Dependency::ReferenceData);
        assert!(health.snapshot().is_ready());
    }

    #[test]
    fn a_blocked_partition_does_not_affect_readiness() {
        let health = Health::new("stg");
        health.set_assigned_partitions(2);
        health.block_partition(1, "SQLSTATE P0001 at offset 7".into());
        assert!(health.snapshot().is_ready());
        health.unblock_partition(1);
        assert!(health.snapshot().blocked.is_empty());
    }

    #[test]
    fn readyz_json_has_the_names_of_the_metric_labels() {
        for dependency in Dependency::ALL {
            let json = serde_json::to_value(dependency).expect("a name");
            assert_eq!(json, dependency.name());
        }
    }
}
