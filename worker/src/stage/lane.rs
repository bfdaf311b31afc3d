//! A lane of a stage: its batches are prepared and committed one after the other, beside those of the other lanes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::Instrument as _;

use super::error::StageError;
use crate::batch::{Enriched, OffsetUpdates};
use crate::consume::{Consumer, LogConfirmation, TrackedBatch};
use crate::health::Health;
use crate::layer::interface::Layer;
use crate::output_size::reject_oversized;
use crate::pipeline::Pipeline;

/// Delay before the failing record of a blocked partition is read again.
const BLOCKED_RETRY_DELAY: Duration = Duration::from_secs(10);

/// Prepares and commits the batches of a lane. Returns its last positions, and its terminal error, which ends the other
/// lanes, too.
pub(super) async fn run<L: Layer>(
    pipeline: Arc<Pipeline<L>>,
    consumer: &Consumer,
    fetched: mpsc::Receiver<TrackedBatch>,
) -> (BTreeMap<i32, i64>, Result<(), StageError>) {
    let (prepared, received) = mpsc::channel(1);
    let confirmation = consumer.log_confirmation();
    let preparing = prepare_batches(Arc::clone(&pipeline), confirmation, fetched, prepared);
    let preparing = tokio::spawn(preparing.in_current_span());
    let mut positions = BTreeMap::new();
    let committed = commit_batches(&pipeline, received, consumer, &mut positions).await;
    // No batch is committed any more, so the lookups for the next one end too.
    pipeline.stop.cancel();
    let prepared = preparing.await;
    let result = committed.and_then(|()| prepared?);
    (positions, result)
}

/// Decodes and enriches, one batch ahead of [`commit_batches`]. Meanwhile each batch is confirmed to be from the log that
/// the positions belong to.
async fn prepare_batches<L: Layer>(
    pipeline: Arc<Pipeline<L>>,
    log_confirmation: LogConfirmation,
    mut fetched: mpsc::Receiver<TrackedBatch>,
    prepared: mpsc::Sender<TrackedBatch<Enriched<L::Enriched>>>,
) -> Result<(), StageError> {
    // The slot is reserved before the batch is received: otherwise one more batch would be in memory.
    while let Ok(slot) = prepared.reserve().await {
        let Some(TrackedBatch { batch, guard, span }) = fetched.recv().await else {
            return Ok(());
        };
        // A recreated topic stops the stage also while a lookup waits for its dependency.
        let preparing = async {
            let prepared = async {
                let mut batch = pipeline.prepare(guard.lane(), batch).await;
                if let Some(batch) = &mut batch {
                    reject_oversized::<L>(&pipeline.publisher, batch).await;
                }
                Ok(batch)
            };
            tokio::try_join!(log_confirmation.confirm(), prepared)
        };
        let (Some(()), Some(batch)) = preparing.instrument(span.clone()).await? else {
            return Ok(());
        };
        slot.send(TrackedBatch { batch, guard, span });
    }
    Ok(())
}

/// Writes, publishes and commits, batch by batch. Adds their positions to `positions`.
async fn commit_batches<L: Layer>(
    pipeline: &Pipeline<L>,
    mut prepared: mpsc::Receiver<TrackedBatch<Enriched<L::Enriched>>>,
    consumer: &Consumer,
    positions: &mut BTreeMap<i32, i64>,
) -> Result<(), StageError> {
    while let Some(TrackedBatch { batch, guard, span }) = prepared.recv().await {
        let commit = pipeline
            .commit_with_retry(guard.lane(), batch)
            .instrument(span.clone());
        let Some(published) = commit.await? else {
            break;
        };
        let updates = published.state.offset_updates;
        span.in_scope(|| apply_offset_updates(&updates, consumer, &pipeline.health));
        positions.extend(updates.positions);
        drop(guard);
    }
    Ok(())
}

/// Commits the new positions to Kafka, and seeks, blocks and unblocks partitions.
fn apply_offset_updates(updates: &OffsetUpdates, consumer: &Consumer, health: &Health) {
    let OffsetUpdates {
        positions,
        seeks,
        blocked,
    } = updates;
    consumer.commit_offsets(positions);
    consumer.seek(seeks, Duration::ZERO);
    positions
        .keys()
        .filter(|partition| !blocked.contains_key(partition))
        .for_each(|&partition| health.unblock_partition(partition));
    for (&partition, (offset, cause)) in blocked {
        consumer.seek(&BTreeMap::from([(partition, *offset)]), BLOCKED_RETRY_DELAY);
        health.block_partition(partition, cause.clone());
    }
}
