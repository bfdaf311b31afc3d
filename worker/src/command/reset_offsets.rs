#![expect(
    clippy::disallowed_types,
    reason = "edge: resets positions, and prints each change"
)]
//! `worker reset-offsets`: resets stored positions, and ends the stops that they caused.
//!
//! A stage never does this automatically, because it would skip records silently. Without `--execute` the command is a
//! dry run. [`crate::command::reset_plan`] chooses the partitions and their new positions.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use telemetry::stdout::print_line;
use uuid::Uuid;

use super::reset_plan::{PartitionLog, Reset, ResetTarget, Selection, plan_resets};
use super::stage_selection::StageSelection;
use crate::connect::{self, Secrets};
use crate::position::LogRange;
use crate::position_store;
use crate::stage;
use crate::topic_id::fetch_topic_id;

/// Timeout of a request to Kafka.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(10);

/// Flags of `worker reset-offsets`.
#[derive(Debug, Args)]
pub struct ResetOffsets {
    /// Stages whose positions are reset.
    #[command(flatten)]
    pub selection: StageSelection,
    /// New position: earliest, latest, a time such as 2024-02-24T00:00:00Z, or an offset
    #[arg(long, value_name = "TARGET")]
    pub to: ResetTarget,
    /// Only these partitions, also if their positions are in range
    #[arg(long = "partition", value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(i32).range(0..))]
    pub partitions: Vec<i32>,
    /// Also reset positions that are in range
    #[arg(long, conflicts_with = "partitions")]
    pub all: bool,
    /// Apply the changes; without it, only print them (dry run)
    #[arg(long)]
    pub execute: bool,
}

/// Source topic in Kafka.
struct SourceLog {
    topic_id: Uuid,
    partitions: BTreeMap<i32, PartitionLog>,
    /// Number of workers that are members of the consumer group.
    members: usize,
}

/// Prints each position to reset, and resets it with `--execute`.
///
/// # Errors
/// If Kafka or PostgreSQL is unavailable, a partition or an offset does not exist, or a worker of the stage runs.
pub async fn reset(flags: ResetOffsets) -> anyhow::Result<()> {
    let secrets = flags.selection.secrets();
    for stage in flags.selection.read()? {
        let result = reset_stage(&stage, &secrets, &flags).await;
        result.with_context(|| format!("stage {}", stage.name()))?;
    }
    if !flags.execute {
        print_line("dry run: add --execute to apply")?;
    }
    Ok(())
}

async fn reset_stage(stage: &StreamStage, secrets: &Secrets, flags: &ResetOffsets) -> anyhow::Result<()> {
    let log = fetch_log(stage, secrets, flags.to).await?;
    let group = stage.consumer_group();
    anyhow::ensure!(
        !flags.execute || log.members == 0,
        "{} workers of the consumer group {group} run; stop them first, on Kubernetes with spec.suspend",
        log.members
    );
    let selection = match &flags.partitions[..] {
        [] if flags.all => Selection::All,
        [] => Selection::OutOfRange,
        partitions => Selection::Partitions(partitions),
    };
    let (origin, warehouse) = (stage::origin(stage), stage::warehouse(stage, secrets)?);
    let reset = warehouse.transact(async |connection| {
        // Excludes a worker that starts at this moment.
        position_store::lock_group(connection, &origin).await?;
        let stored = position_store::read(connection, &origin).await?;
        let resets = plan_resets(&stored, log.topic_id, &log.partitions, flags.to, selection)?;
        if flags.execute {
            let offsets = resets.iter().map(|(&partition, reset)| (partition, reset.to));
            position_store::reset(connection, &origin, log.topic_id, &offsets.collect()).await?;
        }
        anyhow::Ok((stored.is_empty(), resets))
    });
    let (has_no_positions, resets) = reset.await?;
    for (partition, Reset { from, to }) in &resets {
        print_line(format_args!(
            "{}: partition {partition}: {from} -> {to}",
            stage.name()
        ))?;
    }
    if resets.is_empty() && !has_no_positions {
        print_line(format_args!(
            "{}: every position is in range; select positions with --partition or --all",
            stage.name()
        ))?;
    }
    Ok(())
}

/// Fetches the topic ID, the log ranges of the source topic, and the number of group members.
async fn fetch_log(stage: &StreamStage, secrets: &Secrets, to: ResetTarget) -> anyhow::Result<SourceLog> {
    let mut config: ClientConfig = connect::kafka_config(stage, secrets)?;
    // The client does not join the group; rdkafka requires it for the offsets of a time.
    config.set("group.id", stage.consumer_group());
    let (topic, group) = (stage.spec.source.topic.clone(), stage.consumer_group());
    let fetched = tokio::task::spawn_blocking(move || -> anyhow::Result<SourceLog> {
        let client: BaseConsumer = config.create()?;
        let topic_id = fetch_topic_id(client.client(), &topic, KAFKA_TIMEOUT)
            .with_context(|| format!("topic {topic}"))?;
        let groups = client.fetch_group_list(Some(&group), KAFKA_TIMEOUT)?;
        let members = groups.groups().iter().map(|group| group.members().len()).sum();
        let partitions = fetch_partitions(&client, &topic, to)?;
        Ok(SourceLog {
            topic_id,
            partitions,
            members,
        })
    });
    fetched.await?
}

/// Fetches the log range of each partition, and the offset at the time of the target.
fn fetch_partitions(
    client: &BaseConsumer,
    topic: &str,
    to: ResetTarget,
) -> anyhow::Result<BTreeMap<i32, PartitionLog>> {
    let metadata = client.fetch_metadata(Some(topic), KAFKA_TIMEOUT)?;
    let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    let partitions: Vec<i32> = partitions.map(MetadataPartition::id).collect();
    let mut at_time = BTreeMap::new();
    if let ResetTarget::Time(time) = to {
        let mut times = TopicPartitionList::new();
        for &partition in &partitions {
            times.add_partition_offset(topic, partition, Offset::Offset(time.as_millisecond().max(0)))?;
        }
        for element in client.offsets_for_times(times, KAFKA_TIMEOUT)?.elements() {
            element.error()?;
            if let Offset::Offset(offset) = element.offset() {
                at_time.insert(element.partition(), offset);
            }
        }
    }
    let log = |partition| -> anyhow::Result<(i32, PartitionLog)> {
        let (start, end) = client.fetch_watermarks(topic, partition, KAFKA_TIMEOUT)?;
        let log = PartitionLog {
            range: LogRange { start, end },
            at_time: at_time.get(&partition).copied(),
        };
        Ok((partition, log))
    };
    partitions.into_iter().map(log).collect()
}
