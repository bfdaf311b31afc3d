//! Runs a simulation: cluster and operator, second by second. Pure.

use super::arrivals::Arrivals;
use super::cluster::SimulatedCluster;
use super::delay::DelayClock;
use super::model::ClusterModel;
use super::operator::SimulatedOperator;
use super::oracle;
use super::outcome::Outcome;
use super::sample::Sample;
use crate::scale::ScalingSettings;

/// Simulates `seconds` of a stage.
#[must_use]
pub fn simulate(
    settings: &ScalingSettings,
    model: &ClusterModel,
    arrivals: &Arrivals,
    seconds: u32,
) -> Outcome {
    let scaling = &settings.scaling;
    let replicas = model.replicas.unwrap_or(scaling.min_replicas);
    let drain_seconds = scaling.target.drain_seconds.unwrap_or(60);
    let mut cluster = SimulatedCluster::new(model, arrivals, replicas);
    let mut operator = SimulatedOperator::new(settings, model.capacity, replicas);
    let mut delays = DelayClock::default();
    let mut outcome = Outcome::default();
    let step = model.step_seconds.max(1);
    for second in (0..=seconds).step_by(step as usize) {
        cluster.tick(second);
        if model.restarts.contains(&second) {
            operator.restart(second);
        }
        if model.rollouts.contains(&second) {
            operator.roll_out();
        }
        if second % operator.poll_seconds < step {
            outcome
                .decisions
                .extend(operator.poll_and_decide(&mut cluster, second));
        }
        let delay = u32::try_from(delays.advance(&cluster.partitions)).unwrap_or(u32::MAX);
        let delay = delay.saturating_mul(step);
        outcome.longest_delay_seconds = outcome.longest_delay_seconds.max(delay);
        outcome.seconds_over_target += if delay > drain_seconds { step } else { 0 };
        outcome.replica_seconds += u64::from(cluster.replicas) * u64::from(step);
        outcome.samples.push(Sample {
            lag: cluster
                .partitions
                .iter()
                .map(|partition| partition.end - partition.committed)
                .sum(),
            replicas: cluster.replicas,
        });
    }
    let max = scaling.max_replicas.unwrap_or(u32::MAX);
    let plan = oracle::plan(
        model,
        arrivals,
        seconds,
        (scaling.min_replicas, max, drain_seconds),
    );
    outcome.planned_replica_seconds = plan.replica_seconds;
    outcome.planned_replicas = plan.replicas;
    let per_hour = |count: u32| f64::from(count) * 3600.0 / f64::from(seconds.max(1));
    outcome.writes_per_hour = per_hour(operator.writes);
    outcome.flips_per_hour = per_hour(operator.flips);
    outcome
}
