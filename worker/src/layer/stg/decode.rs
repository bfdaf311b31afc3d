//! Reads an order event. Pure.

use crds::contract::OrderEvent;

use crate::decode::{self, Rules};
use crate::record::Record;
use crate::rejection::Rejection;
use crate::version::{self, Version};

/// An order event that keeps its contract.
#[derive(Clone, Debug)]
pub struct Order {
    /// The message.
    pub event: OrderEvent,
    /// `sent_dttm`, in microseconds since the Unix epoch.
    pub sent: i64,
    /// Its place among the versions of the order.
    pub version: Version,
}

/// Decodes one record; `now` in microseconds since the Unix epoch.
pub(super) fn order(rules: &Rules, record: &Record, now: i64) -> Result<Order, Rejection> {
    let text = rules.text(record)?;
    let event: OrderEvent = decode::typed(text)?;
    decode::supported(&event.object_type)?;
    decode::not_negative("/object_id", event.object_id)?;
    let payload = &event.payload;
    decode::amount("/payload/cost", &payload.cost)?;
    decode::amount("/payload/payment", &payload.payment)?;
    decode::few_enough("/payload/order_items", payload.order_items.len())?;
    for (index, line) in payload.order_items.iter().enumerate() {
        decode::amount(format_args!("/payload/order_items/{index}/price"), &line.price)?;
        decode::not_negative(
            format_args!("/payload/order_items/{index}/quantity"),
            line.quantity.into(),
        )?;
    }
    rules.timestamp("/payload/date", &payload.date)?;
    let sent = rules.timestamp("/sent_dttm", &event.sent_dttm)?;
    let update_ts = rules.update_ts("/payload/update_ts", &payload.update_ts, now)?;
    let version = Version::new(update_ts, &payload.final_status, version::digest(text.as_bytes()));
    Ok(Order { event, sent, version })
}
