use super::*;
use crate::lag::offsets::LagErrorReason;

const POLL: SignedDuration = SignedDuration::from_secs(1);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("a time")
}

fn context(ready_replicas: u32) -> SnapshotContext {
    SnapshotContext {
        ready_replicas,
        stuck_after: SignedDuration::from_secs(10),
    }
}

/// Snapshot of partitions given as `(committed, end)`.
fn snapshot(partitions: &[(u64, u64)]) -> OffsetSnapshot {
    let partitions = partitions
        .iter()
        .zip(0..)
        .map(|(&(committed, end), partition)| PartitionSnapshot {
            partition,
            start: 0,
            end,
            committed: Some(committed),
        });
    OffsetSnapshot {
        partitions: partitions.collect(),
    }
}

#[test]
fn two_snapshots_yield_lag_and_rates_and_one_yields_neither() {
    let mut tracker = LagTracker::default();
    tracker.record(&snapshot(&[(0, 100), (50, 50)]), at(0), context(1));
    assert!(matches!(tracker.lag_state(at(0), POLL), LagState::Pending));
    tracker.record(&snapshot(&[(60, 140), (50, 60)]), at(2), context(1));
    let LagState::Fresh(load) = tracker.lag_state(at(2), POLL) else {
        unreachable!("two snapshots were recorded")
    };
    assert_eq!(load.total_lag(), 90);
    assert!((load.arrival_per_second() - 25.0).abs() < 1e-9);
    assert!((load.processed_per_second - 30.0).abs() < 1e-9);
    assert_eq!(load.drain_seconds(), Some(18.0));
}

#[test]
fn records_deleted_by_retention_do_not_count_as_lag() {
    let partition = PartitionSnapshot {
        partition: 0,
        start: 70,
        end: 100,
        committed: Some(40),
    };
    assert_eq!((partition.lag(), partition.position()), (30, 70));
    let without_commit = PartitionSnapshot {
        committed: None,
        ..partition
    };
    assert_eq!(without_commit.lag(), 30);
    let recreated = PartitionSnapshot {
        start: 0,
        end: 5,
        ..partition
    };
    assert_eq!(recreated.lag(), 0);
}

#[test]
fn a_failed_or_stale_poll_is_not_used_and_is_reported_when_it_lasts() {
    let mut tracker = LagTracker::default();
    tracker.record(&snapshot(&[(0, 1)]), at(0), context(1));
    tracker.record(&snapshot(&[(0, 1)]), at(1), context(1));
    assert!(matches!(tracker.lag_state(at(16), POLL), LagState::Fresh(_)));
    assert!(matches!(tracker.lag_state(at(17), POLL), LagState::Unknown(_)));
    let error = LagError {
        reason: LagErrorReason::Unreachable,
        message: "no broker".to_owned(),
    };
    tracker.record_failure(error.clone());
    assert!(matches!(
        tracker.lag_state(at(2), POLL),
        LagState::TransientError("no broker")
    ));
    assert!(
        tracker.lasting_error().is_none(),
        "one failed poll is not reported"
    );
    tracker.record_failure(error.clone());
    assert!(tracker.lasting_error().is_some());
    assert!(
        matches!(tracker.lag_state(at(17), POLL), LagState::TransientError(_)),
        "two failures are too few to act on"
    );
    tracker.record_failure(error);
    assert!(
        matches!(tracker.lag_state(at(16), POLL), LagState::TransientError(_)),
        "the last snapshot is fresh"
    );
    assert!(matches!(
        tracker.lag_state(at(17), POLL),
        LagState::Unknown("no broker")
    ));
    tracker.record(&snapshot(&[(0, 1)]), at(3), context(1));
    assert!(tracker.lasting_error().is_none() && tracker.consecutive_failures() == 0);
}

#[test]
fn a_partition_without_progress_is_stuck_until_it_advances() {
    let mut tracker = LagTracker::default();
    let stuck = |tracker: &LagTracker| tracker.load().is_some_and(|load| load.partitions[0].is_stuck);
    for second in 0..10 {
        tracker.record(&snapshot(&[(5, 9)]), at(second), context(1));
    }
    assert!(!stuck(&tracker));
    tracker.record(&snapshot(&[(5, 9)]), at(10), context(1));
    assert!(stuck(&tracker));
    tracker.record(&snapshot(&[(6, 9)]), at(11), context(1));
    assert!(!stuck(&tracker));
}

