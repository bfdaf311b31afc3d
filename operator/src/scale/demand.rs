//! Number of workers that a load needs, before the bounds and the gates.
//!
//! Only one worker can read a partition, and an assignor deals partitions by number: the busiest of `n` workers reads
//! `ceil(partitions / n)` of them, the hottest included. The demand is the fewest workers whose busiest one stays at 85 %
//! of a worker's capacity and drains the backlog within `drainSeconds`. Pure.

use crds::stage::Scaling;
use crds::status::LimitedBy;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::load::{Load, MemberLoad, PartitionLoad, to_f64};
use super::state::{ScalingState, is_within};

/// Load of the busiest worker, as a share of its capacity, above which workers are added.
const HIGH_LOAD: f64 = 0.95;
/// Load of the busiest worker, as a share of its capacity, that is planned for.
const PLANNED_LOAD: f64 = 0.85;
/// Share of a worker's capacity beyond which one partition is too much for it.
const HOPELESS_LOAD: f64 = 0.95;
/// Share of what a hot partition leaves that its worker may use for others: isolation beyond that helps little.
const ROOM_BESIDE_HOT: f64 = 0.2;
/// A worker is overloaded if it would need this many times `drainSeconds`.
const OVERLOAD_FACTOR: f64 = 2.0;
/// Time for which the number of workers that the load of one worker made too small is not returned to.
const SKEW_MEMORY: SignedDuration = SignedDuration::from_hours(1);
/// With `lagPerReplica`, steps of at most this share of the replicas are skipped: a rebalance costs more than they gain.
const TOLERANCE: f64 = 0.1;
/// Tolerance for floating-point error before rounding.
const ROUNDING: f64 = 1e-9;

/// Demand of a load, with the terms that it is computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Number of workers.
    pub replicas: u32,
    /// Cause that determined the number, if it was not the load as a whole.
    pub cause: LimitedBy,
    /// Capacity of one worker, in records per second; `None` until it is known.
    pub capacity: Option<f64>,
    /// Terms of the formula; `None` if it did not apply.
    pub terms: Option<Terms>,
    /// Lag in records, without stuck partitions.
    pub lag: u64,
    /// Number of stuck partitions, which the demand excludes.
    pub stuck_partition_count: usize,
    /// True if one partition needs more than a worker can process.
    pub is_unmet: bool,
}

/// Fewest workers by each rule of the formula.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Arrivals and backlog within `drainSeconds`, at full capacity.
    pub urgent: u32,
    /// Arrivals, at the load above which workers are added.
    pub high: u32,
    /// Arrivals, at the planned load.
    pub plan: u32,
}

/// Replicas between which the demand is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// Current replicas.
    pub current: u32,
    /// Lower bound.
    pub floor: u32,
    /// Upper bound.
    pub ceiling: u32,
}

/// Arrivals and needs of all partitions, by partition id, in records per second. A stuck partition needs nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// Arrival rates.
    pub arrivals: Vec<f64>,
    /// Arrival rates, and the backlog within `drainSeconds`.
    pub needs: Vec<f64>,
}

impl Needs {
    /// Computes the needs of a load.
    #[must_use]
    pub fn new(load: &Load, drain_seconds: u32) -> Self {
        let drain_seconds = f64::from(drain_seconds.max(1));
        let need = |partition: &PartitionLoad| match partition {
            PartitionLoad { is_stuck: true, .. } => (0.0, 0.0),
            partition => {
                let arrival = partition.arrival_per_second;
                (arrival, arrival + to_f64(partition.lag) / drain_seconds)
            }
        };
        let (arrivals, needs) = load.partitions.iter().map(need).unzip();
        Self { arrivals, needs }
    }

    /// Number of partitions that a worker of `capacity` may read, if it reads any one of `candidates` and stays within
    /// `limit` of its capacity. The others count as their mean.
    ///
    /// The candidate that leaves the least room counts. This is mostly the one that needs most, but with that one alone
    /// more lag could mean fewer workers.
    fn partitions_per_worker(&self, capacity: f64, limit: f64, needs: &[f64], candidates: &[usize]) -> usize {
        let needed = |partition: usize| needs[partition].min(capacity);
        let total: f64 = (0..needs.len()).map(needed).sum();
        let other_count = to_f64(needs.len().saturating_sub(1).max(1) as u64);
        let beside = |partition: usize| {
            let arrival = self.arrivals[partition];
            let room = if arrival > HOPELESS_LOAD * capacity {
                ROOM_BESIDE_HOT * capacity
            } else {
                (limit * capacity - needs[partition]).max(ROOM_BESIDE_HOT * (capacity - arrival))
            };
            let mean = (total - needed(partition)) / other_count;
            if mean > ROUNDING * capacity {
                floor_to_usize(room / mean + ROUNDING)
            } else {
                needs.len()
            }
        };
        let fewest = candidates.iter().copied().map(beside).min().unwrap_or(0);
        fewest.saturating_add(1).min(needs.len())
    }

