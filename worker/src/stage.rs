//! Runs one stage: a consumer, a pipeline, and two tasks that overlap.
//!
//! While PostgreSQL writes one batch, the next one is decoded and enriched. A shutdown lets the in-flight batches
//! finish, then leaves the group. Every log line of a stage has the fields of its span, and every line of a batch
//! those of the batch's span too.

mod error;
mod lane;
mod pending_retries;
mod startup;

use std::sync::Arc;

use crds::StreamStage;
use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::connect::{self, Secrets};
use crate::consume::{BatchLimits, ConsumeError, Consumer, ConsumerSettings, StartError};
use crate::copy_task::CopyTask;
use crate::dead_letter::Origin;
use crate::decode::DecodeSettings;
use crate::health::{Dependency, Health};
use crate::layer::cdm::Cdm;
use crate::layer::dds::Dds;
use crate::layer::interface::Layer;
use crate::layer::stg::{ReferenceDataStore, Stg};
use crate::metrics::Metrics;
use crate::pipeline::{Pipeline, PipelineError, RejectionHold};
use crate::position::find_stop;
use crate::position_store;
use crate::publish::Publisher;
use crate::start_offsets::WarehouseStartOffsets;
use crate::warehouse::Warehouse;

/// Maximum number of batches of a stage that are committed at the same time, if the stage has as many connections.
const MAX_LANES: u32 = 2;

pub use error::StageError;

/// State that a stage shares with the process.
pub struct StageContext {
    /// Secrets of the document.
    pub secrets: Secrets,
    /// Health of the stage.
    pub health: Arc<Health>,
    /// Metrics of the process.
    pub metrics: Metrics,
    /// Shutdown signal.
    pub stop: CancellationToken,
}

/// Runs a stage until a shutdown.
///
/// # Errors
/// A terminal error; the worker should report it and exit.
pub async fn run(stage: &StreamStage, context: StageContext) -> Result<(), StageError> {
    let origin = origin(stage);
    // At the error level, because a filter on the level must not take the fields from the lines it lets through.
    let span = tracing::error_span!("stage", stage = origin.stage, topic = origin.topic);
    Box::pin(run_layer(stage, &context).instrument(span)).await
}

async fn run_layer(stage: &StreamStage, context: &StageContext) -> Result<(), StageError> {
    let settings = decode_settings(stage)?;
    match stage.spec.layer {
        crds::stage::Layer::Stg => {
            let reference_data = stage.spec.reference_data.clone();
            let reference_data = reference_data.ok_or(StageError::NoReferenceData)?;
            let redis = connect::redis_connection(&reference_data, &context.secrets)?;
            context.metrics.start_malformed_entries(stage.name());
            let store = ReferenceDataStore::new(redis, stage.name(), context.metrics.clone());
            // An outage is not an error here: the lookups report it.
            if context.stop.run_until_cancelled(store.is_cluster()).await == Some(true) {
                return Err(StageError::RedisCluster);
            }
            let layer = |origin: &Origin| Stg {
                settings,
                reference_data: store,
                origin: origin.clone(),
            };
            let pipeline = Arc::new(build_pipeline(stage, context, layer)?);
            startup::check_warehouse(&pipeline).await?;
            startup::recall_known_entries(&pipeline).await;
            let max_wait = reference_data.max_wait.as_std();
            let pending = pending_retries::run(Arc::clone(&pipeline), max_wait, batch_limits(stage));
            let pending = tokio::spawn(pending.in_current_span());
            let result = run_pipeline(stage, context, Arc::clone(&pipeline)).await;
            pipeline.stop.cancel();
            let pending_result = pending.await?;
            result?;
            Ok(pending_result?)
        }
        crds::stage::Layer::Dds => {
            let layer = |origin: &Origin| Dds {
                settings,
                record_source: origin.record_source(),
            };
            let pipeline = build_pipeline(stage, context, layer)?;
            startup::check_warehouse(&pipeline).await?;
            run_pipeline(stage, context, Arc::new(pipeline)).await
        }
        crds::stage::Layer::Cdm => {
            let pipeline = build_pipeline(stage, context, |_| Cdm { settings })?;
            startup::check_warehouse(&pipeline).await?;
            startup::install_thresholds(&stage.spec.tags, &pipeline).await;
            run_pipeline(stage, context, Arc::new(pipeline)).await
        }
    }
}

/// Stage, consumer group and source topic.
#[must_use]
pub fn origin(stage: &StreamStage) -> Origin {
    Origin {
        stage: stage.name().to_owned(),
        consumer_group: stage.consumer_group(),
        topic: stage.spec.source.topic.clone(),
    }
}

/// Limits and time zone that decide which records the stage accepts.
///
/// # Errors
/// If the time zone is unknown.
pub fn decode_settings(stage: &StreamStage) -> Result<DecodeSettings, StageError> {
    let limits = &stage.spec.limits;
    Ok(DecodeSettings {
        timezone: stage.time_zone()?,
        max_record_bytes: max_record_bytes(stage),
        max_clock_skew_micros: i64::try_from(limits.max_clock_skew.as_std().as_micros()).unwrap_or(i64::MAX),
    })
}

/// Warehouse of the stage; its connections open on first use.
///
/// # Errors
/// If the secret cannot be read.
pub fn warehouse(stage: &StreamStage, secrets: &Secrets) -> Result<Warehouse, StageError> {
    Ok(Warehouse::new(
        connect::postgres_hosts(stage, secrets)?,
        stage.spec.layer,
        stage.spec.warehouse.connections_per_worker,
    ))
}

