//! Duration as users write it: `250ms`, `1s`, `5m`, `2h`, `1m30s`.
//!
//! Parsing and formatting never lose precision.
//! `kube::core::Duration` is not used: it also accepts signs, fractions and repeated units, computes in floating
//! point, and formats `5m` as `300s`.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Accepted text: hours, minutes, seconds and milliseconds, each at most once and in this order.
const PATTERN: &str = "^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?$";
/// Units of [`PATTERN`] with their length in milliseconds, largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Duration in whole milliseconds, written with units (`1m30s`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(std::time::Duration);

/// Error for a text that is not a duration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a valid duration: use hours, minutes, seconds or milliseconds with their unit, such as `250ms`, `5m` or `1m30s`"
)]
pub struct DurationError(String);

impl Duration {
    /// Creates a duration of whole milliseconds.
    #[must_use]
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(std::time::Duration::from_millis(milliseconds))
    }

    /// Creates a duration of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// Converts to the standard library's type.
    #[must_use]
    pub const fn as_std(self) -> std::time::Duration {
        self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_milliseconds(text)
            .map(Self::from_millis)
            .ok_or_else(|| DurationError(text.to_owned()))
    }
}

/// Parses a non-empty text that matches [`PATTERN`]; returns `None` for any other text.
fn parse_milliseconds(text: &str) -> Option<u64> {
    let (mut rest, mut total, mut units) = (text, 0_u64, UNITS.iter());
    if text.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let unit = &tail[..tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len()];
        // The iterator continues after the previous unit: units are in order, and each occurs at most once.
        let (_, length) = units.find(|(name, _)| *name == unit)?;
        if digits > 9 {
            return None;
        }
        total += number.parse::<u64>().ok()? * length;
        rest = &tail[unit.len()..];
    }
    Some(total)
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_millis();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, length) in UNITS {
            let count = rest / u128::from(length);
            rest %= u128::from(length);
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'_, str>::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 2, "maxLength": 44, "pattern": PATTERN})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_documented_form_is_accepted() {
        for (text, millis) in [
            ("250ms", 250),
            ("1s", 1_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1m30s", 90_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn other_text_is_rejected_with_an_example() {
        for text in [
            "",
            "1",
            "s",
            "1 s",
            "-1s",
            "1s1m",
            "1s1s",
            "1.5s",
            "1d",
            "1S",
            "9999999999s",
            "١s",
            "1ms1s",
        ] {
            let error = text.parse::<Duration>().expect_err(text).to_string();
            assert!(error.contains("1m30s"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_duration_round_trips(millis in 0_u64..=999_999_999 * 3_600_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9hms .-]{0,24}") {
            let _ = text.parse::<Duration>();
        }
    }
}