    /// True if more arrives in the partition than one worker can process.
    fn is_hopeless(&self, partition: usize, capacity: f64) -> bool {
        self.arrivals[partition] > HOPELESS_LOAD * capacity
    }

    /// Fewest workers of `capacity` whose busiest one stays within `limit` of it, if each partition needs `needs`.
    #[must_use]
    pub fn fewest_workers(&self, capacity: f64, limit: f64, needs: &[f64]) -> u32 {
        let all: Vec<usize> = (0..needs.len()).collect();
        let each = self.partitions_per_worker(capacity, limit, needs, &all);
        to_u32(needs.len().div_ceil(each.max(1)))
    }

    /// Terms of the formula for workers of `capacity`.
    #[must_use]
    pub fn terms(&self, capacity: f64) -> Terms {
        Terms {
            urgent: self.fewest_workers(capacity, 1.0, &self.needs),
            high: self.fewest_workers(capacity, HIGH_LOAD, &self.arrivals),
            plan: self.fewest_workers(capacity, PLANNED_LOAD, &self.arrivals),
        }
    }

    /// Load of the busiest of `workers`, in records per second: the hottest partition, and the mean of the others.
    #[must_use]
    pub fn busiest_load(&self, workers: u32) -> f64 {
        let each = self.arrivals.len().div_ceil(workers.max(1) as usize);
        let hottest = self.arrivals.iter().copied().fold(0.0, f64::max);
        let others = self.arrivals.iter().sum::<f64>() - hottest;
        let mean = others / to_f64(self.arrivals.len().saturating_sub(1).max(1) as u64);
        hottest + mean * to_f64(each.saturating_sub(1) as u64)
    }
}

/// Computes the demand of `load`.
#[must_use]
pub fn demand(
    scaling: &Scaling,
    load: &Load,
    state: &ScalingState,
    replicas: Replicas,
    now: Timestamp,
) -> Demand {
    let progressing = load.partitions.iter().filter(|partition| !partition.is_stuck);
    let lag: u64 = progressing.clone().map(|partition| partition.lag).sum();
    let demand = Demand {
        capacity: state.capacity.map(|capacity| capacity.records_per_second),
        lag,
        stuck_partition_count: load.partitions.len() - progressing.count(),
        ..Demand::default()
    };
    let Replicas { current, floor, .. } = replicas;
    let mut demand = match (scaling.target.lag_per_replica, demand.capacity) {
        _ if current == 0 && lag <= scaling.activation_lag => demand,
        // One worker measures the capacity within seconds. `initialRate` is set if that is too slow.
        (None, _) if current == 0 && scaling.target.initial_rate.is_none() => Demand {
            replicas: 1,
            ..demand
        },
        _ if lag == 0 && load.is_idle => Demand {
            replicas: floor,
            ..demand
        },
        (Some(lag_per_replica), _) => demand_by_lag(load, lag_per_replica, replicas, demand),
        (None, Some(capacity)) => demand_by_rate(scaling, load, state, (replicas, capacity, now), demand),
        // No worker was ever behind, so the current number is enough and may be too high.
        (None, None) if load.group.quiet_since.is_some() => Demand {
            replicas: (current / 2).max(1),
            ..demand
        },
        (None, None) => Demand {
            replicas: current,
            ..demand
        },
    };
    // A stuck partition can only recover while at least one worker runs.
    if demand.stuck_partition_count > 0 {
        demand.replicas = demand.replicas.max(1);
    }
    demand
}

/// Demand with `lagPerReplica`: demand saturates per partition, because only one worker can read a partition.
fn demand_by_lag(load: &Load, lag_per_replica: u32, replicas: Replicas, demand: Demand) -> Demand {
    let limit = u64::from(lag_per_replica.max(1));
    let progressing = load.partitions.iter().filter(|partition| !partition.is_stuck);
    let saturated: u64 = progressing.map(|partition| partition.lag.min(limit)).sum();
    let recommended = u32::try_from(saturated.div_ceil(limit)).unwrap_or(u32::MAX);
    let is_at_bound = recommended >= replicas.ceiling || recommended <= replicas.floor;
    let difference = f64::from(replicas.current.abs_diff(recommended));
    let is_within_tolerance = !is_at_bound && difference <= TOLERANCE * f64::from(replicas.current);
    let is_unmet = demand.lag.div_ceil(limit) > saturated.div_ceil(limit);
    let is_hot = is_unmet && recommended < replicas.ceiling;
    Demand {
        replicas: if is_within_tolerance {
            replicas.current
        } else {
            recommended
        },
        cause: if is_hot {
            LimitedBy::HotPartition
        } else {
            LimitedBy::None
        },
        is_unmet,
        ..demand
    }
}

