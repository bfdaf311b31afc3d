//! Lag in the status: the fields `lag` and `laggingPartitions`, and the conditions that follow from the lag.
//!
//! Must never change the status by less than a user would notice: the reported lag changes with its first two digits.

use crds::status::{ConditionType, Lag, LimitedBy, PartitionLag, Reason};
use crds::{StreamStage, StreamStageStatus};
use k8s_openapi::jiff::SignedDuration;

use super::conditions::{ConditionState, ConditionUpdate, stage_condition};
use crate::lag::offsets::{LagError, LagErrorReason};
use crate::lag::view::LagView;
use crate::scale::load::{Load, PartitionLoad};
use crate::scale::settings::PAUSE_ANNOTATION;
use crate::scale::{LagState, ReplicaDecision};

/// Maximum drain time in the status, in seconds: more than a century. The schema has a limit too.
const MAX_DRAIN_SECONDS: u64 = 0xFFFF_FFFF;
/// Maximum number of partitions in `status.laggingPartitions`, as in the CRD.
const MAX_LISTED_PARTITIONS: usize = 16;
/// Lag, in records, below which it is small: it fluctuates at every poll.
const SMALL_LAG_RECORDS: u64 = 10;
/// Minimum time between two updates of a small lag in the status.
const SMALL_LAG_UPDATE_INTERVAL: SignedDuration = SignedDuration::from_mins(1);

/// Returns `status.lag` and `status.laggingPartitions`; those of `before` while the rounded lag is unchanged.
pub(super) fn lag_status(before: &StreamStageStatus, view: &LagView) -> (Option<Lag>, Vec<PartitionLag>) {
    match changed_lag(before.lag.as_ref(), view) {
        Some(lag) => (Some(lag), view.fresh_load().map(most_lagging).unwrap_or_default()),
        None => (before.lag.clone(), before.lagging_partitions.clone()),
    }
}

/// Returns the lag if it differs from the reported one after rounding; `None` while the lag is unknown.
pub(super) fn changed_lag(reported: Option<&Lag>, view: &LagView) -> Option<Lag> {
    let lag = lag(view.fresh_load()?, view.poll_interval);
    let is_unchanged = reported.is_some_and(|reported| is_equal_rounded(reported, &lag));
    (!is_unchanged).then_some(lag)
}

fn lag(load: &Load, poll_interval: SignedDuration) -> Lag {
    let count = |matches: fn(&PartitionLoad) -> bool| {
        let partitions = load.partitions.iter().filter(|partition| matches(partition));
        u32::try_from(partitions.count()).unwrap_or(u32::MAX)
    };
    let drain_seconds = drain_seconds(Some(load));
    Lag {
        total: load.total_lag(),
        max_partition_lag: load
            .partitions
            .iter()
            .map(|partition| partition.lag)
            .max()
            .unwrap_or(0),
        drain_seconds,
        drain: match drain_seconds {
            Some(seconds) => format_duration(seconds),
            None if load.is_growing(poll_interval) => "growing".to_owned(),
            None => "steady".to_owned(),
        },
        arrival_per_second: round_to_tenths(load.arrival_per_second()),
        processed_per_second: round_to_tenths(load.processed_per_second),
        partition_count: count(|_| true),
        lagging_partition_count: count(|partition| partition.lag > 0),
        stuck_partition_count: count(|partition| partition.is_stuck),
        measurement_time: load.measurement_time,
    }
}

/// Returns the drain time in whole seconds; `None` while the lag is unknown or does not decrease.
pub(super) fn drain_seconds(load: Option<&Load>) -> Option<u64> {
    load.and_then(Load::drain_seconds).map(ceil_seconds)
}

