#![expect(
    clippy::disallowed_types,
    reason = "edge: asks Kafka for the ID of the source topic"
)]
//! The source topic, and its ID since the first assignment.
//!
//! An offset has no meaning without the log that it belongs to. If the topic is deleted and created again, the client
//! continues at the same offset of the new log, and reports nothing.

use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::error::StartError;
use super::settings::StartOffsets;
use crate::backoff::Backoff;
use crate::health::{Dependency, Health};
use crate::position::{Stop, is_same_log};
use crate::topic_id::fetch_topic_id;

/// Source topic of a consumer.
#[derive(Debug)]
pub(super) struct SourceTopic {
    /// Name of the topic.
    pub name: String,
    id: OnceLock<Uuid>,
}

impl SourceTopic {
    /// A topic whose ID is unknown until the first assignment.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: OnceLock::new(),
        }
    }

    /// Compares an ID of the topic with the first one.
    ///
    /// # Errors
    /// A stop if the topic was recreated.
    pub(super) fn confirm_id(&self, id: Uuid) -> Result<(), Stop> {
        let first = *self.id.get_or_init(|| id);
        if is_same_log(first, id) {
            Ok(())
        } else {
            Err(Stop::topic_recreated(&self.name, first, id))
        }
    }

    /// Asks Kafka whether the topic is still the one of the first assignment, and returns its ID.
    ///
    /// # Errors
    /// A stop if the topic was recreated, or an error if Kafka does not answer within the timeout.
    pub(super) fn confirm<C: ConsumerContext>(
        &self,
        kafka: &BaseConsumer<C>,
        timeout: Duration,
    ) -> Result<Uuid, StartError> {
        let id = fetch_topic_id(kafka.client(), &self.name, timeout)?;
        self.confirm_id(id).map_err(StartError::Stopped)?;
        Ok(id)
    }
}

/// Stores a stop. Retries until PostgreSQL answers, or a shutdown: without it, a restarted worker could continue.
pub(super) async fn store_stop(
    start_offsets: &dyn StartOffsets,
    health: &Health,
    shutdown: &CancellationToken,
    stop: &Stop,
) {
    let mut backoff = Backoff::default();
    while let Err(error) = start_offsets.store_stop(stop.clone()).await {
        health.mark_unavailable(Dependency::Warehouse, &error.to_string());
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(backoff.next_delay()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::StopReason;

    #[test]
    fn a_topic_is_recreated_when_its_id_changes() {
        let topic = SourceTopic::new("orders");
        let [first, second] = [1, 2].map(Uuid::from_u128);
        assert_eq!(topic.confirm_id(first), Ok(()));
        assert_eq!(topic.confirm_id(first), Ok(()));
        let stop = topic.confirm_id(second).expect_err("another ID");
        assert_eq!((stop.reason, stop.partition), (StopReason::TopicRecreated, None));
    }
}
