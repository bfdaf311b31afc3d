//! Conditions of a stage: finding them in a status, and merging updates into them.
//!
//! Knows no rule about a single condition: [`super::ready`], [`super::rollout`] and [`super::lag_conditions`] have those.

use crds::status::{ConditionType, Reason};
use crds::{StreamStage, StreamStageStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Status, reason and message of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConditionState {
    pub(super) is_true: bool,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl ConditionState {
    pub(super) fn new(is_true: bool, reason: Reason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            is_true,
            reason,
            message,
        }
    }
}

/// State to set for one condition.
pub(super) struct ConditionUpdate {
    pub(super) type_: ConditionType,
    pub(super) state: ConditionState,
}

pub(super) fn stage_condition(stage: &StreamStage, type_: ConditionType) -> Option<&Condition> {
    find_condition(stage.status.as_ref()?, type_)
}

pub(crate) fn find_condition(status: &StreamStageStatus, type_: ConditionType) -> Option<&Condition> {
    let type_ = type_.to_string();
    let mut conditions = status.conditions.iter();
    conditions.find(|condition| condition.type_ == type_)
}

/// Merges `updates` into the conditions of `before`. The transition time changes only with the status of a condition;
/// a condition without an update is unchanged.
pub(super) fn merge_conditions(
    stage: &StreamStage,
    before: &StreamStageStatus,
    updates: Vec<ConditionUpdate>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = before.conditions.clone();
    for ConditionUpdate { type_, state } in updates {
        let type_ = type_.to_string();
        let status = if state.is_true { "True" } else { "False" };
        let existing = conditions.iter().position(|condition| condition.type_ == type_);
        let unchanged = existing.filter(|index| conditions[*index].status == status);
        let condition = Condition {
            last_transition_time: unchanged
                .map_or(Time(now), |index| conditions[index].last_transition_time.clone()),
            message: state.message,
            observed_generation: stage.metadata.generation,
            reason: state.reason.to_string(),
            status: status.to_owned(),
            type_,
        };
        match existing {
            Some(index) => conditions[index] = condition,
            None => conditions.push(condition),
        }
    }
    conditions
}

pub(super) fn has_status(status: &StreamStageStatus, type_: ConditionType, expected: &str) -> bool {
    find_condition(status, type_).is_some_and(|condition| condition.status == expected)
}
