//! The JSON messages: from the source to `stg`, between the stages, and in the dictionary.
//!
//! These types own their text: a message outlives the record that it was read from.
//! They must never refuse an unknown field, and never carry money through a float.
//! The order of a type's fields is the order in which they are written: two emissions of one order version are
//! the same bytes.
//! Each message is also a JSON Schema in `schemas/`, made from its type by [`schemas`].

mod dictionary;
mod enriched_order;
mod id;
mod money;
mod order_event;
mod order_fact;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

pub use self::{
    dictionary::{MenuItem, RestaurantEntry, UserEntry},
    enriched_order::{EnrichedOrder, EnrichedPayload, EnrichedProduct, EnrichedUser, NamedRef},
    money::{Money, MoneyError},
    order_event::{EntityRef, OrderEvent, OrderItem, OrderPayload, StatusChange},
    order_fact::{FactPayload, FactRef, OrderFact},
};

/// The only `object_type` that the stages process.
pub const ORDER: &str = "order";

/// The JSON Schema of every message, by the name of its file without `.json`.
#[must_use]
pub fn schemas() -> [(&'static str, Value); 5] {
    [
        ("order_event", schema_of::<OrderEvent>()),
        ("enriched_order", schema_of::<EnrichedOrder>()),
        ("order_fact", schema_of::<OrderFact>()),
        ("user_entry", schema_of::<UserEntry>()),
        ("restaurant_entry", schema_of::<RestaurantEntry>()),
    ]
}

/// The schema of what a reader accepts, in the draft that JSON Schema tools take by default.
fn schema_of<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12()
        .for_deserialize()
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}
