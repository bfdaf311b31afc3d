#![expect(
    clippy::disallowed_types,
    reason = "edge: asks Kafka for the ID of the source topic"
)]
//! Confirms that the records of a batch are from the log that the positions belong to.
//!
//! Runs for each batch after its records were fetched, while they are decoded: if the topic ID is still that of the first
//! assignment, all records are from that log.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use tokio_util::sync::CancellationToken;

use super::error::{ConsumeError, StartError};
use super::rebalance::RebalanceHandler;
use super::settings::StartOffsets;
use super::source_topic::{SourceTopic, store_stop};
use crate::backoff::Backoff;
use crate::health::{Dependency, Health};

/// Timeout of a request to the brokers. It bounds the delay of a shutdown.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Confirms that the records of a batch are from the log that the positions belong to.
pub struct LogConfirmation {
    pub(super) kafka: Arc<BaseConsumer<RebalanceHandler>>,
    pub(super) topic: Arc<SourceTopic>,
    pub(super) start_offsets: Arc<dyn StartOffsets>,
    pub(super) health: Arc<Health>,
    pub(super) stop: CancellationToken,
}

impl LogConfirmation {
    /// Confirms the records that were fetched before this call. Retries until Kafka answers; `None` after a shutdown.
    ///
    /// # Errors
    /// If the topic was recreated. The stop is stored then.
    pub async fn confirm(&self) -> Result<Option<()>, ConsumeError> {
        let mut backoff = Backoff::default();
        loop {
            let (kafka, topic) = (Arc::clone(&self.kafka), Arc::clone(&self.topic));
            let confirming = tokio::task::spawn_blocking(move || topic.confirm(&kafka, REQUEST_TIMEOUT));
            match confirming.await.map_err(|_| ConsumeError::ThreadPanicked)? {
                Ok(_) => return Ok(Some(())),
                Err(StartError::Stopped(stop)) => {
                    store_stop(&*self.start_offsets, &self.health, &self.stop, &stop).await;
                    return Err(StartError::Stopped(stop).into());
                }
                Err(error) => {
                    let cause = format!("{}: cannot confirm the topic ID: {error}", self.topic.name);
                    self.health.mark_unavailable(Dependency::Source, &cause);
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }
}
