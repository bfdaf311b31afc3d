//! Status of the resource `StreamStage`, written by the operator only.
//!
//! Contains observations and decisions, never desired state, which belongs to the spec.
//! Decisions and recommendations are stored here so that a new leader continues with them.

mod condition;
mod lag;
mod scaling;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    condition::{ConditionType, Reason},
    lag::{Lag, PartitionLag},
    scaling::{Capacity, Decision, LimitedBy, Recommendation, ScalingStatus, Trial},
};

/// Observed state of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::make_structural)]
pub struct StreamStageStatus {
    /// Generation of the resource that the status refers to.
    pub observed_generation: i64,

    /// Number of worker pods.
    pub replicas: u32,

    /// Workers that are ready.
    pub ready_replicas: u32,

    /// Desired number of workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<u32>,

    /// Recommended number of workers (mode `Recommend`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommended_replicas: Option<u32>,

    /// Ready and desired workers, such as `3/5`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workers: String,

    /// Label selector of the worker pods, for autoscalers that use the scale subresource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,

    /// Consumer group of the stage.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consumer_group: String,

    /// Image of the workers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,

    /// Consumer lag; absent until the first complete poll.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,

    /// Partitions with the largest lag, largest first; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub lagging_partitions: Vec<PartitionLag>,

    /// State of the scaling: limits, measured throughput and recommendations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,

    /// Last ten scaling steps, newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub decisions: Vec<Decision>,

    /// Conditions of the stage, one per type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
