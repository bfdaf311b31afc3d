//! Rules between the stages of a file: those that share a consumer group, and those that read each other's output. Pure.

use crds::StreamStage;
use crds::stage::Layer;

use super::finding::Finding;

/// Returns what disagrees between the stages.
pub(super) fn check_stages(stages: &[StreamStage]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, stage) in stages.iter().enumerate() {
        for other in &stages[index + 1..] {
            findings.extend(shared_group(stage, other));
            findings.extend(shared_marts(stage, other));
        }
        for other in stages {
            if shares_brokers(stage, other) {
                findings.extend(dead_letters_as_source(stage, other));
            }
            if reads_output(other, stage) {
                findings.extend(wrong_layer(stage, other));
                findings.extend(different_time_zone(stage, other));
                findings.extend(smaller_clock_skew(stage, other));
            }
        }
    }
    findings
}

/// Stages of the file that read the output of this stage.
pub(super) fn next_stages<'s>(
    stage: &'s StreamStage,
    stages: &'s [StreamStage],
) -> impl Iterator<Item = &'s StreamStage> {
    stages.iter().filter(|other| reads_output(other, stage))
}

fn reads_output(reader: &StreamStage, writer: &StreamStage) -> bool {
    let output = writer.spec.output.as_ref().map(|output| &output.topic);
    output == Some(&reader.spec.source.topic) && shares_brokers(reader, writer)
}

fn shares_brokers(stage: &StreamStage, other: &StreamStage) -> bool {
    let servers = &other.spec.source.bootstrap_servers;
    stage
        .spec
        .source
        .bootstrap_servers
        .iter()
        .any(|server| servers.contains(server))
}

fn pair(stage: &StreamStage, other: &StreamStage) -> String {
    format!("stages {} and {}", stage.name(), other.name())
}

fn shared_group(stage: &StreamStage, other: &StreamStage) -> Option<Finding> {
    let (group, topic) = (stage.consumer_group(), &stage.spec.source.topic);
    let is_shared =
        group == other.consumer_group() && *topic == other.spec.source.topic && shares_brokers(stage, other);
    is_shared.then(|| {
        Finding::failed(
            pair(stage, other),
            format!(
                "both read topic {topic} as the consumer group {group}, so each gets only a part of the records; set \
                 another spec.source.consumerGroup for one of them"
            ),
        )
    })
}

fn shared_marts(stage: &StreamStage, other: &StreamStage) -> Option<Finding> {
    let (warehouse, other_warehouse) = (&stage.spec.warehouse, &other.spec.warehouse);
    let is_shared = [stage, other].iter().all(|stage| stage.spec.layer == Layer::Cdm)
        && warehouse.host == other_warehouse.host
        && warehouse.port == other_warehouse.port
        && warehouse.database == other_warehouse.database;
    is_shared.then(|| {
        Finding::warning(
            pair(stage, other),
            format!(
                "both write the marts of warehouse {}:{}/{}: each order counts once, and a user gets the tags of both; \
                 use one stage of the layer cdm per warehouse",
                warehouse.host, warehouse.port, warehouse.database
            ),
        )
    })
}

fn dead_letters_as_source(stage: &StreamStage, other: &StreamStage) -> Option<Finding> {
    let topic = stage.dead_letter_topic();
    (topic == other.spec.source.topic).then(|| {
        Finding::failed(
            pair(stage, other),
            format!(
                "{} reads the dead letter topic {topic} of {}, so rejected records are processed again without a \
                 repair; set another spec.source.topic or spec.deadLetter.topic",
                other.name(),
                stage.name()
            ),
        )
    })
}

fn wrong_layer(stage: &StreamStage, next: &StreamStage) -> Option<Finding> {
    let expected = match stage.spec.layer {
        Layer::Stg => Layer::Dds,
        Layer::Dds | Layer::Cdm => Layer::Cdm,
    };
    (next.spec.layer != expected).then(|| {
        Finding::failed(
            pair(stage, next),
            format!(
                "the layer {} cannot read the output of the layer {}; topic {} needs a stage of the layer {}",
                next.spec.layer.as_str(),
                stage.spec.layer.as_str(),
                next.spec.source.topic,
                expected.as_str()
            ),
        )
    })
}

fn different_time_zone(stage: &StreamStage, next: &StreamStage) -> Option<Finding> {
    let (zone, next_zone) = (&stage.spec.timezone, &next.spec.timezone);
    (zone != next_zone).then(|| {
        Finding::warning(
            pair(stage, next),
            format!(
                "{} is in the time zone {zone}, {} in {next_zone}; it applies to messages of topic {} without a UTC \
                 offset, which other producers may send; set the same spec.timezone",
                stage.name(),
                next.name(),
                next.spec.source.topic
            ),
        )
    })
}

