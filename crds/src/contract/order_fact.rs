//! What the marts need of an order version, with Data Vault keys. Output of `dds`, input of `cdm`.
//!
//! Must never carry a business key beside the order's number: the marts know hash keys alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id;

/// A version of an order, as the marts count it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Order fact")]
pub struct OrderFact {
    /// Number of the order: its business key, and the record's key.
    pub object_id: i64,
    /// `order`.
    pub object_type: String,
    /// The order.
    pub payload: FactPayload,
}

/// The order itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct FactPayload {
    /// Number of the order.
    pub id: i64,
    /// When the order changed last; orders its versions.
    pub update_ts: String,
    /// The status of this version.
    pub status: String,
    /// The guest: `h_user_pk` and the name.
    pub user: FactRef,
    /// The dishes: `h_product_pk` and the name.
    pub products: Vec<FactRef>,
    /// The categories of the dishes: `h_category_pk` and the name.
    pub categories: Vec<FactRef>,
}

/// A hub's row: its hash key and a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct FactRef {
    /// The hash key, as the text of a UUID.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// The name in this version of the order.
    pub name: String,
}
