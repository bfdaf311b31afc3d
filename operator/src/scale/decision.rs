//! Result of the lag-based algorithm. Data only.

use crds::status::{LimitedBy, Reason};

use super::ceiling::Ceiling;
use super::demand::Demand;
use super::state::ScalingState;

/// Decision of the lag-based algorithm, with every intermediate result.
#[derive(Clone, Debug, PartialEq)]
pub struct LagDecision {
    /// Replicas before the decision.
    pub from: u32,
    /// Desired replicas, after the gates.
    pub replicas: u32,
    /// Demand of the load; `None` while the lag is unknown.
    pub demand: Option<Demand>,
    /// Upper bound of the replicas.
    pub ceiling: Ceiling,
    /// Demand clamped to `minReplicas` and the ceiling, before the gates.
    pub recommendation: u32,
    /// Bound, gate or cause that limited the decision.
    pub limited_by: LimitedBy,
    /// [`Reason::FollowsLag`], or why the lag did not decide.
    pub reason: Reason,
    /// State for the next decision; the last recommendation is from this one.
    pub state: ScalingState,
    /// Schedules whose bounds applied: their indexes in `spec.scaling.schedules`, ascending.
    pub open_schedules: Vec<u32>,
    /// Message for the status and for events.
    pub message: String,
}
