//! When the status shows what changes with each poll: limit, magnitude of the backlog, capacity. Pure.
//!
//! Scaling steps and conditions are reported at once; these at most once a minute, and a limit once it has lasted.

use crds::status::{Capacity, LimitedBy};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::scale::load::Load;

/// Minimum time between two writes, and the time for which a limit must have lasted.
pub(super) const REPORT_INTERVAL: SignedDuration = SignedDuration::from_mins(1);
/// A backlog of less than this many seconds of arrivals counts as 0: it is only what arrives between two commits.
const SMALL_BACKLOG_SECONDS: f64 = 10.0;
/// Share by which the capacity of a worker must change to be reported alone.
const CAPACITY_CHANGE: f64 = 0.1;

/// Part of the status that is reported with a delay.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reportable {
    /// Bound, gate or cause that limits the replicas.
    pub limited_by: LimitedBy,
    /// Binary digits of the backlog; 0 for a small one.
    pub backlog_digits: u32,
    /// Capacity of a worker, in records per second; 0 until it is known.
    pub capacity: f64,
}

/// Decides when [`Reportable`] is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportPolicy {
    written: Option<(Timestamp, Reportable)>,
    /// Limit of the last poll, and since when.
    pending: Option<(LimitedBy, Timestamp)>,
}

impl Reportable {
    /// The reportable part of a decision on `load`.
    #[must_use]
    pub fn new(limited_by: LimitedBy, capacity: Option<Capacity>, load: &Load) -> Self {
        let small = SMALL_BACKLOG_SECONDS * load.arrival_per_second().max(1.0);
        let backlog = load.total_lag();
        let is_small = crate::scale::load::to_f64(backlog) <= small;
        Self {
            limited_by,
            backlog_digits: if is_small {
                0
            } else {
                backlog.saturating_add(1).ilog2()
            },
            capacity: capacity.map_or(0.0, |capacity| capacity.records_per_second),
        }
    }
}

impl ReportPolicy {
    /// Returns what to write now; `None` if the last write is recent or still right. `is_step` means that a scaling step
    /// was made, which is written at once.
    pub fn next_report(&mut self, current: Reportable, is_step: bool, now: Timestamp) -> Option<Reportable> {
        let since = match self.pending {
            Some((limited_by, since)) if limited_by == current.limited_by => since,
            _ => now,
        };
        self.pending = Some((current.limited_by, since));
        let report = match self.written {
            Some((_, written)) if !is_step && now.duration_since(since) < REPORT_INTERVAL => Reportable {
                limited_by: written.limited_by,
                ..current
            },
            _ => current,
        };
        let is_due = match self.written {
            Some((time, written)) => {
                let is_changed = report.limited_by != written.limited_by
                    || report.backlog_digits != written.backlog_digits
                    || is_capacity_changed(report.capacity, written.capacity);
                is_step || (is_changed && now.duration_since(time) >= REPORT_INTERVAL)
            }
            None => true,
        };
        is_due.then(|| {
            self.written = Some((now, report));
            report
        })
    }
}

/// Returns true if the capacity of a worker differs from the reported one by more than [`CAPACITY_CHANGE`].
pub(super) fn is_capacity_changed(capacity: f64, reported: f64) -> bool {
    (capacity - reported).abs() > CAPACITY_CHANGE * reported
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_change_is_reported_once_a_minute_and_a_limit_once_it_lasted() {
        let mut policy = ReportPolicy::default();
        let current = |limited_by, backlog_digits| Reportable {
            limited_by,
            backlog_digits,
            capacity: 100.0,
        };
        let quiet = current(LimitedBy::None, 0);
        assert_eq!(
            policy.next_report(quiet, false, at(0)),
            Some(quiet),
            "the first one"
        );
        assert_eq!(policy.next_report(quiet, false, at(600)), None, "nothing changed");
        let cooldown = current(LimitedBy::Cooldown, 0);
        assert_eq!(policy.next_report(cooldown, false, at(605)), None);
        assert_eq!(policy.next_report(cooldown, false, at(664)), None);
        assert_eq!(policy.next_report(cooldown, false, at(665)), Some(cooldown));
        let backlog = current(LimitedBy::Cooldown, 9);
        assert_eq!(
            policy.next_report(backlog, false, at(724)),
            None,
            "the last write is recent"
        );
        assert_eq!(policy.next_report(backlog, false, at(725)), Some(backlog));
        let flapping = current(LimitedBy::None, 3);
        let shown = current(LimitedBy::Cooldown, 3);
        assert_eq!(
            policy.next_report(flapping, false, at(800)),
            Some(shown),
            "the limit has not lasted"
        );
        let faster = Reportable {
            capacity: 111.0,
            ..flapping
        };
        assert_eq!(policy.next_report(faster, false, at(860)), Some(faster));
        assert_eq!(
            policy.next_report(cooldown, true, at(861)),
            Some(cooldown),
            "a step at once"
        );
    }

    #[test]
    fn a_backlog_of_ten_seconds_of_arrivals_is_small() {
        let load = |lag, arrival_per_second| Load {
            partitions: vec![crate::scale::load::PartitionLoad {
                lag,
                arrival_per_second,
                ..Default::default()
            }],
            ..Load::default()
        };
        for (lag, arrivals, digits) in [(10, 0.0, 0), (11, 0.0, 3), (1000, 100.0, 0), (1001, 100.0, 9)] {
            let reportable = Reportable::new(LimitedBy::None, None, &load(lag, arrivals));
            assert_eq!(reportable.backlog_digits, digits, "{lag} {arrivals}");
        }
    }
}
