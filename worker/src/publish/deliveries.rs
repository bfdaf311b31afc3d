//! Deliveries of outputs whose batch is not committed yet.
//!
//! A batch is published before it is committed, and may have to be published again: the acknowledgment came too late, a
//! message failed, or the commit failed. This state outlives the attempt, so that the next one sends only what is
//! neither acknowledged nor in flight, also if the batch is bisected, read again or cut in another way. A crash loses it.

use std::collections::BTreeMap;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};

use rdkafka::error::KafkaError;
use rdkafka::producer::future_producer::DeliveryFuture;

use super::error::PublishError;
use crate::batch::{OffsetUpdates, Published};
use crate::output::Output;
use crate::position::OffsetRanges;
use crate::record::RecordId;
use crate::version::Version;

/// Output of a record that was passed to the client.
struct Delivery {
    /// Order of the output.
    object_id: i64,
    /// Version of the order.
    version: Version,
    state: State,
}

enum State {
    InFlight(DeliveryFuture),
    Acknowledged,
}

/// Deliveries by source record. The key has the offset, because the same version may be read at several offsets.
#[derive(Default)]
pub(super) struct Deliveries(Mutex<BTreeMap<RecordId, Delivery>>);

impl Deliveries {
    /// Returns true if this output of the record is acknowledged or in flight.
    pub(super) fn contains(&self, id: RecordId, output: &Output) -> bool {
        self.lock().get(&id).is_some_and(|delivery| {
            (delivery.object_id, delivery.version) == (output.object_id, output.version)
        })
    }

    /// Adds an output that the client has accepted.
    pub(super) fn add(&self, id: RecordId, output: &Output, future: DeliveryFuture) {
        let delivery = Delivery {
            object_id: output.object_id,
            version: output.version,
            state: State::InFlight(future),
        };
        self.lock().insert(id, delivery);
    }

    /// Waits until each of these outputs is acknowledged or has failed; a failed one is removed, so that it is sent again.
    /// May be dropped at any time.
    ///
    /// # Errors
    /// The first failure.
    pub(super) async fn wait_acknowledged(&self, topic: &str, ids: &[RecordId]) -> Result<(), PublishError> {
        let mut ids = ids.iter().peekable();
        let mut outcome = Ok(());
        poll_fn(|context| {
            let mut deliveries = self.lock();
            while let Some(id) = ids.peek() {
                let error = match deliveries.get_mut(id) {
                    Some(delivery) => match &mut delivery.state {
                        State::Acknowledged => None,
                        State::InFlight(future) => match ready!(Pin::new(future).poll(context)) {
                            Ok(Ok(_)) => {
                                delivery.state = State::Acknowledged;
                                None
                            }
                            Ok(Err((error, _))) => Some(error),
                            Err(_) => Some(KafkaError::Canceled),
                        },
                    },
                    // Another task has waited for the same output, and it failed.
                    None => Some(KafkaError::Canceled),
                };
                if let Some(error) = error {
                    deliveries.remove(id);
                    if outcome.is_ok() {
                        outcome = Err(PublishError::new(topic, error));
                    }
                }
                ids.next();
            }
            Poll::Ready(())
        })
        .await;
        outcome
    }

    /// Removes the deliveries of a committed batch. Records that will be read again stay: those of a partition that
    /// continues from an earlier offset, and those behind a record that blocks its partition.
    pub(super) fn remove_committed(&self, ranges: &OffsetRanges, published: &Published) {
        let mut deliveries = self.lock();
        for id in &published.outputs {
            deliveries.remove(id);
        }
        let OffsetUpdates { positions, seeks, .. } = &published.offset_updates;
        deliveries.retain(|(_, partition, offset), _| {
            let Some(range) = ranges.get(partition).filter(|_| !seeks.contains_key(partition)) else {
                return true;
            };
            let end = positions.get(partition).copied().unwrap_or(range.to);
            !(range.from..end).contains(offset)
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RecordId, Delivery>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
