//! Reads an enriched order. Pure.

use crds::contract::EnrichedOrder;

use crate::decode::{self, Rules};
use crate::record::Record;
use crate::rejection::Rejection;
use crate::version::Version;

/// An enriched order that keeps its contract.
#[derive(Clone, Debug)]
pub struct Order {
    /// The message.
    pub message: EnrichedOrder,
    /// `payload.date`, in microseconds since the Unix epoch.
    pub date: i64,
    /// Its place among the versions of the order.
    pub version: Version,
}

impl Order {
    /// When the order changed last, as the message says it; a producer that does not know takes the order's date.
    #[must_use]
    pub fn update_ts(&self) -> &str {
        self.message
            .payload
            .update_ts
            .as_deref()
            .unwrap_or(&self.message.payload.date)
    }
}

/// Decodes one record; `now` in microseconds since the Unix epoch.
pub(super) fn order(rules: &Rules, record: &Record, now: i64) -> Result<Order, Rejection> {
    let text = rules.text(record)?;
    let message: EnrichedOrder = decode::typed(text)?;
    decode::supported(&message.object_type)?;
    decode::not_negative("/object_id", message.object_id)?;
    let payload = &message.payload;
    decode::amount("/payload/cost", &payload.cost)?;
    decode::amount("/payload/payment", &payload.payment)?;
    decode::few_enough("/payload/products", payload.products.len())?;
    for (index, line) in payload.products.iter().enumerate() {
        decode::amount(format_args!("/payload/products/{index}/price"), &line.price)?;
        decode::not_negative(
            format_args!("/payload/products/{index}/quantity"),
            line.quantity.into(),
        )?;
    }
    let date = rules.timestamp("/payload/date", &payload.date)?;
    let digest = decode::source_digest(record, text)?;
    let update_ts = match &payload.update_ts {
        Some(update_ts) => rules.update_ts("/payload/update_ts", update_ts, now)?,
        None => rules.update_ts("/payload/date", &payload.date, now)?,
    };
    let version = Version::new(update_ts, &payload.status, digest);
    Ok(Order {
        message,
        date,
        version,
    })
}
