//! From bytes to a typed message, and the rules that a type cannot express.
//!
//! What all layers share: the strict scan, the typed parse with a JSON pointer on failure, and the checks of
//! identifiers, amounts and timestamps. Pure: the time is passed in. Second step of a batch, after consume.

use std::fmt::Display;

use crds::contract::{Money, ORDER};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use serde::Deserialize;

use crate::record::Record;
use crate::rejection::{Code, Rejection};
use crate::{strict, version};

/// Lines that one order may have.
pub const MAX_ITEMS: usize = 10_000;

/// Header that carries the digest of the source record from layer to layer, as 64 hexadecimal digits, so that
/// all layers order the versions of an order in the same way. A producer that sets none gets the digest of its
/// own value.
pub const DIGEST_HEADER: &str = "streamstage-digest";

/// Largest amount of money and largest number of decimal places that `numeric(19,5)` holds.
const MONEY_LIMIT: Decimal = Decimal::from_parts(276_447_232, 23_283, 0, false, 0);
const MONEY_SCALE: u32 = 5;

/// What a stage's settings say about the values that it accepts.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Zone in which timestamps without a zone are read.
    pub timezone: TimeZone,
    /// Largest value, in bytes. Key and headers do not count: a redrive adds one.
    pub max_record_bytes: usize,
    /// How far ahead of the worker's clock an `update_ts` may be, in microseconds.
    pub max_clock_skew: i64,
}

