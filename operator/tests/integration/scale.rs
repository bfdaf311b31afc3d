//! The scaling algorithm: known mistakes of other autoscalers, every gate, and properties over random loads.

use std::time::Duration;

use crds::StreamStage;
use crds::status::{LimitedBy, Reason, Recommendation, ScalingStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use operator::scale::demand::demand;
use operator::scale::load::{Load, PartitionLoad};
use operator::scale::{LagState, ScalingInput, ScalingSettings, decide_by_lag, decide_replicas, gate};
use proptest::prelude::*;

fn settings(scaling: &str, warehouse: &str) -> ScalingSettings {
    let document = format!(
        "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {{name: cdm}}, spec: {{layer: cdm, \
         source: {{bootstrapServers: ['kafka:9092'], topic: facts}}, \
         warehouse: {{host: postgres, database: orders{warehouse}}}, scaling: {scaling}}}}}"
    );
    ScalingSettings::from(&serde_saphyr::from_str::<StreamStage>(&document).expect("a valid stage"))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("a valid timestamp")
}

/// A load with one partition per lag, without arrivals.
fn load(lags: &[u64]) -> Load {
    let partitions = lags.iter().zip(0..).map(|(&lag, partition)| PartitionLoad {
        partition,
        lag,
        end_offset: lag,
        ..PartitionLoad::default()
    });
    Load {
        measurement_time: Some(at(0)),
        partitions: partitions.collect(),
        ..Load::default()
    }
}

fn input<'a>(
    now: i64,
    current_replicas: u32,
    lag: LagState<'a>,
    previous: &'a ScalingStatus,
) -> ScalingInput<'a> {
    ScalingInput {
        current_replicas: Some(current_replicas),
        lag,
        ..ScalingInput::new(at(now), previous)
    }
}

/// First decision of an operator without a scaling history.
fn decide(scaling: &str, lags: &[u64], current: u32) -> (u32, LimitedBy) {
    let previous = ScalingStatus::default();
    let load = load(lags);
    let decision = decide_by_lag(
        &settings(scaling, ""),
        &input(0, current, LagState::Fresh(&load), &previous),
    );
    (decision.replicas, decision.limited_by)
}

#[test]
fn each_mode_takes_the_replicas_from_its_own_source() {
    for (scaling, replicas, initial, reason) in [
        ("{minReplicas: 2}", Some(2), 2, Reason::LagPending),
        ("{mode: Manual, replicas: 5}", Some(5), 5, Reason::Manual),
        ("{mode: Manual, minReplicas: 3}", Some(3), 3, Reason::Manual),
        ("{mode: External, replicas: 0}", Some(0), 0, Reason::External),
        ("{mode: External, minReplicas: 4}", None, 4, Reason::External),
        ("{mode: Recommend, minReplicas: 2}", None, 2, Reason::Recommend),
    ] {
        let previous = ScalingStatus::default();
        let decision = decide_replicas(&settings(scaling, ""), &ScalingInput::new(at(0), &previous));
        assert_eq!(
            (decision.replicas, decision.initial, decision.reason),
            (replicas, initial, reason),
            "{scaling}"
        );
    }
}

#[test]
fn a_suspended_stage_has_no_workers_in_any_mode() {
    for mode in ["Auto", "Manual", "External", "Recommend"] {
        let suspended = ScalingSettings {
            is_suspended: true,
            ..settings(&format!("{{mode: {mode}, minReplicas: 3}}"), "")
        };
        let previous = ScalingStatus::default();
        let decision = decide_replicas(&suspended, &ScalingInput::new(at(0), &previous));
        assert_eq!(
            (decision.replicas, decision.limited_by),
            (Some(0), LimitedBy::Suspended),
            "{mode}"
        );
    }
}

