//! Decodes a record into a typed message and checks the rules that a type cannot express.
//!
//! All layers share these steps: the strict scan, the typed parse with a JSON pointer on failure, and the checks of
//! identifiers, amounts and timestamps. Never reads a clock: the caller passes the time. Second step of a batch,
//! after consume.

use std::fmt::Display;

use crds::contract::{Money, ORDER_OBJECT_TYPE};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use serde::Deserialize;

use crate::record::Record;
use crate::rejection::{Code, Rejection};
use crate::{strict, version};

/// Maximum number of lines of one order.
pub const MAX_ITEMS: usize = 10_000;

/// Header that carries the digest of the source record from layer to layer, as 64 hexadecimal digits.
///
/// It makes all layers order the versions of an order in the same way. Without it, the digest of the record's own
/// value is used.
pub const DIGEST_HEADER: &str = "streamstage-digest";

/// Smallest amount of money that `numeric(19,5)` cannot store: 10^14.
const MONEY_LIMIT: Decimal = Decimal::from_parts(276_447_232, 23_283, 0, false, 0);
/// Maximum number of decimal places that `numeric(19,5)` stores without rounding.
const MONEY_SCALE: u32 = 5;

/// Settings of a stage that decide which values it accepts.
#[derive(Clone, Debug)]
pub struct DecodeSettings {
    /// Time zone for timestamps, whose text has no zone.
    pub timezone: TimeZone,
    /// Maximum size of a value, in bytes. Key and headers do not count, because a redrive adds a header.
    pub max_record_bytes: usize,
    /// Maximum distance of an `update_ts` ahead of the worker's clock, in microseconds.
    pub max_clock_skew_micros: i64,
}

impl DecodeSettings {
    /// Returns the record's value as text that is one JSON object.
    ///
    /// # Errors
    /// `Tombstone`, `TooLarge`, `ContractViolation` for a header name that is not UTF-8, or the codes of
    /// [`strict::check`].
    pub fn json_text<'r>(&self, record: &'r Record) -> Result<&'r str, Rejection> {
        if record.unreadable_headers > 0 {
            let rule = format!(
                "{} headers have names that are not UTF-8; they are not part of this dead letter",
                record.unreadable_headers
            );
            return Err(Rejection::contract_violation("", &rule));
        }
        let value = record.value.as_deref().ok_or_else(|| {
            Rejection::new(
                Code::Tombstone,
                "the value is null; stages do not delete on a tombstone",
            )
        })?;
        if value.len() > self.max_record_bytes {
            let detail = format!(
                "{} bytes, limits.maxRecordBytes is {}",
                value.len(),
                self.max_record_bytes
            );
            return Err(Rejection::new(Code::TooLarge, detail));
        }
        strict::check(value)
    }

    /// Parses a timestamp without a time zone into microseconds since the Unix epoch.
    ///
    /// # Errors
    /// `InvalidTimestamp` unless the text is a date and time of the years 1 to 9999.
    pub fn parse_timestamp(&self, pointer: &str, text: &str) -> Result<i64, Rejection> {
        let reject = |cause: &str| Rejection::new(Code::InvalidTimestamp, format!("{pointer}: {cause}"));
        let local: DateTime = is_date_and_time(text)
            .then(|| text.parse().ok())
            .flatten()
            .ok_or_else(|| reject("not a date and time like 2024-02-24 12:00:05 (without a time zone)"))?;
        if local.year() < 1 {
            return Err(reject("before the year 1"));
        }
        let instant = self
            .timezone
            .to_timestamp(local)
            .map_err(|_| reject("outside the years 1 to 9999"))?;
        Ok(instant.as_microsecond())
    }

    /// Parses the `update_ts` that orders the versions, like [`Self::parse_timestamp`]. `now` is in microseconds
    /// since the Unix epoch.
    ///
    /// # Errors
    /// `InvalidTimestamp`, also for a time after `now` plus the permitted clock skew.
    pub fn parse_update_ts(&self, pointer: &str, text: &str, now: i64) -> Result<i64, Rejection> {
        let instant = self.parse_timestamp(pointer, text)?;
        if instant > now.saturating_add(self.max_clock_skew_micros) {
            let detail = format!("{pointer}: further in the future than limits.maxClockSkew");
            return Err(Rejection::new(Code::InvalidTimestamp, detail));
        }
        Ok(instant)
    }
}

