//! What is wrong with a stage right now, by the service that it is wrong with.
//!
//! Trouble is logged when it begins and when it ends, not at every attempt in between. It flips the readiness of
//! the stage, never its liveness: a restart mends no other service. No I/O: [`crate::serve`] shows it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// A service that a stage depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Kafka, as the source.
    Source,
    /// Redis.
    Dictionary,
    /// PostgreSQL.
    Warehouse,
    /// Kafka, as the output and the dead letter topic.
    Output,
}

impl Service {
    /// Every service.
    pub const ALL: [Self; 4] = [Self::Source, Self::Dictionary, Self::Warehouse, Self::Output];

    /// Its name in figures, as in `/readyz`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Dictionary => "dictionary",
            Self::Warehouse => "warehouse",
            Self::Output => "output",
        }
    }
}

/// The condition of a stage, as `/readyz` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Partitions that this worker reads; none before the group's first assignment.
    pub partitions: Option<usize>,
    /// What is wrong, by service.
    pub trouble: BTreeMap<Service, String>,
    /// Partitions that are held at an offset, because a record there fails for no known reason.
    pub held: BTreeMap<i32, String>,
}

impl Condition {
    /// Ready: a member of the group, with every service answering. A held partition stops itself alone.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.partitions.is_some() && self.trouble.is_empty()
    }
}

/// The condition of one stage, shared by everything that works for it.
#[derive(Debug)]
pub struct Health {
    stage: String,
    condition: Mutex<Condition>,
}

impl Health {
    /// A stage that has not joined its group yet.
    #[must_use]
    pub fn new(stage: &str) -> Self {
        Self {
            stage: stage.to_owned(),
            condition: Mutex::default(),
        }
    }

    /// Name of the stage.
    #[must_use]
    pub fn stage(&self) -> &str {
        &self.stage
    }

    /// The condition now.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.lock().clone()
    }

    /// The group has assigned so many partitions.
    pub fn assigned(&self, partitions: usize) {
        self.lock().partitions = Some(partitions);
    }

    /// Something is wrong with a service.
    pub fn trouble(&self, service: Service, cause: &str) {
        if self.lock().trouble.insert(service, cause.to_owned()).is_none() {
            tracing::warn!(stage = self.stage, ?service, cause, "trouble; retrying");
        }
    }

    /// A service answers.
    pub fn fine(&self, service: Service) {
        if self.lock().trouble.remove(&service).is_some() {
            tracing::info!(stage = self.stage, ?service, "trouble is over");
        }
    }

    /// Whether something is wrong with a service.
    #[must_use]
    pub fn is_troubled(&self, service: Service) -> bool {
        self.lock().trouble.contains_key(&service)
    }

    /// A partition is held at an offset.
    pub fn hold(&self, partition: i32, cause: String) {
        tracing::error!(
            stage = self.stage,
            partition,
            cause,
            "partition held; the others go on"
        );
        self.lock().held.insert(partition, cause);
    }

    /// A partition moves on, if it was held.
    pub fn release(&self, partition: i32) {
        if self.lock().held.remove(&partition).is_some() {
            tracing::info!(stage = self.stage, partition, "partition is no longer held");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_ready_when_it_is_a_member_and_every_service_answers() {
        let health = Health::new("stg");
        assert!(!health.condition().is_ready(), "not yet a member");
        health.assigned(0);
        assert!(
            health.condition().is_ready(),
            "a member without partitions waits for nothing"
        );
        health.trouble(Service::Dictionary, "connection refused");
        assert!(!health.condition().is_ready());
        health.fine(Service::Dictionary);
        assert!(health.condition().is_ready());
    }

    #[test]
    fn a_held_partition_does_not_stop_the_others() {
        let health = Health::new("stg");
        health.assigned(2);
        health.hold(1, "SQLSTATE P0001 at offset 7".into());
        assert!(health.condition().is_ready());
        health.release(1);
        assert!(health.condition().held.is_empty());
    }
}
