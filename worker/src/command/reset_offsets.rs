#![expect(
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "edge: moves positions, and prints from where to where"
)]
//! `worker reset-offsets`: the explicit instruction that a stage waits for when its position is not in the log.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use crds::StreamStage;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::Documents;
use crate::connect::{self, Secrets};
use crate::position::Bounds;
use crate::stage;

/// How long Kafka may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Flags of `worker reset-offsets`.
#[derive(Debug, Args)]
pub struct ResetOffsets {
    /// The stages.
    #[command(flatten)]
    pub documents: Documents,
    /// Where to start reading
    #[arg(long, value_enum)]
    pub to: To,
    /// Move also positions that the log does hold
    #[arg(long)]
    pub all: bool,
    /// Do it; without this flag it only shows what it would do
    #[arg(long)]
    pub execute: bool,
}

/// An end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum To {
    /// The first record that the log still holds; what is known already changes nothing
    Earliest,
    /// After the last record: what stands in between is never read
    Latest,
}

impl To {
    fn of(self, bounds: Bounds) -> i64 {
        match self {
            Self::Earliest => bounds.start,
            Self::Latest => bounds.end,
        }
    }
}

/// Prints each position that moves, and moves it when told to.
///
/// # Errors
/// When a service does not answer.
pub async fn reset(flags: ResetOffsets) -> anyhow::Result<()> {
    let secrets = Secrets::in_folder(&flags.documents.secrets_dir);
    for stage in flags.documents.read()? {
        let moved = reset_stage(&stage, &secrets, &flags).await;
        moved.with_context(|| format!("stage {}", stage.name()))?;
    }
    if !flags.execute {
        println!("nothing is changed yet: add --execute to do it");
    }
    Ok(())
}

async fn reset_stage(stage: &StreamStage, secrets: &Secrets, flags: &ResetOffsets) -> anyhow::Result<()> {
    let logs = logs(stage, secrets).await?;
    let warehouse = stage::warehouse(stage, secrets)?;
    let partitions: Vec<i32> = logs.keys().copied().collect();
    let stored = warehouse.positions(&partitions).await?;
    let mut moved = BTreeMap::new();
    for (partition, bounds) in logs {
        let Some(&position) = stored.get(&partition) else {
            continue;
        };
        if flags.all || !bounds.hold(position) {
            let to = flags.to.of(bounds);
            println!("{}: partition {partition}: {position} -> {to}", stage.name());
            moved.insert(partition, to);
        }
    }
    if flags.execute {
        let mut transaction = warehouse.pool().begin().await?;
        warehouse.advance(&mut transaction, &moved).await?;
        transaction.commit().await?;
    }
    Ok(())
}

async fn logs(stage: &StreamStage, secrets: &Secrets) -> anyhow::Result<BTreeMap<i32, Bounds>> {
    let config = connect::kafka(stage, secrets)?;
    let topic = stage.spec.source.topic.clone();
    let read = tokio::task::spawn_blocking(move || -> anyhow::Result<BTreeMap<i32, Bounds>> {
        let client: BaseConsumer = config.create()?;
        let metadata = client.fetch_metadata(Some(&topic), PATIENCE)?;
        let partitions = metadata
            .topics()
            .iter()
            .flat_map(rdkafka::metadata::MetadataTopic::partitions)
            .map(rdkafka::metadata::MetadataPartition::id);
        partitions
            .map(|partition| {
                let (start, end) = client.fetch_watermarks(&topic, partition, PATIENCE)?;
                Ok((partition, Bounds { start, end }))
            })
            .collect()
    });
    read.await?
}
