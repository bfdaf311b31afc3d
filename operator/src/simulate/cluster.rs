//! Simulated topic with the workers that consume it. Pure.

use std::collections::BTreeMap;

use super::arrivals::{Arrivals, floor};
use super::assignor::assign;
use super::model::ClusterModel;
use crate::lag::members::GroupMembers;
use crate::lag::offsets::{OffsetSnapshot, PartitionSnapshot};
use crate::scale::load::to_f64;

/// Time after which workers notice an added partition, in seconds.
const DISCOVERY_SECONDS: u32 = 30;

/// Topic, consumer group and workers. Records are counted, not stored.
#[derive(Debug)]
pub(super) struct SimulatedCluster<'m> {
    model: &'m ClusterModel,
    arrivals: &'m Arrivals,
    pub(super) partitions: Vec<Partition>,
    /// Numbers of the workers in the group, in the order in which they joined.
    members: Vec<usize>,
    started: usize,
    /// Second of the join, and number of workers that start.
    starting: Vec<(u32, u32)>,
    /// Desired workers.
    pub(super) replicas: u32,
    /// Partitions that the group assigns.
    assigned_count: usize,
    /// Second at which the group notices added partitions.
    discovery: Option<u32>,
    settled_at: u32,
    now: u32,
}

/// Partition of the topic.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Partition {
    pub(super) committed: u64,
    pub(super) end: u64,
    start: u64,
    processed: u64,
    owner: Option<usize>,
    paused_until: u32,
}

impl<'m> SimulatedCluster<'m> {
    pub(super) fn new(model: &'m ClusterModel, arrivals: &'m Arrivals, replicas: u32) -> Self {
        let count = arrivals.partitions();
        let partition = Partition {
            end: model.backlog / count.max(1) as u64,
            ..Partition::default()
        };
        let mut cluster = Self {
            model,
            arrivals,
            partitions: vec![partition; count],
            members: Vec::new(),
            started: 0,
            starting: Vec::new(),
            replicas,
            assigned_count: count,
            discovery: None,
            settled_at: 0,
            now: 0,
        };
        cluster.join(replicas);
        for partition in &mut cluster.partitions {
            partition.paused_until = 0;
        }
        cluster.settled_at = 0;
        cluster
    }

    /// Advances by one step: records arrive, workers join, retention deletes, workers process and commit.
    pub(super) fn tick(&mut self, second: u32) {
        self.now = second;
        let step = self.model.step_seconds;
        let is_now = |time: u32| (second..second + step).contains(&time);
        for (_, count) in self
            .model
            .added_partitions
            .iter()
            .filter(|(time, _)| is_now(*time))
        {
            let count = self.partitions.len() + *count as usize;
            self.partitions.resize(count, Partition::default());
            self.discovery = Some(second + DISCOVERY_SECONDS);
        }
        if self.discovery.is_some_and(|time| time <= second) {
            self.discovery = None;
            self.assigned_count = self.partitions.len();
            self.rebalance();
        }
        let arrivals = self.arrivals.arrivals(second, self.partitions.len());
        for (partition, arrived) in self.partitions.iter_mut().zip(arrivals) {
            partition.end += arrived * u64::from(step);
        }
        let joining = self.starting.extract_if(.., |(time, _)| *time <= second);
        let joining: u32 = joining.map(|(_, count)| count).sum();
        if joining > 0 {
            self.join(joining);
        }
        for (time, duration) in self.model.pauses.iter().filter(|(time, _)| is_now(*time)) {
            self.settled_at = self.settled_at.max(time + duration);
            for partition in &mut self.partitions {
                partition.paused_until = partition.paused_until.max(time + duration);
            }
        }
        for (_, share) in self.model.losses.iter().filter(|(time, _)| is_now(*time)) {
            for partition in &mut self.partitions {
                let lag = to_f64(partition.end - partition.processed);
                partition.start = partition.processed + floor(lag * share);
                partition.processed = partition.start;
            }
        }
        self.process();
        self.commit();
    }

    /// Changes the number of workers. The newest are deleted first, those that start before those that run.
    pub(super) fn scale(&mut self, replicas: u32) {
        self.replicas = replicas;
        let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let existing = members + self.starting.iter().map(|(_, count)| count).sum::<u32>();
        if replicas > existing {
            let time = self.now + self.model.startup_seconds;
            self.starting.push((time, replicas - existing));
        }
        let mut surplus = existing.saturating_sub(replicas);
        while let Some((_, count)) = self.starting.last_mut().filter(|_| surplus > 0) {
            let deleted = surplus.min(*count);
            *count -= deleted;
            surplus -= deleted;
            self.starting.retain(|(_, count)| *count > 0);
        }
        if surplus > 0 {
            self.members
                .truncate(self.members.len().saturating_sub(surplus as usize));
            self.rebalance();
        }
    }

