//! Decodes an order event. Pure.

use crate::decode::DecodeSettings;
use crate::layer::order_fields::FIELDS;
use crate::plan::ORDERS;
use crate::reader::{TimestampForm, read_row};
use crate::record::Record;
use crate::rejection::Rejection;
use crate::vault::Row;
use crate::version::{self, Version};

/// Order event that conforms to its contract.
#[derive(Clone, Debug)]
pub struct Order {
    /// Values of the order; those of the lookups are empty.
    pub row: Row<'static>,
    /// Version of the order.
    pub version: Version,
}

/// Decodes one record. `now` is in microseconds since the Unix epoch.
///
/// # Errors
/// The code and the detail of the dead letter.
pub fn decode_order(settings: &DecodeSettings, record: &Record, now: i64) -> Result<Order, Rejection> {
    let value = settings.value(record)?;
    let row = read_row(value, &ORDERS.record, settings, TimestampForm::Local)?;
    let update_ts = row.time(FIELDS.update_ts).as_microsecond();
    settings.check_clock_skew("/payload/update_ts", update_ts, now)?;
    let version = Version::new(
        update_ts,
        row.text(FIELDS.status),
        Some(row.time(FIELDS.sent).as_microsecond()),
        version::digest(value),
    );
    Ok(Order { row, version })
}
