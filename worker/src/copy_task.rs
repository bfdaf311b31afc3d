#![expect(
    clippy::disallowed_types,
    reason = "edge: produces copies of dead letters to Kafka"
)]
//! Produces the copies of dead letters to the dead letter topic, beside the pipeline of the stage.
//!
//! A copy that fails is produced later and delays no record: the row in `streamstage.dead_letter` is the dead letter. The
//! task has a producer of its own, because a rejected message makes an idempotent producer start over.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use tokio_util::sync::CancellationToken;

use crate::dead_letter::Origin;
use crate::dead_letter::copy::{self, CopyResult, DueCopy};
use crate::dead_letter::headers::build_headers;
use crate::health::{Health, PendingCopies};
use crate::metrics::Metrics;
use crate::publish::PublishError;
use crate::publish::record_producer::RecordProducer;
use crate::record::{Header, Record};
use crate::warehouse::Warehouse;

/// Interval between two queries for copies that are due.
const COPY_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of copies per claim.
const CLAIM_LIMIT: i64 = 500;
/// Largest delay after an error of the topic or of the brokers, which affects every copy.
const MAX_TOPIC_DELAY: Duration = Duration::from_secs(30);
/// Largest delay after the topic has rejected this copy.
const MAX_COPY_DELAY: Duration = Duration::from_mins(10);

/// Task that produces the copies of one stage.
pub struct CopyTask {
    /// Stage, consumer group and topic of the dead letters.
    pub origin: Origin,
    /// Dead letter topic.
    pub topic: String,
    /// Servers and credentials.
    pub config: ClientConfig,
    /// Has the dead letters.
    pub warehouse: Warehouse,
    /// Reports the copies that cannot be produced.
    pub health: Arc<Health>,
    /// Counts the failures.
    pub metrics: Metrics,
    /// Shutdown signal.
    pub stop: CancellationToken,
}

impl CopyTask {
    /// Produces copies until a shutdown. A copy whose result is not known then is due again after its claim.
    pub async fn run(self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.copy_until_stopped() => {}
        }
    }

    async fn copy_until_stopped(&self) {
        let mut producer = None;
        // During an outage of the topic, one copy per attempt finds out when it ends.
        let mut limit = CLAIM_LIMIT;
        let mut interval = tokio::time::interval(COPY_INTERVAL);
        loop {
            match self.copy_due(&mut producer, limit).await {
                Ok(attempted) if attempted.failed == 0 && attempted.copied > 0 => {
                    limit = CLAIM_LIMIT;
                    continue;
                }
                Ok(attempted) if attempted.failed > 0 => {
                    limit = if attempted.copied > 0 { CLAIM_LIMIT } else { 1 };
                }
                Ok(_) => {}
                // The pipeline reports an outage of the warehouse.
                Err(error) => tracing::debug!(%error, "failed to produce copies of dead letters, retrying"),
            }
            interval.tick().await;
        }
    }

    /// Produces the copies that are due, and reports those that are pending afterwards.
    async fn copy_due(
        &self,
        producer: &mut Option<RecordProducer>,
        limit: i64,
    ) -> Result<Attempted, CopyError> {
        let claim = async |connection: &mut _| copy::claim_due(connection, &self.origin, limit).await;
        let due = self.warehouse.transact(claim).await?;
        let mut attempted = Attempted::default();
        if !due.is_empty() {
            let producer = match producer {
                Some(producer) => producer,
                None => producer.insert(RecordProducer::new(self.config.clone(), &self.topic)?),
            };
            let results = self.produce(producer, &due).await;
            attempted.failed = results.iter().filter(|result| result.failure.is_some()).count();
            attempted.copied = results.len() - attempted.failed;
            let store =
                async |connection: &mut _| copy::store_results(connection, &self.origin, &results).await;
            self.warehouse.transact(store).await?;
            self.metrics
                .record_copy_failures(&self.origin.stage, attempted.failed);
        }
        let is_known_empty =
            due.is_empty() && self.health.snapshot().dead_letter_copies == Some(PendingCopies::default());
        if !is_known_empty {
            let count = async |connection: &mut _| copy::count_pending(connection, &self.origin).await;
            let pending = self.warehouse.transact(count).await?;
            self.health.set_pending_copies(pending);
        }
        Ok(attempted)
    }

    async fn produce(&self, producer: &RecordProducer, due: &[DueCopy]) -> Vec<CopyResult> {
        let copies: Vec<(&Record, Vec<Header>)> = due
            .iter()
            .map(|due| {
                let headers = build_headers(&self.origin.topic, &due.record, &due.error);
                (&due.record, headers)
            })
            .collect();
        let results = producer.send(copies.iter().map(|(record, headers)| (*record, &headers[..])));
        let results = results.await.into_iter();
        let result = |(due, result): (&DueCopy, Result<(), PublishError>)| CopyResult {
            id: due.record.id(),
            copy_attempts: due.copy_attempts,
            failure: result.err().map(|error| (error.to_string(), max_delay(&error))),
        };
        due.iter().zip(results).map(result).collect()
    }
}

/// Number of copies of one claim, by result.
#[derive(Default)]
struct Attempted {
    copied: usize,
    failed: usize,
}

/// Failure of a claim as a whole.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Warehouse(#[from] sqlx::Error),
    #[error(transparent)]
    Producer(#[from] KafkaError),
}

/// Largest delay before the next attempt of a copy.
fn max_delay(error: &PublishError) -> Duration {
    if error.is_rejection() {
        MAX_COPY_DELAY
    } else {
        MAX_TOPIC_DELAY
    }
}
