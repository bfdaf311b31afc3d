//! Row: the values of one record, by slot. Input of the vault.

use std::borrow::Cow;

use crds::timestamp::Timestamp;
use rust_decimal::{Decimal, RoundingStrategy};

use super::hash::BusinessKey;
use crate::plan::kind::MONEY_SCALE;
use crate::plan::slots::{Scope, Slot};
use crate::plan::vault::VersionedBy;

/// Values of one version of a record, in the slots of a [`crate::plan::vault::VaultPlan`].
#[derive(Clone, Debug, Default)]
pub struct Row<'a> {
    /// Values of the record.
    pub record: Vec<Value<'a>>,
    /// Values of the elements, by array.
    pub arrays: Vec<Elements<'a>>,
    /// Time of the last change of each looked-up entry; `None` if it is not known.
    pub entry_times: Vec<Option<Timestamp>>,
}

/// Values of the elements of one array, element by element, in the order of the record.
#[derive(Clone, Debug, Default)]
pub struct Elements<'a> {
    /// Number of values per element.
    pub width: usize,
    /// Values of all elements.
    pub values: Vec<Value<'a>>,
}

impl<'a> Elements<'a> {
    /// Values of each element.
    #[must_use]
    pub fn elements(&self) -> impl ExactSizeIterator<Item = &[Value<'a>]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// As [`Self::elements`], to fill them.
    pub fn elements_mut(&mut self) -> impl ExactSizeIterator<Item = &mut [Value<'a>]> {
        self.values.chunks_exact_mut(self.width.max(1))
    }
}

impl<'v> From<&'v Value<'_>> for BusinessKey<'v> {
    /// Returns a value as a business key.
    ///
    /// # Panics
    /// If the value is an amount or a time, which the check of a model rejects as a business key.
    fn from(value: &'v Value<'_>) -> Self {
        match value {
            Value::Text(text) => Self::Text(text),
            Value::BigInt(number) => Self::Number(*number),
            Value::Integer(number) => Self::Number((*number).into()),
            Value::Numeric(_) | Value::Time(_) | Value::Null => {
                unreachable!("no hub has an amount or a time as its business key")
            }
        }
    }
}

/// Value of a field, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value<'a> {
    /// Value of [`Kind::Text`](crate::plan::kind::Kind::Text).
    Text(Cow<'a, str>),
    /// 64-bit integer.
    BigInt(i64),
    /// 32-bit integer.
    Integer(i32),
    /// Amount of money, rounded to the scale of the column.
    Numeric(Decimal),
    /// Point in time.
    Time(Timestamp),
    /// No value: the field is absent.
    Null,
}

impl<'a> Value<'a> {
    /// Creates the value of a text.
    #[must_use]
    pub fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// Returns the value with its text borrowed.
    #[must_use]
    pub fn borrowed(&self) -> Value<'_> {
        match self {
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::BigInt(number) => Value::BigInt(*number),
            Self::Integer(number) => Value::Integer(*number),
            Self::Numeric(amount) => Value::Numeric(*amount),
            Self::Time(time) => Value::Time(*time),
            Self::Null => Value::Null,
        }
    }

    /// Creates the value of an amount: rounded like PostgreSQL (half away from zero), without trailing zeros. Therefore
    /// amounts that are equal in the table have the same text and the same hash diff.
    #[must_use]
    pub fn money(amount: Decimal) -> Self {
        let rounded = amount.round_dp_with_strategy(MONEY_SCALE, RoundingStrategy::MidpointAwayFromZero);
        Self::Numeric(rounded.normalize())
    }

    /// Returns the text that is hashed. Values that are equal in the table have equal texts.
    #[must_use]
    pub fn hashed_text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::BigInt(number) => Cow::Owned(number.to_string()),
            Self::Time(time) => Cow::Owned(time.as_microsecond().to_string()),
            Self::Null => Cow::Borrowed(""),
            Self::Integer(number) => Cow::Owned(number.to_string()),
            Self::Numeric(number) => Cow::Owned(number.to_string()),
        }
    }
}

/// Source of the rows of a table: a record, or one of its elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'s, 'a> {
    pub(super) row: &'s Row<'a>,
    pub(super) scope: Scope,
    /// Values of the element; empty for the record.
    pub(super) element: &'s [Value<'a>],
}

impl<'s, 'a> Source<'s, 'a> {
    /// Returns the time of the entry that versions a row; `None` if the record does.
    pub(super) fn entry_time(&self, versioned_by: VersionedBy) -> Option<i64> {
        match versioned_by {
            VersionedBy::Record => None,
            VersionedBy::Entry(lookup) => self.row.entry_times[lookup].map(|time| time.as_microsecond()),
        }
    }

    /// Returns the value of a slot of the record, or of the element.
    pub(super) fn value(&self, slot: Slot) -> Value<'s> {
        self.slot(slot).borrowed()
    }

    fn slot(&self, slot: Slot) -> &'s Value<'a> {
        match slot.scope {
            Scope::Record => &self.row.record[slot.index],
            Scope::Element(_) => &self.element[slot.index],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_are_equal_in_the_table_have_equal_hashes() {
        let text = |amount: &str| Value::money(amount.parse().unwrap()).hashed_text().into_owned();
        assert_eq!(text("180.00"), "180");
        assert_eq!(text("1800"), "1800");
        assert_eq!(text("0.000005"), "0.00001");
        assert_eq!(text("0.0000049"), "0");
        assert_eq!(text("-0.00"), "0");
    }
}
