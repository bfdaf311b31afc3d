//! How many workers follow from a lag: what other autoscalers get wrong, every gate, and properties.

use std::time::Duration;

use crds::StreamStage;
use crds::status::{LimitedBy, Reason, ScalingStatus, Wish};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use operator::scale::demand::demand;
use operator::scale::load::{Load, PartitionLoad};
use operator::scale::{Known, LagKnown, Rules, follow, gate, wanted};
use proptest::prelude::*;

fn rules(scaling: &str, warehouse: &str) -> Rules {
    let text = format!(
        "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {{name: cdm}}, spec: {{layer: cdm, \
         source: {{bootstrapServers: ['kafka:9092'], topic: facts}}, \
         warehouse: {{host: postgres, database: orders{warehouse}}}, scaling: {scaling}}}}}"
    );
    Rules::from(&serde_saphyr::from_str::<StreamStage>(&text).expect("a stage"))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("a time")
}

/// Partitions with these lags, and no arrivals.
fn load(lags: &[u64]) -> Load {
    let partitions = lags.iter().zip(0..).map(|(&lag, partition)| PartitionLoad {
        partition,
        lag,
        end: lag,
        ..PartitionLoad::default()
    });
    Load {
        measured_at: Some(at(0)),
        partitions: partitions.collect(),
        ..Load::default()
    }
}

fn known<'k>(now: i64, current: u32, lag: LagKnown<'k>, before: &'k ScalingStatus) -> Known<'k> {
    Known {
        current: Some(current),
        lag,
        ..Known::nothing(at(now), before)
    }
}

/// The decision on a load by somebody who has just come.
fn decide(scaling: &str, lags: &[u64], current: u32) -> (u32, LimitedBy) {
    let before = ScalingStatus::default();
    let load = load(lags);
    let decided = follow(
        &rules(scaling, ""),
        &known(0, current, LagKnown::Read(&load), &before),
    );
    (decided.replicas, decided.limited_by)
}

#[test]
fn each_mode_takes_the_number_from_where_it_says() {
    for (scaling, replicas, initial, reason) in [
        ("{minReplicas: 2}", Some(2), 2, Reason::LagPending),
        ("{mode: Manual, replicas: 5}", Some(5), 5, Reason::Manual),
        ("{mode: Manual, minReplicas: 3}", Some(3), 3, Reason::Manual),
        ("{mode: External, replicas: 0}", Some(0), 0, Reason::External),
        ("{mode: External, minReplicas: 4}", None, 4, Reason::External),
        ("{mode: Recommend, minReplicas: 2}", None, 2, Reason::Recommend),
    ] {
        let before = ScalingStatus::default();
        let wanted = wanted(&rules(scaling, ""), &Known::nothing(at(0), &before));
        assert_eq!(
            (wanted.replicas, wanted.initial, wanted.reason),
            (replicas, initial, reason),
            "{scaling}"
        );
    }
}

#[test]
fn a_paused_stage_has_no_workers_in_any_mode() {
    for mode in ["Auto", "Manual", "External", "Recommend"] {
        let paused = Rules {
            is_suspended: true,
            ..rules(&format!("{{mode: {mode}, minReplicas: 3}}"), "")
        };
        let before = ScalingStatus::default();
        let wanted = wanted(&paused, &Known::nothing(at(0), &before));
        assert_eq!(
            (wanted.replicas, wanted.limited_by),
            (Some(0), LimitedBy::Suspended),
            "{mode}"
        );
    }
}

#[test]
fn connection_budget_caps_the_workers_of_every_mode_and_says_so() {
    let budget = ", connectionBudget: 7, connectionsPerWorker: 2";
    let (before, load) = (ScalingStatus::default(), load(&[10_000; 9]));
    for scaling in [
        "{mode: Manual, replicas: 5}",
        "{mode: External, replicas: 5}",
        "{target: {lagPerReplica: 1000}}",
    ] {
        let capped = wanted(
            &rules(scaling, budget),
            &known(0, 1, LagKnown::Read(&load), &before),
        );
        assert_eq!(
            (capped.replicas, capped.limited_by),
            (Some(3), LimitedBy::ConnectionBudget),
            "{scaling}"
        );
    }
    let fits = wanted(
        &rules("{mode: Manual, replicas: 3}", budget),
        &Known::nothing(at(0), &before),
    );
    assert_eq!((fits.replicas, fits.limited_by), (Some(3), LimitedBy::None));
}

