//! Sorts what brokers answered by question and by topic. Pure: [`super`] asks, [`crate::lag`] judges.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::MetadataTopic;

use super::admin::PartitionOffset;
use super::trouble;
use crate::lag::{self, Answers, Offsets, Question, Reading, Unknown, UnknownReason};

/// By topic: the leader of each of its partitions.
pub(super) type Topics<'q> = BTreeMap<&'q str, Result<Vec<i32>, Unknown>>;
/// Partitions by topic and number.
pub(super) type Partitions<'q> = Vec<(&'q str, u32)>;
/// By question: what the group has committed, as far as it was answered.
pub(super) type Committed = BTreeMap<Question, Result<BTreeMap<u32, Option<u64>>, Unknown>>;
/// By topic: the offsets that were answered.
pub(super) type Listed = BTreeMap<String, Result<Offsets, Unknown>>;

/// The leaders of a topic's partitions, which all have one: without, nobody knows where they end.
pub(super) fn leaders(topic: &MetadataTopic) -> Result<Vec<i32>, Unknown> {
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
    let by_number: BTreeMap<i32, i32> = partitions
        .iter()
        .map(|partition| (partition.id(), partition.leader()))
        .collect();
    Ok(by_number.into_values().collect())
}

/// Every partition of a topic.
pub(super) fn partitions<'t>(topic: &'t str, leaders: &[i32]) -> impl Iterator<Item = (&'t str, u32)> {
    (0..).take(leaders.len()).map(move |partition| (topic, partition))
}

/// The partitions that each broker leads.
pub(super) fn by_leader<'q>(
    topics: &Topics<'_>,
    partitions: impl IntoIterator<Item = (&'q str, u32)>,
) -> Vec<Partitions<'q>> {
    let leader = |(topic, partition): (&str, u32)| {
        let leaders = topics.get(topic)?.as_ref().ok()?;
        leaders.get(usize::try_from(partition).ok()?).copied()
    };
    let mut led = BTreeMap::<_, Partitions<'q>>::new();
    for partition in partitions {
        led.entry(leader(partition)).or_default().push(partition);
    }
    led.into_values().collect()
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
    let leaders = topics[question.topic.as_str()].as_ref().map_err(Unknown::clone)?;
    let none = Offsets::new();
    let answers = Answers {
        partitions: u32::try_from(leaders.len()).unwrap_or(u32::MAX),
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
    leaders: &[i32],
    answered: Vec<PartitionOffset>,
) -> Result<Offsets, Unknown> {
    let offsets = by_topic(answered)
        .remove(topic)
        .unwrap_or_else(|| Ok(Offsets::new()))?;
    match partitions(topic, leaders).find(|(_, partition)| !offsets.contains_key(partition)) {
        None => Ok(offsets),
        Some((_, partition)) => {
            let message =
                format!("the offset of topic {topic}, partition {partition} was not answered in time");
            Err(Unknown::new(UnknownReason::Partial, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_asked_once_for_all_that_it_leads() {
        let gone = Unknown::new(UnknownReason::UnknownTopic, "no such topic");
        let topics = Topics::from([
            ("orders", Ok(vec![3, 1, 3])),
            ("facts", Ok(vec![1, 3])),
            ("gone", Err(gone)),
        ]);
        let known = topics
            .iter()
            .filter_map(|(topic, leaders)| Some((*topic, leaders.as_ref().ok()?)));
        let all = known.flat_map(|(topic, leaders)| partitions(topic, leaders));
        assert_eq!(
            by_leader(&topics, all),
            [
                vec![("facts", 0), ("orders", 1)],
                vec![("facts", 1), ("orders", 0), ("orders", 2)],
            ]
        );
    }
}
