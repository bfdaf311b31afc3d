//! Entries of the reference data in Redis: strings whose key is the normalized id, and whose value is one of these
//! types as JSON.
//!
//! Stages only read the entries: other systems own and write them. A type has only the fields that the pipeline uses,
//! so that a defect of another field, such as a price, concerns no order. A field that the pipeline can do without may have
//! any value; one of another type is read as if it were absent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{id, text, unused};

/// Entry of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Reference data entry of a user")]
pub struct UserEntry {
    /// User name.
    #[schemars(schema_with = "text::schema")]
    pub name: String,
    /// Login name of the user.
    #[schemars(schema_with = "text::schema")]
    pub login: String,
    /// Time of the last change, in the stage's time zone unless it has a UTC offset; sorts the names of the user.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "unused::deserialize"
    )]
    #[schemars(schema_with = "unused::schema")]
    pub update_ts: Option<String>,
}

/// Entry of a restaurant, with its menu. `P` is the type of a product: a reader may postpone the parse of each product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Reference data entry of a restaurant")]
pub struct RestaurantEntry<P = MenuItem> {
    /// Restaurant name.
    #[schemars(schema_with = "text::schema")]
    pub name: String,
    /// Products of the restaurant. A malformed product concerns only the orders that contain it.
    pub menu: Vec<P>,
    /// Time of the last change of the restaurant or its menu, as that of a user; sorts its names and menus.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "unused::deserialize"
    )]
    #[schemars(schema_with = "unused::schema")]
    pub update_ts: Option<String>,
}

/// Product of a menu.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct MenuItem {
    /// Product id.
    #[serde(rename = "_id", deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Category name: business key of the category.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub category: String,
    /// Product name; if it is absent, that of the order applies.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "unused::deserialize"
    )]
    #[schemars(schema_with = "unused::schema")]
    pub name: Option<String>,
}
