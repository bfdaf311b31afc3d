//! Holds the batches of a stage while most of their records would be dead-lettered. [`crate::hold`] decides.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::PipelineError;
use crate::batch::{Batch, Enriched};
use crate::dead_letter::Origin;
use crate::health::Health;
use crate::hold::RejectionSample;
use crate::hold_state;
use crate::warehouse::Warehouse;

/// Maximum interval between two attempts of a held batch.
pub(super) const HOLD_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum interval if an attempt writes to PostgreSQL.
pub(super) const HOLD_WRITE_INTERVAL: Duration = Duration::from_secs(15);

/// Hold of one stage.
pub struct RejectionHold {
    max_hold: Duration,
    /// Rejected records of the last batches.
    sample: Mutex<RejectionSample>,
    /// Locked while a batch is held, so that no other lane continues.
    gate: tokio::sync::Mutex<()>,
    origin: Origin,
    warehouse: Warehouse,
    health: Arc<Health>,
    stop: CancellationToken,
}

impl RejectionHold {
    /// Holds batches for at most `max_hold`; zero disables the hold.
    #[must_use]
    pub fn new(
        max_hold: Duration,
        origin: &Origin,
        warehouse: &Warehouse,
        health: &Arc<Health>,
        stop: &CancellationToken,
    ) -> Self {
        Self {
            max_hold,
            sample: Mutex::default(),
            gate: tokio::sync::Mutex::default(),
            origin: origin.clone(),
            warehouse: warehouse.clone(),
            health: Arc::clone(health),
            stop: stop.clone(),
        }
    }

    /// Continues the hold of an earlier worker: the first batch decides.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub async fn resume(&self) -> Result<(), sqlx::Error> {
        if self.max_hold.is_zero() {
            return Ok(());
        }
        let is_held =
            async |connection: &mut _| hold_state::is_held(connection, &self.origin, self.max_hold).await;
        if self.warehouse.transact(is_held).await? {
            *self.sample.lock().unwrap_or_else(PoisonError::into_inner) = RejectionSample::during_hold();
        }
        Ok(())
    }

    /// Keeps the other lanes from committing their next batch until `hold` is dropped; does nothing if it does so already.
    pub(super) async fn hold_all_lanes<'g>(&'g self, hold: &mut Option<tokio::sync::MutexGuard<'g, ()>>) {
        if hold.is_none() {
            *hold = Some(self.gate.lock().await);
        }
    }

    /// Holds a batch if most records of the last batches, including this one, are rejected, or while another lane is held;
    /// `None` after a shutdown.
    pub(super) async fn wait_if_rejected<T>(&self, batch: &Batch<Enriched<T>>) -> Option<()> {
        let _gate = tokio::select! {
            gate = self.gate.lock() => gate,
            () = self.stop.cancelled() => return None,
        };
        let Some(cause) = self.find_cause(batch) else {
            return Some(());
        };
        self.health.mark_held(&cause);
        while self.is_held(&cause, HOLD_INTERVAL).await? {}
        self.health.release();
        Some(())
    }

    /// Returns true if the stage holds its batches for this cause, at most `interval` later; false at the end of the hold;
    /// `None` after a shutdown.
    pub(super) async fn is_held(&self, cause: &str, interval: Duration) -> Option<bool> {
        if self.max_hold.is_zero() {
            return Some(false);
        }
        let renew = async |connection: &mut _| {
            hold_state::renew(connection, &self.origin, self.max_hold, cause).await
        };
        let renewed = tokio::select! {
            () = self.stop.cancelled() => return None,
            renewed = self.warehouse.transact(renew) => renewed,
        };
        let remaining = match renewed {
            Ok(remaining) => remaining,
            Err(error) => {
                let error = PipelineError::from(error);
                self.health
                    .mark_unavailable(error.dependency(), &error.to_string());
                interval
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => None,
            () = tokio::time::sleep(remaining.min(interval)) => Some(!remaining.is_zero()),
        }
    }

    fn find_cause<T>(&self, batch: &Batch<Enriched<T>>) -> Option<String> {
        let rejected = &batch.state.rejected;
        let records = batch.state.items.len() + rejected.len();
        let codes = rejected.iter().map(|rejected| rejected.rejection.code);
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        sample.add(records, codes)
    }
}
