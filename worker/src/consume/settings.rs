#![expect(clippy::disallowed_types, reason = "edge: settings of the Kafka client")]
//! Settings of a consumer, and the interface that provides start offsets.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::batch_builder::BatchLimits;
use super::error::StartError;
use crate::health::Health;
use crate::position::{LogRange, Stop};

/// Timeout of a request to the brokers.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of one stage's consumer.
pub struct ConsumerSettings {
    /// Settings of the Kafka client: servers, credentials, group.
    pub config: ClientConfig,
    /// Source topic.
    pub topic: String,
    /// Limits at which a batch closes.
    pub limits: BatchLimits,
    /// Maximum size of a value that the stage accepts, in bytes.
    pub max_record_bytes: usize,
    /// Number of batches that the pipeline commits at the same time.
    pub lanes: usize,
    /// Provider of start offsets.
    pub start_offsets: Arc<dyn StartOffsets>,
    /// Health of the stage; receives outages of Kafka and, during an assignment, of PostgreSQL.
    pub health: Arc<Health>,
    /// Shutdown signal.
    pub stop: CancellationToken,
}

/// Provider of the offsets at which assigned partitions start.
pub trait StartOffsets: Send + Sync {
    /// Returns true if the next call of [`Self::start_offsets`] must have all partitions of the topic, because it
    /// decides the first start of the group.
    ///
    /// # Errors
    /// See [`StartError`].
    fn decides_all_partitions(&self) -> StartFuture<'_, bool>;

    /// Returns the stored positions of these partitions in the log `topic_id`. A partition without a stored position
    /// gets one.
    ///
    /// # Errors
    /// See [`StartError`].
    fn start_offsets(
        &self,
        topic_id: Uuid,
        partitions: BTreeMap<i32, PartitionOffsets>,
    ) -> StartFuture<'_, BTreeMap<i32, i64>>;

    /// Stores a stop, so that a restarted worker does not continue.
    ///
    /// # Errors
    /// If PostgreSQL is unreachable.
    fn store_stop(&self, stop: Stop) -> StartFuture<'_, ()>;

    /// Start time for partitions without a position, in milliseconds since the Unix epoch. `None` unless `startFrom`
    /// is a timestamp.
    fn start_time(&self) -> Option<i64>;
}

/// Result of a query of [`StartOffsets`].
pub type StartFuture<'s, T> = Pin<Box<dyn Future<Output = Result<T, StartError>> + Send + 's>>;

/// Offsets of a partition in Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionOffsets {
    /// Log start and end offset.
    pub log: LogRange,
    /// Committed offset of the group, if any.
    pub committed: Option<i64>,
    /// First offset at or after [`StartOffsets::start_time`]; the log end offset if no record is that new. `None`
    /// without a start time.
    pub at_start_time: Option<i64>,
}
