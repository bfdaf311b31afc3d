//! The dictionary's values in Redis: the key is the id, the value is one of these as JSON.
//!
//! Must never be written by a stage: the dictionary belongs to other systems, and stages read it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Money, id};

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Dictionary entry of a user")]
pub struct UserEntry {
    /// Id of the guest, the same as the key.
    #[serde(rename = "_id", deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Name of the guest.
    pub name: String,
    /// Login of the guest.
    pub login: String,
    /// When the entry changed last. Not used by the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_ts: Option<String>,
}

/// A restaurant with its menu.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Dictionary entry of a restaurant")]
pub struct RestaurantEntry {
    /// Id of the restaurant, the same as the key.
    #[serde(rename = "_id", deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Name of the restaurant.
    pub name: String,
    /// The dishes that it cooks.
    pub menu: Vec<MenuItem>,
    /// When the entry changed last. Not used by the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_ts: Option<String>,
}

/// A dish of a menu.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct MenuItem {
    /// Id of the product.
    #[serde(rename = "_id", deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Name of the product.
    pub name: String,
    /// Price of one.
    pub price: Money,
    /// Category of the product.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub category: String,
}
