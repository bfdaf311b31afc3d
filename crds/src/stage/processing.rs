//! Processing settings: reference data, topics, tags, batches and limits.
//!
//! Every field reaches the worker; operator-only settings belong to [`super::Scaling`] and [`super::WorkerPod`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    addresses::{REDIS_URL_PATTERN, TOPIC_PATTERN},
    bytes::Bytes,
    duration::Duration,
    names::{MAX_OBJECT_NAME_LENGTH, OBJECT_NAME_PATTERN},
    rules::{duration_between, size_between},
};

/// Reference data in Redis: users, restaurants and menus. Required for the layer `stg`, not allowed for others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReferenceData {
    /// Redis URL: `redis://host:port/database`, or `rediss://…` for TLS. Do not add a password; set `authSecretName`.
    #[schemars(
        length(min = 9, max = 512),
        regex(pattern = REDIS_URL_PATTERN)
    )]
    pub url: String,

    /// Name of the Secret with the Redis credentials, in the same namespace; omit for Redis without authentication.
    /// Keys: `password`; optional: `username`, `ca.crt` (trusted CA certificates for `rediss`, PEM), and `allow.plaintext`,
    /// which permits the password without TLS if its value is `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_OBJECT_NAME_LENGTH), regex(pattern = OBJECT_NAME_PATTERN))]
    pub auth_secret_name: Option<String>,

    /// Maximum time that an order waits for a missing entry before it is dead-lettered; 0s to 168h. Default: 5m.
    #[serde(default = "default_reference_data_max_wait")]
    #[schemars(extend("x-kubernetes-validations" = duration_between("0s", "168h")))]
    pub max_wait: Duration,
}

impl ReferenceData {
    /// Returns true if the connection to Redis uses TLS.
    #[must_use]
    pub fn uses_tls(&self) -> bool {
        self.url.starts_with("rediss://")
    }
}

/// Topic that the stage produces to. Required for the layers `stg` and `dds`, not allowed for `cdm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Output {
    /// Topic that the next stage consumes. Must differ from the source topic.
    #[schemars(length(min = 1, max = 249), regex(pattern = TOPIC_PATTERN))]
    pub topic: String,
}

/// Topic for rejected records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadLetter {
    /// Topic that receives each rejected record unchanged, with the reason in its headers.
    /// Must differ from the source topic and the output topic.
    #[schemars(length(min = 1, max = 249), regex(pattern = TOPIC_PATTERN))]
    pub topic: String,
}

/// Rule that tags a user at `threshold` closed orders with a product of `category`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TagRule {
    /// Category name as in the menus, or `*` for every category that has no rule.
    #[schemars(length(min = 1, max = 200))]
    pub category: String,

    /// Closed orders with a product of the category at which a user gets the tag; 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub threshold: u32,

    /// Tag to assign. Default: the category name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub tag: Option<String>,
}

/// Limits of a batch; the first one that is reached closes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Batch {
    /// Maximum number of records; 1 to 50000. Default: 1000.
    #[schemars(range(min = 1, max = 50_000))]
    pub max_records: u32,

    /// Maximum total size of the record values, in bytes or with `Ki`, `Mi` or `Gi`; 1Ki to 256Mi. Default: 8Mi.
    #[schemars(extend("x-kubernetes-validations" = size_between("1Ki", "256Mi")))]
    pub max_bytes: Bytes,

    /// Maximum time from the first record until the batch closes while the pipeline is busy; an idle pipeline takes the
    /// records at once. 1ms to 1m. Default: 1s.
    #[schemars(extend("x-kubernetes-validations" = duration_between("1ms", "1m")))]
    pub max_wait: Duration,

    /// Maximum time for which the stage holds its batches if most of their records would be dead-lettered, because an
    /// installation at fault is more likely than so many faulty records; then it continues. 0s to 24h; 0s never holds.
    /// Default: 10m.
    #[schemars(extend("x-kubernetes-validations" = duration_between("0s", "24h")))]
    pub max_hold: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            max_records: 1000,
            max_bytes: Bytes::from_mib(8),
            max_wait: Duration::from_secs(1),
            max_hold: Duration::from_secs(600),
        }
    }
}

/// Limits per record; a record over a limit is dead-lettered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Maximum size of a record value, in bytes or with `Ki`, `Mi` or `Gi`; 1Ki to 64Mi. Default: 1Mi.
    #[schemars(extend("x-kubernetes-validations" = size_between("1Ki", "64Mi")))]
    pub max_record_bytes: Bytes,

    /// Maximum time by which an order's `update_ts` may be in the future; 0s to 8760h. Default: 24h.
    #[schemars(extend("x-kubernetes-validations" = duration_between("0s", "8760h")))]
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

fn default_reference_data_max_wait() -> Duration {
    Duration::from_secs(300)
}