/// Partitions with the largest lag, largest first.
fn most_lagging(load: &Load) -> Vec<PartitionLag> {
    let mut lagging: Vec<&PartitionLoad> = load
        .partitions
        .iter()
        .filter(|partition| partition.lag > 0)
        .collect();
    lagging.sort_by_key(|partition| (std::cmp::Reverse(partition.lag), partition.partition));
    lagging
        .into_iter()
        .take(MAX_LISTED_PARTITIONS)
        .map(|partition| PartitionLag {
            partition: partition.partition,
            lag: partition.lag,
            committed_offset: partition.committed_offset,
            end_offset: partition.end_offset,
            stuck: partition.is_stuck,
        })
        .collect()
}

/// Returns true if a user would notice no difference between the two.
fn is_equal_rounded(reported: &Lag, current: &Lag) -> bool {
    if (reported.partition_count, reported.stuck_partition_count)
        != (current.partition_count, current.stuck_partition_count)
    {
        return false;
    }
    if reported.total < SMALL_LAG_RECORDS && current.total < SMALL_LAG_RECORDS {
        let elapsed = current
            .measurement_time
            .zip(reported.measurement_time)
            .map(|(current, reported)| current.duration_since(reported));
        return reported.total == current.total
            || elapsed.is_some_and(|elapsed| elapsed < SMALL_LAG_UPDATE_INTERVAL);
    }
    let is_drain_equal = match (reported.drain_seconds, current.drain_seconds) {
        (Some(reported), Some(current)) => round_to_two_digits(reported) == round_to_two_digits(current),
        _ => reported.drain == current.drain,
    };
    round_to_two_digits(reported.total) == round_to_two_digits(current.total) && is_drain_equal
}

/// Rounds down to the first two decimal digits: 1234 to 1200.
fn round_to_two_digits(number: u64) -> u64 {
    let unit = 10_u64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(1));
    number / unit * unit
}