/// What other autoscalers get wrong: lags, the present number, the number that is right, and why it is not more.
#[test]
fn every_partition_is_reached_and_none_twice() {
    let spread = |partitions: usize, total: u64| -> Vec<u64> {
        let each = total / partitions as u64;
        let mut lags = vec![each; partitions];
        lags[0] += total - each * partitions as u64;
        lags
    };
    let hot: Vec<u64> = std::iter::once(1_000_000).chain([0; 63]).collect();
    for (scaling, lags, current, expected) in [
        (
            "{target: {lagPerReplica: 1000}}",
            spread(24, 52_250),
            22,
            (24, LimitedBy::Partitions),
        ),
        (
            "{target: {lagPerReplica: 5}}",
            spread(5, 29),
            1,
            (5, LimitedBy::Partitions),
        ),
        (
            "{target: {lagPerReplica: 1000}}",
            hot.clone(),
            1,
            (1, LimitedBy::HotPartition),
        ),
        (
            "{target: {drainSeconds: 60}}",
            hot,
            1,
            (1, LimitedBy::HotPartition),
        ),
        ("{minReplicas: 0}", vec![0; 12], 0, (0, LimitedBy::None)),
        (
            "{minReplicas: 0}",
            std::iter::once(1).chain([0; 11]).collect(),
            0,
            (1, LimitedBy::None),
        ),
        (
            "{minReplicas: 0, activationLag: 10}",
            vec![5, 5],
            0,
            (0, LimitedBy::None),
        ),
        (
            "{minReplicas: 0, activationLag: 10}",
            vec![5, 6],
            0,
            (1, LimitedBy::None),
        ),
        ("{minReplicas: 3}", vec![0; 2], 2, (2, LimitedBy::Min)),
        ("{minReplicas: 2}", vec![0; 4], 2, (2, LimitedBy::Min)),
        (
            "{maxReplicas: 3, target: {lagPerReplica: 1}}",
            vec![9; 8],
            1,
            (3, LimitedBy::Max),
        ),
        // 600 records a second within 60 s, 700 of them by each worker.
        (
            "{target: {drainSeconds: 60}}",
            vec![21_000; 6],
            1,
            (3, LimitedBy::None),
        ),
    ] {
        assert_eq!(decide(scaling, &lags, current), expected, "{scaling} {lags:?}");
    }
}

#[test]
fn a_stuck_partition_asks_for_nobody() {
    let mut load = load(&[5000, 5000, 5000]);
    load.partitions[1].is_stuck = true;
    let before = ScalingStatus::default();
    let rules = rules("{target: {lagPerReplica: 1000}}", "");
    let decided = follow(&rules, &known(0, 1, LagKnown::Read(&load), &before));
    assert_eq!(decided.replicas, 2);
    assert_eq!(decided.demand.map(|demand| demand.stuck), Some(1));
}

#[test]
fn a_stage_that_is_stuck_keeps_a_worker_that_could_go_on() {
    let mut load = load(&[5000]);
    load.partitions[0].is_stuck = true;
    let before = ScalingStatus::default();
    let rules = rules(
        "{minReplicas: 0, scaleDown: {stabilizationWindow: 0s, cooldown: 0s}}",
        "",
    );
    for current in [0, 1] {
        let decided = follow(&rules, &known(0, current, LagKnown::Read(&load), &before));
        assert_eq!(decided.replicas, 1, "{current}");
    }
}

#[test]
fn a_move_within_the_tolerance_is_not_made_unless_it_reaches_a_bound() {
    let scaling = "{target: {lagPerReplica: 10}, scaleDown: {stabilizationWindow: 0s}}";
    let lags =
        |busy: usize| -> Vec<u64> { (0..40).map(|number| if number < busy { 10 } else { 0 }).collect() };
    assert_eq!(decide(scaling, &lags(33), 30).0, 30);
    assert_eq!(decide(scaling, &lags(34), 30).0, 34);
    assert_eq!(decide(scaling, &lags(28), 30).0, 30);
    assert_eq!(decide(scaling, &lags(40), 38).0, 40);
    assert_eq!(
        decide(
            &scaling.replace("{target", "{minReplicas: 28, target"),
            &lags(28),
            30
        )
        .0,
        28
    );
}

