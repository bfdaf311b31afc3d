//! Orders of the tests, and their rows.

use rust_decimal::Decimal;

use crate::plan::ORDERS;
use crate::plan::vault::PlannedField;
use crate::vault::row::{Elements, Row, Value};

/// Order of the built-in model.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) id: i64,
    pub(super) placed: i64,
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
        let record = |field: &PlannedField| match field.name.as_str() {
            "order_id" => Value::BigInt(self.id),
            "placed" => Value::Micros(self.placed),
            "cost" => Value::money(self.cost),
            "payment" => Value::money(self.payment),
            "status" => Value::text(self.status),
            "user_id" => Value::text(self.user_id),
            "user_name" => Value::text(self.user_name),
            "user_login" => Value::text(self.user_login),
            "restaurant_id" => Value::text(self.restaurant_id),
            "restaurant_name" => Value::text(self.restaurant_name),
            other => unreachable!("{other}"),
        };
        let element = |line: &Line, field: &PlannedField| match field.name.as_str() {
            "product_id" => Value::text(line.product_id),
            "line_name" => Value::text(line.name),
            "menu_name" => Value::text(line.menu_name),
            "category" => Value::text(line.category),
            "price" => Value::money(line.price),
            "quantity" => Value::Integer(line.quantity),
            other => unreachable!("{other}"),
        };
        let plan = &ORDERS.vault;
        let fields = &plan.element_fields[0];
        let lines = self.lines.iter();
        Row {
            record: plan.record_fields.iter().map(record).collect(),
            arrays: vec![Elements {
                width: fields.len(),
                values: lines
                    .flat_map(|line| fields.iter().map(move |field| element(line, field)))
                    .collect(),
            }],
            entry_times: vec![self.user_update_ts, self.restaurant_update_ts],
        }
    }
}
