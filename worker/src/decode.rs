//! Decodes a record into a typed message and checks the rules that a type cannot express.
//!
//! [`crate::reader`] reads a message into a row; the entries of the reference data and the facts are scanned strictly, and
//! parsed into types with a JSON pointer on failure. Never reads a clock: the caller passes the time. Second step of a
//! batch, after consume.

use std::fmt::Display;

use crds::contract::{MAX_ITEMS, Money, ORDER_OBJECT_TYPE};
use crds::timestamp::Timestamp;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use serde::Deserialize;

use crate::record::Record;
use crate::rejection::{Code, Rejection};
use crate::strict;
use crate::version::{self, DIGEST_HEADER, VERSION_HEADER, VERSION_LENGTH, Version};

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
    /// Those of [`Self::value`], or the codes of [`strict::check`].
    pub fn json_text<'r>(&self, record: &'r Record) -> Result<&'r str, Rejection> {
        strict::check(self.value(record)?)
    }

    /// Returns the record's value.
    ///
    /// # Errors
    /// `Undecodable`, `Tombstone`, `TooLarge`, or `ContractViolation` for a header name that is not UTF-8.
    pub fn value<'r>(&self, record: &'r Record) -> Result<&'r [u8], Rejection> {
        if let Some(omission) = &record.omission {
            return Err(omission.rejection());
        }
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
        Ok(value)
    }

    /// Parses a timestamp of the source, which has no UTC offset, in the time zone of the stage.
    ///
    /// # Errors
    /// `InvalidTimestamp` unless the text is a date and time of the years 1 to 9999 that exists in the time zone.
    pub fn parse_source_timestamp(&self, pointer: impl Display, text: &str) -> Result<Timestamp, Rejection> {
        Timestamp::parse_local(text, &self.timezone).map_err(|cause| invalid_timestamp(pointer, cause))
    }

    /// Parses a timestamp of a message between the stages. The time zone of the stage applies to a text without UTC
    /// offset, as other producers and former versions write it.
    ///
    /// # Errors
    /// `InvalidTimestamp`, as [`Self::parse_source_timestamp`].
    pub fn parse_timestamp(&self, pointer: impl Display, text: &str) -> Result<Timestamp, Rejection> {
        Timestamp::parse(text, &self.timezone).map_err(|cause| invalid_timestamp(pointer, cause))
    }

    /// Parses the time of a reference data entry. `now` is in microseconds since the Unix epoch. `None` for another
    /// text, and for a time after `now` plus the permitted clock skew: an entry of the far future would remain the current
    /// one forever.
    #[must_use]
    pub fn entry_time(&self, text: &str, now: i64) -> Option<Timestamp> {
        let time = Timestamp::parse(text, &self.timezone).ok()?;
        self.check_clock_skew("", time.as_microsecond(), now).ok()?;
        Some(time)
    }

    /// Checks the `update_ts` that orders the versions against the clock: later versions would lose to one of the far
    /// future. `now` is in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// `InvalidTimestamp` for a time after `now` plus the permitted clock skew.
    pub fn check_clock_skew(&self, pointer: &str, update_ts: i64, now: i64) -> Result<(), Rejection> {
        if update_ts > now.saturating_add(self.max_clock_skew_micros) {
            let cause = "further in the future than limits.maxClockSkew";
            return Err(invalid_timestamp(pointer, cause));
        }
        Ok(())
    }
}

fn invalid_timestamp(pointer: impl Display, cause: impl Display) -> Rejection {
    Rejection::new(Code::InvalidTimestamp, format!("{pointer}: {cause}"))
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
    located_rejection(error.path(), error.inner())
}

