#![expect(clippy::disallowed_types, reason = "edge: writes the vault to PostgreSQL")]
//! Writes a batch of orders into the vault, with one statement and one round trip.

use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, PgConnection};

use super::fact::OrderWithFact;
use crate::layer::interface::Effects;
use crate::record::Item;
use crate::vault::{Column, MODEL, VaultLine, VaultOrder, VaultRows, insert_statement};

/// Statement that is generated once from the model. It contains only names of the model, never a value.
static INSERT: LazyLock<String> = LazyLock::new(|| insert_statement(&MODEL));

pub(super) async fn write_orders(
    connection: &mut PgConnection,
    record_source: &str,
    items: &[&Item<OrderWithFact>],
) -> Result<Effects, sqlx::Error> {
    let mut rows = VaultRows::new(&MODEL);
    for item in items {
        rows.push(&vault_order(item), &item.value.order.version);
    }
    let mut query = sqlx::query(AssertSqlSafe(INSERT.as_str())).bind(record_source);
    for column in rows.into_columns() {
        query = match column {
            Column::Uuid(values) => query.bind(values),
            Column::Text(values) => query.bind(values),
            Column::BigInt(values) | Column::Micros(values) => query.bind(values),
            Column::Integer(values) => query.bind(values),
            Column::Numeric(values) => query.bind(values),
            Column::Bytes(values) => query.bind(values),
        };
    }
    query.execute(connection).await?;
    Ok(Effects {
        publish: (0..items.len()).collect(),
        stored: items.len(),
        ..Effects::default()
    })
}

/// Maps an order to the input of the vault.
fn vault_order(item: &Item<OrderWithFact>) -> VaultOrder<'_> {
    let order = &item.value.order;
    let payload = &order.message.payload;
    let lines = payload.products.iter().map(|line| VaultLine {
        product_id: &line.id,
        product_name: &line.name,
        category: &line.category,
        price: line.price.0,
        quantity: line.quantity,
    });
    VaultOrder {
        order_id: order.message.object_id,
        order_date: order.date,
        cost: payload.cost.0,
        payment: payload.payment.0,
        status: &payload.status,
        user_id: &payload.user.id,
        user_name: &payload.user.name,
        user_login: &payload.user.login,
        restaurant_id: &payload.restaurant.id,
        restaurant_name: &payload.restaurant.name,
        lines: lines.collect(),
    }
}
