//! How many workers a load asks for.
//!
//! Must never know of limits, windows or the present number: those come after.
//!
//! With `drainSeconds`, a partition needs `arrival + lag / drainSeconds` records per second, and a worker gives
//! 0.7 of what it was seen to commit. With `lagPerReplica`, a partition needs its lag, and a worker is kept for that
//! many records. Demand saturates per partition, because one partition is read by one worker:
//! `workers = ceil( sum over partitions of min(need, capacity) / capacity )`.

use std::fmt;

use crds::stage::{Scaling, Target};

use super::load::{Load, PartitionLoad};

/// The share of a worker's rate that is planned with: the rest is for what comes unforeseen.
const UTILISATION: f64 = 0.7;
/// What a sum of quotients may exceed a whole number by: the error of floating point, not demand.
const ROUNDING: f64 = 1e-9;

/// What a load asks for, with the terms that led there.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    /// Workers.
    pub replicas: u32,
    /// Workers, if a partition could be read by several.
    pub unsaturated: u32,
    /// What all partitions need: records per second, or records of lag.
    pub need: f64,
    /// What one worker gives, in the same unit.
    pub capacity: f64,
    /// Which of both units it is.
    pub unit: Unit,
    /// Records that are not committed yet, without those of stuck partitions.
    pub lag: u64,
    /// Partitions that are stuck, and left out.
    pub stuck: usize,
}

/// What need and capacity are measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Records per second, with `drainSeconds`.
    RecordsPerSecond,
    /// Records of lag, with `lagPerReplica`.
    Records,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RecordsPerSecond => "records/s",
            Self::Records => "records",
        })
    }
}

/// What `load` asks for. `is_idle` tells that no worker should be there at the moment.
#[must_use]
pub fn demand(scaling: &Scaling, load: &Load, is_idle: bool) -> Demand {
    let (capacity, unit) = capacity(&scaling.target, load.worker_rate);
    let moving = load.partitions.iter().filter(|partition| !partition.is_stuck);
    let needs: Vec<f64> = moving
        .clone()
        .map(|partition| need(&scaling.target, partition))
        .collect();
    let lag = moving.map(|partition| partition.lag).sum();
    let need: f64 = needs.iter().sum();
    let saturated: f64 = needs.iter().map(|need| need.min(capacity) / capacity).sum();
    let mut demand = Demand {
        replicas: whole(saturated),
        unsaturated: whole(need / capacity),
        need,
        capacity,
        unit,
        lag,
        stuck: load.partitions.len() - needs.len(),
    };
    if is_idle && lag <= scaling.activation_lag {
        demand.replicas = 0;
        demand.unsaturated = 0;
    }
    // Without a worker nothing could ever get a stuck partition going again.
    if demand.stuck > 0 {
        demand.replicas = demand.replicas.max(1);
        demand.unsaturated = demand.unsaturated.max(1);
    }
    demand
}

fn capacity(target: &Target, worker_rate: Option<f64>) -> (f64, Unit) {
    if let Some(lag) = target.lag_per_replica {
        return (f64::from(lag.max(1)), Unit::Records);
    }
    let rate = worker_rate.unwrap_or_else(|| f64::from(target.initial_rate));
    ((rate * UTILISATION).max(1.0), Unit::RecordsPerSecond)
}

/// What one partition needs, in the unit of the target.
#[expect(
    clippy::cast_precision_loss,
    reason = "a lag beyond 2^53 records saturates its partition anyway"
)]
#[must_use]
pub fn need(target: &Target, partition: &PartitionLoad) -> f64 {
    match (target.lag_per_replica, target.drain_seconds) {
        (None, Some(seconds)) => {
            partition.arrival_per_second + partition.lag as f64 / f64::from(seconds.max(1))
        }
        _ => partition.lag as f64,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative, and a cast saturates"
)]
fn whole(workers: f64) -> u32 {
    let fewest = if workers > 0.0 { 1.0 } else { 0.0 };
    (workers - ROUNDING).ceil().max(fewest) as u32
}
