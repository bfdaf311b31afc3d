//! Order enriched with reference data. Output of `stg`, input of `dds`.
//!
//! Never remove or reorder a published field: other producers write the same structure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::order_event::{MAX_ITEMS, ORDER_OBJECT_TYPE};
use super::{id, money::Money, number, object, text};
use crate::timestamp;

/// Version of an order, with names, logins and categories from the reference data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Enriched order")]
pub struct EnrichedOrder {
    /// Order number: business key and record key.
    #[serde(deserialize_with = "number::deserialize_integer")]
    #[schemars(schema_with = "number::order_id_schema")]
    pub object_id: i64,
    /// Always `order`.
    #[schemars(extend("const" = ORDER_OBJECT_TYPE))]
    pub object_type: String,
    /// Content of the order version.
    #[serde(deserialize_with = "object::deserialize")]
    pub payload: EnrichedPayload,
}

/// Content of an enriched order version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EnrichedPayload {
    /// Order number, the same as `object_id`.
    #[serde(deserialize_with = "number::deserialize_integer")]
    #[schemars(schema_with = "number::order_id_schema")]
    pub id: i64,
    /// Time at which the order was placed, with its UTC offset (RFC 3339); without one, in the stage's time zone.
    #[schemars(schema_with = "timestamp::schema")]
    pub date: String,
    /// Time of the last change, in the same form; sorts the versions of an order. If absent (other producers), `date`
    /// is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "timestamp::optional_schema")]
    pub update_ts: Option<String>,
    /// Total price of all lines.
    pub cost: Money,
    /// Amount that the user paid in money.
    pub payment: Money,
    /// Order status of this version.
    #[schemars(schema_with = "text::schema")]
    pub status: String,
    /// Restaurant that prepares the order.
    #[serde(deserialize_with = "object::deserialize")]
    pub restaurant: EnrichedRestaurant,
    /// User who placed the order.
    #[serde(deserialize_with = "object::deserialize")]
    pub user: EnrichedUser,
    /// Lines of the order; may be empty, and may contain a product twice.
    #[serde(deserialize_with = "object::deserialize_list")]
    #[schemars(length(max = MAX_ITEMS))]
    pub products: Vec<EnrichedProduct>,
}

/// Restaurant that prepares the order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EnrichedRestaurant {
    /// Id in the reference data.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Name in the reference data.
    #[schemars(schema_with = "text::schema")]
    pub name: String,
    /// Time of the last change of the restaurant and its menu in the reference data, with its UTC offset (RFC 3339); sorts
    /// the names and menus. If absent, those of the order version are valid from its own time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "timestamp::optional_schema")]
    pub update_ts: Option<String>,
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
    #[schemars(schema_with = "text::schema")]
    pub name: String,
    /// Login name of the user.
    #[schemars(schema_with = "text::schema")]
    pub login: String,
    /// Time of the last change of the user in the reference data, in the same form as that of the restaurant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "timestamp::optional_schema")]
    pub update_ts: Option<String>,
}

/// Line of an order, with the category of the product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EnrichedProduct {
    /// Product id in the menu of the restaurant.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Product name on the line of the order.
    #[schemars(schema_with = "text::schema")]
    pub name: String,
    /// Unit price.
    pub price: Money,
    /// Number of units.
    #[serde(deserialize_with = "number::deserialize_integer")]
    #[schemars(schema_with = "number::quantity_schema")]
    pub quantity: i32,
    /// Category name in the menu of the restaurant: business key of the category.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub category: String,
    /// Product name in the menu of the restaurant, if it differs from `name`, which is that of the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "text::optional_schema")]
    pub menu_name: Option<String>,
}
