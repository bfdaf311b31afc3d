//! How far a stage is behind.
//!
//! Must never hold a guess: a partial or old reading is no reading, and is absent.

use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far a stage is behind: records after the last committed one, over all partitions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Lag {
    /// Records that are not committed yet.
    pub total: u64,

    /// The largest lag of a single partition, in records.
    pub max_partition: u64,

    /// Seconds until the lag is gone, at the present rates; absent while it does not shrink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u64>,

    /// The same as `drainSeconds`, to read: `42s`; `growing`; or `steady`, when what waits is on its way, or nothing moves.
    pub drain: String,

    /// Records that arrive per second.
    pub arrival_per_second: f64,

    /// Records that are committed per second.
    pub processed_per_second: f64,

    /// Partitions of the topic.
    pub partitions: u32,

    /// Partitions with lag.
    pub lagging: u32,

    /// Partitions with lag and without progress for `scaling.stuckAfter`.
    pub stuck: u32,

    /// When all of this was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::scaling::date_time")]
    pub measured_at: Option<Timestamp>,
}

/// The lag of one partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PartitionLag {
    /// Number of the partition.
    pub partition: u32,

    /// Records that are not committed yet.
    pub lag: u64,

    /// The offset after the last committed record.
    pub committed: u64,

    /// The offset after the last record.
    pub end: u64,

    /// Whether it makes no progress.
    pub stuck: bool,
}
