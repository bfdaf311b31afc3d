//! What is read of a consumer group on a topic, made of Kafka's three answers.
//!
//! A [`Reading`] is complete: it has every partition of the topic. Everything less is [`Unknown`], with a reason, and
//! never 0. [`crate::kafka`] asks; how many workers follow from a reading is decided elsewhere.

pub mod track;
pub mod view;

use std::collections::{BTreeMap, BTreeSet};

use crds::StreamStage;

/// What is asked for: one group on one topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question {
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
}

impl From<&StreamStage> for Question {
    fn from(stage: &StreamStage) -> Self {
        Self {
            group: stage.consumer_group(),
            topic: stage.spec.source.topic.clone(),
        }
    }
}

/// All partitions of a topic, by number, at about one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Partitions 0, 1, 2, … without a gap; at least one.
    pub partitions: Vec<PartitionReading>,
}

/// One partition, as one group sees it. `start <= end`, and `committed <= end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionReading {
    /// Its number.
    pub partition: u32,
    /// The first offset that the log holds. It is not asked for where everything is read: there it is the end.
    pub start: u64,
    /// The last stable offset: what a reader of committed records can read ends before it.
    pub end: u64,
    /// The offset that the group reads next; `None` when it has committed nothing.
    pub committed: Option<u64>,
}

/// No reading, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Unknown {
    /// The kind of trouble.
    pub reason: UnknownReason,
    /// What failed, and what to do.
    pub message: String,
}

/// Why something of Kafka is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UnknownReason {
    /// No broker answered in time.
    Unreachable,
    /// The brokers refuse the credentials, or TLS failed.
    AuthenticationFailed,
    /// The credentials lack a right.
    Forbidden,
    /// There is no such topic.
    UnknownTopic,
    /// A part of the answer is missing.
    Partial,
    /// A committed offset is beyond the topic's end.
    OffsetOutOfRange,
}

impl PartitionReading {
    /// The offset that is read next: what is committed, unless retention has taken it.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.committed
            .map_or(self.start, |committed| committed.max(self.start))
    }

    /// `max(0, end - max(committed, start))`, in records.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.end.saturating_sub(self.position())
    }
}

impl Reading {
    /// The lag that stood still since an earlier reading, as `(partition, position, end)`.
    #[must_use]
    pub fn tails_since(&self, earlier: &Self) -> Vec<(u32, u64, u64)> {
        let still = self
            .partitions
            .iter()
            .filter(|partition| partition.lag() > 0 && earlier.partitions.contains(partition));
        still
            .map(|partition| (partition.partition, partition.position(), partition.end))
            .collect()
    }

    /// Takes it that the group has read these partitions to their ends, because there is nothing left that can be read.
    pub fn has_read(&mut self, partitions: &BTreeSet<u32>) {
        for partition in &mut self.partitions {
            if partitions.contains(&partition.partition) {
                partition.committed = Some(partition.end);
            }
        }
    }
}

impl Unknown {
    pub(crate) fn new(reason: UnknownReason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message }
    }
}

/// Offsets of a topic's partitions, by number.
pub type Offsets = BTreeMap<u32, u64>;

/// Kafka's answers to one question. A partition that an answer lacks was not answered.
#[derive(Clone, Copy, Debug)]
pub struct Answers<'a> {
    /// How many partitions the topic has.
    pub partitions: u32,
    /// What the group has committed; `None` for a partition of which the broker says that there is nothing.
    pub committed: &'a BTreeMap<u32, Option<u64>>,
    /// Last stable offsets.
    pub ends: &'a Offsets,
    /// First offsets, where [`start_matters`].
    pub starts: &'a Offsets,
}

/// Whether the log's start can change the lag: not when all is read.
#[must_use]
pub fn start_matters(committed: Option<u64>, end: u64) -> bool {
    committed.is_none_or(|committed| committed < end)
}

/// Makes a reading of the answers.
///
/// # Errors
/// When an answer lacks a partition, or a committed offset is beyond the end.
pub fn assemble(question: &Question, answers: Answers<'_>) -> Result<Reading, Unknown> {
    let Question { group, topic } = question;
    let missing = |what: &str, partition: u32| {
        let message =
            format!("{what} of topic {topic}, partition {partition}, group {group} was not answered in time");
        Unknown::new(UnknownReason::Partial, message)
    };
    if answers.partitions == 0 {
        let message = format!("Kafka names no partition of topic {topic}");
        return Err(Unknown::new(UnknownReason::Partial, message));
    }
    let read = (0..answers.partitions).map(|partition| {
        let committed = answers.committed.get(&partition);
        let committed = *committed.ok_or_else(|| missing("the committed offset", partition))?;
        let end = answers.ends.get(&partition);
        let end = *end.ok_or_else(|| missing("the end", partition))?;
        if let Some(committed) = committed.filter(|committed| *committed > end) {
            return Err(beyond_the_end(question, partition, committed, end));
        }
        let start = if start_matters(committed, end) {
            let start = answers.starts.get(&partition);
            // The start is asked for after the end, and may have passed it.
            *start.ok_or_else(|| missing("the start", partition))?.min(&end)
        } else {
            end
        };
        Ok(PartitionReading {
            partition,
            start,
            end,
            committed,
        })
    });
    let partitions = read.collect::<Result<_, _>>()?;
    Ok(Reading { partitions })
}

