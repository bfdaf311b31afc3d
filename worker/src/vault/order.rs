//! What an order says, as the vault sees it: the fields that a model may name, and where each is found.
//!
//! The model speaks of [`Field`]s and never of the message; only this module knows the shape of an order.

use std::borrow::Cow;

use rust_decimal::{Decimal, RoundingStrategy};

use super::table::{Kind, MONEY_SCALE};

/// One version of an order, mapped from a message.
#[derive(Clone, Debug)]
pub struct VaultOrder<'a> {
    /// Number of the order.
    pub order_id: i64,
    /// When it was placed, in microseconds since the Unix epoch.
    pub order_date: i64,
    /// Sum of its lines.
    pub cost: Decimal,
    /// What the guest paid.
    pub payment: Decimal,
    /// Status, as the source spells it.
    pub status: &'a str,
    /// Id of the guest.
    pub user_id: &'a str,
    /// Full name of the guest.
    pub user_name: &'a str,
    /// Name of the guest at log-in.
    pub user_login: &'a str,
    /// Id of the restaurant.
    pub restaurant_id: &'a str,
    /// Name of the restaurant.
    pub restaurant_name: &'a str,
    /// What was ordered, in the order of the message. May be empty; a product may stand on several lines.
    pub lines: Vec<VaultLine<'a>>,
}

/// One line of an order.
#[derive(Clone, Debug)]
pub struct VaultLine<'a> {
    /// Id of the product.
    pub product_id: &'a str,
    /// Its name.
    pub product_name: &'a str,
    /// Name of its category.
    pub category: &'a str,
    /// Price of one.
    pub price: Decimal,
    /// How many.
    pub quantity: i32,
}

/// A field of an order that a column of the vault can come from.
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
    /// [`VaultLine::price`].
    ProductPrice,
    /// [`VaultLine::quantity`].
    ProductQuantity,
    /// [`VaultLine::category`].
    ProductCategory,
    /// Place of the line in the order, from 1.
    LineNumber,
}

impl Field {
    /// How often an order has this field.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::ProductId
            | Self::ProductName
            | Self::ProductPrice
            | Self::ProductQuantity
            | Self::ProductCategory
            | Self::LineNumber => Scope::Line,
            _ => Scope::Order,
        }
    }

    /// The type of the field's column.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::OrderId => Kind::BigInt,
            Self::OrderDate => Kind::Timestamp,
            Self::Cost | Self::Payment | Self::ProductPrice => Kind::Numeric,
            Self::ProductQuantity | Self::LineNumber => Kind::Integer,
            _ => Kind::Text,
        }
    }
}

/// How often an order has a field, and with it the rows that the field is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Once.
    Order,
    /// Once per line.
    Line,
}

/// The value of a field, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value<'a> {
    /// Of [`Kind::Text`].
    Text(Cow<'a, str>),
    /// Of [`Kind::BigInt`].
    BigInt(i64),
    /// Of [`Kind::Integer`].
    Integer(i32),
    /// Of [`Kind::Numeric`], rounded to the scale of the column.
    Numeric(Decimal),
    /// Of [`Kind::Timestamp`], in microseconds since the Unix epoch.
    Micros(i64),
}

impl Value<'_> {
    /// The text that is hashed: what is equal in the table is equal here.
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

/// An order, or one line of it: what a row is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'s, 'a> {
    pub(super) order: &'s VaultOrder<'a>,
    /// The line and its number, from 1.
    pub(super) line: Option<(i32, &'s VaultLine<'a>)>,
}

impl<'a> Source<'_, 'a> {
    /// The value of a field; none when the field is that of a line and this is the order itself.
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
            Field::ProductPrice => money(self.line?.1.price),
            Field::ProductQuantity => Value::Integer(self.line?.1.quantity),
            Field::ProductCategory => Value::Text(Cow::Borrowed(self.line?.1.category)),
            Field::LineNumber => Value::Integer(self.line?.0),
        })
    }
}

/// Rounds as PostgreSQL would (half away from zero) and drops trailing zeros, so that amounts that are equal in the
/// table have one text, and one hash diff.
fn money(amount: Decimal) -> Value<'static> {
    let rounded = amount.round_dp_with_strategy(MONEY_SCALE, RoundingStrategy::MidpointAwayFromZero);
    Value::Numeric(rounded.normalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_are_stored_alike_are_hashed_alike() {
        let text = |amount: &str| money(amount.parse().unwrap()).text().into_owned();
        assert_eq!(text("180.00"), "180");
        assert_eq!(text("1800"), "1800");
        assert_eq!(text("0.000005"), "0.00001");
        assert_eq!(text("0.0000049"), "0");
        assert_eq!(text("-0.00"), "0");
    }
}
