//! Where a stage reads: the Kafka cluster, the topic and the consumer group.
//!
//! Must never name the layers: reading is the same for all three.
//! The first step of a stage's flow; the operator measures the lag of the same group.

use std::{borrow::Cow, fmt, str::FromStr};

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::rules::{immutable, rule_at};

/// The text that an RFC 3339 instant has, beside the two words.
const START_PATTERN: &str = r"^(Earliest|Latest|[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2}))$";

/// The Kafka topic that the stage reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule_at(
    ".consumerGroup",
    "has(self.consumerGroup) == has(oldSelf.consumerGroup) && (!has(self.consumerGroup) || self.consumerGroup == oldSelf.consumerGroup)",
    "consumerGroup is immutable: create another StreamStage instead",
)]))]
pub struct Source {
    /// Kafka brokers to start from, as `host:port`; 1 to 32.
    /// The client learns the other brokers from them. A host without a dot is a Service of the stage's own namespace:
    /// the operator, which is in another one, asks `kafka` as `kafka.<namespace>.svc`.
    #[schemars(
        length(min = 1, max = 32),
        inner(length(max = 261), regex(pattern = r"^[^,\s]+:[0-9]{1,5}$"))
    )]
    pub bootstrap_servers: Vec<String>,

    /// The topic to read. Immutable.
    #[schemars(length(min = 1, max = 249), regex(pattern = "^[a-zA-Z0-9._-]+$"))]
    #[schemars(extend("x-kubernetes-validations" = immutable("the source topic")))]
    pub topic: String,

    /// The consumer group whose offsets mirror the progress of the stage. Immutable.
    /// Default: `<namespace>.<name>` of the StreamStage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub consumer_group: Option<String>,

    /// Where a group that has committed nothing yet begins: `Earliest` (the log's start), `Latest` (its end), or
    /// an RFC 3339 instant such as `2024-02-24T00:00:00Z` (the first record at or after it). Default: `Earliest`.
    #[serde(default)]
    pub start_from: StartFrom,

    /// Name of a Secret in the same namespace with the credentials for Kafka; none: plain text without a login.
    /// Keys, all optional: `username` and `password` (SASL), `mechanism` (`PLAIN`, `SCRAM-SHA-256` or
    /// `SCRAM-SHA-512`; default `PLAIN`), `security.protocol` (`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`;
    /// default `SASL_SSL` with a `username`, else `SSL` with a `ca.crt` or `tls.crt`, else `PLAINTEXT`), and as PEM
    /// `ca.crt` (trusted certificates, instead of the system's), `tls.crt` and `tls.key` (the client's own).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub auth_secret: Option<String>,
}

/// Where a consumer group begins that has committed nothing yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// At the log's start.
    #[default]
    Earliest,
    /// At the log's end: only records that arrive from now on.
    Latest,
    /// At the first record whose timestamp is at or after this instant.
    Timestamp(Timestamp),
}

/// The text names no starting point.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "`{0}` is no starting point: write `Earliest`, `Latest` or an RFC 3339 instant such as `2024-02-24T00:00:00Z`"
)]
pub struct StartFromError(String);

impl FromStr for StartFrom {
    type Err = StartFromError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "Earliest" => Ok(Self::Earliest),
            "Latest" => Ok(Self::Latest),
            _ => text
                .parse()
                .map(Self::Timestamp)
                .map_err(|_| StartFromError(text.to_owned())),
        }
    }
}

impl fmt::Display for StartFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("Earliest"),
            Self::Latest => f.write_str("Latest"),
            Self::Timestamp(instant) => instant.fmt(f),
        }
    }
}

impl Serialize for StartFrom {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StartFrom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'_, str>::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for StartFrom {
    fn schema_name() -> Cow<'static, str> {
        "StartFrom".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": 35, "pattern": START_PATTERN})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_starting_point_reads_back_the_same() {
        for text in ["Earliest", "Latest", "2024-02-24T00:00:00Z"] {
            assert_eq!(text.parse::<StartFrom>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn an_instant_keeps_its_offset_from_utc() {
        let local: StartFrom = "2024-02-24T03:00:00+03:00".parse().expect("an instant");
        assert_eq!(local, "2024-02-24T00:00:00Z".parse().expect("an instant"));
    }

    #[test]
    fn a_time_without_a_zone_is_no_starting_point() {
        for text in ["2024-02-24T00:00:00", "earliest", "", "2024-02-30T00:00:00Z"] {
            let error = text.parse::<StartFrom>().expect_err(text).to_string();
            assert!(error.contains("RFC 3339"), "{error}");
        }
    }
}
