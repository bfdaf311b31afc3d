//! Orders of the tests, and their rows.

use crds::timestamp::Timestamp;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;

use crate::plan::ORDERS;
use crate::plan::slots::{Scope, SlotField};
use crate::vault::row::{Elements, Row, Value};

/// Order of the built-in model.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) id: i64,
    pub(super) placed: Timestamp,
    pub(super) cost: Decimal,
    pub(super) payment: Decimal,
    pub(super) status: &'static str,
    pub(super) user_id: &'static str,
    pub(super) user_name: &'static str,
    pub(super) user_login: &'static str,
    pub(super) user_update_ts: Option<i64>,
    pub(super) restaurant_id: &'static str,
    pub(super) restaurant_name: &'static str,
    pub(super) restaurant_update_ts: Option<i64>,
    pub(super) lines: Vec<Line>,
}

/// Line of an order.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) product_id: &'static str,
    pub(super) name: &'static str,
    pub(super) menu_name: &'static str,
    pub(super) category: &'static str,
    pub(super) price: Decimal,
    pub(super) quantity: i32,
}

impl Order {
    pub(super) fn row(&self) -> Row<'static> {
        let record = |field: &SlotField| match field.name.as_str() {
            "order_id" => Value::BigInt(self.id),
            "placed" => Value::Time(self.placed),
            "cost" => Value::money(self.cost),
            "payment" => Value::money(self.payment),
            "status" => Value::text(self.status),
            "user_id" => Value::text(self.user_id),
            "user_name" => Value::text(self.user_name),
            "user_login" => Value::text(self.user_login),
            "restaurant_id" => Value::text(self.restaurant_id),
            "restaurant_name" => Value::text(self.restaurant_name),
            // No column has the other fields.
            _ => Value::Null,
        };
        let element = |line: &Line, field: &SlotField| match field.name.as_str() {
            "product_id" => Value::text(line.product_id),
            "line_name" => Value::text(line.name),
            "menu_name" => Value::text(line.menu_name),
            "category" => Value::text(line.category),
            "price" => Value::money(line.price),
            "quantity" => Value::Integer(line.quantity),
            other => unreachable!("{other}"),
        };
        let (slots, lines) = (&ORDERS.slots, self.lines.iter());
        let values = lines.flat_map(|line| {
            let fields = slots.of_scope(Scope::Element(0));
            fields.map(move |field| element(line, field))
        });
        let time = |micros: Option<i64>| micros.map(at);
        Row {
            record: slots.of_scope(Scope::Record).map(record).collect(),
            arrays: vec![Elements {
                width: slots.element_widths[0],
                values: values.collect(),
            }],
            entry_times: vec![time(self.user_update_ts), time(self.restaurant_update_ts)],
        }
    }
}

/// Time of these microseconds since the Unix epoch.
pub(super) fn at(micros: i64) -> Timestamp {
    let text = jiff::Timestamp::from_microsecond(micros)
        .expect("a time")
        .to_string();
    Timestamp::parse(&text, &TimeZone::UTC).expect("a time")
}
