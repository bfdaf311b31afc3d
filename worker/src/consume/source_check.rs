#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: asks Kafka for the state of the source, at intervals"
)]
//! Checks of the source between two polls: whether it has recovered, and whether the topic is still the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::metadata::{Metadata, MetadataTopic};

use super::error::StartError;
use super::settings::REQUEST_TIMEOUT;
use super::source_topic::SourceTopic;
use crate::health::{Dependency, Health};
use crate::position::{LogRange, Stop, StopReason};

/// Timeout of a request between two polls.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Minimum interval between two probes for the recovery of the source.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two checks whether the topic was recreated.
const TOPIC_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Checks of one source topic, with their last times.
pub(super) struct SourceCheck {
    topic: Arc<SourceTopic>,
    health: Arc<Health>,
    last_probe: Option<Instant>,
    last_topic_check: Instant,
}

impl SourceCheck {
    /// Checks of a topic; the first check of its ID is due after an interval.
    pub(super) fn new(topic: Arc<SourceTopic>, health: Arc<Health>) -> Self {
        Self {
            topic,
            health,
            last_probe: None,
            last_topic_check: Instant::now(),
        }
    }

    /// Requests metadata during an outage: the client reports its start, but not its end. A record does not prove a
    /// recovery, because it may have been fetched before the outage. `is_fetching` is true if the fetcher reports no failure.
    /// Returns true if a probe was due.
    pub(super) fn probe_recovery<C: ConsumerContext>(
        &mut self,
        kafka: &BaseConsumer<C>,
        is_fetching: bool,
    ) -> bool {
        let is_recent = self
            .last_probe
            .is_some_and(|probe| probe.elapsed() < PROBE_INTERVAL);
        if is_recent || !self.health.is_unavailable(Dependency::Source) {
            return false;
        }
        let metadata = kafka.fetch_metadata(Some(&self.topic.name), PROBE_TIMEOUT);
        let has_topic = |metadata: &Metadata| {
            metadata
                .topics()
                .iter()
                .all(|topic| topic.error().is_none() && !topic.partitions().is_empty())
                && metadata
                    .topics()
                    .iter()
                    .flat_map(MetadataTopic::partitions)
                    .all(|partition| partition.leader() >= 0)
        };
        if is_fetching && metadata.is_ok_and(|metadata| has_topic(&metadata)) {
            self.health.mark_available(Dependency::Source);
        }
        self.last_probe = Some(Instant::now());
        true
    }

    /// Returns an error if the topic was recreated. Without this, a worker whose position is at the end of the new log
    /// would wait there, and skip the records before it.
    pub(super) fn check_topic_id<C: ConsumerContext>(
        &mut self,
        kafka: &BaseConsumer<C>,
    ) -> Result<(), StartError> {
        if self.last_topic_check.elapsed() < TOPIC_CHECK_INTERVAL {
            return Ok(());
        }
        let confirmed = self.topic.confirm(kafka, PROBE_TIMEOUT);
        self.last_topic_check = Instant::now();
        match confirmed {
            Err(stopped @ StartError::Stopped(_)) => Err(stopped),
            // The client reports an outage.
            _ => Ok(()),
        }
    }

    /// Finds the cause of a position that the broker rejects: a recreated topic, or a partition whose log range does not
    /// contain its next offset.
    pub(super) fn find_lost_position<C: ConsumerContext>(
        &self,
        kafka: &BaseConsumer<C>,
        next_offsets: &BTreeMap<i32, i64>,
        cause: &str,
    ) -> StartError {
        if let Err(stopped @ StartError::Stopped(_)) = self.topic.confirm(kafka, REQUEST_TIMEOUT) {
            return stopped;
        }
        let topic = &self.topic.name;
        let lost = next_offsets.iter().find_map(|(&partition, &next)| {
            let (start, end) = kafka.fetch_watermarks(topic, partition, REQUEST_TIMEOUT).ok()?;
            let log = LogRange { start, end };
            (!log.contains(next)).then(|| Stop::out_of_range(topic, partition, next, log))
        });
        StartError::Stopped(lost.unwrap_or_else(|| Stop {
            reason: StopReason::OffsetOutOfRange,
            partition: None,
            detail: format!("{topic}: {cause}"),
        }))
    }
}