impl Rules {
    /// The record's value as text that is one JSON object.
    ///
    /// # Errors
    /// `Tombstone`, `TooLarge`, `ContractViolation` for a header without a readable name, or what
    /// [`strict::check`] finds.
    pub fn text<'r>(&self, record: &'r Record) -> Result<&'r str, Rejection> {
        if record.unreadable_headers > 0 {
            let rule = format!(
                "{} headers have names that are not UTF-8; they are left out here",
                record.unreadable_headers
            );
            return Err(Rejection::contract("", &rule));
        }
        let value = record.value.as_deref().ok_or_else(|| {
            Rejection::new(
                Code::Tombstone,
                "the value is null; a tombstone deletes nothing here",
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

    /// A timestamp without a zone, in microseconds since the Unix epoch.
    ///
    /// # Errors
    /// `BadTimestamp` when the text is no date and time of the years 1 to 9999.
    pub fn timestamp(&self, pointer: &str, text: &str) -> Result<i64, Rejection> {
        let refuse = |cause: &str| Rejection::new(Code::BadTimestamp, format!("{pointer}: {cause}"));
        let local: DateTime = is_date_and_time(text)
            .then(|| text.parse().ok())
            .flatten()
            .ok_or_else(|| refuse("not a date and time like 2024-02-24 12:00:05 (no zone)"))?;
        if local.year() < 1 {
            return Err(refuse("before the year 1"));
        }
        let instant = self
            .timezone
            .to_timestamp(local)
            .map_err(|_| refuse("outside the years 1 to 9999"))?;
        Ok(instant.as_microsecond())
    }

    /// Like [`Self::timestamp`], for the `update_ts` that orders the versions.
    ///
    /// # Errors
    /// `BadTimestamp` also when it is further ahead of `now` than the clocks may differ.
    pub fn update_ts(&self, pointer: &str, text: &str, now: i64) -> Result<i64, Rejection> {
        let instant = self.timestamp(pointer, text)?;
        if instant > now.saturating_add(self.max_clock_skew) {
            let detail = format!("{pointer}: further in the future than limits.maxClockSkew");
            return Err(Rejection::new(Code::BadTimestamp, detail));
        }
        Ok(instant)
    }
}

/// Whether the text looks like `2024-02-24 12:00:05`, with `T` between or a fraction behind. A parse alone takes more
/// than that, and makes something else of it: it drops an offset, adds a missing time, and lowers a 60th second.
fn is_date_and_time(text: &str) -> bool {
    const SHAPE: &[u8; 19] = b"0000-00-00 00:00:00";
    let Some((plain, rest)) = text.as_bytes().split_first_chunk::<19>() else {
        return false;
    };
    let fits = |(byte, shape): (&u8, &u8)| match shape {
        b'0' => byte.is_ascii_digit(),
        b' ' => matches!(byte, b' ' | b'T'),
        other => byte == other,
    };
    let fraction = match rest {
        [] => true,
        [b'.', digits @ ..] => (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    plain.iter().zip(SHAPE).all(fits) && plain[17] < b'6' && fraction
}

/// The typed message in `text`.
///
/// # Errors
/// `UnsupportedType` for another object type, `NumberOutOfRange` for a number that its field cannot hold,
/// `ContractViolation` with the JSON pointer for anything else.
pub fn typed<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, Rejection> {
    serde_json::from_str(text).map_err(|_| explain::<T>(text))
}

/// Parses once more, slowly, to say where and why: only bad messages pay for it.
fn explain<'t, T: Deserialize<'t>>(text: &'t str) -> Rejection {
    #[derive(Deserialize)]
    struct Envelope {
        object_type: String,
    }
    if let Ok(envelope) = serde_json::from_str::<Envelope>(text)
        && let Err(rejection) = supported(&envelope.object_type)
    {
        return rejection;
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let Err(error) = serde_path_to_error::deserialize::<_, T>(&mut deserializer) else {
        return Rejection::contract(
            "",
            "refused by one parse and accepted by the next; please report it",
        );
    };
    let pointer = pointer(error.path());
    let message = error.inner().to_string();
    let cause = message.split(" at line ").next().unwrap_or(&message);
    let code = if out_of_range(cause) {
        Code::NumberOutOfRange
    } else {
        Code::ContractViolation
    };
    Rejection::new(code, format!("{pointer}: {cause}"))
}

/// Whether serde's `cause` is that a number does not fit where a number is wanted: an integral number is refused
/// by an integer for its range alone, and an amount that is a number only because it is too long or too large.
fn out_of_range(cause: &str) -> bool {
    let integer_wanted = cause.ends_with("expected i64") || cause.ends_with("expected i32");
    let number = cause
        .split('`')
        .nth(1)
        .and_then(|number| number.parse::<f64>().ok());
    integer_wanted && number.is_some_and(|number| number.fract() == 0.0)
        || cause.starts_with("number out of range")
}

/// A path of serde's as a JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let segment = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { variant } => format!("/{variant}"),
        Segment::Unknown => "/?".to_owned(),
    };
    path.iter().map(segment).collect()
}

/// Refuses every object type but `order`.
///
/// # Errors
/// `UnsupportedType`.
pub fn supported(object_type: &str) -> Result<(), Rejection> {
    if object_type == ORDER {
        return Ok(());
    }
    Err(Rejection::new(
        Code::UnsupportedType,
        "/object_type: this stage knows the type \"order\" alone",
    ))
}

/// Refuses a negative number.
///
/// # Errors
/// `ContractViolation` with the pointer.
pub fn not_negative(pointer: impl Display, number: i64) -> Result<(), Rejection> {
    if number < 0 {
        Err(Rejection::contract(pointer, "must not be negative"))
    } else {
        Ok(())
    }
}

/// Refuses an amount that is negative or that `numeric(19,5)` would round.
///
/// # Errors
/// `ContractViolation` or `NumberOutOfRange` with the pointer.
pub fn amount(pointer: impl Display, money: &Money) -> Result<(), Rejection> {
    let amount = money.0.normalize();
    if amount.is_sign_negative() && !amount.is_zero() {
        return Err(Rejection::contract(pointer, "must not be negative"));
    }
    if amount >= MONEY_LIMIT || amount.scale() > MONEY_SCALE {
        let detail = format!("{pointer}: at most 14 digits before the point and {MONEY_SCALE} after it");
        return Err(Rejection::new(Code::NumberOutOfRange, detail));
    }
    Ok(())
}

/// Refuses an order with more lines than [`MAX_ITEMS`].
///
/// # Errors
/// `TooLarge` with the pointer.
pub fn few_enough(pointer: &str, lines: usize) -> Result<(), Rejection> {
    if lines <= MAX_ITEMS {
        return Ok(());
    }
    Err(Rejection::new(
        Code::TooLarge,
        format!("{pointer}: {lines} items, at most {MAX_ITEMS} are taken"),
    ))
}

/// The digest that tells this message from others of the same order, time and status.
///
/// # Errors
/// `ContractViolation` when [`DIGEST_HEADER`] is there and is not 64 hexadecimal digits.
pub fn source_digest(record: &Record, value: &str) -> Result<[u8; 32], Rejection> {
    match record.header(DIGEST_HEADER) {
        None => Ok(version::digest(value.as_bytes())),
        Some(header) => from_hex(header).ok_or_else(|| {
            Rejection::contract(
                "",
                &format!("header {DIGEST_HEADER} is not 64 hexadecimal digits"),
            )
        }),
    }
}

/// Bytes as hexadecimal digits in lower case.
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

    fn rules(zone: &str) -> Rules {
        let timezone = TimeZone::get(zone).expect("a zone of the IANA database");
        Rules {
            timezone,
            max_record_bytes: 1 << 20,
            max_clock_skew: 0,
        }
    }

    #[test]
    fn a_timestamp_is_read_in_the_zone_of_the_stage() {
        let read = |zone: &str, text: &str| {
            rules(zone)
                .timestamp("/date", text)
                .map_err(|refused| refused.code)
        };
        assert_eq!(read("UTC", "1970-01-01 00:00:01"), Ok(1_000_000));
        assert_eq!(read("Europe/Moscow", "1970-01-01 03:00:01.5"), Ok(1_500_000));
        assert_eq!(read("UTC", "1970-01-01T00:00:01.000001"), Ok(1_000_001));
        for impossible in [
            "2024-02-30 12:00:00",
            "yesterday",
            "",
            "2024-02-24 12:00:05Z",
            "-0001-01-01 00:00:00",
            "0000-01-01 00:00:00",
        ] {
            assert_eq!(read("UTC", impossible), Err(Code::BadTimestamp), "{impossible}");
        }
    }

    #[test]
    fn a_timestamp_has_one_shape() {
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
            let read = rules("UTC").timestamp("/date", other);
            assert_eq!(
                read.map_err(|refused| refused.code),
                Err(Code::BadTimestamp),
                "{other}"
            );
        }
    }

    #[test]
    fn a_record_with_a_header_whose_name_cannot_be_read_is_refused() {
        let mut record = Record {
            value: Some(b"{}".to_vec()),
            ..Record::default()
        };
        assert_eq!(rules("UTC").text(&record), Ok("{}"));
        record.unreadable_headers = 1;
        let refused = rules("UTC").text(&record).expect_err("a header is lost");
        assert_eq!(refused.code, Code::ContractViolation);
    }

    #[test]
    fn an_update_beyond_the_clock_skew_is_refused() {
        let mut rules = rules("UTC");
        rules.max_clock_skew = 1_000_000;
        assert_eq!(
            rules.update_ts("/u", "1970-01-01 00:00:02", 1_000_000),
            Ok(2_000_000)
        );
        let refused = rules
            .update_ts("/u", "1970-01-01 00:00:02", 999_999)
            .expect_err("too far ahead");
        assert_eq!(refused.code, Code::BadTimestamp);
    }

    #[test]
    fn an_amount_that_the_column_would_round_is_refused() {
        let read = |text: &str| {
            amount("/cost", &Money(text.parse().expect("a decimal"))).map_err(|refused| refused.code)
        };
        assert_eq!(read("99999999999999.99999"), Ok(()));
        assert_eq!(read("1.500000"), Ok(()));
        assert_eq!(read("100000000000000"), Err(Code::NumberOutOfRange));
        assert_eq!(read("0.000001"), Err(Code::NumberOutOfRange));
        assert_eq!(read("-0.5"), Err(Code::ContractViolation));
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
        let verdict = |text: &str| typed::<OrderEvent>(text).err().map(|refused| refused.to_string());
        let starts = |text: &str, expected: &str| {
            let verdict = verdict(text).unwrap_or_default();
            assert!(
                verdict.starts_with(expected),
                "{verdict:?} should start with {expected:?}"
            );
        };
        let user = r#"{"id":"u"}"#;
        assert_eq!(verdict(&message("1", user, "1.5", "1")), None);
        starts(
            &message("1", "{}", "1", "1"),
            "ContractViolation: /payload/user: missing field `id`",
        );
        starts(
            &message("\"1\"", user, "1", "1"),
            "ContractViolation: /object_id: invalid type: string",
        );
        starts(
            &message("1", r#"{"id":7}"#, "1", "1"),
            "ContractViolation: /payload/user/id: invalid type: integer",
        );
        starts(
            &message("1", user, "1", "1.5"),
            "ContractViolation: /payload/order_items/0/quantity",
        );
        starts(
            &message("1", user, "\"1\"", "1"),
            "ContractViolation: /payload/cost",
        );
        starts(
            &message("1", user, "1e40", "1"),
            "NumberOutOfRange: /payload/cost",
        );
        starts(
            &message("1", user, "1", "3000000000"),
            "NumberOutOfRange: /payload/order_items/0/quantity",
        );
        starts(
            &message("99999999999999999999", user, "1", "1"),
            "NumberOutOfRange: /object_id",
        );
    }

    #[test]
    fn another_type_of_object_is_unsupported_whatever_its_fields() {
        let refused = typed::<OrderEvent>(r#"{"object_type": "bill"}"#).expect_err("a bill is no order");
        assert_eq!(refused.code, Code::UnsupportedType);
    }

    #[test]
    fn a_digest_survives_the_header() {
        let digest = version::digest(b"value");
        assert_eq!(from_hex(to_hex(&digest).as_bytes()), Some(digest));
        assert_eq!(from_hex(b"abc"), None);
        assert_eq!(from_hex("й".repeat(32).as_bytes()), None);
    }

    #[test]
    fn the_header_decides_over_the_digest_of_the_value() {
        let mut record = Record::default();
        assert_eq!(source_digest(&record, "{}"), Ok(version::digest(b"{}")));
        record.headers = vec![crate::record::Header::text(DIGEST_HEADER, &to_hex(&[7; 32]))];
        assert_eq!(source_digest(&record, "{}"), Ok([7; 32]));
        record.headers = vec![crate::record::Header::text(DIGEST_HEADER, "7")];
        let refused = source_digest(&record, "{}").expect_err("no digest");
        assert_eq!(refused.code, Code::ContractViolation);
    }
}
