#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads the settings of the Kafka client, and waits for records"
)]
//! Fetches the records of the assigned partitions.
//!
//! librdkafka decompresses a whole record batch before it delivers the first record, without a bound, so a batch of some
//! kilobytes can exhaust the memory. Therefore the worker fetches records itself, and decompresses them one by one when
//! they are read: it holds the compressed answers, and one record. librdkafka is the member of the group; its partitions
//! are paused.

mod answer;
mod batch_reader;
mod broker_task;
mod decompress;
mod fetch_state;
mod record_batch;
mod record_reader;
mod snappy;
mod transactions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use kafka::{Restrictions, Security, Settings};
use rdkafka::ClientConfig;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::health::Health;
use crate::record::Record;
use batch_reader::Step;
use broker_task::{Event, FetchedBatches, Shared, follow_leaders};
use record_reader::RecordLimits;

/// Maximum size of an answer: a record batch of the largest `limits.maxRecordBytes`, 64 MiB, with its headers.
const MAX_RESPONSE_BYTES: usize = 72 << 20;

/// Records and offsets of a partition.
#[derive(Debug)]
pub(super) enum Fetched {
    /// A record. Its topic ID is not set.
    Record(Record),
    /// No record of the partition is before this offset.
    SkipTo {
        /// Partition id.
        partition: i32,
        /// Next offset.
        offset: i64,
    },
    /// The log does not contain the next offset of the partition.
    OutOfRange {
        /// Partition id.
        partition: i32,
        /// Offset that the broker rejects.
        offset: i64,
    },
}

/// Fetches the records of the partitions that it was started for.
pub(super) struct Fetcher {
    shared: Arc<Shared>,
    events: Receiver<Event>,
    /// Current generation of each partition.
    generations: BTreeMap<i32, u64>,
    /// Batches that are being read.
    current: Option<Box<FetchedBatches>>,
    _task: AbortOnDropHandle<()>,
}

impl Fetcher {
    /// Starts a fetcher that reads nothing yet. Its tasks run in `runtime` until it is dropped.
    pub(super) fn start(
        config: &ClientConfig,
        topic: &str,
        max_record_bytes: usize,
        health: Arc<Health>,
        runtime: &Handle,
    ) -> Self {
        let settings = Settings {
            client_id: config.get("client.id").unwrap_or("streamstage").to_owned(),
            security: Security::from_settings(|name| config.get(name)),
            max_response_bytes: MAX_RESPONSE_BYTES,
            restrictions: Restrictions::default(),
        };
        let servers = config.get("bootstrap.servers").unwrap_or_default();
        let (sender, events) = channel();
        let limits = RecordLimits::new(max_record_bytes);
        let shared = Arc::new(Shared::new(topic, servers, settings, limits, health, sender));
        let task = runtime.spawn(follow_leaders(Arc::clone(&shared)));
        Self {
            shared,
            events,
            generations: BTreeMap::new(),
            current: None,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Reads a partition from an offset. Records that were fetched before are ignored.
    pub(super) fn read_from(&mut self, partition: i32, offset: i64) {
        let mut generation = 0;
        self.shared
            .state
            .send_modify(|state| generation = state.start(partition, offset));
        self.generations.insert(partition, generation);
    }

    /// Ends the reading of a partition.
    pub(super) fn stop(&mut self, partition: i32) {
        self.generations.remove(&partition);
        self.shared.state.send_modify(|state| state.stop(partition));
    }

    /// Returns true if nothing fails.
    pub(super) fn is_healthy(&self) -> bool {
        self.shared.state.borrow().is_healthy()
    }

    /// Returns true if all fetched records of the partition are read, and the broker had no further one.
    pub(super) fn is_caught_up(&self, partition: i32) -> bool {
        self.shared.state.borrow().is_caught_up(partition)
    }

    /// Next record or skipped offsets; waits for at most `timeout`.
    pub(super) fn next(&mut self, timeout: Duration) -> Option<Fetched> {
        if let Some(fetched) = self.next_of_current() {
            return Some(fetched);
        }
        let deadline = Instant::now() + timeout;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            // The sender is part of the shared state.
            match self.events.recv_timeout(remaining).ok()? {
                Event::Batches(batches) => {
                    self.current = Some(batches);
                    if let Some(fetched) = self.next_of_current() {
                        return Some(fetched);
                    }
                }
                Event::OutOfRange(wanted) => {
                    if self.generations.get(&wanted.partition) == Some(&wanted.generation) {
                        return Some(Fetched::OutOfRange {
                            partition: wanted.partition,
                            offset: wanted.offset,
                        });
                    }
                }
            }
        }
    }

    /// Next record of the current batches, if they are of the current generation of their partition.
    fn next_of_current(&mut self) -> Option<Fetched> {
        let batches = self.current.as_mut()?;
        let (partition, generation) = (batches.reader.partition(), batches.generation);
        let is_current = self.generations.get(&partition) == Some(&generation);
        let step = is_current.then(|| batches.reader.next()).flatten();
        if step.is_none() {
            self.current = None;
            self.shared
                .state
                .send_modify(|state| state.release(partition, generation));
        }
        Some(match step? {
            Step::Record(record) => Fetched::Record(record),
            Step::SkipTo(offset) => Fetched::SkipTo { partition, offset },
        })
    }
}

#[cfg(test)]
mod tests;
