//! Entries of the reference data in Redis: the key is the id, the value is one of these types as JSON.
//!
//! Stages only read the entries: other systems own and write them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{id, money::Money};

/// Entry of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Reference data entry of a user")]
pub struct UserEntry {
    /// User id, the same as the key in Redis.
    #[serde(rename = "_id", deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// User name.
    pub name: String,
    /// Login name of the user.
    pub login: String,
    /// Time of the last change of the entry. Not used by the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_ts: Option<String>,
}

/// Entry of a restaurant, with its menu.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Reference data entry of a restaurant")]
pub struct RestaurantEntry {
    /// Restaurant id, the same as the key in Redis.
    #[serde(rename = "_id", deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Restaurant name.
    pub name: String,
    /// Products of the restaurant.
    pub menu: Vec<MenuItem>,
    /// Time of the last change of the entry. Not used by the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_ts: Option<String>,
}

/// Product of a menu.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct MenuItem {
    /// Product id.
    #[serde(rename = "_id", deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Product name.
    pub name: String,
    /// Unit price.
    pub price: Money,
    /// Category name: business key of the category.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub category: String,
}