/// Formats seconds for display: `42s`, `3m10s`, `2h5m`.
fn format_duration(seconds: u64) -> String {
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
fn ceil_seconds(seconds: f64) -> u64 {
    (seconds.ceil() as u64).min(MAX_DRAIN_SECONDS)
}

fn round_to_tenths(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

/// Returns the conditions that follow from the lag and the decision; one that is unknown has no update.
pub(super) fn condition_updates(view: &LagView, decision: &ReplicaDecision) -> Vec<ConditionUpdate> {
    let (reachable, observed) = source_and_lag(view);
    let follows_lag = decision.reason == Reason::FollowsLag;
    let active = ConditionState::new(follows_lag, decision.reason, scaling_active_message(decision));
    let updates = [
        (ConditionType::SourceReachable, reachable),
        (ConditionType::LagObserved, observed),
        (ConditionType::PartitionsStuck, partitions_stuck(view)),
        (ConditionType::ScalingActive, Some(active)),
        (ConditionType::ScalingLimited, Some(scaling_limited(decision))),
    ];
    updates
        .into_iter()
        .filter_map(|(type_, state)| Some(ConditionUpdate { type_, state: state? }))
        .collect()
}

/// Returns the updates that the status should show. Until the first lag poll the scaling conditions of the previous
/// leader remain.
pub(super) fn visible_updates(
    stage: &StreamStage,
    view: &LagView,
    decision: &ReplicaDecision,
) -> Vec<ConditionUpdate> {
    let is_pending = matches!(view.lag_state(), LagState::Pending) && decision.reason == Reason::LagPending;
    let scaling = [ConditionType::ScalingActive, ConditionType::ScalingLimited];
    let mut updates = condition_updates(view, decision);
    updates.retain(|ConditionUpdate { type_, .. }| {
        !(is_pending && scaling.contains(type_) && stage_condition(stage, *type_).is_some())
    });
    updates
}

/// Condition `ScalingLimited`: more workers are needed, or do not help. A gate or `minReplicas` does not count.
fn scaling_limited(decision: &ReplicaDecision) -> ConditionState {
    let bounds = [
        LimitedBy::Max,
        LimitedBy::Partitions,
        LimitedBy::HotPartition,
        LimitedBy::ConnectionBudget,
        LimitedBy::SlowWorker,
        LimitedBy::Downstream,
    ];
    if bounds.contains(&decision.limited_by) {
        let message = format!("Limited by {:?}", decision.limited_by);
        ConditionState::new(true, Reason::Limited, message)
    } else {
        ConditionState::new(false, Reason::NotLimited, "No bound limits the recommendation")
    }
}

/// Message of `ScalingActive`. It has no values, which change at every poll; those are in `status.scaling.message`.
fn scaling_active_message(decision: &ReplicaDecision) -> String {
    match decision.reason {
        Reason::FollowsLag => "Replicas follow the lag".to_owned(),
        Reason::LagUnknown => "Holding replicas: lag unknown".to_owned(),
        Reason::LagPending => "Holding replicas: lag not measured yet".to_owned(),
        Reason::Paused => format!("Paused by the annotation {PAUSE_ANNOTATION}"),
        _ => decision.message.clone(),
    }
}

/// Conditions `SourceReachable` and `LagObserved`; `None` before the first result of a poll.
fn source_and_lag(view: &LagView) -> (Option<ConditionState>, Option<ConditionState>) {
    let reachable = || {
        let message = "Kafka is reachable and the topic exists";
        ConditionState::new(true, Reason::Reachable, message)
    };
    match (view.lasting_error(), view.fresh_load()) {
        (Some(LagError { reason, message }), _) => {
            let unreachable = match reason {
                LagErrorReason::Unreachable => Some(Reason::Unreachable),
                LagErrorReason::AuthenticationFailed => Some(Reason::AuthenticationFailed),
                LagErrorReason::AuthorizationFailed => Some(Reason::AuthorizationFailed),
                LagErrorReason::UnknownTopic => Some(Reason::UnknownTopic),
                LagErrorReason::PartialOffsets | LagErrorReason::OffsetOutOfRange => None,
            };
            let source =
                unreachable.map_or_else(reachable, |reason| ConditionState::new(false, reason, &message));
            let unobserved = match reason {
                LagErrorReason::PartialOffsets => Reason::PartialOffsets,
                LagErrorReason::OffsetOutOfRange => Reason::OffsetOutOfRange,
                _ => unreachable.unwrap_or(Reason::Unreachable),
            };
            let observed = ConditionState::new(false, unobserved, message);
            (Some(source), Some(observed))
        }
        (None, Some(_)) => {
            let observed = ConditionState::new(true, Reason::Observed, "Offsets of all partitions read");
            (Some(reachable()), Some(observed))
        }
        (None, None) => (None, None),
    }
}

/// Condition `PartitionsStuck`; `None` while the lag is unknown.
fn partitions_stuck(view: &LagView) -> Option<ConditionState> {
    let load = view.fresh_load()?;
    let stuck: Vec<String> = load
        .partitions
        .iter()
        .filter(|partition| partition.is_stuck)
        .map(|partition| format!("{} at offset {}", partition.partition, partition.committed_offset))
        .collect();
    Some(if stuck.is_empty() {
        ConditionState::new(false, Reason::NotStuck, "All partitions with lag make progress")
    } else {
        let message = format!(
            "No progress in partition {}: search the worker logs for blocked partitions",
            stuck.join(", partition ")
        );
        ConditionState::new(true, Reason::Stuck, message)
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::status::change_detection::tests::view;

    #[test]
    fn lag_is_reported_when_its_first_two_digits_change() {
        let reported = |total| Lag {
            total,
            drain_seconds: Some(10),
            ..Lag::default()
        };
        for (before, current, is_equal) in [
            (1234, 1299, true),
            (1234, 1300, false),
            (1999, 2000, false),
            (11, 12, false),
            (99, 100, false),
            (u64::MAX, u64::MAX - 1, true),
        ] {
            assert_eq!(
                is_equal_rounded(&reported(before), &reported(current)),
                is_equal,
                "{before} {current}"
            );
        }
        assert_eq!(
            [0, 9, 10, 123, 99_999].map(round_to_two_digits),
            [0, 9, 10, 120, 99_000]
        );
        let slower = Lag {
            drain_seconds: Some(12),
            ..reported(1234)
        };
        let stuck = Lag {
            stuck_partition_count: 1,
            ..reported(1234)
        };
        assert!(!is_equal_rounded(&reported(1234), &slower) && !is_equal_rounded(&reported(1234), &stuck));
        let without_drain_time = |drain: &str| Lag {
            drain_seconds: None,
            drain: drain.to_owned(),
            ..reported(1234)
        };
        assert!(is_equal_rounded(
            &without_drain_time("steady"),
            &without_drain_time("steady")
        ));
        assert!(!is_equal_rounded(
            &without_drain_time("steady"),
            &without_drain_time("growing")
        ));
        assert!(!is_equal_rounded(&reported(1234), &without_drain_time("steady")));
    }

    #[test]
    fn a_small_lag_is_reported_once_a_minute() {
        let reported = |total, second| Lag {
            total,
            measurement_time: Timestamp::from_second(second).ok(),
            ..Lag::default()
        };
        assert!(is_equal_rounded(&reported(3, 0), &reported(9, 59)));
        assert!(!is_equal_rounded(&reported(3, 0), &reported(9, 60)));
        assert!(is_equal_rounded(&reported(3, 0), &reported(3, 600)));
        assert!(
            !is_equal_rounded(&reported(3, 0), &reported(10, 1)),
            "a lag of ten records is not small"
        );
    }

    #[test]
    fn the_sixteen_most_lagging_partitions_are_listed() {
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
        let listed: Vec<u32> = most_lagging(&load)
            .iter()
            .map(|partition| partition.partition)
            .collect();
        assert_eq!(listed, [18, 19, 16, 17, 14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5]);
        let few = Load {
            partitions: load.partitions[..4].to_vec(),
            ..Load::default()
        };
        assert_eq!(
            most_lagging(&few).len(),
            1,
            "partitions without lag are not listed"
        );
    }

    #[test]
    fn durations_are_formatted_with_two_units() {
        for (seconds, formatted) in [
            (0, "0s"),
            (42, "42s"),
            (60, "1m0s"),
            (190, "3m10s"),
            (3600, "1h0m"),
            (7530, "2h5m"),
        ] {
            assert_eq!(format_duration(seconds), formatted);
        }
    }

    #[test]
    fn drain_is_growing_only_beyond_one_poll_interval_of_work() {
        let drain = |total: u64, arrival_per_second: f64, processed_per_second: f64| {
            let load = Load {
                partitions: vec![PartitionLoad {
                    lag: total,
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
            "it is processed before the next poll"
        );
        assert_eq!(drain(1, 0.2, 0.2), "steady");
        assert_eq!(
            drain(700, 0.0, 0.0),
            "steady",
            "nothing arrives and nothing is processed"
        );
        assert_eq!(drain(700, 0.1, 0.0), "growing");
    }

    #[test]
    fn a_drain_time_fits_the_schema() {
        let load = Load {
            partitions: vec![PartitionLoad {
                lag: u64::MAX,
                ..PartitionLoad::default()
            }],
            processed_per_second: 0.001,
            ..Load::default()
        };
        let seconds = drain_seconds(Some(&load)).expect("the lag shrinks");
        assert!(
            i64::try_from(seconds).is_ok() && seconds == MAX_DRAIN_SECONDS,
            "{seconds}"
        );
    }

    #[test]
    fn a_stale_lag_is_not_reported() {
        let mut view = view(0);
        let before = StreamStageStatus::default();
        assert!(lag_status(&before, &view).0.is_some());
        assert_eq!(
            source_and_lag(&view).1.map(|observed| observed.is_true),
            Some(true)
        );
        view.now += SignedDuration::from_mins(1);
        assert_eq!(lag_status(&before, &view), (None, Vec::new()));
        let observed = source_and_lag(&view).1.expect("a condition");
        assert_eq!(
            (observed.is_true, observed.reason),
            (false, Reason::PartialOffsets),
            "{}",
            observed.message
        );
        assert!(partitions_stuck(&view).is_none());
    }
}
