//! Decodes an enriched order. Pure.

use crate::decode::{self, DecodeSettings};
use crate::layer::order_fields::FIELDS;
use crate::plan::ORDERS;
use crate::reader::{TimestampForm, fill_fallbacks, read_row};
use crate::record::Record;
use crate::rejection::Rejection;
use crate::vault::{Row, Value};
use crate::version::Version;

/// Enriched order that conforms to its contract.
#[derive(Clone, Debug)]
pub struct Order {
    /// Values of the order.
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
    let plan = &ORDERS.enriched;
    let mut row = read_row(value, &plan.layout, settings, TimestampForm::AnyOffset)?;
    // A producer that omits the time of the last update implies the order's date.
    let pointer = match row.record[FIELDS.update_ts] {
        Value::Null => "/payload/date",
        _ => "/payload/update_ts",
    };
    fill_fallbacks(&mut row, &plan.fallbacks);
    let update_ts = row.time(FIELDS.update_ts).as_microsecond();
    let version = decode::message_version(record, update_ts, row.text(FIELDS.status), value)?;
    settings.check_clock_skew(pointer, version.update_ts(), now)?;
    for (pointer, time) in ["/payload/user/update_ts", "/payload/restaurant/update_ts"]
        .into_iter()
        .zip(&row.entry_times)
    {
        let time = time.map_or(i64::MIN, |time| time.as_microsecond());
        settings.check_clock_skew(pointer, time, now)?;
    }
    Ok(Order { row, version })
}
