//! Order as input of the vault, and the fields of it that a model can use.
//!
//! The model refers to [`Field`]s, never to a message. Only this module knows the structure of an order.

use std::borrow::Cow;
use std::collections::HashMap;

use rust_decimal::{Decimal, RoundingStrategy};

use super::kind::{Kind, MONEY_SCALE};
use crds::contract::normalize;

/// Version of an order, mapped from a message.
#[derive(Clone, Debug)]
pub struct VaultOrder<'a> {
    /// Id of the order.
    pub order_id: i64,
    /// Time at which the order was placed, in microseconds since the Unix epoch.
    pub order_date: i64,
    /// Total of the lines.
    pub cost: Decimal,
    /// Amount that the user paid.
    pub payment: Decimal,
    /// Status in the source's spelling.
    pub status: &'a str,
    /// Id of the user.
    pub user_id: &'a str,
    /// Full name of the user.
    pub user_name: &'a str,
    /// Login name of the user.
    pub user_login: &'a str,
    /// Time of the user's last change in the reference data, in microseconds since the Unix epoch; `None` if it is not
    /// known.
    pub user_update_ts: Option<i64>,
    /// Id of the restaurant.
    pub restaurant_id: &'a str,
    /// Name of the restaurant.
    pub restaurant_name: &'a str,
    /// Time of the restaurant's or its menu's last change in the reference data, as that of the user.
    pub restaurant_update_ts: Option<i64>,
    /// Lines in the order of the message. May be empty; a product can be on several lines.
    pub lines: Vec<VaultLine<'a>>,
}

impl<'a> VaultOrder<'a> {
    /// Returns the lines, each with its [`Field::ProductOccurrence`].
    ///
    /// A line has no ID in the message. Its position would identify another line as soon as a line before it is voided.
    /// Its product and its number among the lines with this product, by position, do not depend on other products.
    pub(super) fn numbered_lines(&self) -> impl Iterator<Item = (i32, &VaultLine<'a>)> {
        let mut occurrences: HashMap<Cow<'_, str>, i32> = HashMap::new();
        self.lines.iter().map(move |line| {
            let occurrence = occurrences.entry(normalize(line.product_id)).or_default();
            *occurrence += 1;
            (*occurrence, line)
        })
    }
}

/// Line of an order.
#[derive(Clone, Debug)]
pub struct VaultLine<'a> {
    /// Id of the product.
    pub product_id: &'a str,
    /// Name of the product on the line.
    pub line_name: &'a str,
    /// Name of the product on the menu.
    pub product_name: &'a str,
    /// Category of the product, normalized.
    pub category: &'a str,
    /// Price of one item.
    pub price: Decimal,
    /// Number of items.
    pub quantity: i32,
}

/// Field of an order that a column of the vault can be filled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// [`VaultOrder::order_id`].
    OrderId,
    /// [`VaultOrder::order_date`].
    OrderDate,
    /// [`VaultOrder::cost`].
    Cost,
    /// [`VaultOrder::payment`].
    Payment,
    /// [`VaultOrder::status`].
    Status,
    /// [`VaultOrder::user_id`].
    UserId,
    /// [`VaultOrder::user_name`].
    UserName,
    /// [`VaultOrder::user_login`].
    UserLogin,
    /// [`VaultOrder::restaurant_id`].
    RestaurantId,
    /// [`VaultOrder::restaurant_name`].
    RestaurantName,
    /// [`VaultLine::product_id`].
    ProductId,
    /// [`VaultLine::product_name`].
    ProductName,
    /// [`VaultLine::line_name`].
    LineName,
    /// [`VaultLine::price`].
    ProductPrice,
    /// [`VaultLine::quantity`].
    ProductQuantity,
    /// [`VaultLine::category`].
    ProductCategory,
    /// Number of the line among the lines of the order with the same product, from 1.
    ProductOccurrence,
}

impl Field {
    /// Returns the scope of the field: one value per order, or one per line.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::ProductId
            | Self::ProductName
            | Self::LineName
            | Self::ProductPrice
            | Self::ProductQuantity
            | Self::ProductCategory
            | Self::ProductOccurrence => Scope::Line,
            _ => Scope::Order,
        }
    }

    /// Returns the type of the column that the field fills.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::OrderId => Kind::BigInt,
            Self::OrderDate => Kind::Timestamp,
            Self::Cost | Self::Payment | Self::ProductPrice => Kind::Numeric,
            Self::ProductQuantity | Self::ProductOccurrence => Kind::Integer,
            _ => Kind::Text,
        }
    }
}

