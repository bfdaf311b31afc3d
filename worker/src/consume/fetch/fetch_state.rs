//! State of the fetcher: what it reads, from which leaders, and what fails. Pure.
//!
//! A partition has a generation: it changes at every assignment and seek, so that an answer to an earlier request is
//! recognized. A partition has at most [`MAX_QUEUED_SETS`] answers that are not read yet.

use std::collections::{BTreeMap, BTreeSet};

use kafka::TopicMetadata;

/// Answers of one partition that may wait to be read.
const MAX_QUEUED_SETS: usize = 4;
/// Attempts to fetch a batch whose checksum does not match, because the network may have changed it.
const MAX_CORRUPT_ATTEMPTS: u32 = 4;

/// Part of the source that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failing {
    /// The metadata of the topic.
    Metadata,
    /// Connection to a broker, by its id.
    Broker(i32),
    /// A partition.
    Partition(i32),
}

/// Request for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartitionRequest {
    /// Partition id.
    pub partition: i32,
    /// Generation of the partition.
    pub generation: u64,
    /// First offset to fetch.
    pub offset: i64,
    /// The next answer is read even if a checksum does not match.
    pub accepts_corrupt: bool,
}

/// Partitions to request from one broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Partitions to fetch.
    pub wanted: Vec<PartitionRequest>,
    /// Partitions of the broker are left out, because their answers are not read yet.
    pub is_partial: bool,
}

#[derive(Clone, Debug)]
struct Partition {
    generation: u64,
    next_offset: i64,
    queued: usize,
    corrupt_attempts: u32,
    is_caught_up: bool,
}

/// State of the fetcher.
#[derive(Debug, Default)]
pub(super) struct FetchState {
    partitions: BTreeMap<i32, Partition>,
    /// Broker id of each partition's leader, also of partitions that are not read.
    leaders: BTreeMap<i32, i32>,
    generation: u64,
    failures: BTreeSet<Failing>,
}

impl FetchState {
    /// Reads a partition from an offset, and returns its generation.
    pub(super) fn start(&mut self, partition: i32, offset: i64) -> u64 {
        self.generation += 1;
        let started = Partition {
            generation: self.generation,
            next_offset: offset,
            queued: 0,
            corrupt_attempts: 0,
            is_caught_up: false,
        };
        self.partitions.insert(partition, started);
        self.generation
    }

    /// Ends the reading of a partition.
    pub(super) fn stop(&mut self, partition: i32) {
        self.partitions.remove(&partition);
        self.failures.remove(&Failing::Partition(partition));
    }

    /// Counts an answer as read.
    pub(super) fn release(&mut self, partition: i32, generation: u64) {
        if let Some(partition) = self.current(partition, generation) {
            partition.queued = partition.queued.saturating_sub(1);
        }
    }

    /// Returns true if all answers are read, and the last one had no batch.
    pub(super) fn is_caught_up(&self, partition: i32) -> bool {
        let partition = self.partitions.get(&partition);
        partition.is_some_and(|partition| partition.is_caught_up && partition.queued == 0)
    }

    /// Returns true if a partition that is read has no known leader.
    pub(super) fn needs_metadata(&self) -> bool {
        self.partitions
            .keys()
            .any(|partition| !self.leaders.contains_key(partition))
    }

    /// Accepts the leaders. Returns the partitions that are read and have no leader.
    pub(super) fn set_leaders(&mut self, metadata: &TopicMetadata) -> Vec<i32> {
        let leaders = metadata
            .leaders
            .iter()
            .filter_map(|(&partition, &leader)| Some((partition, leader?)));
        self.leaders = leaders.collect();
        let brokers = self.leading_brokers();
        self.failures.retain(|failing| match failing {
            Failing::Metadata => false,
            Failing::Broker(id) => brokers.contains(id),
            Failing::Partition(_) => true,
        });
        let partitions = self.partitions.keys().copied();
        partitions
            .filter(|partition| !self.leaders.contains_key(partition))
            .collect()
    }

    /// Ids of the brokers that lead a partition of the topic.
    pub(super) fn leading_brokers(&self) -> BTreeSet<i32> {
        self.leaders.values().copied().collect()
    }

    /// Forgets which partitions a broker leads, because it does not answer.
    pub(super) fn forget_broker(&mut self, broker: i32) {
        self.leaders.retain(|_, leader| *leader != broker);
    }

    /// Forgets the leader of a partition.
    pub(super) fn forget_leader(&mut self, partition: i32) {
        self.leaders.remove(&partition);
    }

    /// Returns the partitions to request from a broker.
    pub(super) fn plan(&self, broker: i32) -> Plan {
        let led = self
            .partitions
            .iter()
            .filter(|(id, _)| self.leaders.get(id) == Some(&broker));
        let mut plan = Plan::default();
        for (&id, partition) in led {
            if partition.queued >= MAX_QUEUED_SETS {
                plan.is_partial = true;
                continue;
            }
            plan.wanted.push(PartitionRequest {
                partition: id,
                generation: partition.generation,
                offset: partition.next_offset,
                accepts_corrupt: partition.corrupt_attempts >= MAX_CORRUPT_ATTEMPTS,
            });
        }
        plan
    }

    /// Accepts an answer that continues at `next_offset`; false if the partition was started again meanwhile, or another
    /// answer to the same request was accepted.
    pub(super) fn accept(&mut self, wanted: PartitionRequest, next_offset: i64) -> bool {
        self.failures.remove(&Failing::Partition(wanted.partition));
        let Some(partition) = self.current(wanted.partition, wanted.generation) else {
            return false;
        };
        if partition.next_offset != wanted.offset {
            return false;
        }
        partition.is_caught_up = next_offset == wanted.offset;
        if partition.is_caught_up {
            return false;
        }
        partition.next_offset = next_offset;
        partition.queued += 1;
        partition.corrupt_attempts = 0;
        true
    }

