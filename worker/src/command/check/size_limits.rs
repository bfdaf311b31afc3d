//! Rules between the size limits of a stage, of its topics, and of the stages that read its output. Pure.

use crds::StreamStage;

use super::finding::Finding;
use super::topic_rules::TopicConfig;
use crate::publish::OutputLimit;

/// Configurations of a stage's topics; `None` if a topic cannot be described.
#[derive(Clone, Debug, Default)]
pub(super) struct TopicConfigs {
    pub source: Option<TopicConfig>,
    pub output: Option<TopicConfig>,
    pub dead_letters: Option<TopicConfig>,
}

/// Returns the limits that disagree. `next` are the stages that read the output.
pub(super) fn check_sizes<'s>(
    stage: &StreamStage,
    topics: &TopicConfigs,
    next: impl Iterator<Item = &'s StreamStage>,
) -> Vec<Finding> {
    let name = stage.name();
    let mut findings = Vec::new();
    let accepted = stage.spec.limits.max_record_bytes.get();
    if let Some(output) = &topics.output
        && (output.max_message_bytes as u64) < accepted
    {
        findings.push(Finding::warning(
            format!("{name} output size"),
            format!(
                "the stage accepts orders of {accepted} bytes, but its output topic has max.message.bytes={}, so large \
                 orders become dead letters; raise max.message.bytes, or lower spec.limits.maxRecordBytes",
                output.max_message_bytes
            ),
        ));
    }
    if let (Some(source), Some(dead_letters)) = (&topics.source, &topics.dead_letters)
        && dead_letters.max_message_bytes < source.max_message_bytes
    {
        findings.push(Finding::warning(
            format!("{name} dead letter size"),
            format!(
                "the source topic has max.message.bytes={}, the dead letter topic {}, so large dead letters are in the \
                 table streamstage.dead_letter only; raise max.message.bytes of the dead letter topic",
                source.max_message_bytes, dead_letters.max_message_bytes
            ),
        ));
    }
    if let Some(output) = &topics.output {
        let produced = OutputLimit::from_max_message_bytes(output.max_message_bytes).bytes() as u64;
        findings.extend(next.filter_map(|next| rejected_outputs(name, produced, next)));
    }
    findings
}

fn rejected_outputs(name: &str, produced: u64, next: &StreamStage) -> Option<Finding> {
    let accepted = next.spec.limits.max_record_bytes.get();
    (accepted < produced).then(|| {
        Finding::failed(
            format!("stages {name} and {}", next.name()),
            format!(
                "{name} produces orders of up to {produced} bytes, but {} dead-letters those of more than {accepted} \
                 bytes; raise its spec.limits.maxRecordBytes, or lower max.message.bytes of topic {}",
                next.name(),
                next.spec.source.topic
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(max_message_bytes: usize) -> TopicConfig {
        TopicConfig {
            cleanup_policy: "delete".to_owned(),
            max_message_bytes,
            min_insync_replicas: 1,
        }
    }

    /// Findings about `stg`, whose output `dds` reads, for the sizes of the source, the output and the dead letters.
    fn findings(source: usize, output: usize, dead_letters: usize) -> Vec<String> {
        let stages = crds::document::parse(include_str!("../../../../examples/local.yaml")).expect("stages");
        let topics = TopicConfigs {
            source: Some(config(source)),
            output: Some(config(output)),
            dead_letters: Some(config(dead_letters)),
        };
        let findings = check_sizes(&stages[0], &topics, stages[1..2].iter());
        findings.iter().map(ToString::to_string).collect()
    }

    /// Kafka's default of `max.message.bytes`.
    const DEFAULT: usize = 1_048_588;

    #[test]
    fn the_defaults_agree() {
        assert_eq!(findings(DEFAULT, DEFAULT, DEFAULT), Vec::<String>::new());
    }

    #[test]
    fn an_output_topic_that_takes_less_than_the_stage_accepts_is_a_warning() {
        assert_eq!(findings(DEFAULT, 1 << 20, DEFAULT), Vec::<String>::new());
        let findings = findings(DEFAULT, (1 << 20) - 1, DEFAULT);
        assert!(
            findings.len() == 1 && findings[0].starts_with("WARNING stg output size"),
            "{findings:?}"
        );
    }

    #[test]
    fn a_dead_letter_topic_that_takes_less_than_the_source_is_a_warning() {
        assert_eq!(findings(DEFAULT, DEFAULT, DEFAULT + 1), Vec::<String>::new());
        let findings = findings(DEFAULT, DEFAULT, DEFAULT - 1);
        assert!(
            findings.len() == 1 && findings[0].starts_with("WARNING stg dead letter size"),
            "{findings:?}"
        );
    }

    #[test]
    fn outputs_that_the_next_stage_rejects_fail() {
        // A value is at most 512 bytes smaller than the producer batch that the limit applies to.
        assert_eq!(findings(DEFAULT, (1 << 20) + 512, DEFAULT), Vec::<String>::new());
        let findings = findings(DEFAULT, (1 << 20) + 513, DEFAULT);
        assert!(
            findings.len() == 1 && findings[0].starts_with("FAILED  stages stg and dds"),
            "{findings:?}"
        );
    }
}
