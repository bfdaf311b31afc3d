//! In-flight batches: sent to the pipeline and not committed yet.
//!
//! A revocation waits for them, so that the next owner of a partition finds the position up to date.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tracing::Span;

use crate::batch::{Batch, Fetched};
use crate::position::format_ranges;

/// Time that a revocation, or the end of consumption, waits for in-flight batches. The position check settles later
/// ones: a transaction of a worker that no longer owns the partition finds a newer position.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// A batch between consumer and commit. It counts as in flight until the guard is dropped.
pub struct TrackedBatch<S = Fetched> {
    /// The batch in the state `S`.
    pub batch: Batch<S>,
    /// Delays the next revocation until it is dropped.
    pub guard: InFlightGuard,
    /// Span whose fields identify the batch in every log line about it.
    pub span: Span,
}

impl TrackedBatch {
    /// Tracks a batch in a new span, whose parent is the current span.
    pub(super) fn new(batch: Batch<Fetched>, guard: InFlightGuard) -> Self {
        // At the error level, because a filter on the level must not take the fields from the lines it lets through.
        let span = tracing::error_span!("batch", offsets = format_ranges(&batch.ranges));
        Self { batch, guard, span }
    }
}

/// Number of in-flight batches.
#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<(Mutex<usize>, Condvar)>);

impl InFlight {
    /// Counts one more batch until the guard is dropped.
    pub(super) fn guard(&self) -> InFlightGuard {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        InFlightGuard(self.clone())
    }

    /// Waits until no batch is in flight; returns false if that takes longer than [`DRAIN_TIMEOUT`].
    pub(super) fn wait_until_empty(&self) -> bool {
        let (count, changed) = &*self.0;
        let count = count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(count, DRAIN_TIMEOUT, |count| *count > 0);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// Marks one batch as in flight.
pub struct InFlightGuard(InFlight);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let (count, changed) = &*self.0.0;
        *count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use uuid::Uuid;

    use super::*;
    use crate::position::{OffsetRange, OffsetRanges};

    #[test]
    fn a_revocation_waits_for_the_in_flight_batches() {
        let in_flight = InFlight::default();
        let guards = [in_flight.guard(), in_flight.guard()];
        let (sender, waited) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || sender.send(in_flight.wait_until_empty()));
        for guard in guards {
            let early = waited.recv_timeout(Duration::from_millis(50));
            assert!(early.is_err(), "did not wait");
            drop(guard);
        }
        assert_eq!(waited.recv_timeout(DRAIN_TIMEOUT), Ok(true));
        waiting.join().expect("the thread").expect("the channel");
    }

    #[test]
    fn every_log_line_of_a_batch_has_its_stage_and_its_offsets() {
        let (mut log, writer) = std::io::pipe().expect("a pipe");
        let subscriber = telemetry::log::json_subscriber("info".into(), Mutex::new(writer));
        tracing::subscriber::with_default(subscriber, || {
            let batch = Batch {
                ranges: OffsetRanges::from([(
                    3,
                    OffsetRange {
                        topic_id: Uuid::nil(),
                        from: 10,
                        to: 20,
                    },
                )]),
                state: Fetched { records: Vec::new() },
            };
            let stage = tracing::error_span!("stage", stage = "stg");
            let tracked = stage.in_scope(|| TrackedBatch::new(batch, InFlight::default().guard()));
            tracked.span.in_scope(|| tracing::warn!("a line of the batch"));
        });
        let mut lines = String::new();
        log.read_to_string(&mut lines).expect("a line");
        for field in [r#""stage":"stg""#, r#""offsets":"3:10..20""#] {
            assert!(lines.contains(field), "{lines}");
        }
    }
}
