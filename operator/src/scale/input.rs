//! Observations that a scaling decision depends on, besides the settings. Data only.

use crds::status::LimitedBy;
use k8s_openapi::jiff::Timestamp;

use super::gate::{GateInput, Rollout};
use super::load::Load;
use super::state::ScalingState;

/// Observations that a scaling decision depends on, besides the [`super::settings::ScalingSettings`].
#[derive(Clone, Copy, Debug)]
pub struct ScalingInput<'a> {
    /// Time of the decision.
    pub now: Timestamp,
    /// Desired replicas of the previous decision; `None` before the first one.
    pub current_replicas: Option<u32>,
    /// Lag of the stage.
    pub lag: LagState<'a>,
    /// Rollout of a pod template.
    pub rollout: Rollout,
    /// Time since which the consumer group rebalances; `None` if it does not, or if that is unknown.
    pub rebalancing_since: Option<Timestamp>,
    /// Bound, gate or cause that limited the previous decision.
    pub limited_by: LimitedBy,
    /// State that the previous decision left.
    pub state: &'a ScalingState,
}

/// State of the lag of a stage, as far as decisions may rely on it. The texts are error messages.
#[derive(Clone, Copy, Debug)]
pub enum LagState<'a> {
    /// Fewer than two polls have succeeded, so the rates are unknown.
    Pending,
    /// The last poll failed, but too recently to act on it.
    TransientError(&'a str),
    /// The lag is unknown: polls keep failing, return partial offsets, or the last result is too old.
    Unknown(&'a str),
    /// The last poll succeeded and is recent enough.
    Fresh(&'a Load),
}

impl<'a> ScalingInput<'a> {
    /// Input without any observation: the replicas are unknown and the lag is pending.
    #[must_use]
    pub fn new(now: Timestamp, state: &'a ScalingState) -> Self {
        Self {
            now,
            current_replicas: None,
            lag: LagState::Pending,
            rollout: Rollout::None,
            rebalancing_since: None,
            limited_by: LimitedBy::None,
            state,
        }
    }

    /// Input of the gates, with a state that includes the current recommendation.
    pub(super) fn gate_input<'s>(&self, state: &'s ScalingState) -> GateInput<'s> {
        let assigning_since = match self.lag {
            LagState::Fresh(load) => load.group.assigning_since,
            _ => None,
        };
        GateInput {
            now: self.now,
            rollout: self.rollout,
            rebalancing_since: assigning_since.or(self.rebalancing_since),
            state,
        }
    }
}
