//! Size in bytes as users write it: `8Mi`, `1Ki`, `1Gi`, `1048576`.
//!
//! Parsing and formatting never lose precision.
//! Accepts a subset of Kubernetes quantities: `k8s-openapi`'s `Quantity` holds the text unparsed, and a full quantity
//! parser would accept fractions, exponents and decimal units.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Accepted text: a subset of the Kubernetes quantities.
const PATTERN: &str = "^[0-9]{1,9}(Ki|Mi|Gi)?$";
/// Units of [`PATTERN`] with their size in bytes, largest first.
const UNITS: [(&str, u64); 3] = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
/// Largest number in front of a unit: nine digits.
const MAX_COUNT: u64 = 999_999_999;

/// Size in bytes, written with a binary unit (`8Mi`) or as a plain number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

/// Error for a text that is not a size.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not a valid size: use a whole number of bytes, or one with Ki, Mi or Gi, such as `8Mi`")]
pub struct BytesError(String);

impl Bytes {
    /// Creates a size of `count` bytes.
    #[must_use]
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// Creates a size of `count` kibibytes (1,024 bytes).
    #[must_use]
    pub const fn from_kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// Creates a size of `count` mebibytes (1,048,576 bytes).
    #[must_use]
    pub const fn from_mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// Number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Bytes {
    type Err = BytesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
            .unwrap_or((text, 1));
        let digits = (1..=9).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
        let count = number.parse::<u64>().ok().filter(|_| digits);
        count
            .map(|count| Self(count * factor))
            .ok_or_else(|| BytesError(text.to_owned()))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS
            .iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
        {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BytesVisitor)
    }
}

/// Accepts strings and numbers, because `1048576` is a number in JSON and YAML.
struct BytesVisitor;

impl de::Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as `8Mi` or a whole number of bytes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, count: u64) -> Result<Bytes, E> {
        if count <= MAX_COUNT {
            Ok(Bytes(count))
        } else {
            Err(E::custom(BytesError(count.to_string())))
        }
    }

    fn visit_i64<E: de::Error>(self, count: i64) -> Result<Bytes, E> {
        u64::try_from(count)
            .map_err(|_| E::custom(BytesError(count.to_string())))
            .and_then(|count| self.visit_u64(count))
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "nullable": false,
            "minimum": 0,
            "maximum": MAX_COUNT,
            "maxLength": 11,
            "pattern": PATTERN,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_documented_form_is_accepted() {
        for (text, bytes) in [
            ("8Mi", 8 << 20),
            ("1048576", 1 << 20),
            ("1Ki", 1024),
            ("1Gi", 1 << 30),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Bytes::new(bytes)), "{text}");
        }
    }

    #[test]
    fn a_plain_number_is_a_size_in_bytes() {
        assert_eq!(
            serde_json::from_str::<Bytes>("1048576").expect("a number"),
            Bytes::from_mib(1)
        );
    }

    #[test]
    fn other_text_is_rejected_with_an_example() {
        for text in [
            "",
            "Mi",
            "8M",
            "8 Mi",
            "-1",
            "+1",
            "1.5Mi",
            "1Ti",
            "1234567890",
            "8mi",
            "٨Mi",
        ] {
            let error = text.parse::<Bytes>().expect_err(text).to_string();
            assert!(error.contains("8Mi"), "{error}");
        }
        for json in ["-1", "1.5", "1234567890", "true", "null"] {
            assert!(serde_json::from_str::<Bytes>(json).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_size_round_trips(count in 0..=MAX_COUNT, unit in 0_u32..=3) {
            let size = Bytes::new(count << (10 * unit));
            let text = size.to_string();
            prop_assert_eq!(text.parse(), Ok(size), "{}", text);
        }
    }
}
