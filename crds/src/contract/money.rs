//! Amounts of money: exact decimals, serialized as plain JSON numbers.
//!
//! Never converts to a float: `0.1 + 0.2` stays `0.3`, and the stored amount equals the one in the message.
//! Type of every price and cost in a message.

use std::borrow::Cow;

use rust_decimal::Decimal;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;
use thiserror::Error;

use super::number::Number;

/// Amount of money, zero or more.
///
/// Deserializes from the text of a JSON number, also in scientific notation; not from a [`serde_json::Value`], which
/// has already converted the number to a float.
/// Serializes in the shortest form: `180.50` becomes `180.5`, and `180` stays `180`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(pub Decimal);

/// Error for a text that is not an amount of money.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MoneyError {
    /// Anything but a JSON number.
    #[error("`{0}` is not an amount of money: expected a JSON number without quotes")]
    NotANumber(String),
    /// A number below zero.
    #[error("`{0}` is not an amount of money: it is negative")]
    Negative(String),
    /// More digits than a decimal can represent without rounding.
    // The message starts as serde_json's own does: the worker maps both to the same dead-letter code.
    #[error("number out of range: `{0}` has more than 28 digits")]
    OutOfRange(String),
}

impl Money {
    /// Parses the text of a JSON number without rounding it.
    ///
    /// # Errors
    /// [`MoneyError`] if the text is not a number, is negative, or has more than 28 digits.
    pub fn from_json(text: &str) -> Result<Self, MoneyError> {
        let number = Number::from_json(text).ok_or_else(|| MoneyError::NotANumber(text.to_owned()))?;
        let amount = to_decimal(&number).ok_or_else(|| MoneyError::OutOfRange(text.to_owned()))?;
        if amount < Decimal::ZERO {
            return Err(MoneyError::Negative(text.to_owned()));
        }
        Ok(Self(amount))
    }
}

/// Returns the number as a decimal; `None` if a decimal cannot represent it without rounding.
fn to_decimal(number: &Number) -> Option<Decimal> {
    if number.digits.is_empty() {
        return Some(Decimal::ZERO);
    }
    let digits: i128 = number.digits.parse().ok()?;
    let digits = if number.is_negative { -digits } else { digits };
    let (zeros, scale) = if number.exponent < 0 {
        (0, u32::try_from(number.exponent.checked_neg()?).ok()?)
    } else {
        (u32::try_from(number.exponent).ok()?, 0)
    };
    let mantissa = digits.checked_mul(10_i128.checked_pow(zeros)?)?;
    Decimal::try_from_i128_with_scale(mantissa, scale).ok()
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(<&'de RawValue>::deserialize(deserializer)?.get()).map_err(de::Error::custom)
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.normalize().to_string())
            .map_err(ser::Error::custom)?
            .serialize(serializer)
    }
}

impl JsonSchema for Money {
    fn schema_name() -> Cow<'static, str> {
        "Money".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // The limit of `numeric(19,5)`. The 5 decimal places have no keyword that works with binary floats.
        json_schema!({"type": "number", "minimum": 0, "exclusiveMaximum": 100_000_000_000_000_i64})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reformat(text: &str) -> String {
        serde_json::to_string(&serde_json::from_str::<Money>(text).expect(text)).expect("a number")
    }

    #[test]
    fn money_is_serialized_in_its_shortest_form() {
        for (input, output) in [
            ("180", "180"),
            ("180.50", "180.5"),
            ("180.00", "180"),
            ("0.10", "0.1"),
            ("1.8e2", "180"),
            ("1.8E+2", "180"),
            ("25e-2", "0.25"),
            ("-0", "0"),
            ("0.000", "0"),
            ("1e20", "100000000000000000000"),
            ("9007199254740993", "9007199254740993"),
            ("0.1234567890123456789012345678", "0.1234567890123456789012345678"),
            ("0e400", "0"),
            ("180.000000000000000000000000000000", "180"),
            ("18000000000000000000000000000000e-29", "180"),
        ] {
            assert_eq!(reformat(input), output, "{input}");
        }
    }

    #[test]
    fn a_value_that_is_not_a_number_is_rejected() {
        for text in [r#""180""#, "null", "true", "[180]", "{}"] {
            let error = serde_json::from_str::<Money>(text).expect_err(text).to_string();
            assert!(error.contains("JSON number"), "{error}");
        }
    }

    #[test]
    fn a_number_that_would_be_rounded_is_rejected() {
        for text in [
            "1e400",
            "1e-40",
            "99999999999999999999999999999999",
            "0.12345678901234567890123456789",
            "1e29",
        ] {
            let error = serde_json::from_str::<Money>(text).expect_err(text).to_string();
            assert!(error.contains("out of range"), "{error}");
        }
    }

    #[test]
    fn a_negative_amount_is_rejected() {
        assert_eq!(
            Money::from_json("-0.01"),
            Err(MoneyError::Negative("-0.01".to_owned()))
        );
    }

    proptest! {
        #[test]
        fn serialized_money_round_trips(mantissa in 0_i128..79_228_162_514_264_337_593_543_950_335, scale in 0_u32..=28) {
            let money = Money(Decimal::from_i128_with_scale(mantissa, scale));
            let text = serde_json::to_string(&money).expect("a number");
            prop_assert_eq!(serde_json::from_str::<Money>(&text).expect("a number"), money);
            // Equal amounts have the same text, regardless of trailing zeros.
            prop_assert_eq!(reformat(&text), text);
        }

        #[test]
        fn scientific_notation_yields_the_same_amount(digits in 1_u64..1_000_000_000, exponent in -18_i32..=18) {
            let money = Money::from_json(&format!("{digits}e{exponent}")).expect("in range");
            let power = Decimal::from_i128_with_scale(10_i128.pow(exponent.unsigned_abs()), 0);
            let plain = Decimal::from(digits);
            let expected = if exponent < 0 { plain / power } else { plain * power };
            prop_assert_eq!(money.0, expected);
        }
    }
}
