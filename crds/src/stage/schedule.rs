//! Scheduled bounds: windows of time in which other bounds on the number of workers apply.
//!
//! Never reads a clock: the time is an argument.
//! Accepts the plain cron syntax only, not the extensions of the library, so that a search for the last start is short.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::rules::{message, rule};

/// Five fields of a cron expression. Names are accepted for months and days of the week; `L`, for the last day, is not.
const CRON_PATTERN: &str = "^([0-9*,/-]+ ){3}[0-9A-Za-z*,/-]+ [0-9A-KM-Za-km-z*,/-]+$";
/// Maximum length of a cron expression, in characters.
const MAX_CRON_LENGTH: usize = 100;
/// Days of the months of a leap year, from January.
const MONTH_LENGTHS: [u16; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Window of time in which other bounds on the number of workers apply: from each `start` to the next `end`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.minReplicas) || has(self.maxReplicas)", message::SCHEDULE_BOUNDS),
    rule("self.start != self.end", message::SCHEDULE_WINDOW),
]))]
pub struct Schedule {
    /// Start of the window: a cron expression with minute, hour, day of month, month and day of week, such as
    /// `0 8 * * 1-5`.
    #[schemars(length(min = 9, max = MAX_CRON_LENGTH), regex(pattern = CRON_PATTERN))]
    pub start: String,

    /// End of the window: a cron expression such as `0 20 * * 1-5`.
    #[schemars(length(min = 9, max = MAX_CRON_LENGTH), regex(pattern = CRON_PATTERN))]
    pub end: String,

    /// IANA time zone of `start` and `end`. Default: `UTC`.
    #[serde(default = "default_timezone")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9/_+-]+$"))]
    pub timezone: String,

    /// Minimum number of workers in the window; 0 to 1000. Default: that of `scaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub min_replicas: Option<u32>,

    /// Maximum number of workers in the window; 1 to 1000. Default: that of `scaling`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: Option<u32>,
}

/// Error of a field of a schedule: cause and remedy.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ScheduleError {
    /// Text that is not a cron expression.
    #[error(
        "`{0}` is not a cron expression: use minute, hour, day of month, month and day of week, such as `0 8 * * 1-5`"
    )]
    NotCron(String),
    /// Day that no month of the expression has.
    #[error("`{0}` never occurs: use a day that one of the months has")]
    Never(String),
    /// Unknown time zone.
    #[error("`{0}` is not a time zone: use an IANA name such as `Europe/Moscow`")]
    TimeZone(String),
}

impl Schedule {
    /// Returns true if the window is open at `now`: the last start is not before the last end. The window contains its
    /// start, and not its end.
    ///
    /// A time that clocks skip is the first one after the gap, and of a time that occurs twice, the first is meant.
    ///
    /// # Errors
    /// If a cron expression or the time zone is not valid.
    pub fn is_open(&self, now: Timestamp) -> Result<bool, ScheduleError> {
        let (start, end) = (parse_cron(&self.start)?, parse_cron(&self.end)?);
        let now = now.to_zoned(self.time_zone()?);
        let last = |cron: &Cron, text: &str| {
            let last = cron.find_previous_occurrence(&now, true);
            last.map_err(|_| ScheduleError::Never(text.to_owned()))
        };
        Ok(last(&start, &self.start)? >= last(&end, &self.end)?)
    }

    /// Time zone of the window, from the database that is compiled in.
    ///
    /// # Errors
    /// If the database has no zone with this name.
    pub fn time_zone(&self) -> Result<TimeZone, ScheduleError> {
        let zone = TimeZoneDatabase::bundled().get(&self.timezone);
        zone.map_err(|_| ScheduleError::TimeZone(self.timezone.clone()))
    }
}

/// Parses a cron expression with five fields.
pub(super) fn parse_cron(text: &str) -> Result<Cron, ScheduleError> {
    let not_cron = || ScheduleError::NotCron(text.to_owned());
    if text.len() > MAX_CRON_LENGTH || !has_plain_fields(text) {
        return Err(not_cron());
    }
    let parser = CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed);
    let cron = parser.build().parse(text).map_err(|_| not_cron())?;
    if can_occur(&cron) {
        Ok(cron)
    } else {
        Err(ScheduleError::Never(text.to_owned()))
    }
}

/// Same as [`CRON_PATTERN`].
fn has_plain_fields(text: &str) -> bool {
    let fields: Vec<&str> = text.split(' ').collect();
    let is_plain = |index: usize, field: &str| {
        let is_allowed = |c: char| match c {
            '0'..='9' | '*' | ',' | '/' | '-' => true,
            'L' | 'l' => index == 3,
            _ => index >= 3 && c.is_ascii_alphabetic(),
        };
        !field.is_empty() && field.chars().all(is_allowed)
    };
    fields.len() == 5
        && fields
            .iter()
            .enumerate()
            .all(|(index, field)| is_plain(index, field))
}

