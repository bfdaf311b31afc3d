//! Timestamps in messages and stage files: parsed without guessing or rounding, and the patterns of their schemas.
//!
//! A parser accepts exactly the texts that its pattern matches: dates of the Gregorian calendar in the years 1 to 9999,
//! no 60th second, no 24th hour, and no digit after the microseconds, because PostgreSQL would round it.

use std::fmt;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use schemars::{Schema, SchemaGenerator, json_schema};

/// Pattern of a date that exists. Without look-ahead and `\d`, so that every regex engine reads it in the same way.
macro_rules! date_pattern {
    () => {
        concat!(
            "(?:(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})-",
            "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)",
            "|02-(?:0[1-9]|1[0-9]|2[0-8]))",
            "|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29)"
        )
    };
}

/// Pattern of a time of day, without its fraction.
macro_rules! time_pattern {
    () => {
        "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    };
}

/// Pattern of a fraction that microseconds represent exactly.
macro_rules! fraction_pattern {
    () => {
        "(?:\\.[0-9]{1,6}0{0,3})?"
    };
}

/// Pattern of a numeric UTC offset.
macro_rules! offset_pattern {
    () => {
        "[+-](?:[01][0-9]|2[0-3]):[0-5][0-9]"
    };
}

/// Pattern of a timestamp without UTC offset, such as `2024-02-24 12:00:05`.
pub const LOCAL_PATTERN: &str = concat!(
    "^",
    date_pattern!(),
    "[T ]",
    time_pattern!(),
    fraction_pattern!(),
    "$"
);

/// Pattern of a timestamp with UTC offset (RFC 3339), such as `2024-02-24T12:00:05+03:00`, or one of
/// [`LOCAL_PATTERN`].
pub const PATTERN: &str = concat!(
    "^",
    date_pattern!(),
    "(?:[T ]",
    time_pattern!(),
    fraction_pattern!(),
    "|T",
    time_pattern!(),
    fraction_pattern!(),
    "(?:Z|",
    offset_pattern!(),
    "))$"
);

/// Pattern of `spec.source.startFrom`: a word, or a timestamp of RFC 3339 in any of its spellings.
pub(crate) const START_PATTERN: &str = concat!(
    "^(Earliest|Latest|",
    date_pattern!(),
    "[Tt ]",
    time_pattern!(),
    "(\\.[0-9]{1,9})?([Zz]|",
    offset_pattern!(),
    "))$"
);

/// Date and time at a UTC offset: an instant, and how the source writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timestamp {
    local: DateTime,
    offset: Offset,
}

/// Error for a text that is not a timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// The text has another form, or the date does not exist in the calendar.
    #[error("not a date and time like {0}, with at most 6 digits after the second")]
    Malformed(&'static str),
    /// The time zone skips this time, because clocks are set forward.
    #[error("this time does not exist in the time zone of the stage, whose clocks are set forward")]
    Skipped,
}

impl Timestamp {
    /// Parses a text of [`LOCAL_PATTERN`] in a time zone. Of a time that occurs twice, because clocks are set back, it
    /// is the first.
    ///
    /// # Errors
    /// [`TimestampError`].
    pub fn parse_local(text: &str, zone: &TimeZone) -> Result<Self, TimestampError> {
        match split_local(text) {
            Some((local, "")) => Self::in_zone(local, zone),
            _ => Err(TimestampError::Malformed(
                "2024-02-24 12:00:05 (without a UTC offset)",
            )),
        }
    }

    /// Parses a text of [`PATTERN`]. `zone` applies to a text without UTC offset, as in [`Self::parse_local`].
    ///
    /// # Errors
    /// [`TimestampError`].
    pub fn parse(text: &str, zone: &TimeZone) -> Result<Self, TimestampError> {
        let malformed = TimestampError::Malformed("2024-02-24T12:00:05+03:00");
        match split_local(text).ok_or(malformed)? {
            (local, "") => Self::in_zone(local, zone),
            (local, offset) if text.as_bytes()[10] == b'T' => Ok(Self {
                local,
                offset: parse_offset(offset).ok_or(malformed)?,
            }),
            _ => Err(malformed),
        }
    }

    fn in_zone(local: DateTime, zone: &TimeZone) -> Result<Self, TimestampError> {
        match zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                Ok(Self { local, offset })
            }
            AmbiguousOffset::Gap { .. } => Err(TimestampError::Skipped),
        }
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub fn as_microsecond(&self) -> i64 {
        let since_epoch = self
            .local
            .duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
        let offset = SignedDuration::from_secs(self.offset.seconds().into());
        // The years 0 to 10000 fit.
        i64::try_from((since_epoch - offset).as_micros()).unwrap_or(i64::MAX)
    }
}

