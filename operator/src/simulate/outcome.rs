//! Result of a simulation. Data only.

use crds::status::LimitedBy;

use super::sample::Sample;
use crate::scale::load::to_f64;

/// Scaling step, or a decision that only changed what limits the replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedDecision {
    /// Seconds since the start of the trace.
    pub second: u32,
    /// Replicas before the decision.
    pub from: u32,
    /// Replicas after the decision.
    pub to: u32,
    /// Bound, gate or cause that limited the decision.
    pub limited_by: LimitedBy,
    /// Message as in `status.scaling.message`.
    pub message: String,
}

/// Result of a simulation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// State at the end of each step.
    pub samples: Vec<Sample>,
    /// Decisions that changed something.
    pub decisions: Vec<SimulatedDecision>,
    /// Desired workers, summed over the seconds.
    pub replica_seconds: u64,
    /// The same of a plan that knows every rate and acts without delay.
    pub planned_replica_seconds: u64,
    /// Replicas of that plan at the end.
    pub planned_replicas: u32,
    /// Seconds in which a record of some partition was older than `drainSeconds`, or than a minute.
    pub seconds_over_target: u32,
    /// Longest delay of a record, in seconds.
    pub longest_delay_seconds: u32,
    /// Status writes per hour.
    pub writes_per_hour: f64,
    /// Changes of `status.scaling.limitedBy` per hour.
    pub flips_per_hour: f64,
}

impl Outcome {
    /// Number of scaling steps.
    #[must_use]
    pub fn step_count(&self) -> usize {
        self.decisions
            .iter()
            .filter(|decision| decision.from != decision.to)
            .count()
    }

    /// Replica-seconds as a multiple of those of the plan.
    #[must_use]
    pub fn cost(&self) -> f64 {
        to_f64(self.replica_seconds) / to_f64(self.planned_replica_seconds.max(1))
    }

    /// Replicas at the end.
    #[must_use]
    pub fn replicas(&self) -> u32 {
        self.samples.last().map_or(0, |sample| sample.replicas)
    }
}
