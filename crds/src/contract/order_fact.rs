//! Order version with Data Vault hash keys, reduced to the attributes of the marts. Output of `dds`, input of `cdm`.
//!
//! Never contains a business key other than the order number: the marts use hash keys only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::order_event::{MAX_ITEMS, ORDER_OBJECT_TYPE};
use super::{id, number, object, text};
use crate::timestamp;

/// Version of an order, as the marts count it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Order fact")]
pub struct OrderFact {
    /// Order number: business key and record key.
    #[serde(deserialize_with = "number::deserialize_integer")]
    #[schemars(schema_with = "number::order_id_schema")]
    pub object_id: i64,
    /// Always `order`.
    #[schemars(extend("const" = ORDER_OBJECT_TYPE))]
    pub object_type: String,
    /// Content of the order version.
    #[serde(deserialize_with = "object::deserialize")]
    pub payload: FactPayload,
}

/// Content of an order version, reduced to the attributes of the marts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct FactPayload {
    /// Order number, the same as `object_id`.
    #[serde(deserialize_with = "number::deserialize_integer")]
    #[schemars(schema_with = "number::order_id_schema")]
    pub id: i64,
    /// Time of the last change, with its UTC offset (RFC 3339); without one, in the stage's time zone. Sorts the
    /// versions of an order.
    #[schemars(schema_with = "timestamp::schema")]
    pub update_ts: String,
    /// Order status of this version.
    #[schemars(schema_with = "text::schema")]
    pub status: String,
    /// User: `h_user_pk` and name.
    #[serde(deserialize_with = "object::deserialize")]
    pub user: FactRef,
    /// Products: `h_product_pk` and name.
    #[serde(deserialize_with = "object::deserialize_list")]
    #[schemars(length(max = MAX_ITEMS))]
    pub products: Vec<FactRef>,
    /// Categories of the products: `h_category_pk` and name.
    #[serde(deserialize_with = "object::deserialize_list")]
    #[schemars(length(max = MAX_ITEMS))]
    pub categories: Vec<FactRef>,
}

/// Reference to a hub row: hash key and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct FactRef {
    /// Hash key in UUID text form.
    #[serde(deserialize_with = "id::deserialize_hash_key")]
    #[schemars(schema_with = "id::hash_key_schema")]
    pub id: String,
    /// Name in this version of the order.
    #[schemars(schema_with = "text::schema")]
    pub name: String,
}