/// Writes a text of [`PATTERN`] with a UTC offset. An offset with seconds, as before the standard time zones, is written
/// as the next whole minute, with another local time for the same instant.
impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.offset.seconds();
        let until_minute = (60 - seconds.rem_euclid(60)) % 60;
        let local = self
            .local
            .saturating_add(SignedDuration::from_secs(until_minute.into()));
        let minutes = (seconds + until_minute) / 60;
        if minutes == 0 {
            return write!(formatter, "{local}Z");
        }
        let (sign, minutes) = (if minutes < 0 { '-' } else { '+' }, minutes.abs());
        write!(formatter, "{local}{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

/// Parses the local date and time at the start of a text; returns it and the rest, which may be an offset.
fn split_local(text: &str) -> Option<(DateTime, &str)> {
    const SHAPE: &[u8; 19] = b"0000-00-00 00:00:00";
    let (plain, rest) = text.split_at_checked(SHAPE.len())?;
    let has_shape = plain.bytes().zip(SHAPE).all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        b' ' => matches!(byte, b' ' | b'T'),
        other => byte == *other,
    });
    let digits = rest.strip_prefix('.').map_or(0, count_digits);
    let (fraction, offset) = rest.split_at(if digits > 0 { digits + 1 } else { 0 });
    let is_exact = digits <= 9 && fraction.bytes().skip(7).all(|digit| digit == b'0');
    // The parser of `jiff` would lower a 60th second.
    if !has_shape || plain.as_bytes()[17] > b'5' || !is_exact {
        return None;
    }
    let local: DateTime = text[..SHAPE.len() + fraction.len()].parse().ok()?;
    (local.year() >= 1).then_some((local, offset))
}

/// Parses `Z` or a numeric offset such as `+03:00`.
fn parse_offset(text: &str) -> Option<Offset> {
    if text == "Z" {
        return Some(Offset::UTC);
    }
    let &[sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] = text.as_bytes() else {
        return None;
    };
    let number = |tens: u8, ones: u8| {
        let is_number = tens.is_ascii_digit() && ones.is_ascii_digit();
        is_number.then(|| i32::from(tens - b'0') * 10 + i32::from(ones - b'0'))
    };
    let hours = number(h1, h2).filter(|hours| *hours < 24)?;
    let minutes = number(m1, m2).filter(|minutes| *minutes < 60)?;
    let seconds = (hours * 60 + minutes) * 60;
    Offset::from_seconds(if sign == b'-' { -seconds } else { seconds }).ok()
}

/// Parses a text of [`START_PATTERN`] that is not a word. A time after the last one of `jiff` is the last one.
pub(crate) fn parse_start(text: &str) -> Option<jiff::Timestamp> {
    let text = text.to_ascii_uppercase();
    let (date_time, rest) = text.split_at_checked(19)?;
    let digits = rest.strip_prefix('.').map_or(0, count_digits);
    let (fraction, offset) = rest.split_at(if digits > 0 { digits + 1 } else { 0 });
    let (local, _) = split_local(date_time)?;
    let offset = parse_offset(offset)?;
    let nanoseconds: i64 = format!("{:0<9}", fraction.trim_start_matches('.')).parse().ok()?;
    if digits > 9 {
        return None;
    }
    let seconds = Timestamp { local, offset }.as_microsecond().div_euclid(1_000_000);
    let start = jiff::Timestamp::from_second(seconds)
        .and_then(|start| start.checked_add(SignedDuration::from_nanos(nanoseconds)));
    Some(start.unwrap_or(jiff::Timestamp::MAX))
}

/// Number of digits at the start of a text.
fn count_digits(text: &str) -> usize {
    text.len()
        - text
            .trim_start_matches(|digit: char| digit.is_ascii_digit())
            .len()
}

/// Schema of a text that [`Timestamp::parse_local`] accepts.
pub(crate) fn local_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": LOCAL_PATTERN})
}

/// Schema of a text that [`Timestamp::parse`] accepts.
pub(crate) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": PATTERN})
}

