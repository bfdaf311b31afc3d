#![expect(
    clippy::disallowed_methods,
    reason = "edge: runs the steps of a batch against its dependencies"
)]
//! The batch pipeline: consume -> decode -> enrich -> write -> publish -> commit, the same for all layers.
//!
//! Decode and enrich run one batch ahead, outside of a transaction. Each lane runs the steps with its own partitions, beside
//! the other lanes. From the position check to the commit everything is one PostgreSQL transaction, retried until it commits or the worker stops. A step never drops a record: it
//! passes it on as an item or as a rejected record. [`crate::stage`] runs the pipeline of a stage.

mod bisect;
mod error;
mod pending_retry;
mod rejection_hold;
mod transaction;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use telemetry::progress::StepGuard;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::batch::{Batch, Decoded, Enriched, Fetched, Published, RejectedRecord};
use crate::dead_letter::Origin;
use crate::error_policy::ErrorPolicy;
use crate::health::{Dependency, Health};
use crate::layer::interface::Layer;
use crate::layer::stg::Stg;
use crate::layer::stg::pending::{self, PageLimits};
use crate::metrics::Metrics;
use crate::panic_guard::{catch_panic, reject_panic};
use crate::publish::{Publisher, TOO_LARGE_FOR_UNKNOWN_LIMIT};
use crate::record::Item;
use crate::rejection::{Code, Rejection};
use crate::session::with_deadline;
use crate::warehouse::{TRANSACTION_TIMEOUT, Warehouse};

use error::panic_to_error;
use rejection_hold::{HOLD_INTERVAL, HOLD_WRITE_INTERVAL};
use transaction::{TransactionContext, WriteMode};

pub use error::PipelineError;
pub use rejection_hold::RejectionHold;

/// Maximum of the time that an attempt to commit a batch may take, which doubles after every attempt that took longer.
const MAX_TRANSACTION_TIMEOUT: Duration = Duration::from_mins(4);
/// Time that the transactions in progress have to finish after a shutdown begins.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(12);

/// Pipeline of one stage: its layer and its dependencies.
pub struct Pipeline<L> {
    /// Decodes, enriches and writes the records.
    pub layer: L,
    /// Stage, consumer group and topic of the records.
    pub origin: Origin,
    /// Stores effects and positions.
    pub warehouse: Warehouse,
    /// Publishes outputs.
    pub publisher: Publisher,
    /// Health of the stage.
    pub health: Arc<Health>,
    /// Metrics of the process.
    pub metrics: Metrics,
    /// Shutdown signal; ends the retries.
    pub stop: CancellationToken,
    /// Holds batches of which most records would be dead-lettered.
    pub hold: RejectionHold,
}

impl<L: Layer> Pipeline<L> {
    /// Decodes and enriches a batch. Retries the lookup of reference data until it succeeds; `None` after a shutdown.
    pub async fn prepare(&self, lane: usize, batch: Batch<Fetched>) -> Option<Batch<Enriched<L::Enriched>>> {
        let now = Timestamp::now().as_microsecond();
        let decoded = batch.decode(|record| reject_panic(|| self.layer.decode(record, now)));
        match self.look_up(lane, &decoded.state.items).await? {
            Ok(lookup) => Some(decoded.enrich(|value| reject_panic(|| self.layer.enrich(value, &lookup)))),
            Err(_) => self.enrich_one_by_one(lane, decoded).await,
        }
    }

    /// Looks up the reference data of these items. Retries until it succeeds; `None` after a shutdown. An error is a
    /// panic, which one of the items has caused.
    async fn look_up(&self, lane: usize, items: &[Item<L::Decoded>]) -> Option<Result<L::Lookup, Rejection>> {
        let mut backoff = Backoff::default();
        loop {
            let _step = self.begin_step(lane, "prepare", "decode and enrich a batch");
            let lookup = tokio::select! {
                // A batch without records, which advances a position before a shutdown, needs no lookup.
                biased;
                lookup = catch_panic(self.layer.look_up(items)) => lookup,
                () = self.stop.cancelled() => return None,
            };
            match lookup {
                Ok(Ok(lookup)) => {
                    if let Some(cause) = self.layer.find_outage(items, &lookup) {
                        self.health.mark_unavailable(Dependency::ReferenceData, &cause);
                        if self.hold.is_held(&cause, HOLD_INTERVAL).await? {
                            continue;
                        }
                    }
                    self.health.mark_available(Dependency::ReferenceData);
                    return Some(Ok(lookup));
                }
                Ok(Err(error)) => self
                    .health
                    .mark_unavailable(Dependency::ReferenceData, &error.to_string()),
                Err(rejection) => return Some(Err(rejection)),
            }
            self.back_off(&mut backoff).await?;
        }
    }

