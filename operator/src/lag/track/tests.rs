use super::*;
use crate::lag::UnknownReason;

const POLL: SignedDuration = SignedDuration::from_secs(1);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("a time")
}

fn around(ready: u32) -> Surroundings {
    Surroundings {
        ready,
        stuck_after: SignedDuration::from_secs(10),
    }
}

/// Partitions as `(committed, end)`.
fn reading(partitions: &[(u64, u64)]) -> Reading {
    let partitions = partitions
        .iter()
        .zip(0..)
        .map(|(&(committed, end), partition)| PartitionReading {
            partition,
            start: 0,
            end,
            committed: Some(committed),
        });
    Reading {
        partitions: partitions.collect(),
    }
}

#[test]
fn two_readings_give_lag_and_rates_and_one_gives_none() {
    let mut track = Track::default();
    track.read(&reading(&[(0, 100), (50, 50)]), at(0), around(1));
    assert!(matches!(track.known(at(0), POLL), LagKnown::Pending));
    track.read(&reading(&[(60, 140), (50, 60)]), at(2), around(1));
    let LagKnown::Read(load) = track.known(at(2), POLL) else {
        unreachable!("it was read")
    };
    assert_eq!(load.total(), 90);
    assert!((load.arrival_per_second() - 25.0).abs() < 1e-9);
    assert!((load.processed_per_second - 30.0).abs() < 1e-9);
    assert_eq!(load.drain_seconds(), Some(18.0));
}

#[test]
fn what_retention_took_is_no_lag() {
    let partition = PartitionReading {
        partition: 0,
        start: 70,
        end: 100,
        committed: Some(40),
    };
    assert_eq!((partition.lag(), partition.position()), (30, 70));
    let fresh = PartitionReading {
        committed: None,
        ..partition
    };
    assert_eq!(fresh.lag(), 30);
    let made_anew = PartitionReading {
        start: 0,
        end: 5,
        ..partition
    };
    assert_eq!(made_anew.lag(), 0);
}

#[test]
fn a_failed_or_old_reading_is_unknown_and_a_person_is_told_when_it_lasts() {
    let mut track = Track::default();
    track.read(&reading(&[(0, 1)]), at(0), around(1));
    track.read(&reading(&[(0, 1)]), at(1), around(1));
    assert!(matches!(track.known(at(16), POLL), LagKnown::Read(_)));
    assert!(matches!(track.known(at(17), POLL), LagKnown::Unknown(_)));
    let gone = Unknown {
        reason: UnknownReason::Unreachable,
        message: "no broker".to_owned(),
    };
    track.failed(gone.clone());
    assert!(matches!(track.known(at(2), POLL), LagKnown::Missed("no broker")));
    assert!(track.unknown().is_none(), "one missed reading is told to nobody");
    track.failed(gone.clone());
    assert!(track.unknown().is_some());
    assert!(
        matches!(track.known(at(17), POLL), LagKnown::Missed(_)),
        "two failures are few"
    );
    track.failed(gone);
    assert!(
        matches!(track.known(at(16), POLL), LagKnown::Missed(_)),
        "the reading before is fresh"
    );
    assert!(matches!(
        track.known(at(17), POLL),
        LagKnown::Unknown("no broker")
    ));
    track.read(&reading(&[(0, 1)]), at(3), around(1));
    assert!(track.unknown().is_none() && track.failures() == 0);
}

#[test]
fn a_partition_without_progress_is_stuck_until_it_moves() {
    let mut track = Track::default();
    let stuck = |track: &Track| track.load().is_some_and(|load| load.partitions[0].is_stuck);
    for second in 0..10 {
        track.read(&reading(&[(5, 9)]), at(second), around(1));
    }
    assert!(!stuck(&track));
    track.read(&reading(&[(5, 9)]), at(10), around(1));
    assert!(stuck(&track));
    track.read(&reading(&[(6, 9)]), at(11), around(1));
    assert!(!stuck(&track));
}

#[test]
fn without_workers_and_without_lag_nothing_is_stuck() {
    for (partition, ready) in [((5, 9), 0), ((9, 9), 1)] {
        let mut track = Track::default();
        for second in 0..30 {
            track.read(&reading(&[partition]), at(second), around(ready));
        }
        assert_eq!(
            track.load().map(|load| load.partitions[0].is_stuck),
            Some(false),
            "{partition:?}"
        );
    }
}