fn beyond_the_end(question: &Question, partition: u32, committed: u64, end: u64) -> Unknown {
    let Question { group, topic } = question;
    let message = format!(
        "group {group} committed offset {committed} of topic {topic}, partition {partition}, which ends at {end}: \
         the topic was made anew or its log was cut; run `worker reset-offsets`"
    );
    Unknown::new(UnknownReason::OffsetOutOfRange, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Committed = BTreeMap<u32, Option<u64>>;

    fn read(
        partitions: u32,
        committed: &Committed,
        ends: &Offsets,
        starts: &Offsets,
    ) -> Result<Reading, Unknown> {
        let question = Question {
            group: "orders.stg".to_owned(),
            topic: "orders".to_owned(),
        };
        let answers = Answers {
            partitions,
            committed,
            ends,
            starts,
        };
        assemble(&question, answers)
    }

    #[test]
    fn complete_answers_make_a_reading_by_partition() {
        let committed = Committed::from([(2, Some(9)), (0, None), (1, Some(4))]);
        let reading = read(
            3,
            &committed,
            &Offsets::from([(0, 5), (1, 8), (2, 9)]),
            &Offsets::from([(0, 2), (1, 6)]),
        );
        let expected = [(0, 2, 5, None), (1, 6, 8, Some(4)), (2, 9, 9, Some(9))];
        let partitions = expected.map(|(partition, start, end, committed)| PartitionReading {
            partition,
            start,
            end,
            committed,
        });
        assert_eq!(reading.expect("complete").partitions, partitions);
    }

    #[test]
    fn a_missing_answer_is_unknown_and_never_zero() {
        let committed = Committed::from([(0, Some(1)), (1, None)]);
        let ends = Offsets::from([(0, 3), (1, 3)]);
        let starts = Offsets::from([(0, 0), (1, 0)]);
        read(2, &committed, &ends, &starts).expect("complete");
        for partition in 0..2 {
            let mut lacking = (committed.clone(), ends.clone(), starts.clone());
            lacking.0.remove(&partition);
            let no_commit = read(2, &lacking.0, &ends, &starts);
            lacking.1.remove(&partition);
            let no_end = read(2, &committed, &lacking.1, &starts);
            lacking.2.remove(&partition);
            let no_start = read(2, &committed, &ends, &lacking.2);
            for refused in [no_commit, no_end, no_start] {
                let refused = refused.expect_err("incomplete");
                assert_eq!(refused.reason, UnknownReason::Partial);
                assert!(
                    refused.to_string().contains(&format!("partition {partition}")),
                    "{refused}"
                );
            }
        }
        let refused = read(0, &Committed::new(), &Offsets::new(), &Offsets::new());
        assert_eq!(refused.expect_err("no partition").reason, UnknownReason::Partial);
    }

    #[test]
    fn a_commit_beyond_the_end_is_out_of_range() {
        let refused = read(
            1,
            &Committed::from([(0, Some(4))]),
            &Offsets::from([(0, 3)]),
            &Offsets::new(),
        );
        let refused = refused.expect_err("beyond the end");
        assert_eq!(refused.reason, UnknownReason::OffsetOutOfRange);
        assert!(refused.message.contains("worker reset-offsets"), "{refused}");
    }

    #[test]
    fn a_start_that_passed_the_end_meanwhile_is_the_end() {
        let reading = read(
            1,
            &Committed::from([(0, Some(1))]),
            &Offsets::from([(0, 3)]),
            &Offsets::from([(0, 8)]),
        );
        assert_eq!(reading.expect("complete").partitions[0].start, 3);
    }

    #[test]
    fn a_tail_that_stood_still_and_holds_nothing_is_no_lag() {
        let offsets = Offsets::from([(0, 0), (1, 0), (2, 0)]);
        let at = |committed: [u64; 3]| {
            let committed = std::iter::zip(0.., committed.map(Some)).collect();
            let ends = Offsets::from([(0, 9), (1, 9), (2, 9)]);
            read(3, &committed, &ends, &offsets).expect("complete")
        };
        let (first, mut second) = (at([8, 7, 9]), at([8, 8, 9]));
        assert_eq!(second.tails_since(&first), [(0, 8, 9)]);
        second.has_read(&BTreeSet::from([0]));
        assert_eq!(
            second
                .partitions
                .iter()
                .map(PartitionReading::lag)
                .collect::<Vec<_>>(),
            [0, 1, 0]
        );
    }
}
