//! How far the stage is behind, as the status says it.
//!
//! Must never make a write of what nobody would notice: figures stay as they were until a rounded one moves.

use crds::status::{ConditionType, Lag, LimitedBy, PartitionLag, Reason};
use crds::{StreamStage, StreamStageStatus};
use k8s_openapi::jiff::SignedDuration;

use super::{Finding, condition};
use crate::lag::view::View;
use crate::lag::{Unknown, UnknownReason};
use crate::scale::load::{Load, PartitionLoad};
use crate::scale::{LagKnown, Wanted};

/// Partitions that the status names.
const WORST: usize = 16;
/// Small lags come and go: below this many records they are told once a minute at most.
const SMALL: u64 = 10;
const QUIET: SignedDuration = SignedDuration::from_mins(1);

/// The figures of the lag, and the worst partitions: those of before while no rounded figure has moved.
pub(super) fn figures(before: &StreamStageStatus, view: &View) -> (Option<Lag>, Vec<PartitionLag>) {
    match moved(before.lag.as_ref(), view) {
        Some(lag) => (Some(lag), view.read().map(worst).unwrap_or_default()),
        None => (before.lag.clone(), before.partitions.clone()),
    }
}

/// The figures of the lag, when a rounded one is another than was told.
pub(super) fn moved(told: Option<&Lag>, view: &View) -> Option<Lag> {
    let lag = lag(view.read()?, view.poll_interval);
    let is_told = told.is_some_and(|told| is_same(told, &lag));
    (!is_told).then_some(lag)
}

fn lag(load: &Load, poll_interval: SignedDuration) -> Lag {
    let total = load.total();
    let count = |holds: fn(&PartitionLoad) -> bool| {
        let found = load
            .partitions
            .iter()
            .filter(|partition| holds(partition))
            .count();
        u32::try_from(found).unwrap_or(u32::MAX)
    };
    let drain_seconds = drain_seconds(Some(load));
    Lag {
        total,
        max_partition: load
            .partitions
            .iter()
            .map(|partition| partition.lag)
            .max()
            .unwrap_or(0),
        drain_seconds,
        drain: match drain_seconds {
            Some(seconds) => words(seconds),
            None if load.is_growing(poll_interval) => "growing".to_owned(),
            None => "steady".to_owned(),
        },
        arrival_per_second: tenths(load.arrival_per_second()),
        processed_per_second: tenths(load.processed_per_second),
        partitions: count(|_| true),
        lagging: count(|partition| partition.lag > 0),
        stuck: count(|partition| partition.is_stuck),
        measured_at: load.measured_at,
    }
}

/// Seconds until the lag is gone; none while it is not known, or does not shrink.
pub(super) fn drain_seconds(load: Option<&Load>) -> Option<u64> {
    load.and_then(Load::drain_seconds).map(whole)
}

fn worst(load: &Load) -> Vec<PartitionLag> {
    let mut behind: Vec<&PartitionLoad> = load
        .partitions
        .iter()
        .filter(|partition| partition.lag > 0)
        .collect();
    behind.sort_by_key(|partition| (std::cmp::Reverse(partition.lag), partition.partition));
    behind
        .into_iter()
        .take(WORST)
        .map(|partition| PartitionLag {
            partition: partition.partition,
            lag: partition.lag,
            committed: partition.committed,
            end: partition.end,
            stuck: partition.is_stuck,
        })
        .collect()
}

/// Whether a person would see no difference.
fn is_same(told: &Lag, now: &Lag) -> bool {
    if (told.partitions, told.stuck) != (now.partitions, now.stuck) {
        return false;
    }
    if told.total < SMALL && now.total < SMALL {
        let passed = now
            .measured_at
            .zip(told.measured_at)
            .map(|(now, told)| now.duration_since(told));
        return told.total == now.total || passed.is_some_and(|passed| passed < QUIET);
    }
    let is_drained_alike = match (told.drain_seconds, now.drain_seconds) {
        (Some(told), Some(now)) => two_digits(told) == two_digits(now),
        _ => told.drain == now.drain,
    };
    two_digits(told.total) == two_digits(now.total) && is_drained_alike
}

/// The first two digits of a number, and zeros.
fn two_digits(number: u64) -> u64 {
    let unit = 10_u64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(1));
    number / unit * unit
}

/// Seconds as a person writes them: `42s`, `3m10s`, `2h5m`.
fn words(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative, and a cast saturates"
)]
fn whole(seconds: f64) -> u64 {
    seconds.ceil() as u64
}

