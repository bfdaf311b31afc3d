//! Decodes an enriched order. Pure.

use crds::contract::EnrichedOrder;

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
    /// Version of the order.
    pub version: Version,
}

impl Order {
    /// Time of the last update, as text of the message. A producer that omits it implies the order's date.
    #[must_use]
    pub fn update_ts(&self) -> &str {
        self.message
            .payload
            .update_ts
            .as_deref()
            .unwrap_or(&self.message.payload.date)
    }
}

/// Decodes one record. `now` is in microseconds since the Unix epoch.
pub(super) fn decode_order(settings: &DecodeSettings, record: &Record, now: i64) -> Result<Order, Rejection> {
    let text = settings.json_text(record)?;
    let message: EnrichedOrder = decode::parse_typed(text)?;
    decode::check_object_type(&message.object_type)?;
    decode::check_not_negative("/object_id", message.object_id)?;
    let payload = &message.payload;
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
    let digest = decode::source_digest(record, text)?;
    let update_ts = match &payload.update_ts {
        Some(update_ts) => settings.parse_update_ts("/payload/update_ts", update_ts, now)?,
        None => settings.parse_update_ts("/payload/date", &payload.date, now)?,
    };
    let version = Version::new(update_ts, &payload.status, digest);
    Ok(Order {
        message,
        date,
        version,
    })
}
