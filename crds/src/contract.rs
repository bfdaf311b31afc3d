//! JSON messages: from the source to `stg`, between the stages, and the entries of the reference data.
//!
//! The types own their text, because a message outlives the Kafka record that it was parsed from.
//! Never reject an unknown field, and never convert money to a float.
//! Fields are serialized in declaration order, so that the same order version always yields the same bytes.
//! Every message also has a JSON Schema in `schemas/`, generated from its type by [`schemas`].

mod enriched_order;
mod id;
mod money;
mod number;
mod object;
mod order_event;
mod order_fact;
mod reference_data;
mod text;
mod unused;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

pub use self::{
    enriched_order::{EnrichedOrder, EnrichedPayload, EnrichedProduct, EnrichedRestaurant, EnrichedUser},
    id::{deserialize as deserialize_id, normalize},
    money::{Money, MoneyError},
    number::integer_from_json,
    order_event::{
        EntityRef, MAX_ITEMS, ORDER_OBJECT_TYPE, OrderEvent, OrderItem, OrderPayload, StatusChange,
    },
    order_fact::{FactPayload, FactRef, OrderFact},
    reference_data::{MenuItem, RestaurantEntry, UserEntry},
};

/// JSON Schemas of all messages, as pairs of file name without `.json` and schema.
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

/// Generates the schema of the messages that a consumer accepts, in JSON Schema draft 2020-12.
fn schema_of<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12()
        .for_deserialize()
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}