/// Returns true if the text has the form `2024-02-24 12:00:05`, optionally with `T` as separator or with a fraction.
///
/// The parser of `jiff` accepts more and changes the value: it drops an offset, adds a missing time, and lowers a
/// 60th second.
fn is_date_and_time(text: &str) -> bool {
    const SHAPE: &[u8; 19] = b"0000-00-00 00:00:00";
    let Some((plain, rest)) = text.as_bytes().split_first_chunk::<19>() else {
        return false;
    };
    let matches_shape = |(byte, shape): (&u8, &u8)| match shape {
        b'0' => byte.is_ascii_digit(),
        b' ' => matches!(byte, b' ' | b'T'),
        other => byte == other,
    };
    let is_fraction = match rest {
        [] => true,
        [b'.', digits @ ..] => (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    plain.iter().zip(SHAPE).all(matches_shape) && plain[17] < b'6' && is_fraction
}

/// Parses `text` as a typed message.
///
/// # Errors
/// `UnsupportedType` for another object type, `NumberOutOfRange` for a number that its field cannot hold,
/// `ContractViolation` with the JSON pointer for anything else.
pub fn parse_typed<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, Rejection> {
    serde_json::from_str(text).map_err(|_| diagnose::<T>(text))
}

/// Parses again with path tracking to find the location and the cause. It is slow, so only bad messages pay for it.
fn diagnose<'t, T: Deserialize<'t>>(text: &'t str) -> Rejection {
    #[derive(Deserialize)]
    struct Envelope {
        object_type: String,
    }
    if let Ok(envelope) = serde_json::from_str::<Envelope>(text)
        && let Err(rejection) = check_object_type(&envelope.object_type)
    {
        return rejection;
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let Err(error) = serde_path_to_error::deserialize::<_, T>(&mut deserializer) else {
        return Rejection::contract_violation(
            "",
            "rejected by the parser but accepted with path tracking; report this as a bug",
        );
    };
    let pointer = json_pointer(error.path());
    let message = error.inner().to_string();
    let cause = message.split(" at line ").next().unwrap_or(&message);
    let code = if is_out_of_range(cause) {
        Code::NumberOutOfRange
    } else {
        Code::ContractViolation
    };
    Rejection::new(code, format!("{pointer}: {cause}"))
}

/// Returns true if serde's `cause` is a number that exceeds the range of a numeric field.
///
/// An integer field rejects an integral number only for its range. An amount rejects a number only if it has too many
/// digits or is too large.
fn is_out_of_range(cause: &str) -> bool {
    let expects_integer = cause.ends_with("expected i64") || cause.ends_with("expected i32");
    let number = cause
        .split('`')
        .nth(1)
        .and_then(|number| number.parse::<f64>().ok());
    expects_integer && number.is_some_and(|number| number.fract() == 0.0)
        || cause.starts_with("number out of range")
}

/// Formats a path of serde's as a JSON pointer (RFC 6901).
fn json_pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let segment = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { variant } => format!("/{variant}"),
        Segment::Unknown => "/?".to_owned(),
    };
    path.iter().map(segment).collect()
}

/// Rejects every object type but `order`.
///
/// # Errors
/// `UnsupportedType`.
pub fn check_object_type(object_type: &str) -> Result<(), Rejection> {
    if object_type == ORDER_OBJECT_TYPE {
        return Ok(());
    }
    Err(Rejection::new(
        Code::UnsupportedType,
        "/object_type: only the type \"order\" is supported",
    ))
}

/// Rejects a negative number.
///
/// # Errors
/// `ContractViolation` with the pointer.
pub fn check_not_negative(pointer: impl Display, number: i64) -> Result<(), Rejection> {
    if number < 0 {
        Err(Rejection::contract_violation(pointer, "must not be negative"))
    } else {
        Ok(())
    }
}

/// Rejects an amount that is negative or that `numeric(19,5)` would round.
///
/// # Errors
/// `ContractViolation` or `NumberOutOfRange` with the pointer.
pub fn check_amount(pointer: impl Display, money: &Money) -> Result<(), Rejection> {
    let amount = money.0.normalize();
    if amount.is_sign_negative() && !amount.is_zero() {
        return Err(Rejection::contract_violation(pointer, "must not be negative"));
    }
    if amount >= MONEY_LIMIT || amount.scale() > MONEY_SCALE {
        let detail = format!("{pointer}: at most 14 digits before the point and {MONEY_SCALE} after it");
        return Err(Rejection::new(Code::NumberOutOfRange, detail));
    }
    Ok(())
}

/// Rejects an order with more lines than [`MAX_ITEMS`].
///
/// # Errors
/// `TooLarge` with the pointer.
pub fn check_line_count(pointer: &str, lines: usize) -> Result<(), Rejection> {
    if lines <= MAX_ITEMS {
        return Ok(());
    }
    Err(Rejection::new(
        Code::TooLarge,
        format!("{pointer}: {lines} items, the maximum is {MAX_ITEMS}"),
    ))
}

/// Returns the digest that distinguishes this message from others of the same order, time and status.
///
/// # Errors
/// `ContractViolation` if [`DIGEST_HEADER`] is set and is not 64 hexadecimal digits.
pub fn source_digest(record: &Record, value: &str) -> Result<[u8; 32], Rejection> {
    match record.header(DIGEST_HEADER) {
        None => Ok(version::digest(value.as_bytes())),
        Some(header) => from_hex(header).ok_or_else(|| {
            Rejection::contract_violation(
                "",
                &format!("header {DIGEST_HEADER} is not 64 hexadecimal digits"),
            )
        }),
    }
}

/// Formats bytes as lower-case hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

fn from_hex(text: &[u8]) -> Option<[u8; 32]> {
    let nibble = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let bytes: Option<Vec<u8>> = text
        .chunks(2)
        .map(|pair| Some(nibble(*pair.first()?)? << 4 | nibble(*pair.get(1)?)?))
        .collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::contract::OrderEvent;

    fn settings(zone: &str) -> DecodeSettings {
        let timezone = TimeZone::get(zone).expect("a time zone of the IANA database");
        DecodeSettings {
            timezone,
            max_record_bytes: 1 << 20,
            max_clock_skew_micros: 0,
        }
    }

    #[test]
    fn a_timestamp_is_parsed_in_the_time_zone_of_the_stage() {
        let parse = |zone: &str, text: &str| {
            settings(zone)
                .parse_timestamp("/date", text)
                .map_err(|rejection| rejection.code)
        };
        assert_eq!(parse("UTC", "1970-01-01 00:00:01"), Ok(1_000_000));
        assert_eq!(parse("Europe/Moscow", "1970-01-01 03:00:01.5"), Ok(1_500_000));
        assert_eq!(parse("UTC", "1970-01-01T00:00:01.000001"), Ok(1_000_001));
        for impossible in [
            "2024-02-30 12:00:00",
            "yesterday",
            "",
            "2024-02-24 12:00:05Z",
            "-0001-01-01 00:00:00",
            "0000-01-01 00:00:00",
        ] {
            assert_eq!(
                parse("UTC", impossible),
                Err(Code::InvalidTimestamp),
                "{impossible}"
            );
        }
    }

    #[test]
    fn a_timestamp_has_one_format() {
        for other in [
            "2024-02-24 12:00:05+03:00",
            "2024-02-24 12:00:05-00",
            "2024-02-24T12:00:05[Europe/Moscow]",
            "2024-02-24",
            "2024-02-24 12",
            "2024-02-24 12:00",
            "2024-02-24 12:00:60",
            "2024-02-24 12:00:05.",
            "2024-02-24 12:00:05,5",
            "2024-02-24 12:00:05.0000000001",
            "2024-02-24t12:00:05",
            "20240224 120005",
            "20240224T120005.000",
            "+002024-02-24 12:00:05",
            " 2024-02-24 12:00:05",
            "2024-02-24 12:00:05 ",
            "2024-02-24 24:00:00",
        ] {
            let parsed = settings("UTC").parse_timestamp("/date", other);
            assert_eq!(
                parsed.map_err(|rejection| rejection.code),
                Err(Code::InvalidTimestamp),
                "{other}"
            );
        }
    }

    #[test]
    fn a_record_with_a_header_name_that_is_not_utf_8_is_rejected() {
        let mut record = Record {
            value: Some(b"{}".to_vec()),
            ..Record::default()
        };
        assert_eq!(settings("UTC").json_text(&record), Ok("{}"));
        record.unreadable_headers = 1;
        let rejection = settings("UTC")
            .json_text(&record)
            .expect_err("a header name is unreadable");
        assert_eq!(rejection.code, Code::ContractViolation);
    }

    #[test]
    fn an_update_beyond_the_clock_skew_is_rejected() {
        let mut settings = settings("UTC");
        settings.max_clock_skew_micros = 1_000_000;
        assert_eq!(
            settings.parse_update_ts("/u", "1970-01-01 00:00:02", 1_000_000),
            Ok(2_000_000)
        );
        let rejection = settings
            .parse_update_ts("/u", "1970-01-01 00:00:02", 999_999)
            .expect_err("too far ahead");
        assert_eq!(rejection.code, Code::InvalidTimestamp);
    }

    #[test]
    fn an_amount_that_the_column_would_round_is_rejected() {
        let check = |text: &str| {
            check_amount("/cost", &Money(text.parse().expect("a decimal")))
                .map_err(|rejection| rejection.code)
        };
        assert_eq!(check("99999999999999.99999"), Ok(()));
        assert_eq!(check("1.500000"), Ok(()));
        assert_eq!(check("100000000000000"), Err(Code::NumberOutOfRange));
        assert_eq!(check("0.000001"), Err(Code::NumberOutOfRange));
        assert_eq!(check("-0.5"), Err(Code::ContractViolation));
    }

    #[test]
    fn a_failed_parse_names_the_pointer_and_the_code() {
        let message = |object_id: &str, user: &str, cost: &str, quantity: &str| {
            format!(
                r#"{{"object_id":{object_id},"object_type":"order","sent_dttm":"2024-02-24 12:00:05","payload":{{
                "restaurant":{{"id":"r"}},"user":{user},"date":"2024-02-24 12:00:05","cost":{cost},"payment":1,
                "order_items":[{{"id":"p","name":"n","price":1,"quantity":{quantity}}}],
                "final_status":"CLOSED","update_ts":"2024-02-24 12:00:05"}}}}"#
            )
        };
        let rejection_text = |text: &str| {
            parse_typed::<OrderEvent>(text)
                .err()
                .map(|rejection| rejection.to_string())
        };
        let assert_starts_with = |text: &str, expected: &str| {
            let actual = rejection_text(text).unwrap_or_default();
            assert!(
                actual.starts_with(expected),
                "{actual:?} should start with {expected:?}"
            );
        };
        let user = r#"{"id":"u"}"#;
        assert_eq!(rejection_text(&message("1", user, "1.5", "1")), None);
        assert_starts_with(
            &message("1", "{}", "1", "1"),
            "ContractViolation: /payload/user: missing field `id`",
        );
        assert_starts_with(
            &message("\"1\"", user, "1", "1"),
            "ContractViolation: /object_id: invalid type: string",
        );
        assert_starts_with(
            &message("1", r#"{"id":7}"#, "1", "1"),
            "ContractViolation: /payload/user/id: invalid type: integer",
        );
        assert_starts_with(
            &message("1", user, "1", "1.5"),
            "ContractViolation: /payload/order_items/0/quantity",
        );
        assert_starts_with(
            &message("1", user, "\"1\"", "1"),
            "ContractViolation: /payload/cost",
        );
        assert_starts_with(
            &message("1", user, "1e40", "1"),
            "NumberOutOfRange: /payload/cost",
        );
        assert_starts_with(
            &message("1", user, "1", "3000000000"),
            "NumberOutOfRange: /payload/order_items/0/quantity",
        );
        assert_starts_with(
            &message("99999999999999999999", user, "1", "1"),
            "NumberOutOfRange: /object_id",
        );
    }

    #[test]
    fn another_object_type_is_unsupported_regardless_of_its_fields() {
        let rejection =
            parse_typed::<OrderEvent>(r#"{"object_type": "bill"}"#).expect_err("a bill is not an order");
        assert_eq!(rejection.code, Code::UnsupportedType);
    }

    #[test]
    fn a_digest_round_trips_through_the_header() {
        let digest = version::digest(b"value");
        assert_eq!(from_hex(to_hex(&digest).as_bytes()), Some(digest));
        assert_eq!(from_hex(b"abc"), None);
        assert_eq!(from_hex("й".repeat(32).as_bytes()), None);
    }

    #[test]
    fn the_digest_header_overrides_the_digest_of_the_value() {
        let mut record = Record::default();
        assert_eq!(source_digest(&record, "{}"), Ok(version::digest(b"{}")));
        record.headers = vec![crate::record::Header::text(DIGEST_HEADER, &to_hex(&[7; 32]))];
        assert_eq!(source_digest(&record, "{}"), Ok([7; 32]));
        record.headers = vec![crate::record::Header::text(DIGEST_HEADER, "7")];
        let rejection = source_digest(&record, "{}").expect_err("not a digest");
        assert_eq!(rejection.code, Code::ContractViolation);
    }
}
