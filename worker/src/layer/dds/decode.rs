//! Decodes an enriched order. Pure.

use crds::contract::EnrichedOrder;
use crds::timestamp::Timestamp;

use crate::decode::{self, DecodeSettings};
use crate::record::Record;
use crate::rejection::Rejection;
use crate::version::Version;

/// Enriched order that conforms to its contract.
#[derive(Clone, Debug)]
pub struct Order {
    /// Message as received.
    pub message: EnrichedOrder,
    /// `payload.date`, in microseconds since the Unix epoch.
    pub date: i64,
    /// `payload.user.update_ts`, in microseconds since the Unix epoch.
    pub user_update_ts: Option<i64>,
    /// `payload.restaurant.update_ts`, in microseconds since the Unix epoch.
    pub restaurant_update_ts: Option<i64>,
    /// Time of the last update. A producer that omits it implies the order's date.
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
    let message: EnrichedOrder = decode::parse_typed(text)?;
    decode::check_object_type(&message.object_type)?;
    decode::check_not_negative("/object_id", message.object_id)?;
    let payload = &message.payload;
    decode::check_not_negative("/payload/id", payload.id)?;
    decode::check_amount("/payload/cost", &payload.cost)?;
    decode::check_amount("/payload/payment", &payload.payment)?;
    decode::check_line_count("/payload/products", payload.products.len())?;
    for (index, line) in payload.products.iter().enumerate() {
        decode::check_amount(format_args!("/payload/products/{index}/price"), &line.price)?;
        decode::check_not_negative(
            format_args!("/payload/products/{index}/quantity"),
            line.quantity.into(),
        )?;
    }
    let date = settings.parse_timestamp("/payload/date", &payload.date)?;
    let (pointer, update_ts) = match &payload.update_ts {
        Some(update_ts) => {
            let pointer = "/payload/update_ts";
            (pointer, settings.parse_timestamp(pointer, update_ts)?)
        }
        None => ("/payload/date", date),
    };
    let version = decode::message_version(record, update_ts.as_microsecond(), &payload.status, text)?;
    settings.check_clock_skew(pointer, version.update_ts(), now)?;
    let entry_time = |pointer: &str, text: &Option<String>| {
        let Some(text) = text else { return Ok(None) };
        let time = settings.parse_timestamp(pointer, text)?.as_microsecond();
        settings.check_clock_skew(pointer, time, now)?;
        Ok(Some(time))
    };
    let user_update_ts = entry_time("/payload/user/update_ts", &payload.user.update_ts)?;
    let restaurant_update_ts = entry_time("/payload/restaurant/update_ts", &payload.restaurant.update_ts)?;
    Ok(Order {
        message,
        date: date.as_microsecond(),
        user_update_ts,
        restaurant_update_ts,
        update_ts,
        version,
    })
}
