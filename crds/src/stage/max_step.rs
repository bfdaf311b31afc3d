//! Size of a scaling step, as users write it: a number of workers, or a share of them such as `25%`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Accepted text: 1 to 100 percent.
const PATTERN: &str = "^([1-9][0-9]?|100)%$";
/// Maximum number of workers of a step: that of a stage.
const MAX_REPLICAS: u32 = 1000;

/// Maximum number of workers that one scaling step removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxStep {
    /// Number of workers; 1 to 1000.
    Replicas(u32),
    /// Percentage of the present workers; 1 to 100.
    Percent(u32),
}

/// Error for a value that is not a step.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a valid step: use a number of workers from 1 to 1000, or a percentage from `1%` to `100%`"
)]
pub struct MaxStepError(String);

impl MaxStep {
    /// Number of workers that a step from `replicas` may remove: a percentage is rounded up, so at least 1 unless
    /// `replicas` is 0.
    #[must_use]
    pub fn replicas_of(self, replicas: u32) -> u32 {
        match self {
            Self::Replicas(step) => step.min(replicas),
            // Up to 1000 workers and 100 percent: far from an overflow.
            Self::Percent(percent) => replicas.saturating_mul(percent).div_ceil(100).min(replicas),
        }
    }
}

impl FromStr for MaxStep {
    type Err = MaxStepError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text
            .strip_suffix('%')
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0'));
        let percent = digits.and_then(|digits| digits.parse().ok());
        percent
            .filter(|percent| (1..=100).contains(percent))
            .map(Self::Percent)
            .ok_or_else(|| MaxStepError(text.to_owned()))
    }
}

impl fmt::Display for MaxStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replicas(replicas) => write!(f, "{replicas}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for MaxStep {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Replicas(replicas) => serializer.serialize_u32(*replicas),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for MaxStep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MaxStepVisitor)
    }
}

/// Accepts numbers and strings, as Kubernetes does for an `IntOrString`.
struct MaxStepVisitor;

impl de::Visitor<'_> for MaxStepVisitor {
    type Value = MaxStep;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of workers or a percentage such as `25%`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<MaxStep, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<MaxStep, E> {
        let replicas = u32::try_from(number).ok();
        replicas
            .filter(|replicas| (1..=MAX_REPLICAS).contains(replicas))
            .map(MaxStep::Replicas)
            .ok_or_else(|| E::custom(MaxStepError(number.to_string())))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<MaxStep, E> {
        u64::try_from(number)
            .map_err(|_| E::custom(MaxStepError(number.to_string())))
            .and_then(|number| self.visit_u64(number))
    }
}

impl JsonSchema for MaxStep {
    fn schema_name() -> Cow<'static, str> {
        "MaxStep".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "nullable": false,
            "minimum": 1,
            "maximum": MAX_REPLICAS,
            "maxLength": 4,
            "pattern": PATTERN,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_number_or_a_percentage_rounded_up() {
        for (json, replicas, expected) in [
            ("3", 10, 3),
            ("3", 2, 2),
            ("\"25%\"", 10, 3),
            ("\"1%\"", 10, 1),
            ("\"1%\"", 1, 1),
            ("\"100%\"", 7, 7),
            ("\"50%\"", 0, 0),
            ("\"100%\"", 1000, 1000),
        ] {
            let step: MaxStep = serde_json::from_str(json).expect(json);
            assert_eq!(step.replicas_of(replicas), expected, "{json} of {replicas}");
            assert_eq!(serde_json::to_string(&step).expect("JSON"), json);
        }
    }

    #[test]
    fn another_value_is_rejected_with_the_remedy() {
        for json in [
            "0",
            "-1",
            "1001",
            "\"3\"",
            "\"0%\"",
            "\"101%\"",
            "\"05%\"",
            "\"+5%\"",
            "\"%\"",
            "\"1.5%\"",
            "4294967297",
        ] {
            let error = serde_json::from_str::<MaxStep>(json).expect_err(json).to_string();
            assert!(error.contains("is not a valid step: use"), "{json}: {error}");
        }
    }
}