    /// Enriches each item with a lookup of its own, and rejects those whose lookup panics.
    async fn enrich_one_by_one(
        &self,
        lane: usize,
        decoded: Batch<Decoded<L::Decoded>>,
    ) -> Option<Batch<Enriched<L::Enriched>>> {
        let Decoded { items, mut rejected } = decoded.state;
        let mut enriched = Vec::with_capacity(items.len());
        for item in items {
            let looked_up = self.look_up(lane, std::slice::from_ref(&item)).await?;
            let Item { record, value } = item;
            let value = looked_up.and_then(|lookup| reject_panic(|| self.layer.enrich(value, &lookup)));
            match value {
                Ok(value) => enriched.push(Item { record, value }),
                Err(rejection) => rejected.push(RejectedRecord { record, rejection }),
            }
        }
        Some(Batch {
            ranges: decoded.ranges,
            state: Enriched {
                items: enriched,
                rejected,
            },
        })
    }

    /// Writes, publishes and commits a batch of a lane, with retries; `None` after a shutdown. The batches of other lanes
    /// are committed at the same time, unless one of them is held.
    ///
    /// # Errors
    /// A terminal error: its policy is [`ErrorPolicy::Stop`].
    pub async fn commit_with_retry(
        &self,
        lane: usize,
        mut batch: Batch<Enriched<L::Enriched>>,
    ) -> Result<Option<Batch<Published>>, PipelineError> {
        if self.hold.wait_if_rejected(&batch).await.is_none() {
            return Ok(None);
        }
        // While this batch is held, the other lanes are, too.
        let mut hold = None;
        let mut mode = WriteMode::Whole;
        let mut timeout = TRANSACTION_TIMEOUT;
        let mut backoff = Backoff::default();
        loop {
            let _step = self.begin_step(lane, "commit", "write, publish and commit a batch");
            let started = Instant::now();
            let Some(attempt) = self.attempt_commit(&batch, mode, timeout).await else {
                return Ok(None);
            };
            let error = match attempt {
                Ok(published) => {
                    self.report_commit(&published, started.elapsed(), hold.is_some());
                    return Ok(Some(published));
                }
                Err(error) => error,
            };
            if error.is_timeout() {
                // The database may only be slow, or the batch large.
                timeout = MAX_TRANSACTION_TIMEOUT.min(timeout * 2);
            }
            self.metrics.record_retry(&self.origin.stage);
            tracing::debug!(%error, "batch attempt failed");
            match (error.policy(), &error) {
                (ErrorPolicy::Stop, _) => return Err(error),
                (ErrorPolicy::DeadLetter, PipelineError::Publish(_)) => {
                    self.reject_too_large(&mut batch).await;
                }
                (_, PipelineError::MostRejected(cause)) => {
                    self.hold.hold_all_lanes(&mut hold).await;
                    self.health.mark_held(cause);
                    match self.hold.is_held(cause, HOLD_WRITE_INTERVAL).await {
                        Some(true) => {}
                        Some(false) => mode = WriteMode::BisectAll,
                        None => return Ok(None),
                    }
                    continue;
                }
                (ErrorPolicy::DeadLetter | ErrorPolicy::Block, _) if mode == WriteMode::Whole => {
                    mode = WriteMode::Bisect;
                    continue;
                }
                _ => {}
            }
            self.health
                .mark_unavailable(error.dependency(), &error.to_string());
            if self.back_off(&mut backoff).await.is_none() {
                return Ok(None);
            }
        }
    }

