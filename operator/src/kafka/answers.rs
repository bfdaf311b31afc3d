//! Sorts what brokers answered by question and by topic. Pure: [`super`] asks, [`crate::lag`] judges.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::MetadataTopic;

use super::admin::PartitionOffset;
use super::trouble;
use crate::lag::{self, Answers, Offsets, Question, Reading, Unknown, UnknownReason};

/// By topic: how many partitions it has.
pub(super) type Topics<'q> = BTreeMap<&'q str, Result<u32, Unknown>>;
/// By question: what the group has committed, as far as it was answered.
pub(super) type Committed = BTreeMap<Question, Result<BTreeMap<u32, Option<u64>>, Unknown>>;
/// By topic: the offsets that were answered.
pub(super) type Listed = BTreeMap<String, Result<Offsets, Unknown>>;

/// How many partitions a topic has, all of which have a leader: without one, nobody knows where they end.
pub(super) fn partitions(topic: &MetadataTopic) -> Result<u32, Unknown> {
    if let Some(error) = topic.error() {
        return Err(trouble::of_topic(topic.name(), error.into()));
    }
    let partitions = topic.partitions();
    if let Some(leaderless) = partitions.iter().find(|partition| partition.leader() < 0) {
        let (topic, partition) = (topic.name(), leaderless.id());
        let message =
            format!("topic {topic}, partition {partition} has no leader; look after Kafka's brokers");
        return Err(Unknown::new(UnknownReason::Partial, message));
    }
    Ok(u32::try_from(partitions.len()).unwrap_or(u32::MAX))
}

/// Adds a group's answer to its questions.
pub(super) fn add_committed(
    committed: &mut Committed,
    group: &str,
    answer: Result<Vec<PartitionOffset>, RDKafkaErrorCode>,
) {
    match answer {
        Ok(answered) => {
            for PartitionOffset {
                topic,
                partition,
                offset,
            } in answered
            {
                let question = Question {
                    group: group.to_owned(),
                    topic,
                };
                if let Some(known) = committed.get_mut(&question) {
                    let offset = offset.map_err(|code| trouble::of_group(group, "Describe", code));
                    add(known, partition, offset.map(|offset| u64::try_from(offset).ok()));
                }
            }
        }
        Err(code) => {
            let of_group = committed
                .iter_mut()
                .filter(|(question, _)| question.group == group);
            for (_, known) in of_group {
                *known = Err(trouble::of_group(group, "Describe", code));
            }
        }
    }
}

/// Sorts offsets by topic; the first error of a topic's partition is the topic's.
pub(super) fn by_topic(answered: Vec<PartitionOffset>) -> Listed {
    let mut listed = Listed::new();
    for PartitionOffset {
        topic,
        partition,
        offset,
    } in answered
    {
        let offset = offset.map_err(|code| trouble::of_topic(&topic, code));
        // A negative offset is none: that broker did not answer.
        let offset = offset.map(u64::try_from);
        let known = listed.entry(topic).or_insert_with(|| Ok(Offsets::new()));
        match offset {
            Ok(Ok(offset)) => add(known, partition, Ok(offset)),
            Ok(Err(_)) => {}
            Err(unknown) => add(known, partition, Err(unknown)),
        }
    }
    listed
}

fn add<T>(known: &mut Result<BTreeMap<u32, T>, Unknown>, partition: i32, answered: Result<T, Unknown>) {
    match (known.as_mut(), answered) {
        (Ok(offsets), Ok(offset)) => {
            offsets.insert(partition.cast_unsigned(), offset);
        }
        (Ok(_), Err(unknown)) => *known = Err(unknown),
        (Err(_), _) => {}
    }
}

/// Partitions whose start matters to a group.
pub(super) fn needed_starts<'a>(committed: &'a Committed, ends: &Listed) -> BTreeSet<(&'a str, u32)> {
    let answered = committed.iter().filter_map(|(question, offsets)| {
        let ends = ends.get(&question.topic)?.as_ref().ok()?;
        Some((question.topic.as_str(), offsets.as_ref().ok()?, ends))
    });
    let needed = answered.flat_map(|(topic, offsets, ends)| {
        let matters = |(partition, end): &(&u32, &u64)| {
            let committed = offsets.get(*partition);
            committed.is_some_and(|committed| lag::start_matters(*committed, **end))
        };
        ends.iter()
            .filter(matters)
            .map(move |(partition, _)| (topic, *partition))
            .collect::<Vec<_>>()
    });
    needed.collect()
}

/// The answer to one question.
pub(super) fn answer(
    question: &Question,
    topics: &Topics<'_>,
    committed: &Committed,
    ends: &Listed,
    starts: &Listed,
) -> Result<Reading, Unknown> {
    let partitions = topics[question.topic.as_str()].clone()?;
    let none = Offsets::new();
    let answers = Answers {
        partitions,
        committed: committed[question].as_ref().map_err(Unknown::clone)?,
        ends: of_topic(ends, &question.topic)?.unwrap_or(&none),
        starts: of_topic(starts, &question.topic)?.unwrap_or(&none),
    };
    lag::assemble(question, answers)
}

fn of_topic<'l>(listed: &'l Listed, topic: &str) -> Result<Option<&'l Offsets>, Unknown> {
    listed
        .get(topic)
        .map(Result::as_ref)
        .transpose()
        .map_err(Unknown::clone)
}

/// The offsets of one topic, all of them.
pub(super) fn complete(
    topic: &str,
    partitions: u32,
    answered: Vec<PartitionOffset>,
) -> Result<Offsets, Unknown> {
    let offsets = by_topic(answered)
        .remove(topic)
        .unwrap_or_else(|| Ok(Offsets::new()))?;
    match (0..partitions).find(|partition| !offsets.contains_key(partition)) {
        None => Ok(offsets),
        Some(partition) => {
            let message =
                format!("the offset of topic {topic}, partition {partition} was not answered in time");
            Err(Unknown::new(UnknownReason::Partial, message))
        }
    }
}
