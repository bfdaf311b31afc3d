#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: runs the steps of a batch against the services"
)]
//! The path of a batch: consume -> decode -> enrich -> write -> publish -> commit.
//!
//! The same for all layers. Decoding and enriching need no transaction and run one batch ahead; everything from
//! the claim to the commit is one transaction, and is tried again until it goes through or the worker stops. A
//! step never swallows a record: it goes on as an item, or as a rejected record.

mod bisect;
mod retry;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, Enriched, Fetched, Moves, Published, Rejected, Written};
use crate::dead_letter::{self, Origin, Way};
use crate::health::{Health, Service};
use crate::layer::Layer;
use crate::metrics::Metrics;
use crate::policy::{Backoff, Policy};
use crate::position::Claim;
use crate::publish::{PublishError, Publisher};
use crate::rejection::{Code, Rejection};
use crate::warehouse::{self, Warehouse};

pub use retry::retry_pending;

/// Everything that the batches of one stage pass through.
pub struct Path<L> {
    /// What the layer does.
    pub layer: L,
    /// Whose batches these are.
    pub origin: Origin,
    /// Where effects and positions go.
    pub warehouse: Warehouse,
    /// Where outputs and dead letters go.
    pub publisher: Publisher,
    /// Where trouble is reported.
    pub health: Arc<Health>,
    /// Where work is counted.
    pub metrics: Metrics,
    /// Ends the retries.
    pub stop: CancellationToken,
}

/// Why an attempt failed; nothing of it is committed.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// PostgreSQL, or the way to it.
    #[error(
        "{0}; check that PostgreSQL runs, the keys of spec.warehouse.authSecret, and that `worker migrate` was run"
    )]
    Warehouse(#[from] sqlx::Error),
    /// Kafka, or the way to it.
    #[error("{0}")]
    Publish(#[from] PublishError),
    /// The dictionary, or the way to it.
    #[error("{0}")]
    Dictionary(#[from] crate::layer::DictionaryError),
    /// The position of a partition is gone from the table.
    #[error(
        "the position of partition {0} is gone from streamstage.position; the worker has to be started again, and \
         begins where spec.source.startFrom says"
    )]
    PositionGone(i32),
}

impl PathError {
    /// See the table in [`crate::policy`].
    #[must_use]
    pub fn policy(&self) -> Policy {
        match self {
            Self::Warehouse(error) => warehouse::policy_of(error),
            Self::Publish(error) => error.policy(),
            Self::Dictionary(_) => Policy::Retry,
            Self::PositionGone(_) => Policy::Stop,
        }
    }

    /// What does not work.
    #[must_use]
    pub fn service(&self) -> Service {
        match self {
            Self::Warehouse(_) | Self::PositionGone(_) => Service::Warehouse,
            Self::Publish(_) => Service::Output,
            Self::Dictionary(_) => Service::Dictionary,
        }
    }
}

/// How a write deals with a record that PostgreSQL refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// One write for the whole batch; a refusal fails it. The normal case.
    Whole,
    /// After a refusal: halves and savepoints, until the record is found.
    Bisect,
}

impl<L: Layer> Path<L> {
    /// Decodes and enriches a batch; `None` when the worker stops before the dictionary has answered.
    pub async fn prepare(&self, batch: Batch<Fetched>) -> Option<Batch<Enriched<L::Enriched>>> {
        let now = now_micros();
        let decoded = batch.decode(|record| self.layer.decode(record, now));
        let mut backoff = Backoff::default();
        let known = loop {
            match self.layer.look_up(&decoded.state.items).await {
                Ok(known) => break known,
                Err(error) => self.health.trouble(Service::Dictionary, &error.to_string()),
            }
            self.pause(&mut backoff).await?;
        };
        self.health.fine(Service::Dictionary);
        Some(decoded.enrich(|value| self.layer.enrich(value, &known)))
    }