/// Schema of an absent text, or one that [`Timestamp::parse`] accepts.
pub(crate) fn optional_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "null"], "pattern": PATTERN})
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn zone(name: &str) -> TimeZone {
        jiff::tz::TimeZoneDatabase::bundled().get(name).expect(name)
    }

    fn matches(pattern: &str, text: &str) -> bool {
        jsonschema::is_valid(&json!({"type": "string", "pattern": pattern}), &json!(text))
    }

    /// Microseconds of a text, and how the next layer reads it.
    fn local(name: &str, text: &str) -> Result<(i64, String), TimestampError> {
        let timestamp = Timestamp::parse_local(text, &zone(name))?;
        let written = timestamp.to_string();
        // Every layer reads the same instant, whatever its own time zone is.
        let read = Timestamp::parse(&written, &zone("Asia/Tokyo")).expect(&written);
        assert_eq!(read.as_microsecond(), timestamp.as_microsecond(), "{written}");
        assert_eq!(read.to_string(), written);
        Ok((timestamp.as_microsecond(), written))
    }

    #[test]
    fn a_local_time_gets_the_offset_of_its_time_zone() {
        for (name, text, micros, written) in [
            ("UTC", "1970-01-01 00:00:01", 1_000_000, "1970-01-01T00:00:01Z"),
            (
                "UTC",
                "1970-01-01T00:00:00.000001",
                1,
                "1970-01-01T00:00:00.000001Z",
            ),
            (
                "UTC",
                "1969-12-31 23:59:59.999999",
                -1,
                "1969-12-31T23:59:59.999999Z",
            ),
            (
                "UTC",
                "1970-01-01 00:00:01.500000000",
                1_500_000,
                "1970-01-01T00:00:01.5Z",
            ),
            (
                "Europe/Moscow",
                "1970-01-01 03:00:01.5",
                1_500_000,
                "1970-01-01T03:00:01.5+03:00",
            ),
            (
                "America/St_Johns",
                "2024-02-24 00:00:00",
                1_708_745_400_000_000,
                "2024-02-24T00:00:00-03:30",
            ),
        ] {
            assert_eq!(local(name, text), Ok((micros, written.to_owned())), "{text}");
        }
    }

    #[test]
    fn the_first_and_the_last_time_of_the_calendar_are_exact_in_every_time_zone() {
        for (name, first_written) in [
            ("UTC", "0001-01-01T00:00:00Z"),
            // The local mean times +02:30:17 and -04:56:02.
            ("Europe/Moscow", "0001-01-01T00:00:43+02:31"),
            ("America/New_York", "0001-01-01T00:00:02-04:56"),
        ] {
            let offset_seconds = |text: &str| {
                let timestamp = Timestamp::parse_local(text, &zone(name)).expect(text);
                i64::from(timestamp.offset.seconds())
            };
            let (first, last) = ("0001-01-01 00:00:00", "9999-12-31 23:59:59.999999");
            let expected = (-62_135_596_800 - offset_seconds(first)) * 1_000_000;
            assert_eq!(local(name, first), Ok((expected, first_written.to_owned())));
            let expected = (253_402_300_800 - offset_seconds(last)) * 1_000_000 - 1;
            assert_eq!(
                local(name, last).map(|(micros, _)| micros),
                Ok(expected),
                "{name}"
            );
        }
    }

    #[test]
    fn a_time_that_clocks_skip_is_rejected_and_of_two_it_is_the_first() {
        let micros = |name, text| local(name, text).map(|(micros, _)| micros);
        assert_eq!(
            micros("Europe/Berlin", "2024-03-31 01:59:59"),
            Ok(1_711_846_799_000_000)
        );
        for skipped in [
            "2024-03-31 02:00:00",
            "2024-03-31 02:30:00",
            "2024-03-31 02:59:59.999999",
        ] {
            assert_eq!(
                micros("Europe/Berlin", skipped),
                Err(TimestampError::Skipped),
                "{skipped}"
            );
        }
        assert_eq!(
            micros("Europe/Berlin", "2024-03-31 03:00:00"),
            Ok(1_711_846_800_000_000)
        );
        // Clocks go from 03:00 +02:00 back to 02:00 +01:00.
        let first = Ok((1_729_989_000_000_000, "2024-10-27T02:30:00+02:00".to_owned()));
        assert_eq!(local("Europe/Berlin", "2024-10-27 02:30:00"), first);
        assert_eq!(
            local("Europe/Berlin", "2024-10-27 03:00:00"),
            Ok((1_729_994_400_000_000, "2024-10-27T03:00:00+01:00".to_owned()))
        );
        // A whole day is skipped, and a rule of the far future applies.
        assert_eq!(
            micros("Pacific/Apia", "2011-12-30 12:00:00"),
            Err(TimestampError::Skipped)
        );
        assert_eq!(
            micros("Europe/Berlin", "9999-03-28 02:30:00"),
            Err(TimestampError::Skipped)
        );
    }

    #[test]
    fn a_utc_offset_takes_precedence_over_the_time_zone() {
        let parse = |text: &str| {
            Timestamp::parse(text, &zone("Europe/Moscow")).map(|timestamp| timestamp.as_microsecond())
        };
        assert_eq!(parse("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert_eq!(parse("1970-01-01T00:00:01-00:30"), Ok(1_801_000_000));
        assert_eq!(parse("1970-01-01T03:00:01"), Ok(1_000_000));
        assert_eq!(parse("1970-01-01 03:00:01"), Ok(1_000_000));
        // Skipped on the clocks of Berlin, but exact with an offset.
        let berlin = Timestamp::parse("2024-03-31T02:30:00+01:00", &zone("Europe/Berlin"));
        assert_eq!(
            berlin.map(|timestamp| timestamp.as_microsecond()),
            Ok(1_711_848_600_000_000)
        );
    }

    #[test]
    fn parser_and_pattern_reject_other_forms() {
        let utc = zone("UTC");
        for text in [
            "yesterday",
            "",
            "2024-02-24",
            "2024-02-24 12",
            "2024-02-24 12:00",
            "2024-02-30 12:00:00",
            "2023-02-29 00:00:00",
            "1900-02-29 00:00:00",
            "2024-04-31 00:00:00",
            "2024-00-01 00:00:00",
            "2024-13-01 00:00:00",
            "2024-01-00 00:00:00",
            "0000-01-01 00:00:00",
            "0000-02-29 00:00:00",
            "-0001-01-01 00:00:00",
            "+002024-02-24 12:00:05",
            "10000-01-01 00:00:00",
            "2024-02-24 12:00:60",
            "2024-02-24 12:60:00",
            "2024-02-24 24:00:00",
            "2024-02-24 12:00:05.",
            "2024-02-24 12:00:05,5",
            "2024-02-24 12:00:05.0000001",
            "2024-02-24 12:00:05.0000000000",
            "2024-02-24t12:00:05",
            "20240224 120005",
            "20240224T120005.000",
            " 2024-02-24 12:00:05",
            "2024-02-24 12:00:05 ",
            "2024-02-24 12:00:05\n",
            "2024-02-24  12:00:05",
            "２０２４-02-24 12:00:05",
            "2024-02-24 12:00:05+03:00",
            "2024-02-24 12:00:05Z",
            "2024-02-24T12:00:05z",
            "2024-02-24T12:00:05+03",
            "2024-02-24T12:00:05+0300",
            "2024-02-24T12:00:05+24:00",
            "2024-02-24T12:00:05+03:60",
            "2024-02-24T12:00:05-03:00:00",
            "2024-02-24T12:00:05[Europe/Moscow]",
            "2024-02-24T12:00:05Z[UTC]",
            "2024-02-24T12:00:05 +03:00",
        ] {
            assert!(Timestamp::parse(text, &utc).is_err(), "{text}");
            assert!(Timestamp::parse_local(text, &utc).is_err(), "{text}");
            assert!(!matches(PATTERN, text) && !matches(LOCAL_PATTERN, text), "{text}");
        }
        assert!(Timestamp::parse_local("2024-02-24T12:00:05Z", &utc).is_err());
        assert!(!matches(LOCAL_PATTERN, "2024-02-24T12:00:05Z"));
    }

    proptest! {
        #[test]
        fn parsers_accept_exactly_the_texts_of_their_patterns(
            text in "[0-9]{2}(00|[0-9]{2})-(02|[01][0-9])-([23][0-9]|[0-3][0-9])[T t]([0-2][0-9]:)[0-6][0-9]:[0-6][0-9]\
                     (\\.[0-9]{0,7}0{0,3})?(Z|z|[+-][0-2][0-9]:[0-6][0-9])?"
        ) {
            let utc = zone("UTC");
            prop_assert_eq!(Timestamp::parse(&text, &utc).is_ok(), matches(PATTERN, &text), "{}", text);
            prop_assert_eq!(Timestamp::parse_local(&text, &utc).is_ok(), matches(LOCAL_PATTERN, &text), "{}", text);
        }

        #[test]
        fn every_date_of_the_calendar_is_accepted(day in 0..3_652_059_i64, name in 0..4_usize) {
            let date = jiff::civil::date(1, 1, 1) + jiff::Span::new().days(day);
            let text = format!("{date} 12:34:56.789");
            prop_assert!(matches(LOCAL_PATTERN, &text), "{}", text);
            let zone = ["UTC", "Europe/Moscow", "America/New_York", "Asia/Kathmandu"][name];
            prop_assert!(local(zone, &text).is_ok(), "{}", text);
        }
    }
}