#[test]
fn activation_lag_wakes_a_stage_and_never_takes_a_worker_away() {
    let scaling = "{minReplicas: 0, activationLag: 1000, target: {lagPerReplica: 10}, \
                   scaleDown: {stabilizationWindow: 0s, cooldown: 0s}}";
    assert_eq!(decide(scaling, &[10; 8], 0).0, 0, "it is too little to wake for");
    assert_eq!(decide(scaling, &[200; 8], 0).0, 8);
    assert_eq!(
        decide(scaling, &[10; 8], 8).0,
        8,
        "workers that keep the lag low are needed"
    );
    assert_eq!(decide(scaling, &[0; 8], 8).0, 0);
}

#[test]
fn one_record_asks_for_one_worker_whatever_the_target() {
    let scaling = "{minReplicas: 0, target: {lagPerReplica: 1000000000}}";
    assert_eq!(decide(scaling, &[1, 0], 0).0, 1);
}

#[test]
fn what_is_not_known_moves_nothing_and_never_to_zero() {
    let before = ScalingStatus::default();
    let at_once = "onLagUnknown: Min, scaleDown: {stabilizationWindow: 0s, cooldown: 0s}";
    for (scaling, current, expected) in [
        ("{minReplicas: 1}".to_owned(), 7, 7),
        (format!("{{minReplicas: 2, {at_once}}}"), 7, 2),
        (format!("{{minReplicas: 0, {at_once}}}"), 7, 1),
        (format!("{{minReplicas: 0, {at_once}}}"), 0, 0),
        ("{minReplicas: 1, maxReplicas: 5}".to_owned(), 7, 5),
    ] {
        let decided = follow(
            &rules(&scaling, ""),
            &known(0, current, LagKnown::Unknown("no broker"), &before),
        );
        assert_eq!(
            (decided.replicas, decided.limited_by),
            (expected, LimitedBy::LagUnknown),
            "{scaling}"
        );
        assert!(decided.message.contains("no broker"), "{}", decided.message);
    }
}

#[test]
fn an_unknown_lag_takes_workers_away_only_when_it_lasts_and_every_gate_lets_it() {
    let rules = rules("{minReplicas: 2, onLagUnknown: Min}", "");
    let wished = |second, last_scale_time| ScalingStatus {
        window: [(-300, 7), (second, 2)]
            .map(|(second, replicas)| Wish {
                time: at(second),
                replicas,
            })
            .to_vec(),
        last_scale_time,
        ..ScalingStatus::default()
    };
    let (fresh, lasting) = (wished(-119, None), wished(-120, None));
    let moved = wished(-120, Some(at(-59)));
    let unknown = known(0, 7, LagKnown::Unknown("no broker"), &lasting);
    let before = ScalingStatus::default();
    for (known, expected) in [
        (unknown, 2),
        (known(0, 7, LagKnown::Missed("no broker"), &lasting), 7),
        (known(0, 7, LagKnown::Unknown("no broker"), &before), 7),
        (known(0, 7, LagKnown::Unknown("no broker"), &fresh), 7),
        (known(0, 7, LagKnown::Unknown("no broker"), &moved), 7),
        (
            Known {
                is_rolling: true,
                ..unknown
            },
            7,
        ),
        (
            Known {
                is_rebalancing: true,
                ..unknown
            },
            7,
        ),
    ] {
        let decided = follow(&rules, &known);
        assert_eq!(decided.replicas, expected, "{known:?}");
        assert_eq!(decided.limited_by, LimitedBy::LagUnknown);
    }
}

#[test]
fn each_gate_holds_a_move_and_names_itself() {
    let rules = rules(
        "{target: {lagPerReplica: 10}, scaleUp: {stabilizationWindow: 10s}}",
        "",
    );
    let (load, calm) = (
        load(&[10; 8]),
        ScalingStatus {
            window: vec![Wish {
                time: at(-60),
                replicas: 8,
            }],
            ..ScalingStatus::default()
        },
    );
    let moved = |second| ScalingStatus {
        last_scale_time: Some(at(second)),
        ..calm.clone()
    };
    let (recent, rested) = (moved(-14), moved(-15));
    let hasty = ScalingStatus {
        window: vec![Wish {
            time: at(-60),
            replicas: 2,
        }],
        ..calm.clone()
    };
    let free = known(0, 2, LagKnown::Read(&load), &calm);
    for (known, expected) in [
        (free, (8, LimitedBy::None)),
        (
            Known {
                is_rolling: true,
                ..free
            },
            (2, LimitedBy::Rollout),
        ),
        (
            Known {
                is_rebalancing: true,
                ..free
            },
            (2, LimitedBy::Rebalancing),
        ),
        (
            Known {
                before: &recent,
                ..free
            },
            (2, LimitedBy::Cooldown),
        ),
        (
            Known {
                before: &rested,
                ..free
            },
            (8, LimitedBy::None),
        ),
        (
            Known {
                before: &hasty,
                ..free
            },
            (2, LimitedBy::Stabilization),
        ),
    ] {
        let decided = follow(&rules, &known);
        assert_eq!((decided.replicas, decided.limited_by), expected);
    }
}

