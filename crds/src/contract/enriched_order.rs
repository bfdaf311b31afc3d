//! An order with the names that the dictionary holds. Output of `stg`, input of `dds`.
//!
//! Must never lose or reorder a field that is published already: other producers write the same structure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Money, id};

/// A version of an order, with names, logins and categories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Enriched order")]
pub struct EnrichedOrder {
    /// Number of the order: its business key, and the record's key.
    pub object_id: i64,
    /// `order`.
    pub object_type: String,
    /// The order.
    pub payload: EnrichedPayload,
}

/// The order itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EnrichedPayload {
    /// Number of the order.
    pub id: i64,
    /// When the order was placed, `YYYY-MM-DD hh:mm:ss` in the stage's time zone.
    pub date: String,
    /// When the order changed last; orders its versions. Absent from other producers: then `date` is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_ts: Option<String>,
    /// Price of all lines.
    pub cost: Money,
    /// What the guest paid in money.
    pub payment: Money,
    /// The status of this version.
    pub status: String,
    /// The restaurant that cooks.
    pub restaurant: NamedRef,
    /// The guest who ordered.
    pub user: EnrichedUser,
    /// The lines of the order; may be empty, and may name a product twice.
    pub products: Vec<EnrichedProduct>,
}

/// A thing with its id and its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct NamedRef {
    /// Its id in the dictionary.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Its name.
    pub name: String,
}

/// The guest who ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EnrichedUser {
    /// Id of the guest in the dictionary.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Name of the guest.
    pub name: String,
    /// Login of the guest.
    pub login: String,
}

/// A line of an order, with the product's category.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EnrichedProduct {
    /// Id of the product in the restaurant's menu.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Name of the product.
    pub name: String,
    /// Price of one.
    pub price: Money,
    /// How many.
    pub quantity: i32,
    /// Category of the product in the restaurant's menu: the business key of the category.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub category: String,
}
