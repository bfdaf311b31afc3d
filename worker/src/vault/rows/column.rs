//! Column of a table as a parameter of the statement.

use rust_decimal::Decimal;
use uuid::Uuid;

use crate::plan::kind::Kind;
use crate::vault::row::Value;

/// Parameter of the statement: one column of a table, with one value per row.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Hash keys and hash diffs.
    Uuid(Vec<Uuid>),
    /// Text values.
    Text(Vec<String>),
    /// 64-bit integers.
    BigInt(Vec<i64>),
    /// 32-bit integers.
    Integer(Vec<i32>),
    /// Amounts of money.
    Numeric(Vec<Decimal>),
    /// Versions.
    Bytes(Vec<Vec<u8>>),
    /// Times in microseconds since the Unix epoch; bound as 64-bit integers.
    Micros(Vec<i64>),
}

impl Column {
    /// Creates a column of the kind from the values. Panics if a value is of another kind.
    pub(super) fn from_values<'v, 'a: 'v>(
        kind: Kind,
        values: impl ExactSizeIterator<Item = &'v Value<'a>>,
    ) -> Self {
        let rows = values.len();
        let mut column = match kind {
            Kind::Uuid => Self::Uuid(Vec::with_capacity(rows)),
            Kind::Bytes => Self::Bytes(Vec::with_capacity(rows)),
            Kind::Text => Self::Text(Vec::with_capacity(rows)),
            Kind::BigInt => Self::BigInt(Vec::with_capacity(rows)),
            Kind::Integer => Self::Integer(Vec::with_capacity(rows)),
            Kind::Numeric => Self::Numeric(Vec::with_capacity(rows)),
            Kind::Timestamp => Self::Micros(Vec::with_capacity(rows)),
        };
        values.for_each(|value| column.push(value));
        column
    }

    fn push(&mut self, value: &Value<'_>) {
        match (self, value) {
            (Self::Text(rows), Value::Text(text)) => rows.push(String::from(&**text)),
            (Self::BigInt(rows), Value::BigInt(number)) => rows.push(*number),
            (Self::Integer(rows), Value::Integer(number)) => rows.push(*number),
            (Self::Numeric(rows), Value::Numeric(amount)) => rows.push(*amount),
            (Self::Micros(rows), Value::Time(time)) => rows.push(time.as_microsecond()),
            (column, value) => unreachable!("{value:?} has another kind than {column:?}"),
        }
    }
}
