//! Scaling state of a stage: limits, recommendations and past decisions.
//!
//! It survives the operator: a new leader resumes from it, so that a change of leader causes no scaling step.

use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::IntoDeserializer as _;
use serde::{Deserialize, Deserializer, Serialize};

/// State of the scaling.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScalingStatus {
    /// Bound, gate or cause that limits the replicas; `None` if the replicas equal the recommendation.
    #[serde(deserialize_with = "or_default")]
    pub limited_by: LimitedBy,

    /// Explanation of the decision: desired replicas, cause, values and limit.
    pub message: String,

    /// Recommended number of workers, within the bounds and before the gates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommendation: Option<u32>,

    /// Schedules whose windows are open: their indexes in `spec.scaling.schedules`, ascending.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub open_schedules: Vec<u32>,

    /// Time of the last scaling step.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::date_time")]
    pub last_scale_time: Option<Timestamp>,

    /// Capacity of one worker; absent until it has been measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_per_replica: Option<Capacity>,

    /// Deprecated: `capacityPerReplica` replaces it. Read once after an upgrade and never written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_per_second_per_worker: Option<f64>,

    /// Recommendations within the stabilization windows, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub recommendations: Vec<Recommendation>,

    /// Scale-up whose effect is being judged, or that had no effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

/// Capacity of one worker: what the busiest worker commits while it is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Capacity {
    /// Records per second.
    pub records_per_second: f64,

    /// Time of the last measurement that confirmed it; absent after a rollout of another pod template.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::date_time")]
    pub measured_at: Option<Timestamp>,

    /// Time at which it was last assumed to be higher, so that fewer workers are tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::date_time")]
    pub tested_at: Option<Timestamp>,
}

/// Scale-up while most workers were behind, and its effect on the throughput of the stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Trial {
    /// Workers before the scale-up; 0 if no scale-up is being judged.
    pub from: u32,

    /// Workers after the scale-up.
    pub to: u32,

    /// Throughput of the stage before the scale-up, in records per second.
    pub processed_per_second: f64,

    /// Throughput of the stage after the scale-up, in records per second; absent until it has been judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached_per_second: Option<f64>,

    /// Scale-ups in a row without effect.
    pub tries: u32,

    /// Time of the next scale-up after one without effect; absent while a scale-up is being judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::date_time")]
    pub until: Option<Timestamp>,
}

/// Recommended number of workers at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recommendation {
    /// Time of the recommendation.
    #[schemars(schema_with = "crate::schema::date_time")]
    pub time: Timestamp,
    /// Recommended number of workers.
    pub replicas: u32,
}

/// Scaling step: a change of the desired number of workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Time of the scaling step.
    #[schemars(schema_with = "crate::schema::date_time")]
    pub time: Timestamp,
    /// Desired number of workers before the step.
    pub from: u32,
    /// Desired number of workers after the step.
    pub to: u32,
    /// Explanation of the step.
    pub reason: String,
    /// Bound or cause that limited the step.
    #[serde(
        default,
        skip_serializing_if = "is_unlimited",
        deserialize_with = "or_default"
    )]
    pub limited_by: LimitedBy,
    /// Lag at the time of the step, in records; absent if it was unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Drain time at the time of the step, in seconds; absent if it was unknown or the lag did not shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u64>,
}

/// Bound, gate or cause that makes the replicas differ from the recommendation, or the recommendation from the demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum LimitedBy {
    /// The replicas equal the recommendation.
    #[default]
    None,
    /// Bound `scaling.minReplicas`.
    Min,
    /// Bound `scaling.maxReplicas`.
    Max,
    /// Bound by the partition count: further workers would have no partition.
    Partitions,
    /// One partition brings more than a worker can process, and only one worker can read it.
    HotPartition,
    /// The partitions of a worker are uneven, and more workers were recommended for it.
    Skew,
    /// A worker processes less than half of what another one does.
    SlowWorker,
    /// The bottleneck is downstream of the workers: a scale-up did not raise the throughput.
    Downstream,
    /// Bound `warehouse.connectionBudget`.
    ConnectionBudget,
    /// The cooldown after the last scaling step has not expired.
    Cooldown,
    /// A recommendation within the stabilization window differs.
    Stabilization,
    /// Bound `scaling.scaleDown.maxStep` of one scaling step.
    MaxStep,
    /// A rebalance of the consumer group is in progress.
    Rebalancing,
    /// A rollout of the pod template is in progress.
    Rollout,
    /// The lag is unknown.
    LagUnknown,
    /// `spec.suspend` is set.
    Suspended,
    /// The annotation `streamstage.dev/pause-scaling` of the stage is `true`.
    Paused,
}

/// Reads a value of another operator version as the default, so that an older operator continues with the stage.
fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    let value = T::deserialize(text.into_deserializer()).map_err(|_: serde::de::value::Error| ());
    Ok(value.unwrap_or_default())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "signature that serde requires")]
fn is_unlimited(limited_by: &LimitedBy) -> bool {
    *limited_by == LimitedBy::None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_limit_of_another_operator_version_is_read_as_none() {
        for (text, limited_by) in [("Moon", LimitedBy::None), ("Downstream", LimitedBy::Downstream)] {
            let json = serde_json::json!({"limitedBy": text, "newField": 1});
            let status: ScalingStatus = serde_json::from_value(json).expect("a status");
            assert_eq!(status.limited_by, limited_by);
            let json = serde_json::json!(
                {"time": "2024-02-24T00:00:00Z", "from": 1, "to": 2, "reason": "", "limitedBy": text}
            );
            let decision: Decision = serde_json::from_value(json).expect("a decision");
            assert_eq!(decision.limited_by, limited_by);
        }
    }
}