    /// Runs the transaction of a batch once; `None` if a shutdown does not wait for it any more.
    async fn attempt_commit(
        &self,
        batch: &Batch<Enriched<L::Enriched>>,
        mode: WriteMode,
        timeout: Duration,
    ) -> Option<Result<Batch<Published>, PipelineError>> {
        let context = self.transaction_context();
        let attempt = panic_to_error(Box::pin(context.run_transaction(batch, mode, timeout)));
        tokio::select! {
            attempt = with_deadline(timeout, attempt) => Some(attempt),
            () = self.drain_timeout() => None,
        }
    }

    fn transaction_context(&self) -> TransactionContext<'_, L> {
        TransactionContext {
            layer: &self.layer,
            origin: &self.origin,
            warehouse: &self.warehouse,
            publisher: &self.publisher,
        }
    }

    fn begin_step(&self, lane: usize, task: &str, step: &'static str) -> StepGuard {
        self.health.begin_step(&format!("{task} {lane}"), step)
    }

    fn report_commit(&self, published: &Batch<Published>, duration: Duration, was_held: bool) {
        if was_held {
            self.health.release();
        }
        self.health.mark_available(Dependency::Warehouse);
        self.health.mark_available(Dependency::Output);
        self.metrics
            .record_batch(&self.origin.stage, &published.state, duration.as_secs_f64());
        let effects = &published.state.effects;
        tracing::debug!(
            stored = effects.stored,
            duplicates = effects.duplicate,
            pending = effects.pending,
            outputs = effects.publish.len(),
            dead_letters = published.state.dead_letters.len(),
            ?duration,
            "batch committed"
        );
    }

    /// Rejects the outputs that the topic no longer accepts, because its limit was lowered. If the limit cannot be
    /// read, a producer batch may be too large, so the messages are sent one by one. If that was so already, the
    /// largest output is rejected.
    async fn reject_too_large(&self, batch: &mut Batch<Enriched<L::Enriched>>) {
        if !self.publisher.refresh_limit().await && !self.publisher.disable_batching() {
            let rejection = Rejection::new(Code::OutputTooLarge, TOO_LARGE_FOR_UNKNOWN_LIMIT);
            let size = |value: &L::Enriched| L::output(value).map_or(0, |output| output.payload.len());
            return batch.reject_largest(size, rejection);
        }
        let limit = self.publisher.limit().bytes();
        batch.reject(|value| {
            let bytes = L::output(value)?.payload.len();
            let detail = || format!("{bytes} bytes, but the output topic accepts {limit}");
            (bytes > limit).then(|| Rejection::new(Code::OutputTooLarge, detail()))
        });
    }

    /// Waits for a shutdown, and for the time that the work in progress has to finish then.
    async fn drain_timeout(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    }

    /// Waits before the next attempt; `None` after a shutdown.
    async fn back_off(&self, backoff: &mut Backoff) -> Option<()> {
        tokio::select! {
            () = self.stop.cancelled() => None,
            () = tokio::time::sleep(backoff.next_delay()) => Some(()),
        }
    }
}

impl Pipeline<Stg> {
    /// Retries the pending orders that are due, page by page until no order is due, or a shutdown, and returns their
    /// number. `max_wait` is the time after which a pending order is dead-lettered.
    ///
    /// # Errors
    /// An error of a dependency; the orders stay pending then.
    pub async fn retry_pending(
        &self,
        max_wait: Duration,
        limits: PageLimits,
    ) -> Result<usize, PipelineError> {
        let context = self.transaction_context();
        let mut retried = 0;
        while !self.stop.is_cancelled() {
            let _step = self.health.begin_step("pending", "retry pending orders");
            let page = tokio::select! {
                page = pending_retry::retry_page(&context, &self.metrics, max_wait, limits) => page?,
                () = self.drain_timeout() => 0,
            };
            if page == 0 {
                break;
            }
            retried += page;
        }
        Ok(retried)
    }

