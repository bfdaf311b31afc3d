//! Rules for the topics of a stage: partitions, replicas, configuration and permissions. Pure.

use super::finding::{Finding, Severity};
use crate::topic_id::TopicOperation;

/// Role of a topic in its stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The topic that the stage consumes.
    Source,
    /// The topic for the next stage.
    Output,
    /// The topic for rejected records.
    DeadLetters,
}

impl Role {
    /// Name of the role in a finding.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Output => "output",
            Self::DeadLetters => "dead letters",
        }
    }

    fn is_written(self) -> bool {
        self != Self::Source
    }

    fn needed_operation(self) -> TopicOperation {
        if self.is_written() {
            TopicOperation::Write
        } else {
            TopicOperation::Read
        }
    }
}

/// A topic as the brokers describe it.
#[derive(Clone, Debug, Default)]
pub(super) struct TopicDescription {
    pub brokers: usize,
    /// True if the stage's login may not even describe the topic.
    pub is_forbidden: bool,
    /// Empty if the topic does not exist.
    pub partitions: Vec<PartitionDescription>,
    /// `None` if the stage may not describe it.
    pub config: Option<TopicConfig>,
    /// Permissions of the stage's login; `None` if the brokers do not report them.
    pub operations: Option<Vec<TopicOperation>>,
}

/// A partition as the brokers describe it.
#[derive(Clone, Debug)]
pub(super) struct PartitionDescription {
    pub has_leader: bool,
    pub replicas: usize,
    pub in_sync: usize,
}

/// Configuration of a topic.
#[derive(Clone, Debug)]
pub(super) struct TopicConfig {
    pub cleanup_policy: String,
    pub max_message_bytes: usize,
    pub min_insync_replicas: usize,
}

/// Returns the findings about one topic, apart from its size limits. `thing` names the topic.
pub(super) fn check_topic(role: Role, thing: &str, topic: &TopicDescription) -> Vec<Finding> {
    if topic.is_forbidden {
        let needed = role.needed_operation();
        let cause = format!(
            "the login of the stage may not describe the topic; grant the operation {needed:?} by an ACL on the topic"
        );
        return vec![Finding::failed(thing, cause)];
    }
    if topic.partitions.is_empty() {
        return vec![Finding::failed(thing, "the topic does not exist; create it")];
    }
    let mut findings = vec![Finding::ok(
        thing,
        format!("{} partitions, {} brokers", topic.partitions.len(), topic.brokers),
    )];
    findings.extend(missing_leaders(thing, topic));
    findings.extend(missing_permission(role, thing, topic));
    findings.extend(single_replica(thing, topic));
    match &topic.config {
        Some(config) => {
            findings.extend(compaction(role, thing, config));
            findings.extend(too_few_replicas(role, thing, topic, config));
        }
        None => findings.push(Finding::warning(
            thing,
            "its configuration cannot be read, so Kafka's default limits are assumed; grant the operation \
             DescribeConfigs on it",
        )),
    }
    if findings
        .iter()
        .any(|finding| finding.severity == Severity::Failed)
    {
        findings.retain(|finding| finding.severity != Severity::Ok);
    }
    findings
}

fn missing_leaders(thing: &str, topic: &TopicDescription) -> Option<Finding> {
    let without: Vec<String> = topic
        .partitions
        .iter()
        .enumerate()
        .filter(|(_, partition)| !partition.has_leader)
        .map(|(number, _)| number.to_string())
        .collect();
    (!without.is_empty()).then(|| {
        let partitions = without.join(", ");
        Finding::failed(
            thing,
            format!("partitions {partitions} have no leader; start the brokers that have them"),
        )
    })
}

fn missing_permission(role: Role, thing: &str, topic: &TopicDescription) -> Option<Finding> {
    let needed = role.needed_operation();
    let is_missing = topic
        .operations
        .as_ref()
        .is_some_and(|operations| !operations.contains(&needed));
    is_missing.then(|| {
        let cause =
            format!("the login of the stage lacks the operation {needed:?}; grant it by an ACL on the topic");
        Finding::failed(thing, cause)
    })
}

fn single_replica(thing: &str, topic: &TopicDescription) -> Option<Finding> {
    let is_single = topic.brokers > 1 && topic.partitions.iter().any(|partition| partition.replicas < 2);
    is_single.then(|| {
        Finding::warning(
            thing,
            "some partitions have one replica, so the loss of a broker loses records; raise the replication factor",
        )
    })
}

/// A compacted topic rejects records without a key, and removes records whose key occurs again.
fn compaction(role: Role, thing: &str, config: &TopicConfig) -> Option<Finding> {
    let policy = &config.cleanup_policy;
    if !policy.split(',').any(|policy| policy.trim() == "compact") {
        return None;
    }
    let message = |consequence: &str| {
        format!("cleanup.policy is {policy}: the topic {consequence}; set cleanup.policy=delete")
    };
    Some(match role {
        Role::DeadLetters => Finding::failed(
            thing,
            message("rejects dead letters without a key, and removes earlier ones of the same key"),
        ),
        Role::Output => Finding::failed(
            thing,
            message("removes earlier versions of an order, which the next stage must store"),
        ),
        Role::Source => Finding::warning(
            thing,
            message("removes earlier records of the same key, perhaps before the stage has read them"),
        ),
    })
}

