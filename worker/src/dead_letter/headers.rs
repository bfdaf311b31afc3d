//! Headers of a dead letter: the number of attempts, and the description of the error on the copy. Pure.

use crate::record::{Header, Record};
use crate::record_columns::{ERROR_HEADER_PREFIX, is_producer_header};

/// Header with the number of attempts. A redriven record carries the count of its earlier attempts.
pub const ATTEMPTS_HEADER: &str = "streamstage-error-attempts";

/// Reason for which a record is a dead letter, as its row has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorDescription {
    /// Code of the rejection.
    pub code: String,
    /// Location and cause.
    pub detail: String,
    /// Name of the stage that rejected the record.
    pub stage: String,
    /// Number of attempts, the first included.
    pub attempts: i32,
}

/// Returns the number of attempts to process this record, including the current one. The header is text of the
/// producer: a number that no counter reaches counts as the largest, anything else as zero.
#[must_use]
pub fn count_attempts(record: &Record) -> i32 {
    let earlier = record
        .header(ATTEMPTS_HEADER)
        .and_then(|value| std::str::from_utf8(value).ok()?.parse::<i64>().ok());
    let earlier = i32::try_from(earlier.unwrap_or(0).max(0)).unwrap_or(i32::MAX);
    earlier.saturating_add(1)
}

/// Returns the headers of the copy on the dead letter topic: those of the producer, and the description of the error.
#[must_use]
pub fn build_headers(topic: &str, record: &Record, error: &ErrorDescription) -> Vec<Header> {
    let timestamp = record
        .timestamp
        .map_or_else(String::new, |timestamp| timestamp.to_string());
    let description = [
        ("code", error.code.clone()),
        ("detail", error.detail.clone()),
        ("stage", error.stage.clone()),
        ("topic", topic.to_owned()),
        ("partition", record.partition.to_string()),
        ("offset", record.offset.to_string()),
        ("timestamp", timestamp),
        ("attempts", error.attempts.to_string()),
    ];
    let description = description
        .into_iter()
        .map(|(name, value)| Header::text(&format!("{ERROR_HEADER_PREFIX}{name}"), &value));
    let producer = record.headers.iter().filter(|header| is_producer_header(header));
    producer.cloned().chain(description).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(headers: Vec<Header>) -> Record {
        Record {
            partition: 3,
            offset: 14,
            timestamp: Some(15),
            headers,
            ..Record::default()
        }
    }

    #[test]
    fn a_dead_letter_has_its_original_headers_and_those_of_the_error() {
        let error = ErrorDescription {
            code: "ParseError".into(),
            detail: "byte 0: expected value".into(),
            stage: "stg".into(),
            attempts: 1,
        };
        let record = record(vec![Header::text("trace", "a"), Header::text("trace", "b")]);
        let headers = build_headers("orders", &record, &error);
        let lines: Vec<String> = headers
            .iter()
            .map(|header| {
                format!(
                    "{}={}",
                    header.name,
                    String::from_utf8_lossy(header.value.as_deref().unwrap_or(b"-"))
                )
            })
            .collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn a_redriven_record_continues_its_attempt_count() {
        let count = |attempts: &str| count_attempts(&record(vec![Header::text(ATTEMPTS_HEADER, attempts)]));
        assert_eq!(count_attempts(&record(Vec::new())), 1);
        assert_eq!(count("4"), 5);
        assert_eq!(count("many"), 1);
    }

    #[test]
    fn an_attempt_count_of_a_producer_saturates() {
        let count = |attempts: &str| count_attempts(&record(vec![Header::text(ATTEMPTS_HEADER, attempts)]));
        for largest in ["2147483646", "2147483647", "2147483648", "9223372036854775807"] {
            assert_eq!(count(largest), i32::MAX, "{largest}");
        }
        for smallest in ["-1", "-2147483648", "-9223372036854775808"] {
            assert_eq!(count(smallest), 1, "{smallest}");
        }
    }
}
