//! Order enriched with reference data. Output of `stg`, input of `dds`.
//!
//! Never remove or reorder a published field: other producers write the same structure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{id, money::Money};

/// Version of an order, with names, logins and categories from the reference data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Enriched order")]
pub struct EnrichedOrder {
    /// Order number: business key and record key.
    pub object_id: i64,
    /// Always `order`.
    pub object_type: String,
    /// Content of the order version.
    pub payload: EnrichedPayload,
}

/// Content of an enriched order version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EnrichedPayload {
    /// Order number, the same as `object_id`.
    pub id: i64,
    /// Time at which the order was placed, `YYYY-MM-DD hh:mm:ss` in the stage's time zone.
    pub date: String,
    /// Time of the last change; sorts the versions of an order. If absent (other producers), `date` is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_ts: Option<String>,
    /// Total price of all lines.
    pub cost: Money,
    /// Amount that the user paid in money.
    pub payment: Money,
    /// Order status of this version.
    pub status: String,
    /// Restaurant that prepares the order.
    pub restaurant: NamedRef,
    /// User who placed the order.
    pub user: EnrichedUser,
    /// Lines of the order; may be empty, and may contain a product twice.
    pub products: Vec<EnrichedProduct>,
}

/// Entity with id and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct NamedRef {
    /// Id in the reference data.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Name in the reference data.
    pub name: String,
}

/// User who placed the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EnrichedUser {
    /// User id in the reference data.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// User name.
    pub name: String,
    /// Login name of the user.
    pub login: String,
}

/// Line of an order, with the category of the product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EnrichedProduct {
    /// Product id in the menu of the restaurant.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Product name.
    pub name: String,
    /// Unit price.
    pub price: Money,
    /// Number of units.
    pub quantity: i32,
    /// Category name in the menu of the restaurant: business key of the category.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub category: String,
}