    /// Updates the metrics of the pending orders.
    ///
    /// # Errors
    /// An error of PostgreSQL.
    pub async fn report_pending(&self) -> Result<(), PipelineError> {
        let read = async |connection: &mut _| pending::statistics(connection, &self.origin).await;
        let statistics = self.warehouse.transact(read).await?;
        self.metrics.set_pending(&self.origin.stage, statistics);
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_types, reason = "edge: a pipeline whose layer panics")]
mod tests {
    use std::collections::BTreeMap;

    use prometheus_client::registry::Registry;
    use rdkafka::ClientConfig;
    use sqlx::PgConnection;
    use uuid::Uuid;

    use super::*;
    use crate::layer::interface::{Effects, LookupError};
    use crate::output::Output;
    use crate::position::{OffsetRange, OffsetRanges};
    use crate::record::Record;

    /// Offsets of the records that make each step panic.
    const DECODE: i64 = 2;
    const LOOK_UP: i64 = 4;
    const ENRICH: i64 = 6;

    /// Layer that panics at these records.
    struct PanickingLayer;

    impl Layer for PanickingLayer {
        type Decoded = i64;
        type Lookup = ();
        type Enriched = i64;

        fn decode(&self, record: &Record, _: i64) -> Result<i64, Rejection> {
            assert_ne!(record.offset, DECODE);
            Ok(record.offset)
        }

        async fn look_up(&self, items: &[Item<i64>]) -> Result<(), LookupError> {
            tokio::task::yield_now().await;
            assert!(items.iter().all(|item| item.value != LOOK_UP));
            Ok(())
        }

        fn enrich(&self, decoded: i64, (): &()) -> Result<i64, Rejection> {
            assert_ne!(decoded, ENRICH);
            Ok(decoded)
        }

        async fn write(&self, _: &mut PgConnection, _: &[&Item<i64>]) -> Result<Effects, sqlx::Error> {
            Ok(Effects::default())
        }

        fn output(_: &i64) -> Option<&Output> {
            None
        }
    }

    fn pipeline() -> Pipeline<PanickingLayer> {
        let origin = Origin {
            stage: "stg".into(),
            consumer_group: "orders.stg".into(),
            topic: "orders".into(),
        };
        let warehouse = Warehouse::new(Vec::new(), crds::stage::Layer::Stg, 1);
        let (health, stop) = (Arc::new(Health::new("stg")), CancellationToken::new());
        Pipeline {
            layer: PanickingLayer,
            hold: RejectionHold::new(Duration::ZERO, &origin, &warehouse, &health, &stop),
            warehouse,
            origin,
            publisher: Publisher::new(ClientConfig::new(), None).expect("settings"),
            health,
            metrics: Metrics::register(&mut Registry::default()),
            stop,
        }
    }

    async fn prepare(offsets: &[i64]) -> (Vec<i64>, BTreeMap<i64, Code>) {
        let records = offsets.iter().map(|&offset| Record {
            offset,
            ..Record::default()
        });
        let batch = Batch {
            ranges: OffsetRanges::from([(
                0,
                OffsetRange {
                    from: 0,
                    to: 10,
                    topic_id: Uuid::nil(),
                },
            )]),
            state: Fetched {
                records: records.collect(),
            },
        };
        let prepared = pipeline().prepare(0, batch).await.expect("no shutdown").state;
        let rejected = prepared.rejected.iter();
        (
            prepared.items.iter().map(|item| item.value).collect(),
            rejected
                .map(|rejected| (rejected.record.offset, rejected.rejection.code))
                .collect(),
        )
    }

    #[tokio::test]
    async fn a_record_that_makes_a_step_panic_is_rejected_and_the_others_are_not() {
        for step in [DECODE, LOOK_UP, ENRICH] {
            let (items, rejected) = prepare(&[1, step, 7]).await;
            assert_eq!(items, [1, 7], "{step}");
            assert_eq!(rejected, BTreeMap::from([(step, Code::WorkerPanic)]));
        }
        let (items, rejected) = prepare(&[1, 2, 3, 4, 5, 6, 7]).await;
        assert_eq!(items, [1, 3, 5, 7]);
        assert!(rejected.keys().eq(&[DECODE, LOOK_UP, ENRICH]), "{rejected:?}");
    }
}
