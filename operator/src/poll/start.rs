//! Where a group begins that has committed nothing yet.
//!
//! `Earliest` needs nothing: all that the log holds is its lag. For `Latest` and for an instant the start is committed
//! before the first worker comes, so that what arrives in between is neither skipped nor unknown.

use crds::StreamStage;
use crds::stage::StartFrom;

use super::{Answer, PATIENCE, Round};
use crate::lag::{Question, Unknown, UnknownReason};

impl Round {
    /// The answer for a group that has a start; else commits the start, which the next reading finds.
    pub(super) async fn started(&self, stage: &StreamStage, answer: Answer) -> Answer {
        let reading = answer?;
        let from = stage.spec.source.start_from;
        if from == StartFrom::Earliest {
            return Ok(reading);
        }
        if reading
            .partitions
            .iter()
            .all(|partition| partition.committed.is_some())
        {
            return Ok(reading);
        }
        let question = Question {
            group: stage.consumer_group(),
            topic: stage.spec.source.topic.clone(),
        };
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
