//! Plan of an oracle: it knows every rate, acts without delay and packs partitions at will. Pure.
//!
//! No autoscaler can reach it; its replica-seconds are the unit of the cost of a simulation.

use super::arrivals::Arrivals;
use super::model::ClusterModel;
use crate::scale::load::to_f64;

/// Planned share of a worker's throughput.
const PLANNED_LOAD: f64 = 0.7;
/// Tolerance for floating-point error.
const ROUNDING: f64 = 1e-9;

/// Replica-seconds of the plan, and its replicas at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) replica_seconds: u64,
    pub(super) replicas: u32,
}

/// Plans `seconds` with between `min` and `max` workers that drain a backlog within `drain_seconds`.
pub(super) fn plan(
    model: &ClusterModel,
    arrivals: &Arrivals,
    seconds: u32,
    (min, max, drain_seconds): (u32, u32, u32),
) -> Plan {
    let count = arrivals.partitions();
    let mut lags = vec![to_f64(model.backlog / count.max(1) as u64); count];
    let mut plan = Plan::default();
    let step = model.step_seconds.max(1);
    for second in (0..=seconds).step_by(step as usize) {
        let added = model.added_partitions.iter().filter(|(time, _)| *time == second);
        let added: u32 = added.map(|(_, count)| count).sum();
        lags.resize(lags.len() + added as usize, 0.0);
        let arrived: Vec<f64> = arrivals
            .arrivals(second, lags.len())
            .into_iter()
            .map(to_f64)
            .collect();
        let rate = arrivals
            .worker_rate(second)
            .map_or_else(|| model.worker_rate.rate(second), to_f64);
        let shared = model.shared_rate(second).unwrap_or(f64::INFINITY);
        let sum = |needs: &mut dyn Iterator<Item = f64>| needs.map(|need| need.min(rate)).sum::<f64>();
        let drain = f64::from(drain_seconds);
        let need = sum(&mut arrived
            .iter()
            .zip(&lags)
            .map(|(arrived, lag)| arrived + lag / drain))
        .min(shared);
        let arriving = sum(&mut arrived.iter().copied()).min(shared);
        let has_work = arrived.iter().chain(&lags).sum::<f64>() > 0.0;
        let workers = ceil(arriving / (PLANNED_LOAD * rate))
            .max(ceil(need / rate))
            .max(u32::from(has_work));
        let partitions = u32::try_from(lags.len()).unwrap_or(u32::MAX);
        plan.replicas = workers.min(max).min(partitions).max(min);
        for (lag, arrived) in lags.iter_mut().zip(&arrived) {
            *lag += arrived * f64::from(step);
        }
        for (_, share) in model.losses.iter().filter(|(time, _)| *time == second) {
            for lag in &mut lags {
                *lag *= 1.0 - share;
            }
        }
        drain_lags(
            &mut lags,
            (f64::from(plan.replicas) * rate).min(shared) * f64::from(step),
        );
        plan.replica_seconds += u64::from(plan.replicas) * u64::from(step);
    }
    plan
}

/// Processes `budget` records, in equal shares of the partitions that have some.
fn drain_lags(lags: &mut [f64], mut budget: f64) {
    loop {
        let lagging = lags.iter().filter(|lag| **lag > ROUNDING).count();
        if lagging == 0 || budget <= 1e-6 {
            return;
        }
        let share = budget / to_f64(lagging as u64);
        for lag in lags.iter_mut().filter(|lag| **lag > ROUNDING) {
            let processed = share.min(*lag);
            *lag -= processed;
            budget -= processed;
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative, and a cast saturates"
)]
fn ceil(workers: f64) -> u32 {
    (workers - ROUNDING).ceil().max(0.0) as u32
}