/// A producer that waits for all replicas needs `min.insync.replicas` of them.
fn too_few_replicas(
    role: Role,
    thing: &str,
    topic: &TopicDescription,
    config: &TopicConfig,
) -> Option<Finding> {
    if !role.is_written() {
        return None;
    }
    let minimum = config.min_insync_replicas;
    let fewest = |count: fn(&PartitionDescription) -> usize| topic.partitions.iter().map(count).min();
    let replicas = fewest(|partition| partition.replicas).filter(|replicas| *replicas < minimum);
    if let Some(replicas) = replicas {
        let cause = format!(
            "some partitions have {replicas} replicas, but min.insync.replicas is {minimum}, so no record can be \
             produced; raise the replication factor, or lower min.insync.replicas"
        );
        return Some(Finding::failed(thing, cause));
    }
    let in_sync = fewest(|partition| partition.in_sync).filter(|in_sync| *in_sync < minimum)?;
    let cause = format!(
        "some partitions have {in_sync} in-sync replicas, but min.insync.replicas is {minimum}, so no record can be \
         produced; start the brokers that have the others"
    );
    Some(Finding::failed(thing, cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> TopicDescription {
        let partition = PartitionDescription {
            has_leader: true,
            replicas: 3,
            in_sync: 3,
        };
        TopicDescription {
            brokers: 3,
            partitions: vec![partition; 2],
            config: Some(TopicConfig {
                cleanup_policy: "delete".to_owned(),
                max_message_bytes: 1_048_588,
                min_insync_replicas: 2,
            }),
            operations: Some(vec![TopicOperation::Read, TopicOperation::Write]),
            is_forbidden: false,
        }
    }

    /// Findings for each role after a change of the topic.
    fn findings(change: impl Fn(&mut TopicDescription)) -> [Vec<String>; 3] {
        let mut topic = topic();
        change(&mut topic);
        [Role::Source, Role::Output, Role::DeadLetters].map(|role| {
            let findings = check_topic(role, "t", &topic);
            findings.iter().map(ToString::to_string).collect()
        })
    }

    fn config(topic: &mut TopicDescription) -> &mut TopicConfig {
        topic.config.as_mut().expect("a configuration")
    }

    const OK: &str = "ok      t: 2 partitions, 3 brokers";

    #[test]
    fn a_topic_as_it_should_be_has_one_line() {
        assert_eq!(
            findings(|_| ()),
            [[OK]; 3].map(|lines| lines.map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn a_missing_topic_fails() {
        for lines in findings(|topic| topic.partitions.clear()) {
            assert_eq!(lines, ["FAILED  t: the topic does not exist; create it"]);
        }
    }

    #[test]
    fn a_topic_that_may_not_be_described_fails_with_the_needed_operation() {
        let forbidden = |topic: &mut TopicDescription| {
            topic.is_forbidden = true;
            topic.partitions.clear();
        };
        let [source, output, _] = findings(forbidden);
        assert!(
            source.len() == 1 && source[0].contains("operation Read by"),
            "{source:?}"
        );
        assert!(
            output.len() == 1 && output[0].contains("operation Write by"),
            "{output:?}"
        );
    }

    #[test]
    fn a_partition_without_a_leader_fails() {
        for lines in findings(|topic| topic.partitions[1].has_leader = false) {
            assert!(
                lines.len() == 1 && lines[0].starts_with("FAILED  t: partitions 1 have no leader"),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn a_missing_permission_fails_for_the_role_that_needs_it() {
        let [source, output, dead_letters] =
            findings(|topic| topic.operations = Some(vec![TopicOperation::Read]));
        assert_eq!(source, [OK]);
        for lines in [output, dead_letters] {
            assert!(
                lines.len() == 1 && lines[0].contains("lacks the operation Write"),
                "{lines:?}"
            );
        }
        let [source, output, _] = findings(|topic| topic.operations = Some(vec![TopicOperation::Write]));
        assert!(source[0].contains("lacks the operation Read"), "{source:?}");
        assert_eq!(output, [OK]);
        assert_eq!(findings(|topic| topic.operations = None)[0], [OK]);
    }

    #[test]
    fn a_compacted_topic_fails_if_the_stage_writes_it() {
        for policy in ["compact", "compact,delete", "delete, compact"] {
            let [source, output, dead_letters] =
                findings(|topic| config(topic).cleanup_policy = policy.to_owned());
            assert!(source[0] == OK && source[1].starts_with("WARNING"), "{source:?}");
            assert!(output.len() == 1 && output[0].starts_with("FAILED"), "{output:?}");
            assert!(
                dead_letters[0].contains("rejects dead letters without a key"),
                "{dead_letters:?}"
            );
        }
    }

    #[test]
    fn a_topic_that_cannot_be_written_for_its_replicas_fails() {
        let [source, output, dead_letters] = findings(|topic| config(topic).min_insync_replicas = 4);
        assert_eq!(source, [OK]);
        for lines in [output, dead_letters] {
            assert!(lines[0].contains("min.insync.replicas is 4"), "{lines:?}");
        }
        let [source, output, _] = findings(|topic| topic.partitions[0].in_sync = 1);
        assert_eq!(source, [OK]);
        assert!(output[0].contains("1 in-sync replicas"), "{output:?}");
    }

    #[test]
    fn a_single_replica_is_a_warning_if_there_are_more_brokers() {
        let single = |topic: &mut TopicDescription| {
            topic.partitions[1].replicas = 1;
            config(topic).min_insync_replicas = 1;
        };
        for lines in findings(single) {
            assert!(
                lines.len() == 2 && lines[1].starts_with("WARNING t: some partitions have one replica"),
                "{lines:?}"
            );
        }
        for lines in findings(|topic| {
            single(topic);
            topic.brokers = 1;
        }) {
            assert_eq!(lines.len(), 1, "{lines:?}");
        }
    }

    #[test]
    fn an_unreadable_configuration_is_a_warning() {
        for lines in findings(|topic| topic.config = None) {
            assert!(
                lines.len() == 2 && lines[1].contains("DescribeConfigs"),
                "{lines:?}"
            );
        }
    }
}
