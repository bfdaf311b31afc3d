//! Scaling state of a stage: limits, recommendations and past decisions.
//!
//! It survives the operator: a new leader resumes from it, so that a change of leader causes no scaling step.

use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of the scaling.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScalingStatus {
    /// Bound or gate that limits the replicas; `None` if the replicas equal the recommendation.
    pub limited_by: LimitedBy,

    /// Explanation of the decision, with lag and rates.
    pub message: String,

    /// Time of the last scaling step.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::date_time")]
    pub last_scale_time: Option<Timestamp>,

    /// Measured throughput per worker, in records per second; absent until it has been measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_per_second_per_worker: Option<f64>,

    /// Recommendations within the stabilization windows, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub recommendations: Vec<Recommendation>,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Lag at the time of the step, in records; absent if it was unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Drain time at the time of the step, in seconds; absent if it was unknown or the lag did not shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u64>,
}

/// Bound or gate that makes the replicas differ from the recommendation.
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
    /// Most of the lag is in one partition, which only one worker can read.
    HotPartition,
    /// Bound `warehouse.connectionBudget`.
    ConnectionBudget,
    /// The cooldown after the last scaling step has not expired.
    Cooldown,
    /// A recommendation within the stabilization window differs.
    Stabilization,
    /// A rebalance of the consumer group is in progress.
    Rebalancing,
    /// A rollout of the pod template is in progress.
    Rollout,
    /// The lag is unknown.
    LagUnknown,
    /// `spec.suspend` is set.
    Suspended,
}
