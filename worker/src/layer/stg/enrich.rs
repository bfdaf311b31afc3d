//! Enriches an order with reference data. Pure: the result of the lookup is passed in.

use std::collections::HashMap;
use std::sync::Arc;

use crds::contract::{EnrichedOrder, EnrichedPayload, EnrichedProduct, EnrichedUser, NamedRef, OrderEvent};

use crate::layer::stg::decode::Order;
use crate::output::{Output, serialize_output};
use crate::rejection::Rejection;
use crate::version::Version;

/// Order event after the enrich step, ready to be written.
#[derive(Clone, Debug)]
pub struct Enriched {
    /// Id of the order.
    pub object_id: i64,
    /// `sent_dttm`, in microseconds since the Unix epoch.
    pub sent: i64,
    /// Version of the order.
    pub version: Version,
    /// Result of the enrichment.
    pub enrichment: Enrichment,
}

/// Result of the enrichment of one order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrichment {
    /// Message for the next layer; all entries were there.
    Ready(Output),
    /// Missing reference data entries, each like `user 626a…`. The order is pending until they are there.
    Missing(Vec<String>),
}

/// User of the reference data.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    /// Full name.
    pub name: String,
    /// Login name.
    pub login: String,
}

/// Restaurant of the reference data.
#[derive(Debug, PartialEq, Eq)]
pub struct Restaurant {
    /// Name of the restaurant.
    pub name: String,
    /// Category of each product on the menu, by product id.
    pub categories: HashMap<String, String>,
}

/// Reference data entries that were found for a batch, by id. An id without an entry is missing.
#[derive(Clone, Debug, Default)]
pub struct LookupResult {
    /// Users.
    pub users: HashMap<String, Arc<User>>,
    /// Restaurants with their menus.
    pub restaurants: HashMap<String, Arc<Restaurant>>,
}

impl LookupResult {
    /// Returns the entries that `event` needs and that are missing, each once, in the order of the message.
    pub(super) fn missing_entries(&self, event: &OrderEvent) -> Vec<String> {
        let mut missing = Vec::new();
        let payload = &event.payload;
        if !self.users.contains_key(&payload.user.id) {
            missing.push(format!("user {}", payload.user.id));
        }
        let Some(restaurant) = self.restaurants.get(&payload.restaurant.id) else {
            missing.push(format!("restaurant {}", payload.restaurant.id));
            return missing;
        };
        for line in &payload.order_items {
            if restaurant.categories.contains_key(&line.id) {
                continue;
            }
            let product = format!(
                "product {} in the menu of restaurant {}",
                line.id, payload.restaurant.id
            );
            if !missing.contains(&product) {
                missing.push(product);
            }
        }
        missing
    }
}

/// Enriches one order, or lists the missing entries.
///
/// # Errors
/// `OutputTooLarge` for a message of more than `max_output_bytes`.
pub(super) fn enrich_order(
    order: Order,
    lookup: &LookupResult,
    max_output_bytes: usize,
) -> Result<Enriched, Rejection> {
    let (object_id, sent, version) = (order.event.object_id, order.sent, order.version);
    let missing = lookup.missing_entries(&order.event);
    let enrichment = if missing.is_empty() {
        Enrichment::Ready(build_output(order, lookup, max_output_bytes)?)
    } else {
        Enrichment::Missing(missing)
    };
    Ok(Enriched {
        object_id,
        sent,
        version,
        enrichment,
    })
}

/// Builds the message for the next layer. Panics if an entry is missing.
fn build_output(order: Order, lookup: &LookupResult, max_bytes: usize) -> Result<Output, Rejection> {
    let Order { event, version, .. } = order;
    let payload = event.payload;
    let user = &lookup.users[&payload.user.id];
    let restaurant = &lookup.restaurants[&payload.restaurant.id];
    let products = payload.order_items.into_iter().map(|line| EnrichedProduct {
        category: restaurant.categories[&line.id].clone(),
        id: line.id,
        name: line.name,
        price: line.price,
        quantity: line.quantity,
    });
    let enriched = EnrichedOrder {
        object_id: event.object_id,
        object_type: event.object_type,
        payload: EnrichedPayload {
            id: event.object_id,
            // With their UTC offset, so that the next layers do not depend on their own time zone.
            date: order.date.to_string(),
            update_ts: Some(order.update_ts.to_string()),
            cost: payload.cost,
            payment: payload.payment,
            status: payload.final_status,
            restaurant: NamedRef {
                id: payload.restaurant.id,
                name: restaurant.name.clone(),
            },
            user: EnrichedUser {
                id: payload.user.id,
                name: user.name.clone(),
                login: user.login.clone(),
            },
            products: products.collect(),
        },
    };
    serialize_output(event.object_id, version, &enriched, max_bytes)
}
