//! Joins an order with the dictionary. Pure: what the dictionary knows is passed in.

use std::collections::HashMap;
use std::sync::Arc;

use crds::contract::{EnrichedOrder, EnrichedPayload, EnrichedProduct, EnrichedUser, NamedRef, OrderEvent};

use crate::layer::Output;
use crate::layer::stg::decode::Order;
use crate::rejection::{Code, Rejection};
use crate::version::Version;

/// An order event, ready to be stored, with what came of the dictionary.
#[derive(Clone, Debug)]
pub struct Enriched {
    /// The order.
    pub object_id: i64,
    /// `sent_dttm`, in microseconds since the Unix epoch.
    pub sent: i64,
    /// Its place among the versions of the order.
    pub version: Version,
    /// The message for the next topic, or what is missing for it.
    pub outcome: Outcome,
}

/// What the dictionary made of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was known.
    Ready(Output),
    /// The order waits for these entries, each named like `user 626a…`.
    Missing(Vec<String>),
}

/// A guest, as the dictionary knows one.
#[derive(Debug, PartialEq, Eq)]
pub struct Guest {
    /// Full name.
    pub name: String,
    /// Name at log-in.
    pub login: String,
}

/// A restaurant, as the dictionary knows one.
#[derive(Debug, PartialEq, Eq)]
pub struct Restaurant {
    /// Its name.
    pub name: String,
    /// Category of every dish on its menu, by the dish's id.
    pub categories: HashMap<String, String>,
}

/// The part of the dictionary that a batch needs, by id.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Guests.
    pub guests: HashMap<String, Arc<Guest>>,
    /// Restaurants with their menus.
    pub restaurants: HashMap<String, Arc<Restaurant>>,
}

impl Known {
    /// What `event` needs and the dictionary lacks, each named once, in the order of the message.
    pub(super) fn missing(&self, event: &OrderEvent) -> Vec<String> {
        let mut missing = Vec::new();
        let payload = &event.payload;
        if !self.guests.contains_key(&payload.user.id) {
            missing.push(format!("user {}", payload.user.id));
        }
        match self.restaurants.get(&payload.restaurant.id) {
            None => missing.push(format!("restaurant {}", payload.restaurant.id)),
            Some(restaurant) => {
                for line in payload
                    .order_items
                    .iter()
                    .filter(|line| !restaurant.categories.contains_key(&line.id))
                {
                    let dish = format!(
                        "product {} in the menu of restaurant {}",
                        line.id, payload.restaurant.id
                    );
                    if !missing.contains(&dish) {
                        missing.push(dish);
                    }
                }
            }
        }
        missing
    }
}

/// Enriches one order, or says what is missing for it.
///
/// # Errors
/// `OutputTooLarge` when the message would exceed `max_output_bytes`.
pub(super) fn order(order: Order, known: &Known, max_output_bytes: usize) -> Result<Enriched, Rejection> {
    let Order { event, sent, version } = order;
    let object_id = event.object_id;
    let missing = known.missing(&event);
    let outcome = if missing.is_empty() {
        Outcome::Ready(output(event, &version, known, max_output_bytes)?)
    } else {
        Outcome::Missing(missing)
    };
    Ok(Enriched {
        object_id,
        sent,
        version,
        outcome,
    })
}

/// The message for the next topic; every id of the event is known.
fn output(event: OrderEvent, version: &Version, known: &Known, limit: usize) -> Result<Output, Rejection> {
    let payload = event.payload;
    let guest = &known.guests[&payload.user.id];
    let restaurant = &known.restaurants[&payload.restaurant.id];
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
            date: payload.date,
            update_ts: Some(payload.update_ts),
            cost: payload.cost,
            payment: payload.payment,
            status: payload.final_status,
            restaurant: NamedRef {
                id: payload.restaurant.id,
                name: restaurant.name.clone(),
            },
            user: EnrichedUser {
                id: payload.user.id,
                name: guest.name.clone(),
                login: guest.login.clone(),
            },
            products: products.collect(),
        },
    };
    let mut digest = [0; 32];
    digest.copy_from_slice(version.digest());
    serialise(event.object_id, digest, &enriched, limit)
}

/// A message as bytes, checked against what the output topic takes.
///
/// # Errors
/// `OutputTooLarge`.
pub(crate) fn serialise<T: serde::Serialize>(
    object_id: i64,
    digest: [u8; 32],
    message: &T,
    limit: usize,
) -> Result<Output, Rejection> {
    let payload = serde_json::to_vec(message)
        .map_err(|error| Rejection::contract("", &format!("cannot be written as JSON again: {error}")))?;
    if payload.len() > limit {
        let detail = format!("{} bytes, the output topic takes {limit}", payload.len());
        return Err(Rejection::new(Code::OutputTooLarge, detail));
    }
    Ok(Output {
        object_id,
        payload,
        digest,
    })
}
