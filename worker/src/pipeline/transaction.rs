#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: runs the transaction of a batch on a PostgreSQL connection"
)]
//! The transaction that makes effects exactly-once.
//!
//! It locks and checks the positions, writes effects, dead letters and new positions, publishes, and commits last. If
//! it fails before the commit, PostgreSQL is unchanged, and the retry publishes what is not acknowledged yet. After a
//! crash it publishes everything again: consumers recognize the messages by order and version. If the commit succeeds
//! but its confirmation is lost, the position check of the retry finds the batch applied. The worker must never advance
//! a position outside of this transaction, and never commit before every message is acknowledged.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::PgConnection;

use super::bisect;
use super::error::{PipelineError, panic_to_error};
use crate::batch::{Batch, Enriched, OffsetUpdates, Published, RejectedRecord, Written, newest_timestamp};
use crate::dead_letter::{self, Origin, RejectedFrom};
use crate::hold::RejectionSample;
use crate::layer::interface::{Effects, Layer};
use crate::position::ApplyPlan;
use crate::position_store;
use crate::publish::Publisher;
use crate::record::Item;
use crate::rejection::Code;
use crate::warehouse::{BatchTransaction, Warehouse};

/// Layer and connections that a transaction uses.
pub(super) struct TransactionContext<'p, L> {
    pub layer: &'p L,
    pub origin: &'p Origin,
    pub warehouse: &'p Warehouse,
    pub publisher: &'p Publisher,
}

/// Write strategy for records that PostgreSQL rejects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteMode {
    /// One write for the whole batch; one rejected record fails it. The normal case.
    Whole,
    /// Bisection with savepoints after such a failure: only the failing records are left out. Fails if these are most
    /// of the batch.
    Bisect,
    /// As [`Self::Bisect`], whatever the number of failing records.
    BisectAll,
}

impl<L: Layer> TransactionContext<'_, L> {
    /// Writes, publishes and commits a batch. Everything is done, or nothing is stored. `timeout` is that of each
    /// statement.
    pub(super) async fn run_transaction(
        &self,
        batch: &Batch<Enriched<L::Enriched>>,
        mode: WriteMode,
        timeout: Duration,
    ) -> Result<Batch<Published>, PipelineError> {
        let mut transaction = self.warehouse.begin_transaction(timeout).await?;
        let plan = self.plan_apply(transaction.connection(), batch).await?;
        let written = self.write(transaction.connection(), batch, plan, mode).await?;
        if mode == WriteMode::Bisect {
            check_rejection_share(&written)?;
        }
        let published = self.publish(written).await?;
        self.commit(transaction, &published).await?;
        Ok(published)
    }

    /// Commits a published batch, whose outputs need not be remembered any more then.
    pub(super) async fn commit(
        &self,
        transaction: BatchTransaction,
        published: &Batch<Published>,
    ) -> Result<(), sqlx::Error> {
        transaction.commit(published).await?;
        self.publisher.forget_committed(published);
        Ok(())
    }

    /// Locks the stored positions and checks the offset ranges of the batch against them.
    async fn plan_apply(
        &self,
        connection: &mut PgConnection,
        batch: &Batch<Enriched<L::Enriched>>,
    ) -> Result<ApplyPlan, PipelineError> {
        let stored = position_store::lock(connection, self.origin, &batch.ranges).await?;
        let mut offsets = BTreeMap::new();
        for (&partition, range) in &batch.ranges {
            let position = stored.get(&partition);
            let position = position.ok_or(PipelineError::PositionMissing(partition))?;
            if let Some(stop) = position.find_stop(&self.origin.topic, range.topic_id) {
                return Err(PipelineError::Stopped(stop));
            }
            offsets.insert(partition, position.next_offset);
        }
        Ok(ApplyPlan::new(&batch.ranges, &offsets))
    }

    /// Writes the effects, the dead letters and the new positions.
    async fn write<'b>(
        &self,
        connection: &mut PgConnection,
        batch: &'b Batch<Enriched<L::Enriched>>,
        plan: ApplyPlan,
        mode: WriteMode,
    ) -> Result<Batch<Written<'b, L::Enriched>>, PipelineError> {
        let (items, rejected) = batch.records_to_apply(&plan);
        let (effects, dead_letters, blocked) = match mode {
            WriteMode::Whole => {
                let effects = self.write_items(connection, &items).await?;
                let dead_letters =
                    dead_letter::insert(connection, self.origin, &rejected, RejectedFrom::Topic).await?;
                (effects, dead_letters, BTreeMap::new())
            }
            WriteMode::Bisect | WriteMode::BisectAll => {
                let mut outcome = bisect::write(self.layer, connection, &items).await?;
                let rejected = rejected.into_iter().chain(&outcome.rejected);
                let is_included =
                    |rejected: &&RejectedRecord| !bisect::is_blocked(&outcome.blocked, &rejected.record);
                let rejected: Vec<&RejectedRecord> = rejected.filter(is_included).collect();
                let inserted = bisect::insert_dead_letters(connection, self.origin, &rejected).await?;
                outcome.blocked.extend(inserted.blocked);
                (outcome.effects, inserted.codes, outcome.blocked)
            }
        };
        let offset_updates = OffsetUpdates::new(&batch.ranges, plan, blocked);
        position_store::advance(connection, self.origin, &offset_updates.positions).await?;
        Ok(Batch {
            ranges: batch.ranges.clone(),
            state: Written {
                items,
                effects,
                dead_letters,
                offset_updates,
            },
        })
    }

    async fn write_items(
        &self,
        connection: &mut PgConnection,
        items: &[&Item<L::Enriched>],
    ) -> Result<Effects, PipelineError> {
        if items.is_empty() {
            return Ok(Effects::default());
        }
        panic_to_error(self.layer.write(connection, items)).await
    }

    /// Publishes the outputs, and waits for every acknowledgment.
    pub(super) async fn publish(
        &self,
        written: Batch<Written<'_, L::Enriched>>,
    ) -> Result<Batch<Published>, PipelineError> {
        let Written {
            items,
            effects,
            dead_letters,
            offset_updates,
        } = written.state;
        let outputs = effects
            .publish
            .iter()
            .filter_map(|&index| Some((&items[index].record, L::output(&items[index].value)?)));
        let outputs = self.publisher.publish(outputs).await?;
        let timestamps = items.iter().filter_map(|item| item.record.timestamp);
        let newest_timestamp = newest_timestamp(timestamps, Timestamp::now().as_millisecond());
        Ok(Batch {
            ranges: written.ranges,
            state: Published {
                effects,
                outputs,
                dead_letters,
                offset_updates,
                newest_timestamp,
            },
        })
    }
}

/// Fails if PostgreSQL rejects most records of the batch: a constraint or a type of the warehouse is at fault then.
fn check_rejection_share<T>(written: &Batch<Written<'_, T>>) -> Result<(), PipelineError> {
    let codes = written.state.dead_letters.iter().copied();
    let rejected = codes.filter(|code| *code == Code::WarehouseRejected);
    match RejectionSample::default().add(written.state.items.len(), rejected) {
        Some(cause) => Err(PipelineError::MostRejected(cause)),
        None => Ok(()),
    }
}