fn smaller_clock_skew(stage: &StreamStage, next: &StreamStage) -> Option<Finding> {
    let (skew, next_skew) = (stage.spec.limits.max_clock_skew, next.spec.limits.max_clock_skew);
    (next_skew < skew).then(|| {
        Finding::warning(
            pair(stage, next),
            format!(
                "{} accepts times up to {skew} in the future, {} only {next_skew}, so it dead-letters some outputs; \
                 set the same spec.limits.maxClockSkew",
                stage.name(),
                next.name()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stages of `examples/local.yaml` after a replacement of each pair of texts.
    fn stages(replacements: &[(&str, &str)]) -> Vec<StreamStage> {
        let mut text = include_str!("../../../../examples/local.yaml").to_owned();
        for (from, to) in replacements {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        crds::document::parse(&text).expect("valid stages")
    }

    fn findings(replacements: &[(&str, &str)]) -> Vec<String> {
        let findings = check_stages(&stages(replacements));
        findings.iter().map(ToString::to_string).collect()
    }

    fn assert_single(replacements: &[(&str, &str)], parts: &[&str]) {
        let findings = findings(replacements);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        for part in parts {
            assert!(findings[0].contains(part), "{part}: {findings:#?}");
        }
    }

    #[test]
    fn the_stages_of_the_example_agree() {
        assert_eq!(findings(&[]), Vec::<String>::new());
    }

    #[test]
    fn two_stages_of_one_group_and_topic_are_found() {
        let group = "topic: stg-service-orders\n  warehouse:";
        let replacements = [
            // dds and cdm read one topic as one group.
            (group, "topic: shared\n    consumerGroup: g\n  warehouse:"),
            (
                "topic: dds-service-orders\n  warehouse:",
                "topic: shared\n    consumerGroup: g\n  warehouse:",
            ),
        ];
        assert_single(
            &replacements,
            &[
                "FAILED",
                "dds and cdm",
                "group g",
                "topic shared",
                "consumerGroup",
            ],
        );
    }

    #[test]
    fn two_cdm_stages_in_one_warehouse_are_found() {
        let mut stages = stages(&[]);
        let mut second = stages[2].clone();
        second.metadata.name = Some("cdm2".to_owned());
        stages.push(second);
        let findings: Vec<String> = check_stages(&stages).iter().map(ToString::to_string).collect();
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert!(
            findings[0].contains("cdm and cdm2") && findings[0].contains("the tags of both"),
            "{findings:#?}"
        );
        stages[3].spec.warehouse.database = "another".to_owned();
        assert_eq!(check_stages(&stages), []);
    }

    #[test]
    fn a_dead_letter_topic_that_is_a_source_is_found() {
        let replacements = [(
            "  output:\n    topic: dds-service-orders",
            "  output:\n    topic: dds-service-orders\n  deadLetter:\n    topic: order-service_orders",
        )];
        assert_single(&replacements, &["FAILED", "dds and stg", "order-service_orders"]);
    }

    #[test]
    fn a_stage_that_reads_the_output_of_the_wrong_layer_is_found() {
        let mut stages = stages(&[]);
        stages[2].spec.source.topic = "stg-service-orders".to_owned();
        let findings: Vec<String> = check_stages(&stages).iter().map(ToString::to_string).collect();
        assert_eq!(findings.len(), 1, "{findings:#?}");
        assert!(
            findings[0].contains("layer cdm cannot read the output of the layer stg"),
            "{findings:#?}"
        );
        // Another Kafka has another topic of this name.
        stages[2].spec.source.bootstrap_servers = vec!["another:9092".to_owned()];
        assert_eq!(check_stages(&stages), []);
    }

    #[test]
    fn different_time_zones_along_the_chain_are_found() {
        let replacements = [("layer: stg", "layer: stg\n  timezone: Europe/Moscow")];
        assert_single(&replacements, &["WARNING", "stg and dds", "Europe/Moscow", "UTC"]);
    }

    #[test]
    fn a_smaller_clock_skew_of_the_next_stage_is_a_warning() {
        let replacements = [("layer: cdm", "layer: cdm\n  limits: {maxClockSkew: 1h}")];
        assert_single(&replacements, &["WARNING", "dds and cdm", "1h"]);
        assert_eq!(
            findings(&[("layer: cdm", "layer: cdm\n  limits: {maxClockSkew: 48h}")]),
            Vec::<String>::new()
        );
    }
}
