use super::*;
use crate::lag::offsets::LagErrorReason;
use crate::scale::load::Measure;

const POLL: SignedDuration = SignedDuration::from_secs(1);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("a time")
}

fn context(ready_replicas: u32) -> SnapshotContext {
    SnapshotContext::with_hidden_members(ready_replicas, SignedDuration::from_secs(10))
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
    tracker.record(&snapshot(&[(0, 100), (50, 50)]), at(0), &context(1));
    assert!(matches!(tracker.lag_state(at(0), POLL), LagState::Pending));
    tracker.record(&snapshot(&[(60, 140), (50, 60)]), at(2), &context(1));
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
    tracker.record(&snapshot(&[(0, 1)]), at(0), &context(1));
    tracker.record(&snapshot(&[(0, 1)]), at(1), &context(1));
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
    tracker.record(&snapshot(&[(0, 1)]), at(3), &context(1));
    assert!(tracker.lasting_error().is_none() && tracker.consecutive_failures() == 0);
}

#[test]
fn a_partition_without_progress_is_stuck_until_it_advances() {
    let mut tracker = LagTracker::default();
    let stuck = |tracker: &LagTracker| tracker.load().is_some_and(|load| load.partitions[0].is_stuck);
    for second in 0..10 {
        tracker.record(&snapshot(&[(5, 9)]), at(second), &context(1));
    }
    assert!(!stuck(&tracker));
    tracker.record(&snapshot(&[(5, 9)]), at(10), &context(1));
    assert!(stuck(&tracker));
    tracker.record(&snapshot(&[(6, 9)]), at(11), &context(1));
    assert!(!stuck(&tracker));
}

#[test]
fn a_partition_is_not_stuck_without_workers_or_without_lag() {
    for (partition, ready) in [((5, 9), 0), ((9, 9), 1)] {
        let mut tracker = LagTracker::default();
        for second in 0..30 {
            tracker.record(&snapshot(&[partition]), at(second), &context(ready));
        }
        assert_eq!(
            tracker.load().map(|load| load.partitions[0].is_stuck),
            Some(false),
            "{partition:?}"
        );
    }
}

#[test]
fn a_new_leader_restores_stuck_partitions() {
    let status = StreamStageStatus {
        lagging_partitions: vec![crds::status::PartitionLag {
            partition: 0,
            lag: 4,
            committed_offset: 5,
            end_offset: 9,
            stuck: true,
        }],
        ..StreamStageStatus::default()
    };
    let mut tracker = LagTracker::from_status(&status);
    tracker.record(&snapshot(&[(5, 9)]), at(0), &context(1));
    tracker.record(&snapshot(&[(5, 9)]), at(1), &context(1));
    let load = tracker.load().expect("two snapshots");
    assert!(load.partitions[0].is_stuck);
}

#[test]
fn an_arrival_rate_reaches_zero_when_nothing_arrives() {
    let mut tracker = LagTracker::default();
    for (second, end) in [(0, 0), (1, 100)] {
        tracker.record(&snapshot(&[(0, end)]), at(second), &context(0));
    }
    for second in 2..200 {
        tracker.record(&snapshot(&[(0, 100)]), at(second), &context(0));
    }
    assert_eq!(tracker.load().map(Load::arrival_per_second), Some(0.0));
}

/// Context of two members that read one partition each.
fn two_members() -> SnapshotContext {
    let members = [("a", vec![0]), ("b", vec![1])].map(|(name, partitions)| (name.to_owned(), partitions));
    SnapshotContext {
        ready_replicas: 2,
        members: GroupMembers::Assigned(members.into()),
        stuck_after: SignedDuration::from_mins(10),
    }
}

/// Records a poll every five seconds; `offsets` returns `(committed, end)` of each partition.
fn poll(
    tracker: &mut LagTracker,
    context: &SnapshotContext,
    seconds: std::ops::Range<i64>,
    offsets: impl Fn(u64) -> [(u64, u64); 2],
) -> Vec<Measure> {
    let mut measures = Vec::new();
    for second in seconds.step_by(5) {
        let offsets = offsets(u64::try_from(second).expect("a second"));
        tracker.record(&snapshot(&offsets), at(second), context);
        measures.extend(tracker.load().and_then(|load| load.group.measure));
    }
    measures
}

#[test]
fn a_member_that_is_behind_is_measured_alone() {
    let mut tracker = LagTracker::default();
    let measures = poll(&mut tracker, &two_members(), 0..80, |second| {
        [(700 * second, 90_000), (10 * second, 10 * second)]
    });
    let group = &tracker.load().expect("a load").group;
    assert_eq!(
        measures.last(),
        Some(&Measure::Behind {
            rate: 700.0,
            before: Some(700.0)
        }),
        "{measures:?}"
    );
    let samples: Vec<_> = group.members.iter().filter_map(|member| member.sample).collect();
    assert_eq!(
        samples.iter().map(|sample| sample.is_behind).collect::<Vec<_>>(),
        [true, false]
    );
    assert!(group.mostly_behind_since.is_some() && group.quiet_since.is_none() && group.has_committed);
}

