//! Part of a stage's status that lag polls are compared with.
//!
//! [`crate::status::status_difference`] makes the comparison.

use crds::StreamStageStatus;
use crds::status::{ConditionType, Lag, LimitedBy, Reason, ScalingStatus};
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error;

use crate::lag::view::LagView;
use crate::scale::ScalingInput;
use crate::status::conditions::find_condition;

/// Conditions that a lag poll can change alone. The other lag conditions change only together with the fields of
/// [`ReportedStatus`].
pub(crate) const LAG_CONDITIONS: [ConditionType; 2] =
    [ConditionType::LagObserved, ConditionType::ScalingActive];

/// Part of a stage's status that a lag poll is compared with.
#[derive(Clone, Debug, Default)]
pub struct ReportedStatus {
    /// Worker counts.
    pub workers: WorkerCounts,
    pub(crate) lag: Option<Lag>,
    /// Scaling status with an empty message, to save memory.
    pub(crate) scaling: ScalingStatus,
    /// `metadata.generation` of the stage that is stalled because another stage has its consumer group; `None` if it is
    /// not.
    pub(crate) lost_group_at: Option<i64>,
    /// Reasons of [`LAG_CONDITIONS`].
    pub(crate) reasons: [Option<Reason>; LAG_CONDITIONS.len()],
}

/// Worker counts in a stage's status.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerCounts {
    /// Desired workers; `None` before the first decision.
    pub desired: Option<u32>,
    /// Ready workers.
    pub ready: u32,
    /// Recommended workers, in the mode `Recommend`.
    pub recommended: Option<u32>,
    /// Bound or gate that limits the desired workers.
    pub limited_by: Option<LimitedBy>,
}

impl From<&StreamStageStatus> for WorkerCounts {
    fn from(status: &StreamStageStatus) -> Self {
        Self {
            desired: status.desired_replicas,
            ready: status.ready_replicas,
            recommended: status.recommended_replicas,
            limited_by: status.scaling.as_ref().map(|scaling| scaling.limited_by),
        }
    }
}

impl From<StreamStageStatus> for ReportedStatus {
    fn from(status: StreamStageStatus) -> Self {
        let reason = |type_: ConditionType| {
            let reason = find_condition(&status, type_)?.reason.as_str();
            // A reason of another operator version counts as a difference, so that it is replaced.
            let parsed: Result<_, Error> = Reason::deserialize(reason.into_deserializer());
            parsed.ok()
        };
        let lost_group = find_condition(&status, ConditionType::Stalled).is_some_and(|stalled| {
            stalled.status == "True" && stalled.reason == Reason::ConsumerGroupConflict.to_string()
        });
        Self {
            workers: WorkerCounts::from(&status),
            lost_group_at: lost_group.then_some(status.observed_generation),
            reasons: LAG_CONDITIONS.map(reason),
            lag: status.lag,
            scaling: ScalingStatus {
                message: String::new(),
                ..status.scaling.unwrap_or_default()
            },
        }
    }
}

impl ReportedStatus {
    /// Input of the scaling decision, as far as the status and the lag give it: rollouts are unknown here.
    pub(crate) fn scaling_input<'k>(&self, view: &'k LagView) -> ScalingInput<'k> {
        ScalingInput {
            current_replicas: self.workers.desired,
            lag: view.lag_state(),
            rebalancing_since: view.rebalancing_since,
            limited_by: self.scaling.limited_by,
            ..ScalingInput::new(view.now, &view.scaling)
        }
    }
}
