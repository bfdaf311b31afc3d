#![expect(clippy::disallowed_types, reason = "edge: answers the group's rebalances")]
//! What happens when the group assigns and revokes partitions.
//!
//! Assigned: each partition starts where PostgreSQL says, never where Kafka does. Revoked: the batches in flight
//! are waited for, so that the next owner finds the position where this one left it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{CALL, Source};
use crate::health::{Health, Service};
use crate::policy::Backoff;
use crate::position::Bounds;

/// How long a revocation, or the end of the reading, waits for the batches in flight. What is not settled by
/// then is settled by the position: the transaction of a worker that is no longer the owner finds it moved.
const DRAIN: Duration = Duration::from_secs(20);

/// Where partitions start, by the position in PostgreSQL.
pub trait Starts: Send + Sync {
    /// The stored positions of these partitions; partitions that have none get one, by `spec.source.startFrom`.
    ///
    /// # Errors
    /// See [`StartError`].
    fn starts(&self, logs: BTreeMap<i32, Log>) -> Starting<'_>;

    /// The instant that a partition without a position starts from, in milliseconds since the Unix epoch, when
    /// that is what `startFrom` says.
    fn start_time(&self) -> Option<i64>;
}

/// The positions to come, by partition.
pub type Starting<'s> = Pin<Box<dyn Future<Output = Result<BTreeMap<i32, i64>, StartError>> + Send + 's>>;

/// What Kafka knows of a partition.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    /// What the log holds.
    pub bounds: Bounds,
    /// What the group has committed, if anything.
    pub committed: Option<i64>,
    /// The first offset at or after [`Starts::start_time`].
    pub at_start_time: Option<i64>,
}

/// Why partitions cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A position that the log does not hold: records are lost, or the topic was made anew.
    #[error(
        "OffsetOutOfRange: {0}; nothing goes on by itself, because records between the two would be skipped or read \
         as new: run `worker reset-offsets` to say where to start"
    )]
    OutOfRange(String),
    /// PostgreSQL does not answer.
    #[error(
        "the positions cannot be read: {0}; check that PostgreSQL runs, and the keys of spec.warehouse.authSecret"
    )]
    Warehouse(#[from] sqlx::Error),
    /// Kafka does not answer.
    #[error("the log's bounds cannot be read: {0}")]
    Source(#[from] KafkaError),
}

impl StartError {
    /// The position of `place` is not in the log; `cause` has the numbers.
    pub(crate) fn out_of_range(place: &str, cause: &str) -> Self {
        Self::OutOfRange(format!("{place}: {cause}"))
    }
}

/// A change of the assignment: a partition starts at an offset, or is given up.
pub(super) struct Change {
    pub partition: i32,
    pub start: Option<i64>,
}

/// The callbacks of a rebalance; they run in the polling thread, inside of a poll.
pub(super) struct Assignment {
    topic: String,
    starts: Arc<dyn Starts>,
    runtime: Handle,
    in_flight: InFlight,
    health: Arc<Health>,
    stop: CancellationToken,
    changes: Mutex<Result<Vec<Change>, StartError>>,
}

impl Assignment {
    pub(super) fn new(source: &Source, runtime: Handle, in_flight: InFlight) -> Self {
        Self {
            topic: source.topic.clone(),
            starts: Arc::clone(&source.starts),
            runtime,
            in_flight,
            health: Arc::clone(&source.health),
            stop: source.stop.clone(),
            changes: Mutex::new(Ok(Vec::new())),
        }
    }

    /// What changed since the last call.
    pub(super) fn changes(&self) -> Result<Vec<Change>, StartError> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut changes, Ok(Vec::new()))
    }

    fn note(&self, change: Result<Vec<Change>, StartError>) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        match (change, &mut *changes) {
            (Ok(new), Ok(noted)) => noted.extend(new),
            (Err(error), noted) => *noted = Err(error),
            (Ok(_), Err(_)) => {}
        }
    }

    /// Assigns the partitions at their positions, however long PostgreSQL and Kafka take to answer.
    fn assign(&self, kafka: &BaseConsumer<Self>, partitions: &mut TopicPartitionList) {
        let mut backoff = Backoff::default();
        let starts = loop {
            if self.stop.is_cancelled() {
                return take_unread(kafka, partitions);
            }
            match self.find_starts(kafka, partitions) {
                Err(StartError::OutOfRange(place)) => {
                    self.note(Err(StartError::OutOfRange(place)));
                    return take_unread(kafka, partitions);
                }
                Err(error @ StartError::Warehouse(_)) => {
                    self.health.trouble(Service::Warehouse, &error.to_string());
                }
                Err(error) => self.health.trouble(Service::Source, &error.to_string()),
                Ok(starts) => break starts,
            }
            std::thread::sleep(backoff.next(u64::from(std::process::id())));
        };
        // Both have answered. Without a record to work on, nothing else would find out.
        self.health.fine(Service::Warehouse);
        self.health.fine(Service::Source);
        let assigned = starts.iter().try_for_each(|(&partition, &offset)| {
            partitions.set_partition_offset(&self.topic, partition, Offset::Offset(offset))
        });
        // A pause outlives the ownership in which it was made: librdkafka keeps it with the partition.
        let assigned = assigned
            .and_then(|()| kafka.incremental_assign(partitions))
            .and_then(|()| kafka.resume(partitions));
        match assigned {
            Ok(()) => {
                tracing::info!(topic = self.topic, positions = ?starts, "partitions assigned");
                // The mirror may be behind, when the last owner did not live to bring it up to date.
                let mirrored = kafka.commit(partitions, rdkafka::consumer::CommitMode::Async);
                mirrored.unwrap_or_else(|error| tracing::debug!(%error, "offsets not mirrored"));
                self.health
                    .assigned(kafka.assignment().map_or(0, |all| all.count()));
                self.note(Ok(starts
                    .into_iter()
                    .map(|(partition, offset)| Change {
                        partition,
                        start: Some(offset),
                    })
                    .collect()));
            }
            Err(error) => self
                .health
                .trouble(Service::Source, &format!("cannot assign: {error}")),
        }
    }

    fn find_starts(
        &self,
        kafka: &BaseConsumer<Self>,
        partitions: &TopicPartitionList,
    ) -> Result<BTreeMap<i32, i64>, StartError> {
        let offset = |list: &TopicPartitionList, partition| match list
            .find_partition(&self.topic, partition)?
            .offset()
        {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        let numbers: Vec<i32> = partitions
            .elements()
            .iter()
            .map(rdkafka::topic_partition_list::TopicPartitionListElem::partition)
            .collect();
        let committed = kafka.committed_offsets(partitions.clone(), CALL)?;
        let by_time = self
            .starts
            .start_time()
            .map(|time| self.by_time(kafka, &numbers, time))
            .transpose()?;
        let mut logs = BTreeMap::new();
        for partition in numbers {
            let (start, end) = kafka.fetch_watermarks(&self.topic, partition, CALL)?;
            let log = Log {
                bounds: Bounds { start, end },
                committed: offset(&committed, partition),
                at_start_time: by_time
                    .as_ref()
                    .map(|list| offset(list, partition).unwrap_or(end)),
            };
            logs.insert(partition, log);
        }
        self.runtime.block_on(self.starts.starts(logs))
    }

    fn by_time(
        &self,
        kafka: &BaseConsumer<Self>,
        partitions: &[i32],
        time: i64,
    ) -> Result<TopicPartitionList, KafkaError> {
        let mut times = TopicPartitionList::new();
        for &partition in partitions {
            times.add_partition_offset(&self.topic, partition, Offset::Offset(time))?;
        }
        kafka.offsets_for_times(times, CALL)
    }

    /// Gives partitions up once their batches are settled.
    fn revoke(&self, kafka: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        if !self.in_flight.wait() {
            tracing::warn!(
                "batches are still in flight; their partitions are given up, their transactions will find the position moved"
            );
        }
        if let Err(error) = kafka.incremental_unassign(partitions) {
            tracing::warn!(%error, "partitions not given up; leaving the group will do it");
        }
        let revoked: Vec<i32> = partitions
            .elements()
            .iter()
            .map(rdkafka::topic_partition_list::TopicPartitionListElem::partition)
            .collect();
        tracing::info!(topic = self.topic, partitions = ?revoked, "partitions revoked");
        // Whether their records still fail is for the next owner to tell.
        for &partition in &revoked {
            self.health.release(partition);
        }
        self.health
            .assigned(kafka.assignment().map_or(0, |all| all.count()));
        self.note(Ok(revoked
            .into_iter()
            .map(|partition| Change {
                partition,
                start: None,
            })
            .collect()));
    }
}

