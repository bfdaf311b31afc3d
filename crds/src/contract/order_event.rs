//! Message of the source: the state of an order at one time. Input of `stg`.
//!
//! Never require a field that the pipeline does not use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{id, money::Money, number, object, text, unused};
use crate::timestamp;

/// The only `object_type` that the stages process.
pub const ORDER_OBJECT_TYPE: &str = "order";

/// Maximum number of lines of one order.
pub const MAX_ITEMS: usize = 10_000;

/// Version of an order, as sent by the order service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Order event")]
pub struct OrderEvent {
    /// Order number: business key.
    #[serde(deserialize_with = "number::deserialize_integer")]
    #[schemars(schema_with = "number::order_id_schema")]
    pub object_id: i64,
    /// Always `order`; other object types are rejected.
    #[schemars(extend("const" = ORDER_OBJECT_TYPE))]
    pub object_type: String,
    /// Time at which the message was sent, `YYYY-MM-DD hh:mm:ss` in the stage's time zone; sorts the versions of an
    /// order that have the same `update_ts` and status.
    #[schemars(schema_with = "timestamp::local_schema")]
    pub sent_dttm: String,
    /// Content of the order version.
    #[serde(deserialize_with = "object::deserialize")]
    pub payload: OrderPayload,
}

/// Content of an order version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct OrderPayload {
    /// Restaurant that prepares the order.
    #[serde(deserialize_with = "object::deserialize")]
    pub restaurant: EntityRef,
    /// User who placed the order.
    #[serde(deserialize_with = "object::deserialize")]
    pub user: EntityRef,
    /// Time at which the order was placed, `YYYY-MM-DD hh:mm:ss` in the stage's time zone.
    #[schemars(schema_with = "timestamp::local_schema")]
    pub date: String,
    /// Lines of the order; may be empty, and may contain a product twice.
    #[serde(deserialize_with = "object::deserialize_list")]
    #[schemars(length(max = MAX_ITEMS))]
    pub order_items: Vec<OrderItem>,
    /// Part of the cost paid with bonus points. Not used by the pipeline.
    #[serde(
        default,
        deserialize_with = "unused::deserialize",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "unused::schema")]
    pub bonus_payment: Option<Money>,
    /// Total price of all lines.
    pub cost: Money,
    /// Amount that the user paid in money.
    pub payment: Money,
    /// Bonus points granted. Not used by the pipeline.
    #[serde(
        default,
        deserialize_with = "unused::deserialize",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "unused::schema")]
    pub bonus_grant: Option<Money>,
    /// Status history of the order. Not used by the pipeline.
    #[serde(
        default,
        deserialize_with = "unused::deserialize",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "unused::schema")]
    pub statuses: Option<Vec<StatusChange>>,
    /// Order status of this version: `OPEN`, `COOKING`, `DELIVERING`, `CLOSED`, `CANCELLED`, or an unknown one.
    #[schemars(schema_with = "text::schema")]
    pub final_status: String,
    /// Time of the last change, `YYYY-MM-DD hh:mm:ss` in the stage's time zone; sorts the versions of an order.
    #[schemars(schema_with = "timestamp::local_schema")]
    pub update_ts: String,
}

/// Reference to an entity of the reference data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EntityRef {
    /// Id in the reference data.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
}

/// Line of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct OrderItem {
    /// Product id in the menu of the restaurant.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
    /// Product name.
    #[schemars(schema_with = "text::schema")]
    pub name: String,
    /// Unit price.
    pub price: Money,
    /// Number of units.
    #[serde(deserialize_with = "number::deserialize_integer")]
    #[schemars(schema_with = "number::quantity_schema")]
    pub quantity: i32,
}

/// Entry of the status history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct StatusChange {
    /// Order status.
    pub status: String,
    /// Start of the status, `YYYY-MM-DD hh:mm:ss` in the stage's time zone.
    pub dttm: String,
}