/// Publisher of the stage, for its output topic.
///
/// # Errors
/// If the secret cannot be read, or the client rejects its settings.
pub fn publisher(stage: &StreamStage, secrets: &Secrets) -> Result<Publisher, StageError> {
    let output = stage.spec.output.as_ref().map(|output| output.topic.clone());
    Ok(Publisher::new(connect::kafka_config(stage, secrets)?, output)?)
}

fn build_pipeline<L: Layer>(
    stage: &StreamStage,
    context: &StageContext,
    layer: impl FnOnce(&Origin) -> L,
) -> Result<Pipeline<L>, StageError> {
    let origin = origin(stage);
    let warehouse = warehouse(stage, &context.secrets)?;
    let publisher = publisher(stage, &context.secrets)?;
    // A child token: a terminal error ends the retries of this stage only.
    let stop = context.stop.child_token();
    let max_hold = stage.spec.batch.max_hold.as_std();
    Ok(Pipeline {
        layer: layer(&origin),
        hold: RejectionHold::new(max_hold, &origin, &warehouse, &context.health, &stop),
        origin,
        warehouse,
        publisher,
        health: Arc::clone(&context.health),
        metrics: context.metrics.clone(),
        stop,
    })
}

/// Consumes, prepares and commits batches until a shutdown or a terminal error.
async fn run_pipeline<L: Layer>(
    stage: &StreamStage,
    context: &StageContext,
    pipeline: Arc<Pipeline<L>>,
) -> Result<(), StageError> {
    ensure_not_stopped(&pipeline).await?;
    startup::resume_hold(&pipeline).await;
    tokio::select! {
        _ = pipeline.publisher.refresh_limit() => {}
        () = pipeline.stop.cancelled() => return Ok(()),
    }
    let copy_task = copy_task(stage, context, &pipeline)?;
    let (consumer, fetched) = Consumer::start(consumer_settings(stage, context, &pipeline)?)?;
    let copying = tokio::spawn(copy_task.run().in_current_span());
    let lanes = fetched
        .into_iter()
        .map(|fetched| lane::run(Arc::clone(&pipeline), &consumer, fetched));
    let (positions, results): (Vec<_>, Vec<_>) = join_all(lanes).await.into_iter().unzip();
    let closed = consumer.close(positions.into_iter().flatten().collect()).await;
    let copied = copying.await;
    results.into_iter().collect::<Result<(), StageError>>()?;
    copied?;
    Ok(closed?)
}

fn copy_task<L: Layer>(
    stage: &StreamStage,
    context: &StageContext,
    pipeline: &Pipeline<L>,
) -> Result<CopyTask, StageError> {
    Ok(CopyTask {
        origin: pipeline.origin.clone(),
        topic: stage.dead_letter_topic(),
        config: connect::kafka_config(stage, &context.secrets)?,
        warehouse: pipeline.warehouse.clone(),
        health: Arc::clone(&context.health),
        metrics: context.metrics.clone(),
        stop: pipeline.stop.clone(),
    })
}

/// Returns a stored stop before the worker joins the group: `worker reset-offsets` requires a group without members. An
/// outage of PostgreSQL is reported, and the assignment of partitions finds the stop later.
async fn ensure_not_stopped<L: Layer>(pipeline: &Pipeline<L>) -> Result<(), StageError> {
    let read = async |connection: &mut _| position_store::read(connection, &pipeline.origin).await;
    let stored = tokio::select! {
        () = pipeline.stop.cancelled() => return Ok(()),
        stored = pipeline.warehouse.transact(read) => stored,
    };
    match stored {
        Ok(stored) => match find_stop(&pipeline.origin.topic, Uuid::nil(), &stored) {
            Some(stop) => Err(ConsumeError::from(StartError::Stopped(stop)).into()),
            None => Ok(()),
        },
        Err(error) => {
            let cause = PipelineError::from(error).to_string();
            pipeline.health.mark_unavailable(Dependency::Warehouse, &cause);
            Ok(())
        }
    }
}

fn consumer_settings<L: Layer>(
    stage: &StreamStage,
    context: &StageContext,
    pipeline: &Pipeline<L>,
) -> Result<ConsumerSettings, StageError> {
    Ok(ConsumerSettings {
        config: connect::consumer_config(stage, connect::kafka_config(stage, &context.secrets)?),
        topic: stage.spec.source.topic.clone(),
        limits: batch_limits(stage),
        max_record_bytes: max_record_bytes(stage),
        lanes: usize::try_from(stage.spec.warehouse.connections_per_worker.min(MAX_LANES)).unwrap_or(1),
        start_offsets: Arc::new(WarehouseStartOffsets {
            warehouse: pipeline.warehouse.clone(),
            origin: pipeline.origin.clone(),
            start_from: stage.spec.source.start_from,
        }),
        health: Arc::clone(&context.health),
        stop: pipeline.stop.clone(),
    })
}

fn max_record_bytes(stage: &StreamStage) -> usize {
    usize::try_from(stage.spec.limits.max_record_bytes.get()).unwrap_or(usize::MAX)
}

fn batch_limits(stage: &StreamStage) -> BatchLimits {
    let batch = &stage.spec.batch;
    BatchLimits {
        max_records: usize::try_from(batch.max_records).unwrap_or(usize::MAX),
        max_bytes: usize::try_from(batch.max_bytes.get()).unwrap_or(usize::MAX),
        max_wait: batch.max_wait.as_std(),
    }
}