/// Demand with `drainSeconds`, for workers of a known capacity.
fn demand_by_rate(
    scaling: &Scaling,
    load: &Load,
    state: &ScalingState,
    (replicas, capacity, now): (Replicas, f64, Timestamp),
    demand: Demand,
) -> Demand {
    let drain_seconds = scaling.target.effective_drain_seconds();
    let needs = Needs::new(load, drain_seconds);
    let terms = needs.terms(capacity);
    let current = replicas.current;
    let planned = terms.plan.max(terms.urgent);
    let mut demand = Demand {
        replicas: if terms.high.max(terms.urgent) > current {
            planned
        } else {
            planned.max(skew_floor(state, now)).min(current)
        },
        terms: Some(terms),
        is_unmet: needs.needs.iter().any(|need| *need > capacity),
        ..demand
    };
    for member in overloaded_members(load, drain_seconds) {
        let recommended = workers_for_member(&needs, member, load.partitions.len());
        let recommended = recommended.max(current).min(replicas.ceiling);
        demand.replicas = demand.replicas.max(recommended);
        if recommended > current {
            demand.cause = if member.is_slow {
                LimitedBy::SlowWorker
            } else {
                LimitedBy::Skew
            };
        }
    }
    if (0..needs.arrivals.len()).any(|partition| needs.is_hopeless(partition, capacity)) {
        demand.cause = LimitedBy::HotPartition;
    }
    demand
}

/// Fewest workers that the load of single workers has shown to be necessary within [`SKEW_MEMORY`].
fn skew_floor(state: &ScalingState, now: Timestamp) -> u32 {
    let by_skew = state.steps.iter().filter(|step| {
        matches!(step.limited_by, LimitedBy::Skew | LimitedBy::SlowWorker)
            && is_within(step.time, SKEW_MEMORY, now)
    });
    by_skew.map(|step| step.from.saturating_add(1)).max().unwrap_or(0)
}

/// Members with several partitions that are behind and will not be done in time, while most members keep up.
fn overloaded_members(load: &Load, drain_seconds: u32) -> impl Iterator<Item = &MemberLoad> {
    let is_uneven = load.group.mostly_behind_since.is_none();
    load.group.members.iter().filter(move |member| {
        let Some(sample) = member.sample.filter(|sample| is_uneven && sample.is_behind) else {
            return false;
        };
        let partitions = partitions_of(member, load);
        let (mut lag, mut arrival) = (0, 0.0);
        for partition in partitions.map(|partition| &load.partitions[partition]) {
            lag += partition.lag;
            arrival += partition.arrival_per_second;
        }
        let in_time = OVERLOAD_FACTOR * f64::from(drain_seconds) * (sample.records_per_second - arrival);
        member.partitions.len() > 1 && to_f64(lag) > in_time
    })
}

/// Workers so that this member reads at least one partition less.
fn workers_for_member(needs: &Needs, member: &MemberLoad, partition_count: usize) -> u32 {
    let rate = member.sample.map_or(0.0, |sample| sample.records_per_second);
    let read: Vec<usize> = member
        .partitions
        .iter()
        .filter_map(|partition| usize::try_from(*partition).ok())
        .filter(|partition| *partition < partition_count)
        .collect();
    let each = needs.partitions_per_worker(rate, 1.0, &needs.needs, &read);
    let is_hopeless = read
        .iter()
        .copied()
        .reduce(|hottest, next| {
            if needs.needs[next] > needs.needs[hottest] {
                next
            } else {
                hottest
            }
        })
        .is_some_and(|hottest| needs.is_hopeless(hottest, rate));
    // A worker of its own does not help a partition that brings more than that.
    let fewer = if is_hopeless {
        read.len()
    } else {
        read.len().saturating_sub(1)
    };
    to_u32(partition_count.div_ceil(each.min(fewer).max(1)))
}

/// Indexes of the member's partitions that progress.
fn partitions_of<'l>(member: &'l MemberLoad, load: &'l Load) -> impl Iterator<Item = usize> + 'l {
    let indexes = member
        .partitions
        .iter()
        .filter_map(|partition| usize::try_from(*partition).ok());
    indexes.filter(|partition| load.partitions.get(*partition).is_some_and(|load| !load.is_stuck))
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast saturates, and a negative room is none"
)]
fn floor_to_usize(number: f64) -> usize {
    number.max(0.0) as usize
}
