//! Order version with Data Vault hash keys, reduced to the attributes of the marts. Output of `dds`, input of `cdm`.
//!
//! Never contains a business key other than the order number: the marts use hash keys only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id;

/// Version of an order, as the marts count it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Order fact")]
pub struct OrderFact {
    /// Order number: business key and record key.
    pub object_id: i64,
    /// Always `order`.
    pub object_type: String,
    /// Content of the order version.
    pub payload: FactPayload,
}

/// Content of an order version, reduced to the attributes of the marts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct FactPayload {
    /// Order number, the same as `object_id`.
    pub id: i64,
    /// Time of the last change; sorts the versions of an order.
    pub update_ts: String,
    /// Order status of this version.
    pub status: String,
    /// User: `h_user_pk` and name.
    pub user: FactRef,
    /// Products: `h_product_pk` and name.
    pub products: Vec<FactRef>,
    /// Categories of the products: `h_category_pk` and name.
    pub categories: Vec<FactRef>,
}

/// Reference to a hub row: hash key and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct FactRef {
    /// Hash key in UUID text form.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Name in this version of the order.
    pub name: String,
}
