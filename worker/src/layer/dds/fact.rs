//! Fact of an order version: the message that the marts need, with the hub keys of the vault. Pure.

use std::collections::HashSet;

use crds::contract::{FactPayload, FactRef, OrderFact};

use super::decode::Order;
use crate::output::{Output, serialize_output};
use crate::rejection::Rejection;
use crate::vault::{BusinessKey, hash_key};

/// Order with its fact, ready to be written.
#[derive(Clone, Debug)]
pub struct OrderWithFact {
    /// Decoded order.
    pub order: Order,
    /// Message for the marts.
    pub fact: Output,
}

/// Builds the fact of an order as the message for the marts.
///
/// # Errors
/// If the message cannot be represented as JSON.
pub(super) fn build_fact(order: &Order) -> Result<Output, Rejection> {
    let payload = &order.message.payload;
    let reference = |hub: &str, business_key: &str, name: &str| FactRef {
        id: hash_key(hub, &[BusinessKey::Text(business_key)]).to_string(),
        name: name.to_owned(),
    };
    let mut seen = HashSet::new();
    let products = payload
        .products
        .iter()
        .map(|line| reference("h_product", &line.id, &line.name));
    // A product on two lines counts once, and its first line names it.
    let products = products
        .filter(|product| seen.insert(product.id.clone()))
        .collect();
    let mut seen = HashSet::new();
    let categories = payload.products.iter().map(|line| line.category.as_str());
    let categories = categories.filter(|&category| seen.insert(category));
    let categories = categories
        .map(|category| reference("h_category", category, category))
        .collect();
    let fact = OrderFact {
        object_id: order.message.object_id,
        object_type: order.message.object_type.clone(),
        payload: FactPayload {
            id: payload.id,
            update_ts: order.update_ts.to_string(),
            status: payload.status.clone(),
            user: reference("h_user", &payload.user.id, &payload.user.name),
            products,
            categories,
        },
    };
    serialize_output(order.message.object_id, order.version, &fact)
}
