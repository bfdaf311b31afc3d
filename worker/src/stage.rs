//! A stage at work: one consumer, one path, two tasks that overlap.
//!
//! While PostgreSQL writes one batch, the next is decoded and enriched. Stopping lets the batches in hand finish,
//! then leaves the group.

use std::sync::Arc;
use std::time::Duration;

use crds::StreamStage;
use rdkafka::consumer::CommitMode;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, Enriched, Moves};
use crate::connect::{self, ConnectError, Secrets};
use crate::consume::{ConsumeError, Consumer, Limits, Source, Ticket, Ticketed};
use crate::dead_letter::Origin;
use crate::decode::Rules;
use crate::health::{Health, Service};
use crate::layer::Layer;
use crate::layer::cdm::{self, Cdm};
use crate::layer::dds::Dds;
use crate::layer::stg::{Dictionary, Stg};
use crate::metrics::Metrics;
use crate::path::{Path, PathError, retry_pending};
use crate::policy::Policy;
use crate::publish::{OutputLimit, Publisher};
use crate::start::Start;
use crate::warehouse::Warehouse;

/// How often orders that wait for the dictionary are looked for.
const PENDING_EVERY: Duration = Duration::from_secs(1);
/// How long a held partition rests before its record is tried again.
const HELD_FOR: Duration = Duration::from_secs(10);