/// Converts an error of a typed parse at `path` into a rejection.
pub(crate) fn located_rejection(path: &serde_path_to_error::Path, error: &serde_json::Error) -> Rejection {
    let (pointer, message) = (json_pointer(path), error.to_string());
    let cause = message.split(" at line ").next().unwrap_or(&message);
    // The integers and amounts of the contract name this cause.
    let code = if cause.starts_with("number out of range") {
        Code::NumberOutOfRange
    } else {
        Code::ContractViolation
    };
    Rejection::new(code, format!("{pointer}: {cause}"))
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

/// Returns the version of a message between the stages. `update_ts`, `status` and `value` are those of the message; they
/// are used if the message does not carry its version.
///
/// # Errors
/// `ContractViolation` if [`VERSION_HEADER`] or [`DIGEST_HEADER`] is not the right number of hexadecimal digits.
pub fn message_version(
    record: &Record,
    update_ts: i64,
    status: &str,
    value: &[u8],
) -> Result<Version, Rejection> {
    if let Some(header) = record.header(VERSION_HEADER) {
        return Version::from_header(header).ok_or_else(|| invalid_header(VERSION_HEADER, VERSION_LENGTH));
    }
    let digest = match record.header(DIGEST_HEADER) {
        // Another producer: its value takes the place of the source record's.
        None => version::digest(value),
        Some(header) => version::from_hex(header).ok_or_else(|| invalid_header(DIGEST_HEADER, 32))?,
    };
    Ok(Version::new(update_ts, status, None, digest))
}

fn invalid_header(name: &str, bytes: usize) -> Rejection {
    Rejection::contract_violation(
        "",
        &format!("header {name} is not {} hexadecimal digits", 2 * bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Header;
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
            let timestamp = settings(zone).parse_source_timestamp("/date", text);
            timestamp.map(|timestamp| timestamp.as_microsecond())
        };
        assert_eq!(parse("UTC", "1970-01-01 00:00:01"), Ok(1_000_000));
        assert_eq!(parse("Europe/Moscow", "1970-01-01 03:00:01.5"), Ok(1_500_000));
        for (invalid, cause) in [
            (
                "2024-02-30 12:00:00",
                "not a date and time like 2024-02-24 12:00:05",
            ),
            (
                "2024-02-24T12:00:05Z",
                "not a date and time like 2024-02-24 12:00:05",
            ),
            ("2024-03-31 02:30:00", "this time does not exist in the time zone"),
        ] {
            let rejection = parse("Europe/Berlin", invalid).expect_err(invalid);
            assert_eq!(rejection.code, Code::InvalidTimestamp, "{invalid}");
            assert!(
                rejection.detail.starts_with(&format!("/date: {cause}")),
                "{rejection}"
            );
        }
    }

    #[test]
    fn a_utc_offset_between_the_stages_takes_precedence_over_the_time_zone() {
        let parse = |text: &str| {
            let timestamp = settings("Europe/Moscow").parse_timestamp("/date", text);
            timestamp.map(|timestamp| timestamp.as_microsecond())
        };
        assert_eq!(parse("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert_eq!(parse("1970-01-01 03:00:01"), Ok(1_000_000));
        let rejection = parse("1970-01-01 03:00:01Z").expect_err("RFC 3339 separates with T");
        assert_eq!(rejection.code, Code::InvalidTimestamp);
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
        assert_eq!(settings.check_clock_skew("/u", 2_000_000, 1_000_000), Ok(()));
        assert_eq!(settings.check_clock_skew("/u", i64::MAX, i64::MAX), Ok(()));
        let rejection = settings
            .check_clock_skew("/u", 2_000_000, 999_999)
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
    fn a_negative_number_and_too_many_lines_are_rejected() {
        let code = |result: Result<(), Rejection>| result.map_err(|rejection| rejection.code);
        assert_eq!(code(check_not_negative("/object_id", 0)), Ok(()));
        assert_eq!(
            code(check_not_negative("/object_id", -1)),
            Err(Code::ContractViolation)
        );
        assert_eq!(code(check_line_count("/lines", MAX_ITEMS)), Ok(()));
        assert_eq!(
            code(check_line_count("/lines", MAX_ITEMS + 1)),
            Err(Code::TooLarge)
        );
    }

    #[test]
    fn a_value_may_have_the_maximum_size() {
        let mut settings = settings("UTC");
        let record = Record {
            value: Some(b"{\"a\": 1}".to_vec()),
            ..Record::default()
        };
        settings.max_record_bytes = 8;
        assert!(settings.json_text(&record).is_ok());
        settings.max_record_bytes = 7;
        let rejection = settings.json_text(&record).expect_err("too large");
        assert_eq!(rejection.code, Code::TooLarge);
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
        assert_starts_with(
            &message("1", "[\"u\"]", "1", "1"),
            "ContractViolation: /payload/user: invalid type: sequence, expected a JSON object",
        );
        assert_eq!(rejection_text(&message("1e2", user, "1.5e1", "-0")), None);
    }

    #[test]
    fn another_object_type_is_unsupported_regardless_of_its_fields() {
        let rejection =
            parse_typed::<OrderEvent>(r#"{"object_type": "bill"}"#).expect_err("a bill is not an order");
        assert_eq!(rejection.code, Code::UnsupportedType);
    }

    #[test]
    fn a_message_has_the_version_of_its_header() {
        let version = |headers: &[(&str, &str)]| {
            let headers = headers.iter().map(|(name, value)| Header::text(name, value));
            let record = Record {
                headers: headers.collect(),
                ..Record::default()
            };
            message_version(&record, 5, "OPEN", b"{}").map_err(|rejection| rejection.code)
        };
        let digest = "07".repeat(32);
        let sent = Version::new(6, "CLOSED", Some(8), [9; 32]);
        let header = sent.to_header();
        assert_eq!(
            version(&[]),
            Ok(Version::new(5, "OPEN", None, version::digest(b"{}")))
        );
        let former = Version::new(5, "OPEN", None, [7; 32]);
        assert_eq!(version(&[(DIGEST_HEADER, &digest)]), Ok(former));
        assert_eq!(version(&[(VERSION_HEADER, &header)]), Ok(sent));
        assert_eq!(
            version(&[(VERSION_HEADER, &header), (DIGEST_HEADER, &digest)]),
            Ok(sent)
        );
        for invalid in [
            (DIGEST_HEADER, "7"),
            (DIGEST_HEADER, &header),
            (VERSION_HEADER, &digest),
        ] {
            assert_eq!(version(&[invalid]), Err(Code::ContractViolation), "{invalid:?}");
        }
    }
}