#[test]
fn workers_are_taken_away_once_and_only_when_the_whole_window_allows_it() {
    let rules = rules(
        "{target: {lagPerReplica: 10}, scaleDown: {stabilizationWindow: 60s, cooldown: 0s}}",
        "",
    );
    let (mut before, mut current, mut moves) = (ScalingStatus::default(), 8, Vec::new());
    for second in 0..200 {
        // A load that dies away within a minute.
        let busy = usize::try_from((60 - second).max(0) / 8).expect("a number");
        let lags: Vec<u64> = (0..8).map(|number| if number < busy { 10 } else { 0 }).collect();
        let load = load(&lags);
        let decided = follow(&rules, &known(second, current, LagKnown::Read(&load), &before));
        if decided.replicas != current {
            moves.push((second, current, decided.replicas));
            before.last_scale_time = Some(at(second));
        }
        current = decided.replicas;
        before.window = decided.window;
    }
    assert_eq!(
        moves,
        [(105, 8, 1)],
        "one move, a window after the wish has come to rest"
    );
}

/// Plays lags against the decision, one a second; returns the numbers of workers.
fn play(rules: &Rules, lags: &[Vec<u64>], start: u32) -> Vec<u32> {
    let (mut before, mut current, mut numbers) = (ScalingStatus::default(), start, Vec::new());
    for (lags, second) in lags.iter().zip(0..) {
        let load = load(lags);
        let decided = follow(rules, &known(second, current, LagKnown::Read(&load), &before));
        if decided.replicas != current {
            before.last_scale_time = Some(at(second));
        }
        before.window = decided.window;
        current = decided.replicas;
        numbers.push(current);
    }
    numbers
}

