#![expect(
    clippy::disallowed_methods,
    reason = "edge: runs the steps of a batch against its dependencies"
)]
//! The batch pipeline: consume -> decode -> enrich -> write -> publish -> commit, the same for all layers.
//!
//! Decode and enrich run one batch ahead, outside of a transaction. From the position check to the commit everything
//! is one PostgreSQL transaction, retried until it commits or the worker stops. A step never drops a record: it
//! passes it on as an item or as a rejected record. [`crate::stage`] runs the pipeline of a stage.

mod bisect;
mod error;
mod pending_retry;
mod transaction;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::batch::{Batch, Enriched, Fetched, Published};
use crate::dead_letter::Origin;
use crate::error_policy::ErrorPolicy;
use crate::health::{Dependency, Health};
use crate::layer::interface::Layer;
use crate::layer::stg::Stg;
use crate::metrics::Metrics;
use crate::publish::{Publisher, TOO_LARGE_FOR_UNKNOWN_LIMIT};
use crate::rejection::{Code, Rejection};
use crate::session::with_deadline;
use crate::warehouse::{TRANSACTION_TIMEOUT, Warehouse};

use transaction::{TransactionContext, WriteMode};

pub use error::PipelineError;

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
    /// Publishes outputs and dead letters.
    pub publisher: Publisher,
    /// Health of the stage.
    pub health: Arc<Health>,
    /// Metrics of the process.
    pub metrics: Metrics,
    /// Shutdown signal; ends the retries.
    pub stop: CancellationToken,
}

impl<L: Layer> Pipeline<L> {
    /// Decodes and enriches a batch. Retries the lookup of reference data until it succeeds; `None` after a shutdown.
    pub async fn prepare(&self, batch: Batch<Fetched>) -> Option<Batch<Enriched<L::Enriched>>> {
        let now = Timestamp::now().as_microsecond();
        let decoded = batch.decode(|record| self.layer.decode(record, now));
        let mut backoff = Backoff::default();
        let lookup = loop {
            let _step = self.health.begin_step("prepare", "decode and enrich a batch");
            let lookup = tokio::select! {
                lookup = self.layer.look_up(&decoded.state.items) => lookup,
                () = self.stop.cancelled() => return None,
            };
            match lookup {
                Ok(lookup) => break lookup,
                Err(error) => self
                    .health
                    .mark_unavailable(Dependency::ReferenceData, &error.to_string()),
            }
            self.back_off(&mut backoff).await?;
        };
        self.health.mark_available(Dependency::ReferenceData);
        Some(decoded.enrich(|value| self.layer.enrich(value, &lookup)))
    }

    /// Writes, publishes and commits a batch, with retries; `None` after a shutdown.
    ///
    /// # Errors
    /// A terminal error: its policy is [`ErrorPolicy::Stop`].
    pub async fn commit_with_retry(
        &self,
        mut batch: Batch<Enriched<L::Enriched>>,
    ) -> Result<Option<Batch<Published>>, PipelineError> {
        let mut mode = WriteMode::Whole;
        let mut timeout = TRANSACTION_TIMEOUT;
        let mut backoff = Backoff::default();
        loop {
            let _step = self
                .health
                .begin_step("commit", "write, publish and commit a batch");
            let started = Instant::now();
            let context = self.transaction_context();
            let attempt = with_deadline(timeout, context.run_transaction(&batch, mode, timeout));
            let attempt = tokio::select! {
                attempt = attempt => attempt,
                () = self.drain_timeout() => return Ok(None),
            };
            let error = match attempt {
                Ok(published) => {
                    self.report_commit(&published, started.elapsed());
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

    fn transaction_context(&self) -> TransactionContext<'_, L> {
        TransactionContext {
            layer: &self.layer,
            origin: &self.origin,
            warehouse: &self.warehouse,
            publisher: &self.publisher,
        }
    }

    fn report_commit(&self, published: &Batch<Published>, duration: Duration) {
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
    /// Retries the pending orders that are due and returns their number. `max_wait` is the time after which a pending
    /// order is dead-lettered.
    ///
    /// # Errors
    /// An error of a dependency; the orders stay pending then.
    pub async fn retry_pending(&self, max_wait: Duration) -> Result<usize, PipelineError> {
        let _step = self.health.begin_step("pending", "retry pending orders");
        let context = self.transaction_context();
        tokio::select! {
            retried = pending_retry::retry_pending(&context, &self.metrics, max_wait) => retried,
            () = self.drain_timeout() => Ok(0),
        }
    }
}
