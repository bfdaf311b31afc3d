//! Where a group begins that has committed nothing yet.
//!
//! `Earliest` needs nothing: all that the log holds is its lag. For `Latest` and for an instant the start is committed
//! before the first worker comes, so that what arrives in between is neither skipped nor unknown.

use crds::stage::StartFrom;

use super::{Answer, Due, PATIENCE, Round};
use crate::lag::{Reading, Unknown, UnknownReason};
use crate::outline::Outline;

/// Whether the group has partitions whose start is to be committed.
pub(super) fn lacks(stage: &Outline, answer: &Answer) -> bool {
    let is_open = |reading: &Reading| {
        reading
            .partitions
            .iter()
            .any(|partition| partition.committed.is_none())
    };
    stage.start_from != StartFrom::Earliest && answer.as_ref().is_ok_and(is_open)
}

impl Round {
    /// Commits the start of a group that lacks one, which the next reading finds.
    pub(super) async fn started(&self, (poll, guarded): &Due, answer: Answer) -> Answer {
        let reading = answer?;
        let Ok(stage) = &guarded.0 else { return Ok(reading) };
        let from = start_of(stage.start_from, &reading);
        let question = poll.question.clone();
        let absent: Vec<u32> = reading
            .partitions
            .iter()
            .filter(|partition| partition.committed.is_none())
            .map(|partition| partition.partition)
            .collect();
        let asked = self.ask(move |cluster| {
            let mut offsets = cluster.offsets_at(&question.topic, from, PATIENCE)?;
            offsets.retain(|partition, _| absent.contains(partition));
            cluster.commit_start(&question, &offsets, PATIENCE)
        });
        asked.await??;
        let message = "the start of the group has just been committed, and is read next";
        Err(Unknown::new(UnknownReason::Partial, message))
    }
}

/// Where the partitions begin that have no start. Those that were added to a topic that is being read are read
/// completely: `Latest` would pass over what came before they were seen.
fn start_of(from: StartFrom, reading: &Reading) -> StartFrom {
    let is_added = reading
        .partitions
        .iter()
        .any(|partition| partition.committed.is_some());
    if from == StartFrom::Latest && is_added {
        StartFrom::Earliest
    } else {
        from
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lag::PartitionReading;

    #[test]
    fn a_partition_that_is_added_to_a_topic_being_read_is_read_from_its_beginning() {
        let reading = |committed: [Option<u64>; 2]| Reading {
            partitions: std::iter::zip(0.., committed)
                .map(|(partition, committed)| PartitionReading {
                    partition,
                    start: 0,
                    end: 9,
                    committed,
                })
                .collect(),
        };
        let (fresh, grown) = (reading([None, None]), reading([Some(4), None]));
        let instant = StartFrom::Timestamp(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(start_of(StartFrom::Latest, &fresh), StartFrom::Latest);
        assert_eq!(start_of(StartFrom::Latest, &grown), StartFrom::Earliest);
        assert_eq!(start_of(instant, &grown), instant);
    }
}
