#![expect(
    clippy::disallowed_methods,
    reason = "edge: measures how long batches are in flight"
)]
//! In-flight batches: sent to the pipeline and not committed yet.
//!
//! A revocation waits for them, so that the next owner of a partition finds the position up to date.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::Span;

use crate::batch::{Batch, Fetched};
use crate::position::format_ranges;

/// Time that a revocation, or the end of consumption, waits for in-flight batches. The position check settles later
/// ones: a transaction of a worker that no longer owns the partition finds a newer position.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum rest of a lane after a batch. The last batch of a backlog was in flight for longer than it took alone.
const MAX_REST: Duration = Duration::from_millis(100);

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

/// In-flight batches of a stage, by lane.
#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<(Mutex<BTreeMap<usize, Load>>, Condvar)>);

/// Load of a lane.
#[derive(Default)]
struct Load {
    /// Number of in-flight batches.
    batches: usize,
    /// End of the last batch, and the time that it was in flight.
    last: Option<(Instant, Duration)>,
}

impl InFlight {
    /// Counts one more batch of a lane until the guard is dropped.
    pub(super) fn guard(&self, lane: usize) -> InFlightGuard {
        self.loads().entry(lane).or_default().batches += 1;
        InFlightGuard {
            in_flight: self.clone(),
            lane,
            started: Instant::now(),
        }
    }

    /// Time from which a lane of the pipeline waits for its next batch; `None` while a batch is in flight there.
    ///
    /// After a batch the lane rests for as long as the batch took. So it is busy for at most half of the time with batches
    /// that are not full, and their size grows with the load. A batch costs several milliseconds, however few records it
    /// has.
    pub(super) fn ready_at(&self, lane: usize) -> Option<Instant> {
        let mut loads = self.loads();
        let load = loads.entry(lane).or_default();
        if load.batches > 0 {
            return None;
        }
        let ready_at = load.last.map(|(end, duration)| end + duration.min(MAX_REST));
        Some(ready_at.unwrap_or_else(Instant::now))
    }

    /// Waits until no batch is in flight; returns false if that takes longer than [`DRAIN_TIMEOUT`].
    pub(super) fn wait_until_empty(&self) -> bool {
        let changed = &self.0.1;
        let waited = changed.wait_timeout_while(self.loads(), DRAIN_TIMEOUT, |loads| {
            loads.values().any(|load| load.batches > 0)
        });
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn loads(&self) -> MutexGuard<'_, BTreeMap<usize, Load>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks one batch as in flight.
pub struct InFlightGuard {
    in_flight: InFlight,
    lane: usize,
    started: Instant,
}

impl InFlightGuard {
    /// Lane of the batch.
    #[must_use]
    pub fn lane(&self) -> usize {
        self.lane
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut loads = self.in_flight.loads();
        let load = loads.entry(self.lane).or_default();
        load.batches = load.batches.saturating_sub(1);
        load.last = Some((Instant::now(), self.started.elapsed()));
        drop(loads);
        self.in_flight.0.1.notify_all();
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
        let guards = [in_flight.guard(0), in_flight.guard(1)];
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
    fn a_lane_rests_for_as_long_as_its_last_batch_took() {
        let in_flight = InFlight::default();
        let is_ready = |lane| {
            in_flight
                .ready_at(lane)
                .is_some_and(|ready_at| ready_at <= Instant::now())
        };
        assert!(is_ready(0));
        let [first, last] = [in_flight.guard(0), in_flight.guard(0)];
        assert_eq!(last.lane(), 0);
        drop(first);
        assert_eq!(in_flight.ready_at(0), None);
        assert!(is_ready(1), "another lane");
        let started = last.started;
        drop(last);
        let (end, duration) = in_flight.loads()[&0].last.expect("a batch");
        assert!(end >= started && duration < MAX_REST);
        assert_eq!(in_flight.ready_at(0), Some(end + duration));
        in_flight.loads().entry(0).or_default().last = Some((end, MAX_REST * 9));
        assert_eq!(in_flight.ready_at(0), Some(end + MAX_REST));
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
            let tracked = stage.in_scope(|| TrackedBatch::new(batch, InFlight::default().guard(0)));
            tracked.span.in_scope(|| tracing::warn!("a line of the batch"));
        });
        let mut lines = String::new();
        log.read_to_string(&mut lines).expect("a line");
        for field in [r#""stage":"stg""#, r#""offsets":"3:10..20""#] {
            assert!(lines.contains(field), "{lines}");
        }
    }
}
