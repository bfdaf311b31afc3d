//! What the operator reports about a stage: the status of the resource `StreamStage`.
//!
//! Must never hold a wish: everything here was observed or decided by the operator, and a user never writes it.
//! What a failover must not forget, the decisions and the window of wishes, stands here too.

mod condition;
mod lag;
mod scaling;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    condition::{ConditionType, Reason},
    lag::{Lag, PartitionLag},
    scaling::{Decision, LimitedBy, ScalingStatus, Wish},
};

/// What is known about a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = super::stage::structural)]
pub struct StreamStageStatus {
    /// The generation of the resource that the rest of the status is about.
    pub observed_generation: i64,

    /// Workers that exist.
    pub replicas: u32,

    /// Workers that are members of the group, with every service answering.
    pub ready_replicas: u32,

    /// Workers that should exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired_replicas: Option<u32>,

    /// Workers that the lag asks for, in the mode Recommend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommended_replicas: Option<u32>,

    /// Ready workers of those that should exist, such as `3/5`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workers: String,

    /// The label selector of the stage's pods, for autoscalers that read the scale subresource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,

    /// The consumer group of the stage.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consumer_group: String,

    /// The image of the stage's workers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,

    /// How far the stage is behind; absent until it has been read once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,

    /// The partitions that are furthest behind, the worst first; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub partitions: Vec<PartitionLag>,

    /// What limits the number of workers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,

    /// The last ten changes of the number of workers, the newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub decisions: Vec<Decision>,

    /// The conditions of the stage, one of each type.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
