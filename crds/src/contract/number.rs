//! JSON numbers by their exact value: `2`, `2.0`, `20e-1` and `0.2e1` are the same number, as in JSON Schema.
//!
//! Never converts to a float, which would round.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize as _, Deserializer, de};
use serde_json::value::RawValue;

/// Value of a JSON number: `±digits * 10^exponent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Number {
    pub(super) is_negative: bool,
    /// Decimal digits without zeros at either end; empty for zero.
    pub(super) digits: String,
    pub(super) exponent: i64,
}

impl Number {
    /// Reads the text of a JSON value; `None` unless it is a number.
    pub(super) fn from_json(text: &str) -> Option<Self> {
        let (is_negative, unsigned) = match text.strip_prefix('-') {
            Some(unsigned) => (true, unsigned),
            None => (false, text),
        };
        if !unsigned.starts_with(|first: char| first.is_ascii_digit()) {
            return None;
        }
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{integer}{fraction}");
        let significant = digits.trim_end_matches('0');
        let exponent = parse_exponent(exponent)
            .saturating_sub(length(fraction))
            .saturating_add(length(&digits) - length(significant));
        Some(Self {
            is_negative,
            digits: significant.trim_start_matches('0').to_owned(),
            exponent,
        })
    }

    /// Returns the number if it is an integer of 64 bits.
    ///
    /// # Errors
    /// The cause. The message of an integer that is too large starts as `serde_json`'s own does: the worker maps both to
    /// the same dead-letter code.
    fn to_integer(&self) -> Result<i64, &'static str> {
        if self.digits.is_empty() {
            return Ok(0);
        }
        if self.exponent < 0 {
            return Err("expected an integer");
        }
        // An i64 has at most 19 digits.
        let zeros = usize::try_from(self.exponent).ok().filter(|zeros| *zeros <= 18);
        let sign = if self.is_negative { "-" } else { "" };
        zeros
            .and_then(|zeros| format!("{sign}{}{}", self.digits, "0".repeat(zeros)).parse().ok())
            .ok_or("number out of range: the integer is too large")
    }
}

/// Exponent of a JSON number; one that is too large for its type has the same effect as the largest.
fn parse_exponent(text: &str) -> i64 {
    let limit = if text.starts_with('-') { i64::MIN } else { i64::MAX };
    text.parse().unwrap_or(limit)
}

fn length(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}

/// Deserializes an integer from any spelling of its value, such as `2`, `2.0` or `2e0`.
pub(super) fn deserialize_integer<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    let text = <&'de RawValue>::deserialize(deserializer)?.get();
    let integer = match Number::from_json(text) {
        Some(number) => number.to_integer().map_err(de::Error::custom)?,
        None => serde_json::from_str::<i64>(text).map_err(de::Error::custom)?,
    };
    T::try_from(integer).map_err(|_| de::Error::custom("number out of range: the integer is too large"))
}

/// Reads an integer from the text of a JSON value, in any spelling of its value.
///
/// # Errors
/// The cause; that of a number beyond 64 bits begins with `number out of range`.
pub fn integer_from_json(text: &str) -> Result<i64, &'static str> {
    // Almost every integer is written in this way, and has few digits.
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.len() <= 18 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map_err(|_| "expected an integer");
    }
    Number::from_json(text).ok_or("expected an integer")?.to_integer()
}

/// Schema of an order number.
pub(super) fn order_id_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "minimum": 0, "maximum": i64::MAX})
}

/// Schema of a number of units.
pub(super) fn quantity_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "minimum": 0, "maximum": i32::MAX})
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Integers {
        #[serde(deserialize_with = "deserialize_integer")]
        large: i64,
        #[serde(deserialize_with = "deserialize_integer")]
        small: i32,
    }

    fn large(text: &str) -> Result<i64, String> {
        let document = format!(r#"{{"large": {text}, "small": 1}}"#);
        let integers = serde_json::from_str::<Integers>(&document);
        integers
            .map(|integers| integers.large)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_spelling_of_an_integer_is_accepted() {
        for (text, expected) in [
            ("2", 2),
            ("2.0", 2),
            ("1e2", 100),
            ("1E+2", 100),
            ("20e-1", 2),
            ("0.2e1", 2),
            ("-0", 0),
            ("-0.0", 0),
            ("0e400", 0),
            ("0e99999999999999999999", 0),
            ("0.00e-99999999999999999999", 0),
            ("-7.00", -7),
            ("9223372036854775807", i64::MAX),
            ("9223372036854775807.0", i64::MAX),
            ("9007199254740993.0", 9_007_199_254_740_993),
            ("-9223372036854775808", i64::MIN),
            ("1000000000000000000", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(large(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn another_value_is_rejected_by_its_cause() {
        for (text, cause) in [
            ("1.5", "expected an integer"),
            ("1e-1", "expected an integer"),
            ("1e-99999999999999999999", "expected an integer"),
            ("9223372036854775808", "number out of range"),
            ("9223372036854775808.0", "number out of range"),
            ("1e19", "number out of range"),
            ("1e99999999999999999999", "number out of range"),
            (r#""2""#, "invalid type: string"),
            ("null", "invalid type: null"),
            ("true", "invalid type: boolean"),
            ("[2]", "invalid type: sequence"),
            ("{}", "invalid type: map"),
        ] {
            let error = large(text).expect_err(text);
            assert!(error.contains(cause), "{text}: {error}");
        }
        let error = serde_json::from_str::<Integers>(r#"{"large": 1, "small": 2147483648.0}"#);
        assert!(
            error
                .expect_err("33 bits")
                .to_string()
                .contains("number out of range")
        );
        let integers = serde_json::from_str::<Integers>(r#"{"large": 1, "small": 2147483647e0}"#);
        assert_eq!(integers.expect("32 bits").small, i32::MAX);
    }

    proptest! {
        #[test]
        fn an_integer_has_the_same_value_in_every_spelling(number: i64, zeros in 0..30_usize, shift in 0..30_i64) {
            let fraction = format!("{number}.{}", "0".repeat(zeros + 1));
            prop_assert_eq!(large(&fraction), Ok(number));
            let shifted = format!("{number}{}e-{shift}", "0".repeat(usize::try_from(shift).unwrap_or(0)));
            prop_assert_eq!(large(&shifted), Ok(number));
        }
    }
}