#[test]
fn the_connection_budget_caps_the_replicas_in_every_mode_and_is_reported() {
    let budget = ", connectionBudget: 7, connectionsPerWorker: 2";
    let (previous, load) = (ScalingStatus::default(), load(&[10_000; 9]));
    for scaling in [
        "{mode: Manual, replicas: 5}",
        "{mode: External, replicas: 5}",
        "{target: {lagPerReplica: 1000}}",
    ] {
        let capped = decide_replicas(
            &settings(scaling, budget),
            &input(0, 1, LagState::Fresh(&load), &previous),
        );
        assert_eq!(
            (capped.replicas, capped.limited_by),
            (Some(3), LimitedBy::ConnectionBudget),
            "{scaling}"
        );
    }
    let fits = decide_replicas(
        &settings("{mode: Manual, replicas: 3}", budget),
        &ScalingInput::new(at(0), &previous),
    );
    assert_eq!((fits.replicas, fits.limited_by), (Some(3), LimitedBy::None));
}

/// Cases that other autoscalers get wrong: lags, current replicas, correct replicas, and what limits them.
#[test]
fn replicas_match_the_partitions_that_workers_can_share() {
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
        // 2,100 records/s drain this lag in 60 s; one worker provides 700.
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
fn a_stuck_partition_adds_no_demand() {
    let mut load = load(&[5000, 5000, 5000]);
    load.partitions[1].is_stuck = true;
    let previous = ScalingStatus::default();
    let settings = settings("{target: {lagPerReplica: 1000}}", "");
    let decision = decide_by_lag(&settings, &input(0, 1, LagState::Fresh(&load), &previous));
    assert_eq!(decision.replicas, 2);
    assert_eq!(
        decision.demand.map(|demand| demand.stuck_partition_count),
        Some(1)
    );
}

#[test]
fn a_stage_with_only_stuck_partitions_has_one_worker() {
    let mut load = load(&[5000]);
    load.partitions[0].is_stuck = true;
    let previous = ScalingStatus::default();
    let settings = settings(
        "{minReplicas: 0, scaleDown: {stabilizationWindow: 0s, cooldown: 0s}}",
        "",
    );
    for current in [0, 1] {
        let decision = decide_by_lag(&settings, &input(0, current, LagState::Fresh(&load), &previous));
        assert_eq!(decision.replicas, 1, "{current}");
    }
}

#[test]
fn a_step_within_the_tolerance_is_skipped_unless_it_reaches_a_bound() {
    let scaling = "{target: {lagPerReplica: 10}, scaleDown: {stabilizationWindow: 0s}}";
    let lags = |lagging: usize| -> Vec<u64> {
        (0..40)
            .map(|partition| if partition < lagging { 10 } else { 0 })
            .collect()
    };
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
fn activation_lag_activates_a_stage_and_never_removes_a_worker() {
    let scaling = "{minReplicas: 0, activationLag: 1000, target: {lagPerReplica: 10}, \
                   scaleDown: {stabilizationWindow: 0s, cooldown: 0s}}";
    assert_eq!(
        decide(scaling, &[10; 8], 0).0,
        0,
        "the lag is below activationLag"
    );
    assert_eq!(decide(scaling, &[200; 8], 0).0, 8);
    assert_eq!(
        decide(scaling, &[10; 8], 8).0,
        8,
        "activationLag does not apply to an active stage"
    );
    assert_eq!(decide(scaling, &[0; 8], 8).0, 0);
}

#[test]
fn one_record_needs_one_worker_with_any_target() {
    let scaling = "{minReplicas: 0, target: {lagPerReplica: 1000000000}}";
    assert_eq!(decide(scaling, &[1, 0], 0).0, 1);
}

#[test]
fn an_unknown_lag_never_scales_to_zero() {
    let previous = ScalingStatus::default();
    let immediate_min = "onLagUnknown: Min, scaleDown: {stabilizationWindow: 0s, cooldown: 0s}";
    for (scaling, current, expected) in [
        ("{minReplicas: 1}".to_owned(), 7, 7),
        (format!("{{minReplicas: 2, {immediate_min}}}"), 7, 2),
        (format!("{{minReplicas: 0, {immediate_min}}}"), 7, 1),
        (format!("{{minReplicas: 0, {immediate_min}}}"), 0, 0),
        ("{minReplicas: 1, maxReplicas: 5}".to_owned(), 7, 5),
    ] {
        let decision = decide_by_lag(
            &settings(&scaling, ""),
            &input(0, current, LagState::Unknown("no broker"), &previous),
        );
        assert_eq!(
            (decision.replicas, decision.limited_by),
            (expected, LimitedBy::LagUnknown),
            "{scaling}"
        );
        assert!(decision.message.contains("no broker"), "{}", decision.message);
    }
}

#[test]
fn a_lasting_unknown_lag_scales_down_through_every_gate() {
    let settings = settings("{minReplicas: 2, onLagUnknown: Min}", "");
    let recommended_since = |second, last_scale_time| ScalingStatus {
        recommendations: [(-300, 7), (second, 2)]
            .map(|(second, replicas)| Recommendation {
                time: at(second),
                replicas,
            })
            .to_vec(),
        last_scale_time,
        ..ScalingStatus::default()
    };
    let (recent, lasting) = (recommended_since(-119, None), recommended_since(-120, None));
    let cooling_down = recommended_since(-120, Some(at(-59)));
    let unknown = input(0, 7, LagState::Unknown("no broker"), &lasting);
    let previous = ScalingStatus::default();
    for (input, expected) in [
        (unknown, 2),
        (input(0, 7, LagState::TransientError("no broker"), &lasting), 7),
        (input(0, 7, LagState::Unknown("no broker"), &previous), 7),
        (input(0, 7, LagState::Unknown("no broker"), &recent), 7),
        (input(0, 7, LagState::Unknown("no broker"), &cooling_down), 7),
        (
            ScalingInput {
                is_rolling: true,
                ..unknown
            },
            7,
        ),
        (
            ScalingInput {
                is_rebalancing: true,
                ..unknown
            },
            7,
        ),
    ] {
        let decision = decide_by_lag(&settings, &input);
        assert_eq!(decision.replicas, expected, "{input:?}");
        assert_eq!(decision.limited_by, LimitedBy::LagUnknown);
    }
}

#[test]
fn each_gate_delays_a_step_and_is_reported() {
    let settings = settings(
        "{target: {lagPerReplica: 10}, scaleUp: {stabilizationWindow: 10s}}",
        "",
    );
    let (load, stable) = (
        load(&[10; 8]),
        ScalingStatus {
            recommendations: vec![Recommendation {
                time: at(-60),
                replicas: 8,
            }],
            ..ScalingStatus::default()
        },
    );
    let scaled_at = |second| ScalingStatus {
        last_scale_time: Some(at(second)),
        ..stable.clone()
    };
    let (in_cooldown, after_cooldown) = (scaled_at(-14), scaled_at(-15));
    let unstable = ScalingStatus {
        recommendations: vec![Recommendation {
            time: at(-60),
            replicas: 2,
        }],
        ..stable.clone()
    };
    let ungated = input(0, 2, LagState::Fresh(&load), &stable);
    for (input, expected) in [
        (ungated, (8, LimitedBy::None)),
        (
            ScalingInput {
                is_rolling: true,
                ..ungated
            },
            (2, LimitedBy::Rollout),
        ),
        (
            ScalingInput {
                is_rebalancing: true,
                ..ungated
            },
            (2, LimitedBy::Rebalancing),
        ),
        (
            ScalingInput {
                previous: &in_cooldown,
                ..ungated
            },
            (2, LimitedBy::Cooldown),
        ),
        (
            ScalingInput {
                previous: &after_cooldown,
                ..ungated
            },
            (8, LimitedBy::None),
        ),
        (
            ScalingInput {
                previous: &unstable,
                ..ungated
            },
            (2, LimitedBy::Stabilization),
        ),
    ] {
        let decision = decide_by_lag(&settings, &input);
        assert_eq!((decision.replicas, decision.limited_by), expected);
    }
}

#[test]
fn a_falling_load_causes_one_scale_down_after_the_stabilization_window() {
    let settings = settings(
        "{target: {lagPerReplica: 10}, scaleDown: {stabilizationWindow: 60s, cooldown: 0s}}",
        "",
    );
    let (mut previous, mut current, mut steps) = (ScalingStatus::default(), 8, Vec::new());
    for second in 0..200 {
        // The load falls to zero within a minute.
        let lagging = usize::try_from((60 - second).max(0) / 8).expect("a small number");
        let lags: Vec<u64> = (0..8)
            .map(|partition| if partition < lagging { 10 } else { 0 })
            .collect();
        let load = load(&lags);
        let decision = decide_by_lag(
            &settings,
            &input(second, current, LagState::Fresh(&load), &previous),
        );
        if decision.replicas != current {
            steps.push((second, current, decision.replicas));
            previous.last_scale_time = Some(at(second));
        }
        current = decision.replicas;
        previous.recommendations = decision.recommendations;
    }
    assert_eq!(
        steps,
        [(105, 8, 1)],
        "one step, one window after the recommendation stopped falling"
    );
}

/// Decides once per second on these lags; returns the replicas of every second.
fn simulate(settings: &ScalingSettings, lags: &[Vec<u64>], start: u32) -> Vec<u32> {
    let (mut previous, mut current, mut replicas) = (ScalingStatus::default(), start, Vec::new());
    for (lags, second) in lags.iter().zip(0..) {
        let load = load(lags);
        let decision = decide_by_lag(
            settings,
            &input(second, current, LagState::Fresh(&load), &previous),
        );
        if decision.replicas != current {
            previous.last_scale_time = Some(at(second));
        }
        previous.recommendations = decision.recommendations;
        current = decision.replicas;
        replicas.push(current);
    }
    replicas
}

fn count_steps(replicas: &[u32]) -> usize {
    replicas.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

proptest! {
    #[test]
    fn replicas_stay_between_the_floor_and_the_ceiling(
        lags in prop::collection::vec(0_u64..1_000_000, 1..40),
        (current, min, more, budget) in (0_u32..100, 0_u32..20, 0_u32..20, 1_u32..100),
        target in prop_oneof![Just("drainSeconds: 60"), Just("lagPerReplica: 1000")],
    ) {
        let max = (min + more).max(1);
        let scaling = format!("{{minReplicas: {min}, maxReplicas: {max}, target: {{{target}}}}}");
        let settings = settings(&scaling, &format!(", connectionBudget: {budget}, connectionsPerWorker: 2"));
        let (load, previous) = (load(&lags), ScalingStatus::default());
        let decision = decide_by_lag(&settings, &input(0, current, LagState::Fresh(&load), &previous));
        let ceiling = max.min(u32::try_from(lags.len()).expect("few")).min(budget / 2);
        prop_assert!(decision.replicas <= ceiling);
        prop_assert!(decision.replicas >= min.min(ceiling));
    }

    #[test]
    fn more_lag_never_reduces_the_demand(
        lags in prop::collection::vec((0_u64..100_000, 0_u64..100_000), 1..40),
        target in prop_oneof![Just("drainSeconds: 60"), Just("lagPerReplica: 1000")],
    ) {
        let settings = settings(&format!("{{minReplicas: 0, target: {{{target}}}}}"), "");
        let demanded = |lags: Vec<u64>| demand(&settings.scaling, &load(&lags), true).replicas;
        let less = demanded(lags.iter().map(|(lag, _)| *lag).collect());
        let more = demanded(lags.iter().map(|(lag, more)| lag + more).collect());
        prop_assert!(more >= less);
    }

    #[test]
    fn a_constant_load_causes_at_most_one_step(
        lags in prop::collection::vec(0_u64..50_000, 1..30), start in 0_u32..40,
    ) {
        let window = "scaleUp: {stabilizationWindow: 0s, cooldown: 5s}, scaleDown: {stabilizationWindow: 10s, cooldown: 5s}";
        let settings = settings(&format!("{{target: {{lagPerReplica: 1000}}, {window}}}"), "");
        let start = start.clamp(1, u32::try_from(lags.len()).expect("few"));
        let max = u32::try_from(lags.len()).expect("few");
        let demanded = demand(&settings.scaling, &load(&lags), false).replicas.clamp(1, max);
        let replicas = simulate(&settings, &vec![lags; 60], start);
        let all: Vec<u32> = std::iter::once(start).chain(replicas).collect();
        prop_assert!(count_steps(&all) <= 1, "{all:?}");
        let is_small = demanded != 1 && demanded != max && start.abs_diff(demanded) * 10 <= start;
        prop_assert_eq!(all.last(), Some(if is_small { &start } else { &demanded }));
    }

    #[test]
    fn a_flapping_lag_scales_down_only_after_a_quiet_window(
        (low, high) in (0_u64..100_000, 0_u64..100_000), flaps in prop::collection::vec(1_usize..200, 1..20),
    ) {
        let settings = settings("{target: {lagPerReplica: 1000}, scaleDown: {stabilizationWindow: 120s, cooldown: 0s}}", "");
        let levels = flaps.iter().zip([low, high].into_iter().cycle());
        let lags: Vec<Vec<u64>> = levels.flat_map(|(&seconds, level)| vec![vec![level; 12]; seconds]).collect();
        let replicas = simulate(&settings, &lags, 1);
        let mut last = 0;
        for (second, pair) in replicas.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]) {
            prop_assert!(pair[1] > pair[0] || second - last >= 120, "at {second} s: {replicas:?}");
            last = second;
        }
        let is_stable = flaps.last().is_some_and(|seconds| *seconds > 120);
        let level = lags.last().expect("at least one second");
        let demanded = demand(&settings.scaling, &load(level), false).replicas.clamp(1, 12);
        let is_small = |from: u32| demanded != 1 && demanded != 12 && from.abs_diff(demanded) * 10 <= from;
        prop_assert!(!is_stable || replicas.last().is_some_and(|last| *last == demanded || is_small(*last)), "{replicas:?}");
    }

    #[test]
    fn one_hot_partition_needs_one_worker(lag in 1_u64..u64::from(u32::MAX), partitions in 1_usize..100, hot in 0_usize..100) {
        let mut lags = vec![0; partitions];
        lags[hot % partitions] = lag;
        for target in ["drainSeconds: 60", "lagPerReplica: 1000"] {
            prop_assert_eq!(decide(&format!("{{target: {{{target}}}}}"), &lags, 1).0, 1);
        }
    }

    #[test]
    fn an_unknown_lag_changes_nothing_by_default(current in 1_u32..50, history in prop::collection::vec((0_i64..500, 0_u32..50), 0..9)) {
        let recommendations = history.into_iter().map(|(second, replicas)| Recommendation { time: at(-second), replicas }).collect();
        let previous = ScalingStatus { recommendations, ..ScalingStatus::default() };
        let decision = decide_by_lag(&settings("{}", ""), &input(0, current, LagState::Unknown("gone"), &previous));
        prop_assert_eq!(decision.replicas, current);
        prop_assert_eq!(decision.recommendations, previous.recommendations);
    }
}

#[test]
fn a_new_leader_applies_the_stabilization_window_of_the_old_leader() {
    let settings = settings("{target: {lagPerReplica: 10}}", "");
    let recommendations = vec![
        Recommendation {
            time: at(-100),
            replicas: 8,
        },
        Recommendation {
            time: at(-50),
            replicas: 2,
        },
    ];
    let previous = ScalingStatus {
        recommendations,
        ..ScalingStatus::default()
    };
    let load = load(&[10, 10, 0, 0, 0, 0, 0, 0]);
    let at_second =
        |second| decide_by_lag(&settings, &input(second, 8, LagState::Fresh(&load), &previous)).replicas;
    assert_eq!(at_second(0), 8);
    let later = i64::try_from(Duration::from_mins(2).as_secs()).expect("small") - 50;
    assert_eq!(at_second(later), 2);
    assert_eq!(
        SignedDuration::from_mins(2),
        gate::longest_window(&settings.scaling)
    );
}