/// Why a stage ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It cannot be connected.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Reading failed.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
    /// A batch failed for good.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A task of the stage panicked.
    #[error("a task of the stage ended unexpectedly: {0}; its log lines say why")]
    Task(#[from] tokio::task::JoinError),
    /// Kafka's client refuses its settings.
    #[error("Kafka's client refuses its settings: {0}")]
    Settings(#[from] rdkafka::error::KafkaError),
    /// A document that was not validated.
    #[error("spec.dictionary: the layer stg needs one")]
    NoDictionary,
    /// The time zone is none.
    #[error("spec.timezone: {0}")]
    Timezone(#[from] jiff::Error),
}

/// What a stage shares with the process around it.
pub struct Surroundings {
    /// Where the secrets are.
    pub secrets: Secrets,
    /// Where its condition is shown.
    pub health: Arc<Health>,
    /// Where its work is counted.
    pub metrics: Metrics,
    /// Tells it to stop.
    pub stop: CancellationToken,
}

/// Runs a stage until it is told to stop.
///
/// # Errors
/// What no retry can mend; the worker should end then, and say so.
pub async fn run(stage: &StreamStage, around: Surroundings) -> Result<(), StageError> {
    let rules = rules(stage)?;
    match stage.spec.layer {
        crds::stage::Layer::Stg => {
            let dictionary = stage.spec.dictionary.clone().ok_or(StageError::NoDictionary)?;
            let redis = connect::redis(&dictionary, &around.secrets)?;
            let layer = |origin: &Origin, output_limit| Stg {
                rules,
                dictionary: Dictionary::new(redis),
                output_limit,
                origin: origin.clone(),
            };
            let path = Arc::new(path(stage, &around, layer)?);
            let pending = tokio::spawn(keep_retrying(Arc::clone(&path), dictionary.max_wait.as_std()));
            let drained = drain(stage, &around, Arc::clone(&path)).await;
            path.stop.cancel();
            let retried = pending.await?;
            drained?;
            Ok(retried?)
        }
        crds::stage::Layer::Dds => {
            let layer = |origin: &Origin, output_limit| Dds {
                rules,
                output_limit,
                load_source: origin.load_source(),
            };
            drain(stage, &around, Arc::new(path(stage, &around, layer)?)).await
        }
        crds::stage::Layer::Cdm => {
            let path = path(stage, &around, |_, _| Cdm { rules })?;
            install_thresholds(stage, &path).await;
            drain(stage, &around, Arc::new(path)).await
        }
    }
}

/// Whose records these are.
#[must_use]
pub fn origin(stage: &StreamStage) -> Origin {
    Origin {
        stage: stage.name().to_owned(),
        consumer_group: stage.consumer_group(),
        topic: stage.spec.source.topic.clone(),
    }
}

/// What values the stage accepts.
///
/// # Errors
/// When its time zone is none.
pub fn rules(stage: &StreamStage) -> Result<Rules, StageError> {
    let limits = &stage.spec.limits;
    Ok(Rules {
        timezone: stage.time_zone()?,
        max_record_bytes: usize::try_from(limits.max_record_bytes.get()).unwrap_or(usize::MAX),
        max_clock_skew: i64::try_from(limits.max_clock_skew.as_std().as_micros()).unwrap_or(i64::MAX),
    })
}

/// The stage's warehouse; connections open when they are needed.
///
/// # Errors
/// When its secret cannot be read.
pub fn warehouse(stage: &StreamStage, secrets: &Secrets) -> Result<Warehouse, StageError> {
    let options = connect::postgres(stage, secrets)?;
    Ok(Warehouse::new(
        options,
        stage.spec.warehouse.connections_per_worker,
        origin(stage),
    ))
}

/// The stage's publishing side.
///
/// # Errors
/// When its secret cannot be read, or the client refuses the settings.
pub fn publisher(stage: &StreamStage, secrets: &Secrets) -> Result<Publisher, StageError> {
    let output = stage.spec.output.as_ref().map(|output| output.topic.clone());
    Ok(Publisher::new(
        connect::kafka(stage, secrets)?,
        output,
        stage.dead_letter_topic(),
        origin(stage),
    )?)
}

/// Everything that the stage's batches pass through.
fn path<L: Layer>(
    stage: &StreamStage,
    around: &Surroundings,
    layer: impl FnOnce(&Origin, OutputLimit) -> L,
) -> Result<Path<L>, StageError> {
    let origin = origin(stage);
    let warehouse = warehouse(stage, &around.secrets)?;
    let publisher = publisher(stage, &around.secrets)?;
    Ok(Path {
        layer: layer(&origin, publisher.limit()),
        origin,
        warehouse,
        publisher,
        health: Arc::clone(&around.health),
        metrics: around.metrics.clone(),
        // Its own, because a stage that cannot go on ends what waits for its path.
        stop: around.stop.child_token(),
    })
}

/// Consumes, prepares and settles batches until the stage is told to stop, or cannot go on.
async fn drain<L: Layer>(
    stage: &StreamStage,
    around: &Surroundings,
    path: Arc<Path<L>>,
) -> Result<(), StageError> {
    path.publisher.read_limit().await;
    let (consumer, fetched) = Consumer::start(source(stage, around, &path)?)?;
    let (prepared, settling) = mpsc::channel(1);
    let preparing = tokio::spawn(prepare(Arc::clone(&path), fetched, prepared));
    let settled = settle(&path, settling, &consumer).await;
    // Whatever the reason: no batch is settled any more, so none needs the dictionary.
    path.stop.cancel();
    let prepared = preparing.await;
    let closed = consumer.close().await;
    settled?;
    prepared?;
    Ok(closed?)
}

fn source<L: Layer>(
    stage: &StreamStage,
    around: &Surroundings,
    path: &Path<L>,
) -> Result<Source, StageError> {
    let topic = stage.spec.source.topic.clone();
    let batch = &stage.spec.batch;
    let from = stage.spec.source.start_from;
    Ok(Source {
        config: connect::consumer(stage, connect::kafka(stage, &around.secrets)?),
        topic: topic.clone(),
        limits: Limits {
            records: usize::try_from(batch.max_records).unwrap_or(usize::MAX),
            bytes: usize::try_from(batch.max_bytes.get()).unwrap_or(usize::MAX),
            wait: batch.max_wait.as_std(),
        },
        starts: Arc::new(Start {
            warehouse: path.warehouse.clone(),
            topic,
            from,
        }),
        health: Arc::clone(&around.health),
        stop: path.stop.clone(),
    })
}

/// Decodes and enriches, one batch ahead of [`settle`].
async fn prepare<L: Layer>(
    path: Arc<Path<L>>,
    mut fetched: mpsc::Receiver<Ticketed>,
    prepared: mpsc::Sender<(Batch<Enriched<L::Enriched>>, Ticket)>,
) {
    // The place is taken before the batch: one batch less in memory than the other way round.
    while let Ok(place) = prepared.reserve().await {
        let Some((batch, ticket)) = fetched.recv().await else {
            return;
        };
        let Some(batch) = path.prepare(batch).await else {
            return;
        };
        place.send((batch, ticket));
    }
}

/// Writes, publishes and commits, batch by batch.
async fn settle<L: Layer>(
    path: &Path<L>,
    mut prepared: mpsc::Receiver<(Batch<Enriched<L::Enriched>>, Ticket)>,
    consumer: &Consumer,
) -> Result<(), StageError> {
    let mut positions = std::collections::BTreeMap::new();
    while let Some((batch, ticket)) = prepared.recv().await {
        let Some(settled) = path.settle(batch).await? else {
            break;
        };
        let Moves {
            positions: moved,
            seeks,
            held,
        } = settled.state.moves;
        consumer.mirror(&moved, CommitMode::Async);
        consumer.seek(&seeks, Duration::ZERO);
        moved
            .keys()
            .filter(|partition| !held.contains_key(partition))
            .for_each(|&partition| path.health.release(partition));
        for (partition, (offset, cause)) in held {
            consumer.seek(&[(partition, offset)].into(), HELD_FOR);
            path.health.hold(partition, cause);
        }
        positions.extend(moved);
        drop(ticket);
    }
    // It waits for Kafka, and other stages need the runtime's thread meanwhile.
    tokio::task::block_in_place(|| consumer.mirror(&positions, CommitMode::Sync));
    Ok(())
}

/// Tries pending orders again, until the stage is told to stop. However it ends, the stage ends with it.
async fn keep_retrying(path: Arc<Path<Stg>>, max_wait: Duration) -> Result<(), PathError> {
    let _stage_ends = path.stop.clone().drop_guard();
    let mut every = tokio::time::interval(PENDING_EVERY);
    let mut trouble: Option<Service> = None;
    loop {
        tokio::select! {
            () = path.stop.cancelled() => return Ok(()),
            _ = every.tick() => {}
        }
        match retry_pending(&path, max_wait).await {
            Ok(due) => {
                if due > 0 {
                    tracing::info!(stage = path.origin.stage, due, "pending orders tried again");
                }
                // Its own trouble alone: that of the batches is theirs to end.
                if let Some(service) = trouble.take() {
                    path.health.fine(service);
                }
            }
            Err(error) if error.policy() == Policy::Stop => return Err(error),
            Err(error) => {
                let service = error.service();
                path.health
                    .trouble(service, &format!("pending orders not tried again: {error}"));
                if let Some(before) = trouble.replace(service).filter(|&before| before != service) {
                    path.health.fine(before);
                }
            }
        }
    }
}

/// Sets the thresholds of the tags; a warehouse that does not answer is waited for.
async fn install_thresholds(stage: &StreamStage, path: &Path<Cdm>) {
    let mut every = tokio::time::interval(PENDING_EVERY);
    loop {
        tokio::select! {
            () = path.stop.cancelled() => return,
            _ = every.tick() => {}
        }
        match cdm::install_thresholds(path.warehouse.pool(), &stage.spec.tags).await {
            Ok(()) => return path.health.fine(Service::Warehouse),
            Err(error) => path
                .health
                .trouble(Service::Warehouse, &PathError::from(error).to_string()),
        }
    }
}