#[test]
fn a_successor_knows_what_was_stuck_and_what_a_worker_commits() {
    let status = StreamStageStatus {
        partitions: vec![crds::status::PartitionLag {
            partition: 0,
            lag: 4,
            committed: 5,
            end: 9,
            stuck: true,
        }],
        scaling: Some(crds::status::ScalingStatus {
            records_per_second_of_a_worker: Some(400.0),
            ..crds::status::ScalingStatus::default()
        }),
        ..StreamStageStatus::default()
    };
    let mut track = Track::resume(&status);
    track.read(&reading(&[(5, 9)]), at(0), around(1));
    track.read(&reading(&[(5, 9)]), at(1), around(1));
    let load = track.load().expect("two readings");
    assert_eq!(
        (load.partitions[0].is_stuck, load.worker_rate),
        (true, Some(400.0))
    );
}

#[test]
fn a_worker_is_measured_only_while_it_is_behind() {
    let rate = |steps: &[(u64, u64)], ready: u32| {
        let mut track = Track::default();
        for (&partition, second) in steps.iter().zip(0..) {
            track.read(&reading(&[partition, partition]), at(second), around(ready));
        }
        track.load().and_then(|load| load.worker_rate)
    };
    let behind = [(0, 9000), (400, 9000), (900, 9000), (1300, 9000)];
    assert_eq!(
        rate(&behind, 2),
        Some(500.0),
        "the best of the samples, of each worker"
    );
    assert_eq!(rate(&behind, 1), Some(1000.0), "one worker reads both partitions");
    assert_eq!(
        rate(&behind, 9),
        Some(500.0),
        "a worker without a partition does nothing"
    );
    assert_eq!(rate(&behind, 0), None);
    assert_eq!(rate(&behind[..3], 2), None, "two samples are too few");
    assert_eq!(
        rate(&[(0, 10), (10, 20), (20, 30), (30, 40)], 2),
        None,
        "it keeps up: what it could do is not seen"
    );
}

#[test]
fn a_worker_is_measured_by_the_partitions_that_it_works_at() {
    let rate = |steps: &[[(u64, u64); 3]], ready: u32| {
        let mut track = Track::default();
        for (partitions, second) in steps.iter().zip(0..) {
            track.read(&reading(partitions), at(second), around(ready));
        }
        track.load().and_then(|load| load.worker_rate)
    };
    // One partition is behind, one is kept up with, one does not move at all.
    let mixed: Vec<[(u64, u64); 3]> = (0..4)
        .map(|second| {
            let kept_up = 90 * (second + 1);
            [(second * 500, 9000), (kept_up - 90, kept_up), (5, 9)]
        })
        .collect();
    assert_eq!(
        rate(&mixed, 3),
        Some(500.0),
        "what arrives is not what a worker can do"
    );
    assert_eq!(rate(&mixed, 1), Some(590.0), "one worker reads them all");
    let stuck: Vec<[(u64, u64); 3]> = (0..4)
        .map(|second| {
            let kept_up = 90 * (second + 1);
            [(5, 9000), (kept_up - 90, kept_up), (5, 9)]
        })
        .collect();
    assert_eq!(rate(&stuck, 3), None);
}

#[test]
fn a_worker_that_commits_at_every_other_reading_is_measured_all_the_same() {
    let mut track = Track::default();
    for second in 0..7 {
        let committed = u64::try_from(second / 2).expect("small") * 800;
        track.read(&reading(&[(committed, 9000)]), at(second), around(1));
    }
    assert_eq!(track.load().and_then(|load| load.worker_rate), Some(400.0));
}

#[test]
fn rates_that_die_away_end_at_zero() {
    let mut track = Track::default();
    for (second, end) in [(0, 0), (1, 100)] {
        track.read(&reading(&[(0, end)]), at(second), around(0));
    }
    for second in 2..14 {
        track.read(&reading(&[(0, 100)]), at(second), around(0));
    }
    assert_eq!(track.load().map(Load::arrival_per_second), Some(0.0));
}