/// Returns false if no month has the day. The library would search for it for thousands of years.
fn can_occur(cron: &Cron) -> bool {
    let pattern = &cron.pattern;
    let first_day = pattern.days.values().into_iter().min().unwrap_or_default();
    let longest_month = pattern.months.values().into_iter().filter_map(|month| {
        let index = usize::from(month).checked_sub(1)?;
        MONTH_LENGTHS.get(index).copied()
    });
    // A day of the week occurs in every month: either of the two days suffices.
    !pattern.is_dow_wildcard() || longest_month.max().is_some_and(|length| first_day <= length)
}

fn default_timezone() -> String {
    "UTC".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(start: &str, end: &str, timezone: &str) -> Schedule {
        Schedule {
            start: start.to_owned(),
            end: end.to_owned(),
            timezone: timezone.to_owned(),
            min_replicas: Some(1),
            max_replicas: None,
        }
    }

    fn is_open(schedule: &Schedule, now: &str) -> bool {
        let now: Timestamp = now.parse().expect("a time");
        schedule.is_open(now).expect("a valid schedule")
    }

    #[test]
    fn a_window_contains_its_start_and_not_its_end() {
        // 2024-02-23 is a Friday.
        let office = schedule("0 8 * * 1-5", "0 20 * * MON-FRI", "Europe/Paris");
        for (now, expected) in [
            ("2024-02-23T06:59:59.999Z", false),
            ("2024-02-23T07:00:00Z", true),
            ("2024-02-23T18:59:59.999Z", true),
            ("2024-02-23T19:00:00Z", false),
            ("2024-02-24T12:00:00Z", false),
            ("2024-02-26T07:00:00Z", true),
            ("2024-07-01T06:00:00Z", true),
        ] {
            assert_eq!(is_open(&office, now), expected, "{now}");
        }
    }

    #[test]
    fn a_window_may_span_midnight_and_continue_with_the_next_one() {
        let night = schedule("0 22 * * *", "0 6 * * *", "UTC");
        assert!(is_open(&night, "2024-02-23T23:00:00Z"));
        assert!(is_open(&night, "2024-02-24T05:00:00Z"));
        assert!(!is_open(&night, "2024-02-24T06:00:00Z"));
        let weekdays = schedule("0 0 * * 1-5", "0 0 * * 2-6", "UTC");
        assert!(
            is_open(&weekdays, "2024-02-23T00:00:00Z"),
            "one ends, the next starts"
        );
        assert!(!is_open(&weekdays, "2024-02-24T00:00:00Z"));
        let leap_day = schedule("0 0 29 2 *", "0 0 1 3 *", "UTC");
        assert!(is_open(&leap_day, "2024-02-29T12:00:00Z"));
        assert!(!is_open(&leap_day, "2025-02-28T12:00:00Z"));
    }

    #[test]
    fn a_start_that_clocks_skip_is_after_the_gap_and_one_that_occurs_twice_is_the_first() {
        let night = schedule("30 2 * * *", "0 5 * * *", "Europe/Paris");
        // On 2024-03-31, clocks are set forward from 02:00 to 03:00, which is 01:00 UTC.
        assert!(!is_open(&night, "2024-03-31T00:59:59Z"));
        assert!(is_open(&night, "2024-03-31T01:00:00Z"));
        // On 2024-10-27, clocks are set back from 03:00 to 02:00.
        assert!(!is_open(&night, "2024-10-27T00:29:59Z"));
        for now in [
            "2024-10-27T00:30:00Z",
            "2024-10-27T01:10:00Z",
            "2024-10-27T01:30:00Z",
        ] {
            assert!(is_open(&night, now), "{now}");
        }
    }

    #[test]
    fn other_text_is_rejected_with_the_remedy() {
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "0 24 * * *",
            "0 0 0 * *",
            "0 0 * 13 *",
            "0 0 * * 8",
            "0 0 L * *",
            "0 0 * * 5L",
            "0 0 * * 1#2",
            "@daily",
            "0 0 * * +1",
            "0 0 ? * *",
            "0  0 * * *",
            "a * * * *",
            "0 0 * FOO *",
            "*/0 * * * *",
            "5-1 * * * *",
        ] {
            let error = parse_cron(text).expect_err(text).to_string();
            assert!(error.contains("is not a cron expression: use"), "{text}: {error}");
        }
        for text in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
            let error = parse_cron(text).expect_err(text);
            assert_eq!(error, ScheduleError::Never(text.to_owned()));
        }
        for text in [
            "*/15 8-18 1,15 JAN-mar *",
            "0 0 30 2 1",
            "0 0 29 2 *",
            "0 0 31 JUL *",
            "0 0 * * 7",
        ] {
            parse_cron(text).expect(text);
        }
        let nowhere = schedule("0 8 * * *", "0 9 * * *", "Europe/Atlantis");
        let error = nowhere.is_open(Timestamp::UNIX_EPOCH).expect_err("no zone");
        assert_eq!(error, ScheduleError::TimeZone("Europe/Atlantis".to_owned()));
    }
}
