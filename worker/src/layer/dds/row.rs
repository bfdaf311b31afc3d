//! Row of an enriched order: its values in the slots of the built-in model. Pure.

use std::sync::LazyLock;

use crds::contract::EnrichedProduct;

use super::decode::Order;
use crate::plan::ORDERS;
use crate::vault::{Elements, Row, Value};

/// Reads one field of an order.
type RecordReader = for<'a> fn(&'a Order) -> Value<'a>;
/// Reads one field of a line.
type LineReader = for<'a> fn(&'a EnrichedProduct) -> Value<'a>;

/// Readers in the order of the slots.
static RECORD_READERS: LazyLock<Vec<RecordReader>> = LazyLock::new(|| {
    let fields = ORDERS.vault.record_fields.iter();
    fields.map(|field| record_reader(&field.name)).collect()
});
static LINE_READERS: LazyLock<Vec<LineReader>> = LazyLock::new(|| {
    let fields = ORDERS.vault.element_fields[0].iter();
    fields.map(|field| line_reader(&field.name)).collect()
});

/// Maps an order to its row.
pub(super) fn row_of(order: &Order) -> Row<'_> {
    let lines = order.message.payload.products.iter();
    let values = lines.flat_map(|line| LINE_READERS.iter().map(move |read| read(line)));
    Row {
        record: RECORD_READERS.iter().map(|read| read(order)).collect(),
        arrays: vec![Elements {
            width: LINE_READERS.len(),
            values: values.collect(),
        }],
        entry_times: vec![order.user_update_ts, order.restaurant_update_ts],
    }
}

fn record_reader(field: &str) -> RecordReader {
    match field {
        "order_id" => |order| Value::BigInt(order.message.object_id),
        "placed" => |order| Value::Micros(order.date),
        "cost" => |order| Value::money(order.message.payload.cost.0),
        "payment" => |order| Value::money(order.message.payload.payment.0),
        "status" => |order| Value::text(&order.message.payload.status),
        "user_id" => |order| Value::text(&order.message.payload.user.id),
        "user_name" => |order| Value::text(&order.message.payload.user.name),
        "user_login" => |order| Value::text(&order.message.payload.user.login),
        "restaurant_id" => |order| Value::text(&order.message.payload.restaurant.id),
        "restaurant_name" => |order| Value::text(&order.message.payload.restaurant.name),
        _ => unreachable!("an enriched order has no field {field}"),
    }
}

fn line_reader(field: &str) -> LineReader {
    match field {
        "product_id" => |line| Value::text(&line.id),
        "line_name" => |line| Value::text(&line.name),
        "menu_name" => |line| Value::text(line.menu_name.as_deref().unwrap_or(&line.name)),
        "category" => |line| Value::text(&line.category),
        "price" => |line| Value::money(line.price.0),
        "quantity" => |line| Value::Integer(line.quantity),
        _ => unreachable!("a line has no field {field}"),
    }
}
