//! Decodes an order event. Pure.

use crds::contract::OrderEvent;
use crds::timestamp::Timestamp;

use crate::decode::{self, DecodeSettings};
use crate::record::Record;
use crate::rejection::Rejection;
use crate::version::{self, Version};

/// Order event that conforms to its contract.
#[derive(Clone, Debug)]
pub struct Order {
    /// Message as received.
    pub event: OrderEvent,
    /// `sent_dttm`, in microseconds since the Unix epoch.
    pub sent: i64,
    /// `payload.date`.
    pub date: Timestamp,
    /// `payload.update_ts`.
    pub update_ts: Timestamp,
    /// Version of the order.
    pub version: Version,
}

/// Decodes one record. `now` is in microseconds since the Unix epoch.
///
/// # Errors
/// The code and the detail of the dead letter.
pub fn decode_order(settings: &DecodeSettings, record: &Record, now: i64) -> Result<Order, Rejection> {
    let text = settings.json_text(record)?;
    let event: OrderEvent = decode::parse_typed(text)?;
    decode::check_object_type(&event.object_type)?;
    decode::check_not_negative("/object_id", event.object_id)?;
    let payload = &event.payload;
    decode::check_amount("/payload/cost", &payload.cost)?;
    decode::check_amount("/payload/payment", &payload.payment)?;
    decode::check_line_count("/payload/order_items", payload.order_items.len())?;
    for (index, line) in payload.order_items.iter().enumerate() {
        decode::check_amount(format_args!("/payload/order_items/{index}/price"), &line.price)?;
        decode::check_not_negative(
            format_args!("/payload/order_items/{index}/quantity"),
            line.quantity.into(),
        )?;
    }
    let date = settings.parse_source_timestamp("/payload/date", &payload.date)?;
    let sent = settings.parse_source_timestamp("/sent_dttm", &event.sent_dttm)?;
    let update_ts = settings.parse_source_timestamp("/payload/update_ts", &payload.update_ts)?;
    settings.check_clock_skew("/payload/update_ts", update_ts.as_microsecond(), now)?;
    let version = Version::new(
        update_ts.as_microsecond(),
        &payload.final_status,
        Some(sent.as_microsecond()),
        version::digest(text.as_bytes()),
    );
    Ok(Order {
        event,
        sent: sent.as_microsecond(),
        date,
        update_ts,
        version,
    })
}
