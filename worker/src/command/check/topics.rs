#![expect(clippy::disallowed_types, reason = "edge: describes topics")]
//! Checks the topics of a stage: describes them with the credentials of the stage. Never reads or writes a record.

use std::time::Duration;

use crds::StreamStage;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;

use super::finding::Finding;
use super::size_limits::{TopicConfigs, check_sizes};
use super::topic_rules::{PartitionDescription, Role, TopicConfig, TopicDescription, check_topic};
use crate::connect::{self, Secrets};
use crate::topic_id::fetch_operations;

/// Timeout of a request to Kafka.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Checks the topics of a stage. `next` are the stages that read its output.
pub(super) async fn check_topics<'s>(
    stage: &StreamStage,
    secrets: &Secrets,
    next: impl Iterator<Item = &'s StreamStage>,
) -> Vec<Finding> {
    let servers = stage.spec.source.bootstrap_servers.join(",");
    let topics = topics(stage);
    let described = match describe(stage, secrets, &topics).await {
        Ok(described) => described,
        Err(cause) => {
            return vec![Finding::failed(
                format!("{} source on {servers}", stage.name()),
                cause,
            )];
        }
    };
    let mut findings = Vec::new();
    let mut configs = TopicConfigs::default();
    for ((role, name), topic) in topics.into_iter().zip(described) {
        let thing = format!("{} {} {name} on {servers}", stage.name(), role.name());
        findings.extend(check_topic(role, &thing, &topic));
        match role {
            Role::Source => configs.source = topic.config,
            Role::Output => configs.output = topic.config,
            Role::DeadLetters => configs.dead_letters = topic.config,
        }
    }
    findings.extend(check_sizes(stage, &configs, next));
    findings
}

/// Topics of the stage, each with its role.
fn topics(stage: &StreamStage) -> Vec<(Role, String)> {
    let mut topics = vec![(Role::Source, stage.spec.source.topic.clone())];
    if let Some(output) = &stage.spec.output {
        topics.push((Role::Output, output.topic.clone()));
    }
    topics.push((Role::DeadLetters, stage.dead_letter_topic()));
    topics
}

/// Describes the topics, in the same order. Returns cause and remedy if Kafka does not respond.
async fn describe(
    stage: &StreamStage,
    secrets: &Secrets,
    topics: &[(Role, String)],
) -> Result<Vec<TopicDescription>, String> {
    let config = connect::kafka_config(stage, secrets).map_err(|error| error.to_string())?;
    let unavailable = |error: KafkaError| {
        format!("{error}; check spec.source.bootstrapServers, and the keys of spec.source.authSecretName")
    };
    let admin: AdminClient<DefaultClientContext> = config.create().map_err(unavailable)?;
    let names: Vec<String> = topics.iter().map(|(_, name)| name.clone()).collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
    let resources: Vec<ResourceSpecifier<'_>> =
        names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let configs = admin.describe_configs(&resources, &options).await;
    let mut configs = configs.unwrap_or_default().into_iter();
    let described = tokio::task::spawn_blocking({
        let names = names.clone();
        move || {
            names
                .iter()
                .map(|name| partitions(&admin, name))
                .collect::<Result<Vec<TopicDescription>, KafkaError>>()
        }
    });
    let mut described = described
        .await
        .map_err(|error| error.to_string())?
        .map_err(unavailable)?;
    for topic in &mut described {
        topic.config = configs
            .next()
            .and_then(Result::ok)
            .and_then(|config| topic_config(&config));
    }
    Ok(described)
}

/// Reads the partitions of a topic. Blocks.
fn partitions(admin: &AdminClient<DefaultClientContext>, name: &str) -> Result<TopicDescription, KafkaError> {
    let metadata = admin.inner().fetch_metadata(Some(name), REQUEST_TIMEOUT)?;
    let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    let partitions = partitions.map(|partition| PartitionDescription {
        has_leader: partition.leader() >= 0,
        replicas: partition.replicas().len(),
        in_sync: partition.isr().len(),
    });
    let partitions: Vec<PartitionDescription> = partitions.collect();
    let code = metadata.topics().first().and_then(MetadataTopic::error);
    Ok(TopicDescription {
        brokers: metadata.brokers().len(),
        is_forbidden: code.map(RDKafkaErrorCode::from) == Some(RDKafkaErrorCode::TopicAuthorizationFailed),
        // Unknown without a partition that has a leader, which is reported as such.
        operations: fetch_operations(admin.inner(), name, REQUEST_TIMEOUT).unwrap_or_default(),
        partitions,
        config: None,
    })
}

fn topic_config(config: &ConfigResource) -> Option<TopicConfig> {
    let value = |name: &str| config.get(name)?.value.clone();
    Some(TopicConfig {
        cleanup_policy: value("cleanup.policy")?,
        max_message_bytes: value("max.message.bytes")?.parse().ok()?,
        min_insync_replicas: value("min.insync.replicas")?.parse().ok()?,
    })
}