    pub(super) fn ready_replicas(&self) -> u32 {
        u32::try_from(self.members.len()).unwrap_or(u32::MAX)
    }

    /// Members of the group as the operator sees them.
    pub(super) fn group_members(&self) -> GroupMembers {
        if self.model.hidden_members {
            return GroupMembers::Hidden(self.ready_replicas());
        }
        if self.now < self.settled_at {
            return GroupMembers::Assigning;
        }
        let mut assigned: BTreeMap<String, Vec<u32>> = self
            .members
            .iter()
            .map(|member| (member_name(*member), Vec::new()))
            .collect();
        for (partition, id) in self.partitions.iter().take(self.assigned_count).zip(0..) {
            let owner = partition.owner.map(member_name);
            if let Some(partitions) = owner.and_then(|owner| assigned.get_mut(&owner)) {
                partitions.push(id);
            }
        }
        GroupMembers::Assigned(assigned)
    }

    pub(super) fn snapshot(&self) -> OffsetSnapshot {
        let partitions = self
            .partitions
            .iter()
            .zip(0..)
            .map(|(partition, id)| PartitionSnapshot {
                partition: id,
                start: partition.start,
                end: partition.end,
                committed: Some(partition.committed),
            });
        OffsetSnapshot {
            partitions: partitions.collect(),
        }
    }

    fn join(&mut self, count: u32) {
        let numbers = self.started..self.started + count as usize;
        self.started = numbers.end;
        self.members.extend(numbers);
        self.rebalance();
    }

    fn rebalance(&mut self) {
        let owners: Vec<Option<usize>> = self.partitions.iter().map(|partition| partition.owner).collect();
        let assigned = assign(&self.members, &owners[..self.assigned_count]);
        let until = self.now + self.model.rebalance_seconds;
        for (partition, owner) in self.partitions.iter_mut().zip(assigned) {
            if self.model.eager || partition.owner != owner {
                partition.paused_until = partition.paused_until.max(until);
            }
            partition.owner = owner;
        }
        if !self.members.is_empty() {
            self.settled_at = self.settled_at.max(until);
        }
    }

    /// Each worker processes what it can, in equal shares of the partitions that have records.
    fn process(&mut self) {
        let rate = self
            .arrivals
            .worker_rate(self.now)
            .map_or_else(|| self.model.worker_rate.rate(self.now), to_f64);
        let step = f64::from(self.model.step_seconds);
        let mut work: Vec<(f64, Vec<usize>)> = Vec::new();
        for member in &self.members {
            let readable = |partition: &Partition| {
                partition.owner == Some(*member)
                    && partition.end > partition.processed
                    && partition.paused_until <= self.now
            };
            let readable: Vec<usize> = (0..self.partitions.len())
                .filter(|partition| readable(&self.partitions[*partition]))
                .collect();
            let lag: u64 = readable
                .iter()
                .map(|partition| self.partitions[*partition].remaining())
                .sum();
            let possible = rate * step * self.model.worker_speed(*member);
            work.push((possible.min(to_f64(lag)), readable));
        }
        let total: f64 = work.iter().map(|(possible, _)| possible).sum();
        let limit = self.model.shared_rate(self.now).map_or(total, |rate| rate * step);
        let factor = if total > limit { limit / total } else { 1.0 };
        for (possible, readable) in work {
            self.process_partitions(floor(possible * factor), readable);
        }
    }

    fn process_partitions(&mut self, mut budget: u64, mut readable: Vec<usize>) {
        while budget > 0 && !readable.is_empty() {
            let share = (budget / readable.len() as u64).max(1);
            readable.retain(|partition| {
                let partition = &mut self.partitions[*partition];
                let processed = share.min(partition.remaining()).min(budget);
                partition.processed += processed;
                budget -= processed;
                partition.remaining() > 0
            });
        }
    }

    fn commit(&mut self) {
        let interval = self.model.commit_seconds;
        for (partition, index) in self.partitions.iter_mut().zip(0_u32..) {
            // The partitions do not commit at the same time.
            let is_due = interval <= 1 || (self.now + 3 * index) % interval < self.model.step_seconds;
            if is_due {
                partition.committed = partition.processed;
            }
        }
    }
}

impl Partition {
    fn remaining(&self) -> u64 {
        self.end - self.processed
    }
}

fn member_name(number: usize) -> String {
    format!("worker-{number}")
}
