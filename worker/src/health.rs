//! Health of a stage: unavailable dependencies and blocked partitions.
//!
//! An outage is logged at its start, at each new cause and at its end, not at every retry. It affects readiness, never
//! liveness, because a restart does not repair a dependency; a step that hangs affects liveness. No I/O:
//! [`crate::http`] serves it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use telemetry::progress::{Progress, StepGuard};

/// Maximum number of causes that are logged per outage, for causes that differ at every retry.
const MAX_LOGGED_CAUSES: usize = 20;

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
    /// Dead letters whose copy on the dead letter topic is not produced yet; `None` before the first query.
    pub dead_letter_copies: Option<PendingCopies>,
    /// Cause for which the stage holds its batches; `None` if it does not.
    pub held: Option<String>,
    /// Terminal error; `None` while the stage runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// Dead letters whose copy is not produced yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PendingCopies {
    /// Their number, at most 100,000.
    pub pending: u64,
    /// Error of a failed attempt; `None` if no attempt has failed.
    pub error: Option<String>,
}

impl StageHealth {
    /// Returns true if the stage runs, the worker is a member of the group, every dependency is available, and no batch
    /// is held.
    ///
    /// A blocked partition does not count, because the other partitions continue. A missing copy of a dead letter does
    /// not count either, because the warehouse has the dead letter.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.stopped.is_none()
            && self.partitions.is_some()
            && self.unavailable.is_empty()
            && self.held.is_none()
    }
}

/// Health of one stage, shared by the tasks and threads of the stage.
#[derive(Debug)]
pub struct Health {
    stage: String,
    current: Mutex<StageHealth>,
    /// Causes that are logged already, of the outages that last.
    logged: Mutex<BTreeMap<Dependency, BTreeSet<String>>>,
    progress: Progress,
}

impl Health {
    /// Creates the health of a stage that has not joined its group yet, in a process of its own.
    #[must_use]
    pub fn new(stage: &str) -> Self {
        Self::in_process(stage, Progress::default())
    }

    /// Creates the health of a stage that reports its steps to the `progress` of the process.
    #[must_use]
    pub fn in_process(stage: &str, progress: Progress) -> Self {
        Self {
            stage: stage.to_owned(),
            current: Mutex::default(),
            logged: Mutex::default(),
            progress,
        }
    }

    /// Begins a step of a task of the stage. It ends when the guard is dropped.
    #[must_use]
    pub fn begin_step(&self, task: &str, step: &'static str) -> StepGuard {
        self.progress.begin_step(&format!("{} {task}", self.stage), step)
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

    /// Records that a dependency is unavailable, with its latest cause. Logs each cause once per outage.
    pub fn mark_unavailable(&self, dependency: Dependency, cause: &str) {
        self.lock().unavailable.insert(dependency, cause.to_owned());
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let logged = logged.entry(dependency).or_default();
        if logged.len() < MAX_LOGGED_CAUSES && logged.insert(cause.to_owned()) {
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
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            logged.remove(&dependency);
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

    /// Sets the dead letters whose copy is not produced yet. Logs when the first attempt fails, and when none is pending
    /// any more.
    pub fn set_pending_copies(&self, copies: PendingCopies) {
        let (pending, error) = (copies.pending, copies.error.clone());
        let previous = self.lock().dead_letter_copies.replace(copies);
        let had_error = previous.is_some_and(|previous| previous.error.is_some());
        match error {
            Some(cause) if !had_error => tracing::warn!(
                stage = self.stage,
                pending,
                cause,
                "copies of dead letters not produced, retrying"
            ),
            None if had_error => tracing::info!(stage = self.stage, "copies of dead letters produced"),
            _ => {}
        }
    }

    /// Records that the stage holds its batches. Logs only the begin.
    pub fn mark_held(&self, cause: &str) {
        let previous = self.lock().held.replace(cause.to_owned());
        if previous.is_none() {
            tracing::error!(
                stage = self.stage,
                cause,
                "batch held: correct the installation before spec.batch.maxHold ends"
            );
        }
    }

    /// Records that the stage does not hold its batches. Logs only the end of a hold.
    pub fn release(&self) {
        if self.lock().held.take().is_some() {
            tracing::info!(stage = self.stage, "hold ended");
        }
    }

    /// Records the terminal error of the stage.
    pub fn mark_stopped(&self, cause: String) {
        self.lock().stopped = Some(cause);
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
    fn an_outage_has_its_latest_cause_and_logs_each_cause_once() {
        let (mut log, writer) = std::io::pipe().expect("a pipe");
        let subscriber = telemetry::log::json_subscriber("info".into(), Mutex::new(writer));
        tracing::subscriber::with_default(subscriber, || {
            let health = Health::new("stg");
            for cause in [
                "connection refused",
                "read-only",
                "connection refused",
                "read-only",
            ] {
                health.mark_unavailable(Dependency::Warehouse, cause);
                assert_eq!(health.snapshot().unavailable[&Dependency::Warehouse], cause);
            }
            health.mark_available(Dependency::Warehouse);
            health.mark_unavailable(Dependency::Warehouse, "read-only");
            for number in 0..MAX_LOGGED_CAUSES * 2 {
                health.mark_unavailable(Dependency::Output, &format!("attempt {number}"));
            }
        });
        let mut lines = String::new();
        std::io::Read::read_to_string(&mut log, &mut lines).expect("lines");
        for (text, count) in [
            ("connection refused", 1),
            ("read-only", 2),
            ("dependency recovered", 1),
            ("attempt", MAX_LOGGED_CAUSES),
        ] {
            assert_eq!(lines.matches(text).count(), count, "{text}: {lines}");
        }
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
    fn a_missing_copy_of_a_dead_letter_does_not_affect_readiness() {
        let health = Health::new("stg");
        health.set_assigned_partitions(1);
        health.set_pending_copies(PendingCopies {
            pending: 3,
            error: Some("topic orders.dlq: unknown topic".into()),
        });
        assert!(health.snapshot().is_ready());
    }

    #[test]
    fn a_stage_that_holds_a_batch_is_not_ready() {
        let health = Health::new("stg");
        health.set_assigned_partitions(2);
        health.mark_held("100 of 100 records would be dead-lettered");
        assert!(!health.snapshot().is_ready());
        health.release();
        assert!(health.snapshot().is_ready());
    }

    #[test]
    fn readyz_json_has_the_names_of_the_metric_labels() {
        for dependency in Dependency::ALL {
            let json = serde_json::to_value(dependency).expect("a name");
            assert_eq!(json, dependency.name());
        }
    }
}
