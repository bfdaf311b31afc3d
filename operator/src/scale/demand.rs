//! Number of workers that a load needs, before any limit.
//!
//! It must not depend on bounds, windows or the current replicas: [`crate::scale`] applies those afterwards.
//!
//! With `drainSeconds`, a partition needs `arrival + lag / drainSeconds` records per second, and a worker provides 70 %
//! of its measured throughput. With `lagPerReplica`, a partition needs its lag, and a worker provides `lagPerReplica`
//! records. Demand saturates per partition, because only one worker can read a partition:
//! `workers = ceil( sum over partitions of min(need, capacity) / capacity )`.

use std::fmt;

use crds::stage::{Scaling, Target};

use super::load::{Load, PartitionLoad};

/// Planned share of a worker's throughput; the rest is headroom for bursts.
const TARGET_UTILIZATION: f64 = 0.7;
/// Tolerance for floating-point error before rounding up; without it, an exact sum could yield one worker too many.
const ROUNDING: f64 = 1e-9;

/// Demand of a load, with the terms that it is computed from.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    /// Number of workers.
    pub replicas: u32,
    /// Number of workers if several could read one partition.
    pub unsaturated: u32,
    /// Need of all partitions, in `unit`.
    pub need: f64,
    /// Capacity of one worker, in `unit`.
    pub capacity: f64,
    /// Unit of `need` and `capacity`.
    pub unit: Unit,
    /// Lag in records, without stuck partitions.
    pub lag: u64,
    /// Number of stuck partitions, which the demand excludes.
    pub stuck_partition_count: usize,
}

/// Unit of need and capacity.
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

/// Computes the demand of `load`. `is_idle` means that the stage is scaled to zero: a lag up to `activationLag` then
/// needs no worker.
#[must_use]
pub fn demand(scaling: &Scaling, load: &Load, is_idle: bool) -> Demand {
    let (capacity, unit) = capacity(&scaling.target, load.worker_rate);
    let progressing = load.partitions.iter().filter(|partition| !partition.is_stuck);
    let needs: Vec<f64> = progressing
        .clone()
        .map(|partition| need(&scaling.target, partition))
        .collect();
    let lag = progressing.map(|partition| partition.lag).sum();
    let need: f64 = needs.iter().sum();
    let saturated: f64 = needs.iter().map(|need| need.min(capacity) / capacity).sum();
    let mut demand = Demand {
        replicas: ceil_workers(saturated),
        unsaturated: ceil_workers(need / capacity),
        need,
        capacity,
        unit,
        lag,
        stuck_partition_count: load.partitions.len() - needs.len(),
    };
    if is_idle && lag <= scaling.activation_lag {
        demand.replicas = 0;
        demand.unsaturated = 0;
    }
    // A stuck partition can only recover while at least one worker runs.
    if demand.stuck_partition_count > 0 {
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
    ((rate * TARGET_UTILIZATION).max(1.0), Unit::RecordsPerSecond)
}

/// Need of one partition, in the [`Unit`] of the target.
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
fn ceil_workers(workers: f64) -> u32 {
    let minimum = if workers > 0.0 { 1.0 } else { 0.0 };
    (workers - ROUNDING).ceil().max(minimum) as u32
}
