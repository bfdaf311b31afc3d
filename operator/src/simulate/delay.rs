//! Delay of the oldest unread record. Pure.

use super::cluster::Partition;

/// End offsets of every partition over time.
#[derive(Debug, Default)]
pub(super) struct DelayClock {
    steps: usize,
    partitions: Vec<History>,
}

#[derive(Debug, Default)]
struct History {
    /// End offset at each step since `first`.
    ends: Vec<u64>,
    first: usize,
    /// First entry beyond the committed offset.
    oldest: usize,
}

impl DelayClock {
    /// Notes one step, and returns the longest delay of all partitions, in steps.
    pub(super) fn advance(&mut self, partitions: &[Partition]) -> usize {
        while self.partitions.len() < partitions.len() {
            self.partitions.push(History {
                first: self.steps,
                ..History::default()
            });
        }
        let now = self.steps;
        self.steps += 1;
        let delays = self
            .partitions
            .iter_mut()
            .zip(partitions)
            .map(|(history, partition)| {
                history.ends.push(partition.end);
                if partition.committed >= partition.end {
                    return 0;
                }
                while history
                    .ends
                    .get(history.oldest)
                    .is_some_and(|end| *end <= partition.committed)
                {
                    history.oldest += 1;
                }
                now - (history.first + history.oldest)
            });
        delays.max().unwrap_or(0)
    }
}