    /// Writes, publishes and commits a batch, however often it takes; `None` when the worker stops before that.
    ///
    /// # Errors
    /// What no retry can mend.
    pub async fn settle(
        &self,
        mut batch: Batch<Enriched<L::Enriched>>,
    ) -> Result<Option<Batch<Published>>, PathError> {
        let mut mode = Mode::Whole;
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let error = match self.attempt(&batch, mode).await {
                Ok(published) => {
                    self.health.fine(Service::Warehouse);
                    self.health.fine(Service::Output);
                    self.metrics.committed(
                        &self.origin.stage,
                        &published.state,
                        begun.elapsed().as_secs_f64(),
                    );
                    return Ok(Some(published));
                }
                Err(error) => error,
            };
            self.metrics.retried(&self.origin.stage);
            match (error.policy(), &error) {
                (Policy::Stop, _) => return Err(error),
                (Policy::DeadLetter, PathError::Publish(_)) => self.reject_too_large(&mut batch).await,
                (Policy::DeadLetter | Policy::Hold, _) if mode == Mode::Whole => {
                    mode = Mode::Bisect;
                    continue;
                }
                _ => {}
            }
            self.health.trouble(error.service(), &error.to_string());
            if self.pause(&mut backoff).await.is_none() {
                return Ok(None);
            }
        }
    }

    /// One transaction: what it does is done entirely, or not at all.
    async fn attempt(
        &self,
        batch: &Batch<Enriched<L::Enriched>>,
        mode: Mode,
    ) -> Result<Batch<Published>, PathError> {
        let mut transaction = self.warehouse.begin().await?;
        let claim = self.claim(transaction.connection(), batch).await?;
        let written = self.write(transaction.connection(), batch, claim, mode).await?;
        let published = self.publish(written).await?;
        transaction.commit(&published).await?;
        Ok(published)
    }

    async fn claim(
        &self,
        connection: &mut PgConnection,
        batch: &Batch<Enriched<L::Enriched>>,
    ) -> Result<Claim, PathError> {
        let stored = self.warehouse.lock_positions(connection, &batch.spans).await?;
        match batch
            .spans
            .keys()
            .find(|partition| !stored.contains_key(partition))
        {
            Some(&partition) => Err(PathError::PositionGone(partition)),
            None => Ok(Claim::of(&batch.spans, &stored)),
        }
    }

    /// Writes the effects, the dead letters and the new positions.
    async fn write<'b>(
        &self,
        connection: &mut PgConnection,
        batch: &'b Batch<Enriched<L::Enriched>>,
        claim: Claim,
        mode: Mode,
    ) -> Result<Batch<Written<'b, L::Enriched>>, PathError> {
        let (items, rejected) = batch.claimed(&claim);
        let mut rejected: Vec<Rejected> = rejected.into_iter().cloned().collect();
        let (effects, held) = match mode {
            _ if items.is_empty() => Default::default(),
            Mode::Whole => (self.layer.write(connection, &items).await?, BTreeMap::new()),
            Mode::Bisect => {
                let found = bisect::write(&self.layer, connection, &items).await?;
                rejected.extend(found.refused);
                rejected.retain(|letter| !bisect::is_held(&found.held, &letter.record));
                (found.effects, found.held)
            }
        };
        let dead = dead_letter::insert(connection, &self.origin, rejected, Way::Topic).await?;
        let moves = Moves::of(&batch.spans, claim, held);
        self.warehouse.advance(connection, &moves.positions).await?;
        Ok(Batch {
            spans: batch.spans.clone(),
            state: Written {
                items,
                effects,
                dead,
                moves,
            },
        })
    }

    /// Publishes the outputs and the dead letters.
    async fn publish(&self, written: Batch<Written<'_, L::Enriched>>) -> Result<Batch<Published>, PathError> {
        let Written {
            items,
            effects,
            dead,
            moves,
        } = written.state;
        let outputs = effects
            .publish
            .iter()
            .filter_map(|&index| L::output(&items[index].value));
        self.publisher.publish(outputs, &dead).await?;
        let newest = items.iter().filter_map(|item| item.record.timestamp).max();
        let dead = dead.iter().map(|letter| letter.rejection.code).collect();
        Ok(Batch {
            spans: written.spans,
            state: Published {
                effects,
                dead,
                moves,
                newest,
            },
        })
    }

    /// The topic takes less than it did: reads the limit again, and rejects what exceeds it. When Kafka does not tell
    /// the limit, messages are sent one by one, so that no batch is too large; then the largest message is.
    async fn reject_too_large(&self, batch: &mut Batch<Enriched<L::Enriched>>) {
        if !self.publisher.read_limit().await && !self.publisher.send_singly() {
            let detail = "the output topic takes less, and does not let this stage read how much";
            let size = |value: &L::Enriched| L::output(value).map_or(0, |output| output.payload.len());
            return batch.reject_largest(size, Rejection::new(Code::OutputTooLarge, detail));
        }
        let limit = self.publisher.limit().bytes();
        batch.reject(|value| {
            let bytes = L::output(value)?.payload.len();
            let detail = || format!("{bytes} bytes, the output topic takes {limit}");
            (bytes > limit).then(|| Rejection::new(Code::OutputTooLarge, detail()))
        });
    }

    /// Waits before the next attempt; `None` when the worker stops.
    async fn pause(&self, backoff: &mut Backoff) -> Option<()> {
        let jitter = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |now| u64::from(now.subsec_nanos()));
        tokio::select! {
            () = self.stop.cancelled() => None,
            () = tokio::time::sleep(backoff.next(jitter)) => Some(()),
        }
    }
}

/// The clock, in microseconds since the Unix epoch.
fn now_micros() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
