//! Suite of traces with limits: what each simulation may cost at most. Pure.

use std::fmt::Write as _;

use crds::stage::Scaling;
use serde::Deserialize;

use super::arrivals::{Arrivals, GeneratedLoad};
use super::model::ClusterModel;
use super::outcome::Outcome;
use super::replay::simulate;
use super::trace::{Trace, TraceError};
use crate::scale::ScalingSettings;

/// Traces of one TOML file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// Traces, in the order of the file.
    #[serde(rename = "trace")]
    pub traces: Vec<SuiteTrace>,
}

/// Trace with the cluster that it is replayed in, the settings of the stage, and the limits of its outcome.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteTrace {
    /// Unique name.
    pub name: String,
    /// Duration.
    pub seconds: u32,
    /// File with the arrivals, beside the suite; exactly one of `csv` and `load`.
    pub csv: Option<String>,
    /// Description of the arrivals.
    pub load: Option<GeneratedLoad>,
    /// Partition count for a single-column CSV file.
    #[serde(default = "default_partitions")]
    pub partitions: u32,
    /// Assumptions about the cluster.
    #[serde(default)]
    pub cluster: ClusterModel,
    /// `spec.scaling` of the stage.
    #[serde(default)]
    pub scaling: Scaling,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
}

/// Limits of an outcome; each one applies if it is set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Maximum number of scaling steps.
    pub steps: Option<u32>,
    /// Maximum replica-seconds, as a multiple of those of the plan.
    pub cost: Option<f64>,
    /// Maximum seconds over the target.
    pub over: Option<u32>,
    /// Maximum delay of a record, in seconds.
    pub delay: Option<u32>,
    /// Minimum and maximum replicas at the end.
    pub end: Option<(u32, u32)>,
    /// Maximum changes of `limitedBy` per hour.
    pub flips: Option<f64>,
    /// Maximum status writes per hour.
    pub writes: Option<f64>,
}

fn default_partitions() -> u32 {
    12
}

/// Error of a suite.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SuiteError {
    /// The file is not a suite.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// The arrivals of a trace are missing or invalid.
    #[error("trace {name}: {cause}")]
    Arrivals {
        /// Name of the trace.
        name: String,
        /// Violated rule.
        cause: String,
    },
}

impl SuiteTrace {
    /// Arrivals of the trace. `read` returns the content of a file beside the suite.
    ///
    /// # Errors
    /// Fails if the arrivals are missing, twofold or invalid.
    pub fn arrivals(&self, read: impl Fn(&str) -> std::io::Result<String>) -> Result<Arrivals, SuiteError> {
        let error = |cause: String| SuiteError::Arrivals {
            name: self.name.clone(),
            cause,
        };
        match (&self.csv, &self.load) {
            (Some(file), None) => {
                let text = read(file).map_err(|cause| error(format!("cannot read {file}: {cause}")))?;
                let trace: Trace = text
                    .parse()
                    .map_err(|cause: TraceError| error(format!("{file}: {cause}")))?;
                Ok(Arrivals::Trace(trace.spread_over(self.partitions)))
            }
            (None, Some(load)) => Ok(Arrivals::Generated(load.clone())),
            _ => Err(error("set one of `csv` and `load`".to_owned())),
        }
    }

    /// Simulates the trace.
    #[must_use]
    pub fn run(&self, arrivals: &Arrivals) -> Outcome {
        let settings = ScalingSettings {
            scaling: self.scaling.clone(),
            is_suspended: false,
            is_paused: false,
            is_group_taken: false,
            connection_budget: None,
            budget_share: None,
            connections_per_worker: 1,
        };
        simulate(&settings, &self.cluster, arrivals, self.seconds)
    }
}

impl Limits {
    /// Limits that `outcome` exceeds, as text; empty if it is within all of them.
    #[must_use]
    pub fn exceeded(&self, outcome: &Outcome) -> Vec<String> {
        let steps = u32::try_from(outcome.step_count()).unwrap_or(u32::MAX);
        let limits = [
            ("steps", f64::from(steps), self.steps.map(f64::from)),
            ("cost", outcome.cost(), self.cost),
            (
                "over",
                outcome.seconds_over_target.into(),
                self.over.map(f64::from),
            ),
            (
                "delay",
                outcome.longest_delay_seconds.into(),
                self.delay.map(f64::from),
            ),
            ("flips", outcome.flips_per_hour, self.flips),
            ("writes", outcome.writes_per_hour, self.writes),
        ];
        let mut exceeded: Vec<String> = limits
            .into_iter()
            .filter_map(|(name, value, limit)| Some((name, value, limit?)))
            .filter(|(_, value, limit)| value > limit)
            .map(|(name, value, limit)| format!("{name} {value:.2} > {limit:.2}"))
            .collect();
        let end = outcome.replicas();
        if let Some((low, high)) = self.end.filter(|(low, high)| !(*low..=*high).contains(&end)) {
            exceeded.push(format!("end {end} outside {low}..{high}"));
        }
        exceeded
    }
}

/// Header of the table of outcomes.
#[must_use]
pub fn header() -> String {
    format!(
        "{:<28} {:>6} {:>7} {:>10} {:>10} {:>6} {:>6} {:>9} {:>8} {:>7}",
        "trace", "steps", "cost", "replica-s", "plan", "over", "delay", "end/plan", "writes/h", "flips/h"
    )
}

/// Row of the table of outcomes.
#[must_use]
pub fn row(name: &str, outcome: &Outcome, exceeded: &[String]) -> String {
    let mut row = format!(
        "{name:<28} {:>6} {:>7.2} {:>10} {:>10} {:>6} {:>6} {:>9} {:>8.1} {:>7.1}",
        outcome.step_count(),
        outcome.cost(),
        outcome.replica_seconds,
        outcome.planned_replica_seconds,
        outcome.seconds_over_target,
        outcome.longest_delay_seconds,
        format!("{}/{}", outcome.replicas(), outcome.planned_replicas),
        outcome.writes_per_hour,
        outcome.flips_per_hour,
    );
    if !exceeded.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(row, "  {}", exceeded.join(", "));
    }
    row
}

/// Last row of the table: sums and means over all outcomes.
#[must_use]
pub fn summary(outcomes: &[Outcome]) -> String {
    let count = crate::scale::load::to_f64(outcomes.len().max(1) as u64);
    let steps: usize = outcomes.iter().map(Outcome::step_count).sum();
    let cost = outcomes
        .iter()
        .map(|outcome| outcome.cost().max(0.01).ln())
        .sum::<f64>()
        / count;
    let over: u32 = outcomes.iter().map(|outcome| outcome.seconds_over_target).sum();
    let delay = outcomes
        .iter()
        .map(|outcome| f64::from(outcome.longest_delay_seconds))
        .sum::<f64>()
        / count;
    let mean = |value: fn(&Outcome) -> f64| outcomes.iter().map(value).sum::<f64>() / count;
    format!(
        "{} traces: {steps} steps, cost {:.3} (geometric mean), {over} s over the target, {delay:.1} s longest delay, \
         {:.1} writes/h, {:.1} flips/h (means)",
        outcomes.len(),
        cost.exp(),
        mean(|outcome| outcome.writes_per_hour),
        mean(|outcome| outcome.flips_per_hour),
    )
}
