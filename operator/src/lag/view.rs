//! What a reconcile knows of a stage's lag.

use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::track::Track;
use super::{Unknown, UnknownReason};
use crate::scale::LagKnown;
use crate::scale::load::Load;

/// What is known of a stage's lag at the moment of a reconcile.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The moment; none when nothing was looked at.
    pub now: Timestamp,
    /// What was read so far; none before the first reading.
    pub track: Option<Arc<Track>>,
    /// Time between two readings.
    pub poll_interval: SignedDuration,
    /// Whether the group was assigning its partitions when a move was due.
    pub is_rebalancing: bool,
}

impl View {
    /// What a decision may rely on.
    #[must_use]
    pub fn known(&self) -> LagKnown<'_> {
        self.track.as_ref().map_or(LagKnown::Pending, |track| {
            track.known(self.now, self.poll_interval)
        })
    }

    /// The last complete reading, however old.
    #[must_use]
    pub fn load(&self) -> Option<&Load> {
        self.track.as_ref().and_then(|track| track.load())
    }

    /// The last complete reading, if it is true still.
    #[must_use]
    pub fn read(&self) -> Option<&Load> {
        match self.known() {
            LagKnown::Read(load) => Some(load),
            _ => None,
        }
    }

    /// Why the lag is not known, once a person should be told.
    #[must_use]
    pub fn unknown(&self) -> Option<Unknown> {
        let track = self.track.as_ref()?;
        let old = || match self.known() {
            LagKnown::Unknown(words) => Some(Unknown::new(UnknownReason::Partial, words)),
            _ => None,
        };
        track.unknown().cloned().or_else(old)
    }
}