fn tenths(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

/// What the lag, and what follows from it, means for a person.
pub(super) fn findings(view: &View, wanted: &Wanted) -> Vec<Finding> {
    let (reachable, observed) = readings(view);
    let stuck = stuck(view);
    let is_active = wanted.reason == Reason::FollowsLag;
    let limits = [
        LimitedBy::Min,
        LimitedBy::Max,
        LimitedBy::Partitions,
        LimitedBy::HotPartition,
        LimitedBy::ConnectionBudget,
    ];
    let limited = if limits.contains(&wanted.limited_by) {
        (true, (Reason::Limited, format!("by {:?}", wanted.limited_by)))
    } else {
        (
            false,
            (
                Reason::NotLimited,
                "nothing keeps the workers from what the lag asks for".to_owned(),
            ),
        )
    };
    let all = [
        (ConditionType::SourceReachable, reachable),
        (ConditionType::LagObserved, observed),
        (ConditionType::PartitionsStuck, stuck),
        (
            ConditionType::ScalingActive,
            Some((is_active, (wanted.reason, who(wanted)))),
        ),
        (ConditionType::ScalingLimited, Some(limited)),
    ];
    all.into_iter()
        .filter_map(|(type_, found)| {
            let (holds, (reason, message)) = found?;
            Some(Finding {
                type_,
                holds,
                reason,
                message,
            })
        })
        .collect()
}

/// The findings that a status should show: until the lag has been read, what was shown before stays.
pub(super) fn shown(stage: &StreamStage, view: &View, wanted: &Wanted) -> Vec<Finding> {
    let is_pending = matches!(view.known(), LagKnown::Pending) && wanted.reason == Reason::LagPending;
    let follows = [ConditionType::ScalingActive, ConditionType::ScalingLimited];
    let mut findings = findings(view, wanted);
    findings.retain(|Finding { type_, .. }| {
        !(is_pending && follows.contains(type_) && condition(stage, *type_).is_some())
    });
    findings
}

/// Who decides, in words without figures: those are in `status.scaling.message`.
fn who(wanted: &Wanted) -> String {
    match wanted.reason {
        Reason::FollowsLag => "the number of workers follows the lag".to_owned(),
        Reason::LagUnknown => "held: the lag is not known".to_owned(),
        Reason::LagPending => "held: the lag is being read".to_owned(),
        _ => wanted.message.clone(),
    }
}

type Found = Option<(bool, (Reason, String))>;

/// Whether Kafka answers, and whether the lag is known; none while nothing was tried.
fn readings(view: &View) -> (Found, Found) {
    match (view.unknown(), view.read()) {
        (Some(Unknown { reason, message }), _) => {
            let unreachable = match reason {
                UnknownReason::Unreachable => Some(Reason::Unreachable),
                UnknownReason::AuthenticationFailed => Some(Reason::AuthenticationFailed),
                UnknownReason::Forbidden => Some(Reason::KafkaForbidden),
                UnknownReason::UnknownTopic => Some(Reason::UnknownTopic),
                UnknownReason::Partial | UnknownReason::OffsetOutOfRange => None,
            };
            let reachable =
                unreachable.map_or((true, answers()), |reason| (false, (reason, message.clone())));
            let why = match reason {
                UnknownReason::Partial => Reason::PartlyRead,
                UnknownReason::OffsetOutOfRange => Reason::OffsetOutOfRange,
                _ => unreachable.unwrap_or(Reason::Unreachable),
            };
            (Some(reachable), Some((false, (why, message))))
        }
        (None, Some(_)) => {
            let observed = (Reason::Observed, "every partition was read".to_owned());
            (Some((true, answers())), Some((true, observed)))
        }
        (None, None) => (None, None),
    }
}

fn answers() -> (Reason, String) {
    (
        Reason::Reachable,
        "Kafka answers, and the topic is there".to_owned(),
    )
}

fn stuck(view: &View) -> Found {
    let load = view.read()?;
    let stuck: Vec<String> = load
        .partitions
        .iter()
        .filter(|partition| partition.is_stuck)
        .map(|partition| format!("{} at offset {}", partition.partition, partition.committed))
        .collect();
    Some(if stuck.is_empty() {
        (
            false,
            (
                Reason::NoneStuck,
                "every partition with lag makes progress".to_owned(),
            ),
        )
    } else {
        let message = format!(
            "no progress in partition {}: look for held records in the workers' logs",
            stuck.join(", partition ")
        );
        (true, (Reason::Stuck, message))
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::status::news::tests::view;

    #[test]
    fn a_figure_is_told_anew_when_one_of_its_first_two_digits_changes() {
        let told = |total| Lag {
            total,
            drain_seconds: Some(10),
            ..Lag::default()
        };
        for (before, now, same) in [
            (1234, 1299, true),
            (1234, 1300, false),
            (1999, 2000, false),
            (11, 12, false),
            (99, 100, false),
            (u64::MAX, u64::MAX - 1, true),
        ] {
            assert_eq!(is_same(&told(before), &told(now)), same, "{before} {now}");
        }
        assert_eq!([0, 9, 10, 123, 99_999].map(two_digits), [0, 9, 10, 120, 99_000]);
        let slower = Lag {
            drain_seconds: Some(12),
            ..told(1234)
        };
        let stuck = Lag {
            stuck: 1,
            ..told(1234)
        };
        assert!(!is_same(&told(1234), &slower) && !is_same(&told(1234), &stuck));
        let without_end = |drain: &str| Lag {
            drain_seconds: None,
            drain: drain.to_owned(),
            ..told(1234)
        };
        assert!(is_same(&without_end("steady"), &without_end("steady")));
        assert!(!is_same(&without_end("steady"), &without_end("growing")));
        assert!(!is_same(&told(1234), &without_end("steady")));
    }

    #[test]
    fn a_lag_of_a_few_records_is_told_once_a_minute() {
        let told = |total, second| Lag {
            total,
            measured_at: Timestamp::from_second(second).ok(),
            ..Lag::default()
        };
        assert!(is_same(&told(3, 0), &told(9, 59)));
        assert!(!is_same(&told(3, 0), &told(9, 60)));
        assert!(is_same(&told(3, 0), &told(3, 600)));
        assert!(!is_same(&told(3, 0), &told(10, 1)), "it is no longer small");
    }

    #[test]
    fn the_sixteen_worst_partitions_are_named() {
        let partitions = (0..20).map(|partition| PartitionLoad {
            partition,
            lag: if partition == 3 {
                0
            } else {
                u64::from(partition / 2)
            },
            ..PartitionLoad::default()
        });
        let load = Load {
            partitions: partitions.collect(),
            ..Load::default()
        };
        let named: Vec<u32> = worst(&load).iter().map(|partition| partition.partition).collect();
        assert_eq!(named, [18, 19, 16, 17, 14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5]);
        let few = Load {
            partitions: load.partitions[..4].to_vec(),
            ..Load::default()
        };
        assert_eq!(worst(&few).len(), 1, "a partition without lag is not among them");
    }

    #[test]
    fn a_time_is_written_as_a_person_does() {
        for (seconds, written) in [
            (0, "0s"),
            (42, "42s"),
            (60, "1m0s"),
            (190, "3m10s"),
            (3600, "1h0m"),
            (7530, "2h5m"),
        ] {
            assert_eq!(words(seconds), written);
        }
    }

    #[test]
    fn only_a_backlog_that_grows_is_said_to_grow() {
        let drain = |waiting: u64, arrival_per_second: f64, processed_per_second: f64| {
            let load = Load {
                partitions: vec![PartitionLoad {
                    lag: waiting,
                    arrival_per_second,
                    ..PartitionLoad::default()
                }],
                processed_per_second,
                ..Load::default()
            };
            lag(&load, SignedDuration::from_secs(5)).drain
        };
        assert_eq!(drain(0, 100.0, 100.0), "0s");
        assert_eq!(drain(501, 100.0, 150.0), "11s");
        assert_eq!(drain(501, 101.0, 100.0), "growing");
        assert_eq!(
            drain(500, 101.0, 100.0),
            "steady",
            "it is done before the next reading"
        );
        assert_eq!(drain(1, 0.2, 0.2), "steady");
        assert_eq!(drain(700, 0.0, 0.0), "steady", "nothing comes, and nobody works");
        assert_eq!(drain(700, 0.1, 0.0), "growing");
    }

    #[test]
    fn a_reading_that_is_too_old_is_no_reading() {
        let mut view = view(0);
        let before = StreamStageStatus::default();
        assert!(figures(&before, &view).0.is_some());
        assert_eq!(readings(&view).1.map(|found| found.0), Some(true));
        view.now += SignedDuration::from_mins(1);
        assert_eq!(figures(&before, &view), (None, Vec::new()));
        let (holds, (reason, message)) = readings(&view).1.expect("a finding");
        assert_eq!((holds, reason), (false, Reason::PartlyRead), "{message}");
        assert!(stuck(&view).is_none());
    }
}