fn changes(numbers: &[u32]) -> usize {
    numbers.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

proptest! {
    #[test]
    fn the_ceiling_is_never_exceeded_and_the_floor_never_undercut(
        lags in prop::collection::vec(0_u64..1_000_000, 1..40),
        (current, min, more, budget) in (0_u32..100, 0_u32..20, 0_u32..20, 1_u32..100),
        target in prop_oneof![Just("drainSeconds: 60"), Just("lagPerReplica: 1000")],
    ) {
        let max = (min + more).max(1);
        let scaling = format!("{{minReplicas: {min}, maxReplicas: {max}, target: {{{target}}}}}");
        let rules = rules(&scaling, &format!(", connectionBudget: {budget}, connectionsPerWorker: 2"));
        let (load, before) = (load(&lags), ScalingStatus::default());
        let decided = follow(&rules, &known(0, current, LagKnown::Read(&load), &before));
        let ceiling = max.min(u32::try_from(lags.len()).expect("few")).min(budget / 2);
        prop_assert!(decided.replicas <= ceiling);
        prop_assert!(decided.replicas >= min.min(ceiling));
    }

    #[test]
    fn more_lag_never_asks_for_fewer_workers(
        lags in prop::collection::vec((0_u64..100_000, 0_u64..100_000), 1..40),
        target in prop_oneof![Just("drainSeconds: 60"), Just("lagPerReplica: 1000")],
    ) {
        let rules = rules(&format!("{{minReplicas: 0, target: {{{target}}}}}"), "");
        let asked = |lags: Vec<u64>| demand(&rules.scaling, &load(&lags), true).replicas;
        let less = asked(lags.iter().map(|(lag, _)| *lag).collect());
        let more = asked(lags.iter().map(|(lag, more)| lag + more).collect());
        prop_assert!(more >= less);
    }

    #[test]
    fn a_constant_load_is_met_in_one_move(
        lags in prop::collection::vec(0_u64..50_000, 1..30), start in 0_u32..40,
    ) {
        let window = "scaleUp: {stabilizationWindow: 0s, cooldown: 5s}, scaleDown: {stabilizationWindow: 10s, cooldown: 5s}";
        let rules = rules(&format!("{{target: {{lagPerReplica: 1000}}, {window}}}"), "");
        let start = start.clamp(1, u32::try_from(lags.len()).expect("few"));
        let most = u32::try_from(lags.len()).expect("few");
        let asked = demand(&rules.scaling, &load(&lags), false).replicas.clamp(1, most);
        let numbers = play(&rules, &vec![lags; 60], start);
        let all: Vec<u32> = std::iter::once(start).chain(numbers).collect();
        prop_assert!(changes(&all) <= 1, "{all:?}");
        let is_small = asked != 1 && asked != most && start.abs_diff(asked) * 10 <= start;
        prop_assert_eq!(all.last(), Some(if is_small { &start } else { &asked }));
    }

    #[test]
    fn a_flapping_lag_takes_workers_away_only_after_a_window_of_rest(
        (low, high) in (0_u64..100_000, 0_u64..100_000), flaps in prop::collection::vec(1_usize..200, 1..20),
    ) {
        let rules = rules("{target: {lagPerReplica: 1000}, scaleDown: {stabilizationWindow: 120s, cooldown: 0s}}", "");
        let levels = flaps.iter().zip([low, high].into_iter().cycle());
        let lags: Vec<Vec<u64>> = levels.flat_map(|(&seconds, level)| vec![vec![level; 12]; seconds]).collect();
        let numbers = play(&rules, &lags, 1);
        let mut last = 0;
        for (second, pair) in numbers.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]) {
            prop_assert!(pair[1] > pair[0] || second - last >= 120, "at {second} s: {numbers:?}");
            last = second;
        }
        let calm = flaps.last().is_some_and(|seconds| *seconds > 120);
        let level = lags.last().expect("a second");
        let asked = demand(&rules.scaling, &load(level), false).replicas.clamp(1, 12);
        let is_small = |from: u32| asked != 1 && asked != 12 && from.abs_diff(asked) * 10 <= from;
        prop_assert!(!calm || numbers.last().is_some_and(|last| *last == asked || is_small(*last)), "{numbers:?}");
    }

    #[test]
    fn one_hot_partition_asks_for_one_worker(lag in 1_u64..u64::from(u32::MAX), partitions in 1_usize..100, place in 0_usize..100) {
        let mut lags = vec![0; partitions];
        lags[place % partitions] = lag;
        for target in ["drainSeconds: 60", "lagPerReplica: 1000"] {
            prop_assert_eq!(decide(&format!("{{target: {{{target}}}}}"), &lags, 1).0, 1);
        }
    }

    #[test]
    fn an_unknown_lag_changes_nothing(current in 1_u32..50, window in prop::collection::vec((0_i64..500, 0_u32..50), 0..9)) {
        let window = window.into_iter().map(|(second, replicas)| Wish { time: at(-second), replicas }).collect();
        let before = ScalingStatus { window, ..ScalingStatus::default() };
        let decided = follow(&rules("{}", ""), &known(0, current, LagKnown::Unknown("gone"), &before));
        prop_assert_eq!(decided.replicas, current);
        prop_assert_eq!(decided.window, before.window);
    }
}

#[test]
fn a_window_that_a_predecessor_wrote_holds_what_it_would_have_held() {
    let rules = rules("{target: {lagPerReplica: 10}}", "");
    let window = vec![
        Wish {
            time: at(-100),
            replicas: 8,
        },
        Wish {
            time: at(-50),
            replicas: 2,
        },
    ];
    let before = ScalingStatus {
        window,
        ..ScalingStatus::default()
    };
    let load = load(&[10, 10, 0, 0, 0, 0, 0, 0]);
    let at_second = |second| follow(&rules, &known(second, 8, LagKnown::Read(&load), &before)).replicas;
    assert_eq!(at_second(0), 8);
    let later = i64::try_from(Duration::from_mins(2).as_secs()).expect("small") - 50;
    assert_eq!(at_second(later), 2);
    assert_eq!(SignedDuration::from_mins(2), gate::memory(&rules.scaling));
}
