//! Source settings: the Kafka cluster, the topic and the consumer group.
//!
//! Independent of the layer: all layers consume in the same way.
//! The worker consumes as this group; the operator polls the lag of the same group.

use std::{borrow::Cow, fmt, str::FromStr};

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::{
    addresses::{BROKER_PATTERN, TOPIC_PATTERN},
    names::{MAX_OBJECT_NAME_LENGTH, OBJECT_NAME_PATTERN},
    rules::{immutable, rule_at},
};
use crate::timestamp::{self, START_PATTERN};

/// Kafka topic that the stage consumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule_at(
    ".consumerGroup",
    "has(self.consumerGroup) == has(oldSelf.consumerGroup) && (!has(self.consumerGroup) || self.consumerGroup == oldSelf.consumerGroup)",
    "consumerGroup is immutable: create another StreamStage instead",
)]))]
pub struct Source {
    /// Kafka bootstrap servers as `host:port`; 1 to 32. The client discovers the other brokers from them.
    /// A host without a dot is a Service in the stage's namespace: the operator, which runs in another namespace,
    /// connects to `kafka` as `kafka.<namespace>.svc`.
    #[schemars(
        length(min = 1, max = 32),
        inner(length(max = 261), regex(pattern = BROKER_PATTERN))
    )]
    pub bootstrap_servers: Vec<String>,

    /// Source topic. Immutable.
    #[schemars(length(min = 1, max = 249), regex(pattern = TOPIC_PATTERN))]
    #[schemars(extend("x-kubernetes-validations" = immutable("the source topic")))]
    pub topic: String,

    /// Consumer group of the stage. Its committed offsets follow the positions in PostgreSQL. Immutable.
    /// Default: `<namespace>.<name>` of the StreamStage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[^\x00-\x1f\x7f]+$"))]
    pub consumer_group: Option<String>,

    /// Start offset of a group without committed offsets: `Earliest` (log start), `Latest` (log end) or an RFC 3339
    /// time such as `2024-02-24T00:00:00Z` (first record at or after it). Default: `Earliest`.
    #[serde(default)]
    pub start_from: StartFrom,

    /// Name of the Secret with the Kafka credentials, in the same namespace; omit for PLAINTEXT without
    /// authentication. Keys, all optional: `username` and `password` (SASL), `mechanism` (`PLAIN`, `SCRAM-SHA-256` or
    /// `SCRAM-SHA-512`; default `PLAIN`, which needs TLS or the key `allow.plaintext` with the value `true`), `security.protocol` (`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`;
    /// default `SASL_SSL` with a `username`, else `SSL` with a `ca.crt` or `tls.crt`, else `PLAINTEXT`), and as PEM
    /// `ca.crt` (trusted CA certificates, instead of the system's), `tls.crt` and `tls.key` (client certificate and key).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_OBJECT_NAME_LENGTH), regex(pattern = OBJECT_NAME_PATTERN))]
    pub auth_secret_name: Option<String>,
}

/// Start offset of a consumer group without committed offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// Log start offset.
    #[default]
    Earliest,
    /// Log end offset: skips the existing records.
    Latest,
    /// Offset of the first record whose timestamp is at or after this time.
    Timestamp(Timestamp),
}

/// Error for a text that is not a start offset.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a valid start offset: use `Earliest`, `Latest` or an RFC 3339 time such as `2024-02-24T00:00:00Z`"
)]
pub struct StartFromError(String);

impl FromStr for StartFrom {
    type Err = StartFromError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "Earliest" => Ok(Self::Earliest),
            "Latest" => Ok(Self::Latest),
            _ => timestamp::parse_start(text)
                .map(Self::Timestamp)
                .ok_or_else(|| StartFromError(text.to_owned())),
        }
    }
}

impl fmt::Display for StartFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earliest => f.write_str("Earliest"),
            Self::Latest => f.write_str("Latest"),
            Self::Timestamp(timestamp) => timestamp.fmt(f),
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
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_start_offset_round_trips() {
        for text in ["Earliest", "Latest", "2024-02-24T00:00:00Z"] {
            assert_eq!(text.parse::<StartFrom>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn every_spelling_of_rfc_3339_is_accepted() {
        let expected: StartFrom = "2024-02-24T00:00:00.123456789Z".parse().expect("a timestamp");
        for text in [
            "2024-02-24t00:00:00.123456789z",
            "2024-02-24 03:00:00.123456789+03:00",
            "2024-02-23T23:30:00.123456789-00:30",
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        let last: StartFrom = "9999-12-31T23:59:59.999999999-23:59"
            .parse()
            .expect("a timestamp");
        assert_eq!(last, StartFrom::Timestamp(Timestamp::MAX));
    }

    proptest! {
        #[test]
        fn the_parser_accepts_exactly_the_texts_of_the_pattern(
            text in "(19|20|00)[0-9]{2}-[01][0-9]-[0-3][0-9][Tt _][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{0,10})?\
                     ([Zz]|[+-][0-2][0-9]:[0-6][0-9])?"
        ) {
            let schema = json!({"type": "string", "pattern": START_PATTERN});
            let is_valid = jsonschema::is_valid(&schema, &json!(&text));
            prop_assert_eq!(text.parse::<StartFrom>().is_ok(), is_valid, "{}", text);
        }
    }

    #[test]
    fn a_utc_offset_is_respected() {
        let local: StartFrom = "2024-02-24T03:00:00+03:00".parse().expect("a timestamp");
        assert_eq!(local, "2024-02-24T00:00:00Z".parse().expect("a timestamp"));
    }

    #[test]
    fn a_time_without_a_utc_offset_is_rejected() {
        for text in [
            "2024-02-24T00:00:00",
            "earliest",
            "",
            "2024-02-30T00:00:00Z",
            "2024-02-24T00:00:60Z",
            "2024-02-24T00Z",
            "20240224T000000Z",
            "2024-02-24T00:00:00+24:00",
            "2024-02-24T00:00:00Z[UTC]",
        ] {
            let error = text.parse::<StartFrom>().expect_err(text).to_string();
            assert!(error.contains("RFC 3339"), "{error}");
        }
    }
}
