//! What a stage does between reading and writing: dictionary, topics, tags, batches, limits.
//!
//! Must never hold anything that only the operator uses: all of this reaches the worker.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Bytes, Duration,
    rules::{lasts, weighs},
};

/// The Redis database with users, restaurants and menus. Only for the layer `stg`, which needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dictionary {
    /// Address as `redis://host:port/database`, or `rediss://…` for TLS. No password in it: see `authSecret`.
    #[schemars(
        length(min = 9, max = 512),
        regex(pattern = "^rediss?://[^@/]+(/[0-9]{1,5})?$")
    )]
    pub url: String,

    /// Name of a Secret in the same namespace with the credentials for Redis; none: no login.
    /// Keys: `password`, and, optional, `username` and `ca.crt` (trusted certificates for `rediss`, PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub auth_secret: Option<String>,

    /// How long an order waits for an id that the dictionary lacks, before it is dead-lettered; 0s to 168h.
    /// Default: 5m.
    #[serde(default = "default_dictionary_max_wait")]
    #[schemars(extend("x-kubernetes-validations" = lasts("0s", "168h")))]
    pub max_wait: Duration,
}

/// The topic that the stage publishes to. Only for the layers `stg` and `dds`, which need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Output {
    /// The topic that the next stage reads. It differs from the source topic.
    #[schemars(length(min = 1, max = 249), regex(pattern = "^[a-zA-Z0-9._-]+$"))]
    pub topic: String,
}

/// The topic for records that cannot be processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadLetter {
    /// Bad records arrive here untouched, with the reason in their headers.
    /// It differs from the source topic and the output topic.
    #[schemars(length(min = 1, max = 249), regex(pattern = "^[a-zA-Z0-9._-]+$"))]
    pub topic: String,
}

/// When a guest earns a tag: at `threshold` closed orders with a dish of `category`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TagRule {
    /// Name of the category as the menus write it, or `*` for every category without a rule of its own.
    #[schemars(length(min = 1, max = 200))]
    pub category: String,

    /// Closed orders that earn the tag; 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub threshold: u32,

    /// The tag. Default: the category's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub tag: Option<String>,
}

/// When a batch closes: at the first of the three limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Batch {
    /// Records in a batch; 1 to 50000. Default: 1000.
    #[schemars(range(min = 1, max = 50_000))]
    pub max_records: u32,

    /// Bytes of the records' values in a batch (`Ki`, `Mi`, `Gi` or none); 1Ki to 256Mi. Default: 8Mi.
    #[schemars(extend("x-kubernetes-validations" = weighs("1Ki", "256Mi")))]
    pub max_bytes: Bytes,

    /// Age of a batch's first record when the batch closes; 1ms to 1m. Default: 1s.
    #[schemars(extend("x-kubernetes-validations" = lasts("1ms", "1m")))]
    pub max_wait: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            max_records: 1000,
            max_bytes: Bytes::from_mib(8),
            max_wait: Duration::from_secs(1),
        }
    }
}

/// What a single record may be: one over a limit is dead-lettered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of a record's value (`Ki`, `Mi`, `Gi` or none); 1Ki to 64Mi. Default: 1Mi.
    #[schemars(extend("x-kubernetes-validations" = weighs("1Ki", "64Mi")))]
    pub max_record_bytes: Bytes,

    /// How far in the future an order's `update_ts` may lie; 0s to 8760h. Default: 24h.
    #[schemars(extend("x-kubernetes-validations" = lasts("0s", "8760h")))]
    pub max_clock_skew: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_record_bytes: Bytes::from_mib(1),
            max_clock_skew: Duration::from_secs(24 * 3600),
        }
    }
}

fn default_dictionary_max_wait() -> Duration {
    Duration::from_secs(300)
}
