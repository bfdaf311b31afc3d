//! The source's message: an order as it is at one moment. Input of `stg`.
//!
//! Must never require a field that the pipeline does not use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Money, id};

/// A version of an order, as the order service sends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Order event")]
pub struct OrderEvent {
    /// Number of the order: its business key.
    pub object_id: i64,
    /// `order`; the pipeline processes no other.
    pub object_type: String,
    /// When the message was sent, `YYYY-MM-DD hh:mm:ss` in the stage's time zone.
    pub sent_dttm: String,
    /// The order.
    pub payload: OrderPayload,
}

/// The order itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct OrderPayload {
    /// The restaurant that cooks.
    pub restaurant: EntityRef,
    /// The guest who ordered.
    pub user: EntityRef,
    /// When the order was placed, `YYYY-MM-DD hh:mm:ss` in the stage's time zone.
    pub date: String,
    /// The lines of the order; may be empty, and may name a product twice.
    pub order_items: Vec<OrderItem>,
    /// Part of the cost paid with bonus points. Not used by the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bonus_payment: Option<Money>,
    /// Price of all lines.
    pub cost: Money,
    /// What the guest paid in money.
    pub payment: Money,
    /// Bonus points granted. Not used by the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bonus_grant: Option<Money>,
    /// The statuses that the order went through. Not used by the pipeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statuses: Option<Vec<StatusChange>>,
    /// The status of this version: `OPEN`, `COOKING`, `DELIVERING`, `CLOSED`, `CANCELLED`, or one not known yet.
    pub final_status: String,
    /// When the order changed last, `YYYY-MM-DD hh:mm:ss` in the stage's time zone; orders its versions.
    pub update_ts: String,
}

/// A thing that the dictionary knows, by its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct EntityRef {
    /// Its id in the dictionary.
    #[serde(deserialize_with = "id::deserialize")]
    #[schemars(schema_with = "id::schema")]
    pub id: String,
}

/// A line of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct OrderItem {
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
}

/// A status that the order went through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct StatusChange {
    /// The status.
    pub status: String,
    /// When it began, `YYYY-MM-DD hh:mm:ss` in the stage's time zone.
    pub dttm: String,
}