    /// Counts an answer whose first checksum does not match, so that it is fetched again.
    pub(super) fn reject_corrupt(&mut self, wanted: PartitionRequest) {
        if let Some(partition) = self.current(wanted.partition, wanted.generation) {
            partition.corrupt_attempts += 1;
        }
    }

    /// Ends the reading of a partition, unless it was started again since the request; returns whether it was not.
    pub(super) fn stop_current(&mut self, wanted: PartitionRequest) -> bool {
        let is_current = self.current(wanted.partition, wanted.generation).is_some();
        if is_current {
            self.stop(wanted.partition);
        }
        is_current
    }

    /// Records a failure.
    pub(super) fn fail(&mut self, failing: Failing) {
        self.failures.insert(failing);
    }

    /// Records the end of a failure.
    pub(super) fn recover(&mut self, failing: Failing) {
        self.failures.remove(&failing);
    }

    /// Returns true if nothing fails.
    pub(super) fn is_healthy(&self) -> bool {
        self.failures.is_empty()
    }

    fn current(&mut self, partition: i32, generation: u64) -> Option<&mut Partition> {
        let partition = self.partitions.get_mut(&partition);
        partition.filter(|partition| partition.generation == generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(leaders: &[(i32, Option<i32>)]) -> TopicMetadata {
        TopicMetadata {
            leaders: leaders.iter().copied().collect(),
            ..TopicMetadata::default()
        }
    }

    fn state() -> FetchState {
        let mut state = FetchState::default();
        state.start(0, 10);
        state.start(1, 20);
        state
    }

    fn offsets(plan: &Plan) -> Vec<(i32, i64)> {
        plan.wanted
            .iter()
            .map(|wanted| (wanted.partition, wanted.offset))
            .collect()
    }

    #[test]
    fn each_leader_is_asked_for_its_partitions() {
        let mut state = state();
        assert!(state.needs_metadata());
        assert_eq!(state.set_leaders(&metadata(&[(0, Some(1)), (1, None)])), [1]);
        assert!(state.needs_metadata());
        assert_eq!(
            state.set_leaders(&metadata(&[(0, Some(1)), (1, Some(2))])),
            [0; 0]
        );
        assert!(!state.needs_metadata());
        assert_eq!(offsets(&state.plan(1)), [(0, 10)]);
        assert_eq!(offsets(&state.plan(2)), [(1, 20)]);
        assert_eq!(state.plan(3), Plan::default());
        state.forget_broker(1);
        assert!(state.needs_metadata());
        assert_eq!(state.leading_brokers(), BTreeSet::from([2]));
    }

    #[test]
    fn a_partition_is_not_requested_while_its_answers_are_not_read() {
        let mut state = state();
        state.set_leaders(&metadata(&[(0, Some(1)), (1, Some(1))]));
        for offset in 10.. {
            let wanted = state.plan(1).wanted[0];
            if wanted.partition == 1 {
                break;
            }
            assert!(state.accept(wanted, offset + 1));
        }
        let plan = state.plan(1);
        assert!(plan.is_partial);
        assert_eq!(offsets(&plan), [(1, 20)]);
        state.release(0, 1);
        assert_eq!(offsets(&state.plan(1)), [(0, 14), (1, 20)]);
    }

    #[test]
    fn an_answer_to_an_earlier_request_is_ignored() {
        let mut state = state();
        state.set_leaders(&metadata(&[(0, Some(1))]));
        let wanted = state.plan(1).wanted[0];
        assert!(state.accept(wanted, 15));
        assert!(!state.accept(wanted, 15), "another leader has answered, too");
        state.start(0, 10);
        assert!(!state.accept(wanted, 15) && !state.stop_current(wanted));
        assert_eq!(offsets(&state.plan(1)), [(0, 10)], "the leader is still known");
        state.release(0, wanted.generation);
        state.stop(0);
        assert_eq!(state.plan(1), Plan::default());
    }

    #[test]
    fn an_empty_answer_shows_that_a_partition_is_caught_up() {
        let mut state = state();
        state.set_leaders(&metadata(&[(0, Some(1))]));
        assert!(!state.is_caught_up(0));
        let wanted = state.plan(1).wanted[0];
        assert!(!state.accept(wanted, 10) && state.is_caught_up(0));
        assert!(state.accept(wanted, 11) && !state.is_caught_up(0));
    }

    #[test]
    fn a_corrupt_answer_is_read_after_a_few_attempts() {
        let mut state = state();
        state.set_leaders(&metadata(&[(0, Some(1))]));
        for _ in 0..MAX_CORRUPT_ATTEMPTS {
            let wanted = state.plan(1).wanted[0];
            assert!(!wanted.accepts_corrupt);
            state.reject_corrupt(wanted);
        }
        let wanted = state.plan(1).wanted[0];
        assert!(wanted.accepts_corrupt && state.accept(wanted, 11));
        assert!(!state.plan(1).wanted[0].accepts_corrupt);
    }

    #[test]
    fn the_source_is_healthy_when_every_failure_has_ended() {
        let mut state = state();
        state.set_leaders(&metadata(&[(0, Some(1)), (1, Some(2))]));
        for failing in [
            Failing::Metadata,
            Failing::Broker(1),
            Failing::Broker(3),
            Failing::Partition(1),
        ] {
            state.fail(failing);
        }
        state.set_leaders(&metadata(&[(0, Some(1)), (1, Some(2))]));
        state.recover(Failing::Broker(1));
        assert!(!state.is_healthy());
        let wanted = state.plan(2).wanted[0];
        state.accept(wanted, 20);
        assert!(state.is_healthy());
    }
}
