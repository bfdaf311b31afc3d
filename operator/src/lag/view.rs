//! The lag of one stage at one moment, as a reconcile reads it.
//!
//! A view is a cheap snapshot: the poller continues while a reconcile works with it. It never waits for Kafka.

use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::offsets::{LagError, LagErrorReason};
use super::tracker::LagTracker;
use crate::scale::LagState;
use crate::scale::load::Load;
use crate::scale::state::ScalingState;

/// Lag of a stage at the time of a reconcile.
#[derive(Clone, Debug, Default)]
pub struct LagView {
    /// Time of the view; the age of the last snapshot is measured against it.
    pub now: Timestamp,
    /// Results of all polls so far; `None` if the stage is not polled yet.
    pub tracker: Option<Arc<LagTracker>>,
    /// Interval between two polls.
    pub poll_interval: SignedDuration,
    /// Time since which the consumer group rebalances, as far as it was asked: when a scaling step was due.
    pub rebalancing_since: Option<Timestamp>,
    /// State of the scaling algorithm.
    pub scaling: Arc<ScalingState>,
}

impl LagView {
    /// Lag that a scaling decision may use.
    #[must_use]
    pub fn lag_state(&self) -> LagState<'_> {
        self.tracker.as_ref().map_or(LagState::Pending, |tracker| {
            tracker.lag_state(self.now, self.poll_interval)
        })
    }

    /// Load of the last complete snapshot, however old.
    #[must_use]
    pub fn load(&self) -> Option<&Load> {
        self.tracker.as_ref().and_then(|tracker| tracker.load())
    }

    /// Load of the last complete snapshot; `None` if it is stale or the last poll failed.
    #[must_use]
    pub fn fresh_load(&self) -> Option<&Load> {
        match self.lag_state() {
            LagState::Fresh(load) => Some(load),
            _ => None,
        }
    }

    /// Error to report in the status; `None` while a failure is too short to be reported.
    #[must_use]
    pub fn lasting_error(&self) -> Option<LagError> {
        let tracker = self.tracker.as_ref()?;
        let stale = || match self.lag_state() {
            LagState::Unknown(message) => Some(LagError::new(LagErrorReason::PartialOffsets, message)),
            _ => None,
        };
        tracker.lasting_error().cloned().or_else(stale)
    }
}
