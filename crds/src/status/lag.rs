//! Consumer lag of a stage, as reported in the status.
//!
//! Never contains an estimate: the values come from a complete poll of all partitions.

use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Consumer lag of a stage: records after the committed offsets, over all partitions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Lag {
    /// Total lag of all partitions, in records.
    pub total: u64,

    /// Largest lag of a single partition, in records.
    pub max_partition_lag: u64,

    /// Drain time at the current rates, in seconds; absent while the lag does not shrink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u64>,

    /// Drain time for display: `42s`, `growing` (lag of more than one poll interval of work) or `steady`.
    pub drain: String,

    /// Arrival rate, in records per second.
    pub arrival_per_second: f64,

    /// Processing rate, in records per second.
    pub processed_per_second: f64,

    /// Number of partitions of the topic.
    pub partition_count: u32,

    /// Number of partitions with lag.
    pub lagging_partition_count: u32,

    /// Number of partitions with lag and without progress for `scaling.stuckAfter`.
    pub stuck_partition_count: u32,

    /// Time of the lag poll.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::date_time")]
    pub measurement_time: Option<Timestamp>,
}

/// Consumer lag of one partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PartitionLag {
    /// Partition id; ids are dense from 0.
    pub partition: u32,

    /// Lag of the partition, in records.
    pub lag: u64,

    /// Committed offset: the next offset to read.
    pub committed_offset: u64,

    /// End offset for a `read_committed` consumer (last stable offset).
    pub end_offset: u64,

    /// True if the partition has made no progress for `scaling.stuckAfter`.
    pub stuck: bool,
}