/// Number of values that an order has for a field, and number of rows that it adds to a table with that field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One per order.
    Order,
    /// One per line.
    Line,
}

/// Source of the version of a satellite row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionedBy {
    /// The record: a row for every version of an order.
    Record,
    /// The user's entry in the reference data: a row for every change of it. The record, if the entry's time is not known.
    User,
    /// The restaurant's entry in the reference data, with its menu; otherwise as [`Self::User`].
    Restaurant,
}

/// Value of a field, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value<'a> {
    /// Value of [`Kind::Text`].
    Text(Cow<'a, str>),
    /// Value of [`Kind::BigInt`].
    BigInt(i64),
    /// Value of [`Kind::Integer`].
    Integer(i32),
    /// Value of [`Kind::Numeric`], rounded to the scale of the column.
    Numeric(Decimal),
    /// Value of [`Kind::Timestamp`], in microseconds since the Unix epoch.
    Micros(i64),
}

impl Value<'_> {
    /// Returns the text that is hashed. Values that are equal in the table have equal texts.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::BigInt(number) | Self::Micros(number) => Cow::Owned(number.to_string()),
            Self::Integer(number) => Cow::Owned(number.to_string()),
            Self::Numeric(number) => Cow::Owned(number.to_string()),
        }
    }
}

/// Source of a row: an order, or one line of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'s, 'a> {
    pub(super) order: &'s VaultOrder<'a>,
    /// Line and its [`Field::ProductOccurrence`]; `None` for the order itself.
    pub(super) line: Option<(i32, &'s VaultLine<'a>)>,
}

impl<'a> Source<'_, 'a> {
    /// Returns the time of the reference data entry that versions a row; `None` if the record does.
    pub(super) fn entry_time(&self, versioned_by: VersionedBy) -> Option<i64> {
        match versioned_by {
            VersionedBy::Record => None,
            VersionedBy::User => self.order.user_update_ts,
            VersionedBy::Restaurant => self.order.restaurant_update_ts,
        }
    }

    /// Returns the value of a field; `None` for a field of a line if the source is the order itself.
    pub(super) fn value(&self, field: Field) -> Option<Value<'a>> {
        let order = self.order;
        Some(match field {
            Field::OrderId => Value::BigInt(order.order_id),
            Field::OrderDate => Value::Micros(order.order_date),
            Field::Cost => money(order.cost),
            Field::Payment => money(order.payment),
            Field::Status => Value::Text(Cow::Borrowed(order.status)),
            Field::UserId => Value::Text(Cow::Borrowed(order.user_id)),
            Field::UserName => Value::Text(Cow::Borrowed(order.user_name)),
            Field::UserLogin => Value::Text(Cow::Borrowed(order.user_login)),
            Field::RestaurantId => Value::Text(Cow::Borrowed(order.restaurant_id)),
            Field::RestaurantName => Value::Text(Cow::Borrowed(order.restaurant_name)),
            Field::ProductId => Value::Text(Cow::Borrowed(self.line?.1.product_id)),
            Field::ProductName => Value::Text(Cow::Borrowed(self.line?.1.product_name)),
            Field::LineName => Value::Text(Cow::Borrowed(self.line?.1.line_name)),
            Field::ProductPrice => money(self.line?.1.price),
            Field::ProductQuantity => Value::Integer(self.line?.1.quantity),
            Field::ProductCategory => Value::Text(Cow::Borrowed(self.line?.1.category)),
            Field::ProductOccurrence => Value::Integer(self.line?.0),
        })
    }
}

/// Rounds like PostgreSQL (half away from zero) and drops trailing zeros. Therefore amounts that are equal in the table
/// have the same text and the same hash diff.
fn money(amount: Decimal) -> Value<'static> {
    let rounded = amount.round_dp_with_strategy(MONEY_SCALE, RoundingStrategy::MidpointAwayFromZero);
    Value::Numeric(rounded.normalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_are_equal_in_the_table_have_equal_hashes() {
        let text = |amount: &str| money(amount.parse().unwrap()).text().into_owned();
        assert_eq!(text("180.00"), "180");
        assert_eq!(text("1800"), "1800");
        assert_eq!(text("0.000005"), "0.00001");
        assert_eq!(text("0.0000049"), "0");
        assert_eq!(text("-0.00"), "0");
    }
}