/// Takes partitions that will not be read: without an answer to the group's offer the client could never leave it.
fn take_unread(kafka: &BaseConsumer<Assignment>, partitions: &TopicPartitionList) {
    let taken = kafka
        .incremental_assign(partitions)
        .and_then(|()| kafka.pause(partitions));
    taken.unwrap_or_else(|error| tracing::debug!(%error, "partitions not taken; the group takes them back"));
}

/// What to look at, when the brokers refuse the client itself.
pub(super) fn hint(error: &KafkaError) -> &'static str {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::Authentication) => {
            "; check the keys username, password and mechanism of spec.source.authSecret"
        }
        Some(RDKafkaErrorCode::SSL) => {
            "; check the keys security.protocol and ca.crt of spec.source.authSecret"
        }
        _ => "",
    }
}

impl ClientContext for Assignment {
    fn error(&self, error: KafkaError, reason: &str) {
        let trouble = format!("{error}: {reason}{}", hint(&error));
        self.health.trouble(Service::Source, &trouble);
    }
}

impl ConsumerContext for Assignment {
    fn rebalance(
        &self,
        kafka: &BaseConsumer<Self>,
        cause: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        match cause {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(kafka, partitions),
            _ => self.revoke(kafka, partitions),
        }
    }
}

/// Batches that were handed over and are not settled.
#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<(Mutex<usize>, Condvar)>);

impl InFlight {
    /// Counts one more batch, until the ticket is dropped.
    pub(super) fn ticket(&self) -> Ticket {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Ticket(self.clone())
    }

    /// Waits until none is left; `false` when it takes longer than [`DRAIN`].
    pub(super) fn wait(&self) -> bool {
        let (count, changed) = &*self.0;
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(count, DRAIN, |count| *count > 0);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// One batch in flight.
pub struct Ticket(InFlight);

impl Drop for Ticket {
    fn drop(&mut self) {
        let (count, changed) = &*self.0.0;
        *count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_waits_for_the_batches_in_flight() {
        let in_flight = InFlight::default();
        let tickets = [in_flight.ticket(), in_flight.ticket()];
        let (done, waited) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || done.send(in_flight.wait()));
        for ticket in tickets {
            let early = waited.recv_timeout(Duration::from_millis(50));
            assert!(early.is_err(), "did not wait");
            drop(ticket);
        }
        assert_eq!(waited.recv_timeout(DRAIN), Ok(true));
        waiting.join().expect("the thread").expect("the channel");
    }
}