#[test]
fn a_member_that_is_behind_at_less_than_another_does_easily_is_slow_and_no_evidence() {
    let mut tracker = LagTracker::default();
    let measures = poll(&mut tracker, &two_members(), 0..80, |second| {
        [(100 * second, 90_000), (600 * second, 600 * second)]
    });
    assert!(
        !measures
            .iter()
            .any(|measure| matches!(measure, Measure::Behind { .. })),
        "{measures:?}"
    );
    assert_eq!(measures.last(), Some(&Measure::KeepsUp(600.0)));
    let load = tracker.load().expect("a load");
    let slow: Vec<&str> = load.slow_members().map(|member| member.name.as_str()).collect();
    assert_eq!(slow, ["a"]);
}

#[test]
fn hidden_members_count_as_one_reader_with_the_rate_of_a_worker_on_average() {
    let mut tracker = LagTracker::default();
    let measures = poll(&mut tracker, &context(2), 0..80, |second| {
        [(500 * second, 90_000), (300 * second, 90_000)]
    });
    let rate = 400.0;
    assert_eq!(
        measures.last(),
        Some(&Measure::Behind {
            rate,
            before: Some(rate)
        })
    );
    let group = &tracker.load().expect("a load").group;
    assert_eq!((group.worker_count, group.members.len()), (2, 0));
}

#[test]
fn a_commit_every_eight_seconds_is_no_delay() {
    let mut tracker = LagTracker::default();
    let measures = poll(&mut tracker, &two_members(), 0..80, |second| {
        let committed = second / 8 * 8 * 100;
        [(committed, 100 * second), (committed, 100 * second)]
    });
    assert!(
        measures
            .iter()
            .all(|measure| matches!(measure, Measure::KeepsUp(_))),
        "{measures:?}"
    );
    assert!(
        tracker
            .load()
            .is_some_and(|load| load.group.quiet_since.is_some())
    );
}

#[test]
fn the_pause_of_a_rebalance_is_in_no_sample() {
    let mut tracker = LagTracker::default();
    let backlog = |second| [(500 * second, 90_000), (500 * second, 90_000)];
    poll(&mut tracker, &two_members(), 0..40, backlog);
    let assigning = SnapshotContext {
        members: GroupMembers::Assigning,
        ..two_members()
    };
    let during = poll(&mut tracker, &assigning, 40..60, |_| backlog(35));
    let group = &tracker.load().expect("a load").group;
    assert_eq!((during.len(), group.worker_count), (0, 0));
    assert_eq!(group.assigning_since, Some(at(40)));
    assert_eq!(group.mostly_behind_since, None, "other members may not be behind");
    let after = poll(&mut tracker, &two_members(), 60..100, |second| {
        backlog(second - 25)
    });
    let rates = after.iter().map(|measure| match measure {
        Measure::Behind { rate, .. } | Measure::KeepsUp(rate) => rate.to_string(),
    });
    assert_eq!(rates.collect::<Vec<_>>(), ["500", "500"], "{after:?}");
}

#[test]
fn what_retention_took_is_no_progress() {
    let mut tracker = LagTracker::default();
    let mut partition = PartitionSnapshot {
        partition: 0,
        start: 0,
        end: 90_000,
        committed: Some(0),
    };
    let mut measures = Vec::new();
    for second in 0..16 {
        // The worker commits 100 records/s, and retention deletes more than that.
        partition.start += 9000;
        partition.end += 9000;
        partition.committed = Some(partition.start + 500);
        let snapshot = OffsetSnapshot {
            partitions: vec![partition],
        };
        tracker.record(&snapshot, at(5 * second), &context(1));
        measures.extend(tracker.load().and_then(|load| load.group.measure));
    }
    let rates = measures.iter().map(|measure| match measure {
        Measure::Behind { rate, .. } | Measure::KeepsUp(rate) => *rate,
    });
    let highest = rates.fold(0.0, f64::max);
    assert!(highest > 0.0 && highest <= 100.0, "{measures:?}");
}

#[test]
fn a_clock_that_steps_back_makes_the_lag_unknown_and_then_measured_again() {
    let mut tracker = LagTracker::default();
    for second in [3600, 3605] {
        tracker.record(&snapshot(&[(0, 10)]), at(second), &context(1));
    }
    assert!(matches!(tracker.lag_state(at(3600), POLL), LagState::Fresh(_)));
    assert!(matches!(tracker.lag_state(at(0), POLL), LagState::Unknown(_)));
    for second in [0, 5] {
        tracker.record(&snapshot(&[(0, 20)]), at(second), &context(1));
    }
    let LagState::Fresh(load) = tracker.lag_state(at(5), POLL) else {
        unreachable!("two snapshots were recorded since")
    };
    assert_eq!((load.total_lag(), load.measurement_time), (20, Some(at(5))));
}

proptest::proptest! {
    #[test]
    fn one_low_measure_never_lowers_what_is_known(rates in proptest::collection::vec(1_u64..2000, 2..8)) {
        // One member is late at each of these rates, the other keeps up at 1,000 records/s.
        let mut tracker = LagTracker::default();
        let mut committed = 0;
        for (rate, number) in rates.iter().zip(0_i64..) {
            for second in (0..40_i64).step_by(5) {
                committed += 5 * rate;
                let time = 40 * number + second;
                let other = 1000 * u64::try_from(time).unwrap_or(0);
                tracker.record(&snapshot(&[(committed, 90_000_000), (other, other)]), at(time), &two_members());
                if let Some(Measure::Behind { rate, .. }) = tracker.load().and_then(|load| load.group.measure) {
                    proptest::prop_assert!(rate >= 1000.0, "{rate}");
                }
            }
        }
    }
}