#[test]
fn a_partition_is_not_stuck_without_workers_or_without_lag() {
    for (partition, ready) in [((5, 9), 0), ((9, 9), 1)] {
        let mut tracker = LagTracker::default();
        for second in 0..30 {
            tracker.record(&snapshot(&[partition]), at(second), context(ready));
        }
        assert_eq!(
            tracker.load().map(|load| load.partitions[0].is_stuck),
            Some(false),
            "{partition:?}"
        );
    }
}

#[test]
fn a_new_leader_restores_stuck_partitions_and_the_worker_rate() {
    let status = StreamStageStatus {
        lagging_partitions: vec![crds::status::PartitionLag {
            partition: 0,
            lag: 4,
            committed_offset: 5,
            end_offset: 9,
            stuck: true,
        }],
        scaling: Some(crds::status::ScalingStatus {
            records_per_second_per_worker: Some(400.0),
            ..crds::status::ScalingStatus::default()
        }),
        ..StreamStageStatus::default()
    };
    let mut tracker = LagTracker::from_status(&status);
    tracker.record(&snapshot(&[(5, 9)]), at(0), context(1));
    tracker.record(&snapshot(&[(5, 9)]), at(1), context(1));
    let load = tracker.load().expect("two snapshots");
    assert_eq!(
        (load.partitions[0].is_stuck, load.worker_rate),
        (true, Some(400.0))
    );
}

#[test]
fn the_worker_rate_is_measured_only_during_a_backlog() {
    let rate = |steps: &[(u64, u64)], ready: u32| {
        let mut tracker = LagTracker::default();
        for (&partition, second) in steps.iter().zip(0..) {
            tracker.record(&snapshot(&[partition, partition]), at(second), context(ready));
        }
        tracker.load().and_then(|load| load.worker_rate)
    };
    let backlog = [(0, 9000), (400, 9000), (900, 9000), (1300, 9000)];
    assert_eq!(rate(&backlog, 2), Some(500.0), "the highest sample, per worker");
    assert_eq!(
        rate(&backlog, 1),
        Some(1000.0),
        "one worker reads both partitions"
    );
    assert_eq!(
        rate(&backlog, 9),
        Some(500.0),
        "a worker without a partition does not count"
    );
    assert_eq!(rate(&backlog, 0), None);
    assert_eq!(rate(&backlog[..3], 2), None, "two samples are too few");
    assert_eq!(
        rate(&[(0, 10), (10, 20), (20, 30), (30, 40)], 2),
        None,
        "without a backlog the capacity cannot be measured"
    );
}

#[test]
fn the_worker_rate_counts_only_partitions_with_a_backlog_and_progress() {
    let rate = |steps: &[[(u64, u64); 3]], ready: u32| {
        let mut tracker = LagTracker::default();
        for (partitions, second) in steps.iter().zip(0..) {
            tracker.record(&snapshot(partitions), at(second), context(ready));
        }
        tracker.load().and_then(|load| load.worker_rate)
    };
    // One partition has a backlog, one is read to its end, one makes no progress.
    let mixed: Vec<[(u64, u64); 3]> = (0..4)
        .map(|second| {
            let end = 90 * (second + 1);
            [(second * 500, 9000), (end - 90, end), (5, 9)]
        })
        .collect();
    assert_eq!(
        rate(&mixed, 3),
        Some(500.0),
        "the arrival rate is not the capacity of a worker"
    );
    assert_eq!(rate(&mixed, 1), Some(590.0), "one worker reads all of them");
    let stuck: Vec<[(u64, u64); 3]> = (0..4)
        .map(|second| {
            let end = 90 * (second + 1);
            [(5, 9000), (end - 90, end), (5, 9)]
        })
        .collect();
    assert_eq!(rate(&stuck, 3), None);
}

#[test]
fn the_worker_rate_is_measured_when_a_batch_spans_two_polls() {
    let mut tracker = LagTracker::default();
    for second in 0..7 {
        let committed = u64::try_from(second / 2).expect("small") * 800;
        tracker.record(&snapshot(&[(committed, 9000)]), at(second), context(1));
    }
    assert_eq!(tracker.load().and_then(|load| load.worker_rate), Some(400.0));
}

#[test]
fn an_arrival_rate_reaches_zero_when_nothing_arrives() {
    let mut tracker = LagTracker::default();
    for (second, end) in [(0, 0), (1, 100)] {
        tracker.record(&snapshot(&[(0, end)]), at(second), context(0));
    }
    for second in 2..14 {
        tracker.record(&snapshot(&[(0, 100)]), at(second), context(0));
    }
    assert_eq!(tracker.load().map(Load::arrival_per_second), Some(0.0));
}
