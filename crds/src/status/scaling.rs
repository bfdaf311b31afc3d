//! What was decided about the number of workers, and why.
//!
//! Must survive the operator: a successor reads it and moves nothing that its predecessor would have held.

use k8s_openapi::jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What limits the number of workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScalingStatus {
    /// What limits the number of workers; `None` when it is what the lag asks for.
    pub limited_by: LimitedBy,

    /// The same in words, with the figures.
    pub message: String,

    /// When the number of workers last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub last_scale_time: Option<Timestamp>,

    /// Records per second that one worker commits while it is behind; absent until it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_per_second_of_a_worker: Option<f64>,

    /// The wishes within the stabilization windows, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub window: Vec<Wish>,
}

/// What the lag asked for at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Wish {
    /// When.
    #[schemars(schema_with = "date_time")]
    pub time: Timestamp,
    /// How many workers.
    pub replicas: u32,
}

/// A change of the number of workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// When.
    #[schemars(schema_with = "date_time")]
    pub time: Timestamp,
    /// Workers before.
    pub from: u32,
    /// Workers after.
    pub to: u32,
    /// Why, in words.
    pub reason: String,
    /// The lag at that moment, in records; absent when it was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Seconds that the lag would have taken to drain; absent when it was not known, or grew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u64>,
}

/// What keeps the number of workers from being what the lag asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum LimitedBy {
    /// Nothing.
    #[default]
    None,
    /// `scaling.minReplicas`.
    Min,
    /// `scaling.maxReplicas`.
    Max,
    /// A worker more than partitions would have nothing to read.
    Partitions,
    /// One partition has the lag, and one worker reads it.
    HotPartition,
    /// `warehouse.connectionBudget`.
    ConnectionBudget,
    /// The rest after a move.
    Cooldown,
    /// A wish of the stabilization window.
    Stabilization,
    /// The group is assigning its partitions.
    Rebalancing,
    /// Pods of an older template are being replaced.
    Rollout,
    /// The lag could not be read.
    LagUnknown,
    /// `spec.suspend`.
    Suspended,
}

/// An RFC 3339 instant.
pub(super) fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}
