//! Assumptions about the simulated cluster. Data only.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::curve::Curve;

/// Assumptions about workers, group, database and topic.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterModel {
    /// Throughput of a worker, in records per second.
    pub worker_rate: Curve,
    /// Time between a scale-up and the first commit of the new workers, in seconds.
    pub startup_seconds: u32,
    /// Time for which a partition that changes its worker is not read, in seconds.
    pub rebalance_seconds: u32,
    /// True if a rebalance pauses every partition, not only those that change their worker.
    pub eager: bool,
    /// Speed of single workers, by the order in which they start, from 0.
    pub worker_speeds: BTreeMap<String, f64>,
    /// Throughput of all workers together, such as that of a database, from and until a second.
    pub shared_rates: Vec<(u32, u32, f64)>,
    /// Second and duration of rebalances that another cause than scaling has.
    pub pauses: Vec<(u32, u32)>,
    /// Seconds between two commits of a partition.
    pub commit_seconds: u32,
    /// Second, and the share of the lag of every partition that retention deletes then.
    pub losses: Vec<(u32, f64)>,
    /// Seconds at which another version of the workers is rolled out.
    pub rollouts: Vec<u32>,
    /// Seconds at which another operator takes over.
    pub restarts: Vec<u32>,
    /// Second, and the number of partitions that are added then.
    pub added_partitions: Vec<(u32, u32)>,
    /// True if the operator may not see the members of the group.
    pub hidden_members: bool,
    /// Workers at the start; `minReplicas` if not set.
    pub replicas: Option<u32>,
    /// Lag at the start, in records.
    pub backlog: u64,
    /// Capacity of a worker that the operator knows at the start, in records per second.
    pub capacity: Option<f64>,
    /// Seconds per step of the simulation.
    pub step_seconds: u32,
}

impl Default for ClusterModel {
    fn default() -> Self {
        Self {
            worker_rate: Curve::constant(1000.0),
            startup_seconds: 15,
            rebalance_seconds: 3,
            eager: false,
            worker_speeds: BTreeMap::new(),
            shared_rates: Vec::new(),
            pauses: Vec::new(),
            commit_seconds: 1,
            losses: Vec::new(),
            rollouts: Vec::new(),
            restarts: Vec::new(),
            added_partitions: Vec::new(),
            hidden_members: false,
            replicas: None,
            backlog: 0,
            capacity: None,
            step_seconds: 1,
        }
    }
}

impl ClusterModel {
    /// Throughput of all workers together in this second; `None` without a limit.
    #[must_use]
    pub fn shared_rate(&self, second: u32) -> Option<f64> {
        let mut rates = self.shared_rates.iter();
        rates
            .find(|(from, until, _)| (*from..*until).contains(&second))
            .map(|(.., rate)| *rate)
    }

    /// Speed of a worker, as a share of the throughput of the others.
    #[must_use]
    pub fn worker_speed(&self, number: usize) -> f64 {
        self.worker_speeds
            .get(&number.to_string())
            .copied()
            .unwrap_or(1.0)
    }
}
