#![expect(
    clippy::disallowed_methods,
    reason = "edge: reads the clock, and counts dead letters in PostgreSQL"
)]
//! Flags that select dead letters, shared by all commands on them.

use std::ops::Range;
use std::str::FromStr;

use crate::warehouse::Warehouse;
use clap::Args;
use jiff::Timestamp;
use telemetry::stdout::print_line;
use uuid::Uuid;

use crate::command::stage_selection::StageSelection;
use crate::dead_letter::Origin;
use crate::dead_letter::selection::{self, Filter};
use crate::rejection::Code;

/// Flags that select dead letters.
#[derive(Debug, Args)]
pub struct FilterFlags {
    /// Stages whose dead letters are selected.
    #[command(flatten)]
    pub selection: StageSelection,
    /// Only dead letters with these codes
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    pub code: Vec<Code>,
    /// Only dead letters since this time: RFC 3339, or a duration before now such as 2h
    #[arg(long, value_name = "TIME")]
    pub since: Option<Time>,
    /// Only dead letters before this time: RFC 3339, or a duration before now such as 10m
    #[arg(long, value_name = "TIME")]
    pub until: Option<Time>,
    /// Only this source partition
    #[arg(long, value_name = "NUMBER")]
    pub partition: Option<i32>,
    /// Only this source offset, or the offsets of a range such as 10..20, which excludes its end
    #[arg(long, value_name = "OFFSET")]
    pub offset: Option<Offsets>,
    /// Only records with this key, as text
    #[arg(long, value_name = "TEXT")]
    pub key: Option<String>,
    /// Only records of the topic with this Kafka ID, if the topic was recreated
    #[arg(long, value_name = "UUID")]
    pub topic_id: Option<Uuid>,
}

/// A point in time, absolute or before now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// Absolute.
    At(Timestamp),
    /// Before now.
    Ago(std::time::Duration),
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = text
            .parse::<crds::stage::Duration>()
            .map(|duration| Self::Ago(duration.as_std()));
        let absolute = || text.parse().map(Self::At);
        duration.or_else(|_| absolute()).map_err(|_| {
            "use an RFC 3339 time such as 2024-02-24T12:00:00Z, or a duration before now such as 2h"
                .to_owned()
        })
    }
}

impl Time {
    /// Microseconds since the Unix epoch; a duration that is longer than the time since then is 0.
    fn as_microsecond(self, now: Timestamp) -> i64 {
        match self {
            Self::At(time) => time.as_microsecond(),
            Self::Ago(duration) => now.checked_sub(duration).map_or(0, Timestamp::as_microsecond),
        }
    }
}

/// Range of offsets, or a single one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offsets(pub Range<i64>);

impl FromStr for Offsets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |number: &str| number.parse::<i64>().ok().filter(|offset| *offset >= 0);
        let range = match text.split_once("..") {
            Some((from, to)) => parse(from).zip(parse(to)),
            None => parse(text).map(|offset| (offset, offset.saturating_add(1))),
        };
        let range = range.filter(|(from, to)| from < to);
        range
            .map(|(from, to)| Self(from..to))
            .ok_or_else(|| "use an offset such as 14, or a range such as 10..20".to_owned())
    }
}

impl FilterFlags {
    /// Filter of the flags; `all` includes redriven and discarded dead letters.
    #[must_use]
    pub fn filter(&self, all: bool) -> Filter {
        let now = Timestamp::now();
        Filter {
            codes: self.code.iter().map(Code::to_string).collect(),
            since: self.since.map(|time| time.as_microsecond(now)),
            until: self.until.map(|time| time.as_microsecond(now)),
            partition: self.partition,
            offsets: self.offset.clone().map(|offsets| offsets.0),
            key: self.key.clone().map(String::into_bytes),
            topic_id: self.topic_id,
            all,
        }
    }
}

/// Prints the number and size of the selected dead letters of a stage by code, and returns their number.
///
/// # Errors
/// If PostgreSQL fails, or standard output cannot be written.
pub async fn print_counts(warehouse: &Warehouse, origin: &Origin, filter: &Filter) -> anyhow::Result<i64> {
    let counts = warehouse.transact(async |connection| selection::count(connection, origin, filter).await);
    let counts = counts.await?;
    let total = counts.iter().map(|count| count.letters).sum();
    print_line(format_args!("{}: {total} dead letters", origin.stage))?;
    for count in counts {
        print_line(format_args!(
            "  {:<22} {:>8}  {} bytes",
            count.code, count.letters, count.bytes
        ))?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_absolute_or_before_now() {
        let now: Timestamp = "2024-02-24T12:00:00Z".parse().expect("a time");
        let microsecond = |text: &str| text.parse::<Time>().map(|time| time.as_microsecond(now));
        let hour = 3_600_000_000;
        assert_eq!(microsecond("2h"), Ok(now.as_microsecond() - 2 * hour));
        assert_eq!(
            microsecond("2024-02-24T13:00:00+03:00"),
            Ok(now.as_microsecond() - 2 * hour)
        );
        assert_eq!(microsecond("999999999h"), Ok(0));
        assert!(microsecond("yesterday").is_err_and(|error| error.contains("2h")));
    }

    #[test]
    fn an_offset_is_a_number_or_a_range_without_its_end() {
        let offsets = |text: &str| text.parse::<Offsets>().map(|offsets| offsets.0);
        assert_eq!(offsets("14"), Ok(14..15));
        assert_eq!(offsets("10..20"), Ok(10..20));
        for invalid in ["-1", "20..10", "5..5", "..", "a", "9223372036854775808"] {
            assert!(offsets(invalid).is_err(), "{invalid}");
        }
    }
}
