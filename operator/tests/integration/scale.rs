//! The scaling algorithm: known mistakes of other autoscalers, every gate, and properties over random loads.

mod controls;

use crds::StreamStage;
use crds::status::{Capacity, LimitedBy, Reason, Recommendation, Trial};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use operator::scale::demand::Needs;
use operator::scale::gate::{Rollout, longest_window};
use operator::scale::load::{GroupLoad, Load, Measure, MemberLoad, PartitionLoad, RateSample};
use operator::scale::state::{ScalingState, ScalingStep};
use operator::scale::{LagState, ScalingInput, ScalingSettings, decide_by_lag, decide_replicas};
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

/// A load with one partition per lag, without arrivals, of a group that keeps up.
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
        is_idle: true,
        group: GroupLoad {
            quiet_since: Some(at(-600)),
            unchanged_since: Some(at(-600)),
            ..GroupLoad::default()
        },
        ..Load::default()
    }
}

/// A load with these arrivals and lags; the group is behind.
fn busy_load(partitions: &[(f64, u64)]) -> Load {
    let lags: Vec<u64> = partitions.iter().map(|(_, lag)| *lag).collect();
    let mut load = load(&lags);
    load.is_idle = false;
    load.group.quiet_since = None;
    load.group.mostly_behind_since = Some(at(-60));
    for (partition, (arrival, _)) in load.partitions.iter_mut().zip(partitions) {
        partition.arrival_per_second = *arrival;
    }
    load
}

/// A state with a capacity that was measured a minute ago.
fn known(records_per_second: f64) -> ScalingState {
    ScalingState {
        capacity: Some(Capacity {
            records_per_second,
            measured_at: Some(at(-60)),
            tested_at: None,
        }),
        ..ScalingState::default()
    }
}

fn input<'a>(
    now: i64,
    current_replicas: u32,
    lag: LagState<'a>,
    state: &'a ScalingState,
) -> ScalingInput<'a> {
    ScalingInput {
        current_replicas: Some(current_replicas),
        lag,
        ..ScalingInput::new(at(now), state)
    }
}

/// First decision of an operator that knows the capacity of a worker: 1,000 records/s.
fn decide(scaling: &str, lags: &[u64], current: u32) -> (u32, LimitedBy) {
    let (state, load) = (known(1000.0), load(lags));
    let settings = settings(scaling, "");
    let decision = decide_by_lag(&settings, &input(0, current, LagState::Fresh(&load), &state));
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
        let previous = ScalingState::default();
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
        let previous = ScalingState::default();
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
    let (previous, load) = (ScalingState::default(), load(&[10_000; 9]));
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
        // The others have nothing to read, so a worker of its own is of no use.
        ("{target: {drainSeconds: 60}}", hot, 1, (1, LimitedBy::None)),
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
        ("{minReplicas: 3}", vec![0; 2], 2, (2, LimitedBy::None)),
        ("{minReplicas: 2}", vec![0; 4], 2, (2, LimitedBy::None)),
        ("{minReplicas: 2}", vec![60; 4], 2, (2, LimitedBy::Min)),
        (
            "{maxReplicas: 3, target: {lagPerReplica: 1}}",
            vec![9; 8],
            1,
            (3, LimitedBy::Max),
        ),
        // 2,100 records/s drain this lag in 60 s: two partitions of 350 records/s for each worker.
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
    let previous = ScalingState::default();
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
    let previous = ScalingState::default();
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
    let previous = ScalingState::default();
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
    let recommended_since = |second, last_scale_time| ScalingState {
        recommendations: [(-300, 7), (second, 2)]
            .map(|(second, replicas)| Recommendation {
                time: at(second),
                replicas,
            })
            .to_vec(),
        last_scale_time,
        ..ScalingState::default()
    };
    let (recent, lasting) = (recommended_since(-119, None), recommended_since(-120, None));
    let cooling_down = recommended_since(-120, Some(at(-59)));
    let unknown = input(0, 7, LagState::Unknown("no broker"), &lasting);
    let previous = ScalingState::default();
    for (input, expected) in [
        (unknown, 2),
        (input(0, 7, LagState::TransientError("no broker"), &lasting), 7),
        (input(0, 7, LagState::Unknown("no broker"), &previous), 7),
        (input(0, 7, LagState::Unknown("no broker"), &recent), 7),
        (input(0, 7, LagState::Unknown("no broker"), &cooling_down), 7),
        (
            ScalingInput {
                rollout: Rollout::InProgress,
                ..unknown
            },
            7,
        ),
        (
            ScalingInput {
                rebalancing_since: Some(at(-119)),
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
        ScalingState {
            recommendations: vec![Recommendation {
                time: at(-60),
                replicas: 8,
            }],
            ..ScalingState::default()
        },
    );
    let scaled_at = |second| ScalingState {
        last_scale_time: Some(at(second)),
        ..stable.clone()
    };
    let (in_cooldown, after_cooldown) = (scaled_at(-14), scaled_at(-15));
    let unstable = ScalingState {
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
                rollout: Rollout::InProgress,
                ..ungated
            },
            (2, LimitedBy::Rollout),
        ),
        (
            ScalingInput {
                rebalancing_since: Some(at(-119)),
                ..ungated
            },
            (2, LimitedBy::Rebalancing),
        ),
        (
            ScalingInput {
                state: &in_cooldown,
                ..ungated
            },
            (2, LimitedBy::Cooldown),
        ),
        (
            ScalingInput {
                state: &after_cooldown,
                ..ungated
            },
            (8, LimitedBy::None),
        ),
        (
            ScalingInput {
                state: &unstable,
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
fn a_rebalance_or_a_rollout_that_never_ends_does_not_stop_scaling() {
    let settings = settings("{target: {lagPerReplica: 10}}", "");
    let (load, lower) = (load(&[10; 8]), load(&[1; 8]));
    let state = ScalingState::default();
    let up = input(0, 2, LagState::Fresh(&load), &state);
    let rebalancing = |seconds: i64| ScalingInput {
        rebalancing_since: Some(at(-seconds)),
        ..up
    };
    let decision = |input: ScalingInput<'_>| {
        let decision = decide_by_lag(&settings, &input);
        (decision.replicas, decision.limited_by, decision.message)
    };
    assert_eq!(decision(rebalancing(119)).1, LimitedBy::Rebalancing);
    let (replicas, limited_by, message) = decision(rebalancing(120));
    assert_eq!((replicas, limited_by), (8, LimitedBy::None));
    assert!(message.contains("has been rebalancing for 2m"), "{message}");
    let stalled = Rollout::Stalled;
    assert_eq!(
        decision(ScalingInput {
            rollout: stalled,
            ..up
        })
        .0,
        8
    );
    let settled = ScalingState {
        recommendations: vec![Recommendation {
            time: at(-600),
            replicas: 1,
        }],
        ..ScalingState::default()
    };
    let down = ScalingInput {
        rollout: stalled,
        ..input(0, 8, LagState::Fresh(&lower), &settled)
    };
    let held = decision(down);
    assert_eq!(
        (held.0, held.1),
        (8, LimitedBy::Rollout),
        "more failing workers do not help"
    );
    let free = decision(ScalingInput {
        rollout: Rollout::None,
        ..down
    });
    assert_eq!(free.0, 1);
}

#[test]
fn a_clock_that_steps_back_does_not_hold_a_step() {
    let settings = settings("{target: {lagPerReplica: 10}}", "");
    let load = load(&[10; 8]);
    let state = ScalingState {
        last_scale_time: Some(at(3600)),
        recommendations: vec![Recommendation {
            time: at(3600),
            replicas: 2,
        }],
        ..ScalingState::default()
    };
    let decision = decide_by_lag(&settings, &input(0, 2, LagState::Fresh(&load), &state));
    assert_eq!(decision.replicas, 8, "{}", decision.message);
    let times: Vec<_> = decision
        .state
        .recommendations
        .iter()
        .map(|entry| entry.time)
        .collect();
    assert_eq!(times, [at(0), at(0)]);
}

#[test]
fn a_falling_load_causes_one_scale_down_after_the_stabilization_window() {
    let settings = settings(
        "{target: {lagPerReplica: 10}, scaleDown: {stabilizationWindow: 60s, cooldown: 20s}}",
        "",
    );
    let (mut previous, mut current, mut steps) = (ScalingState::default(), 8, Vec::new());
    for second in 0..200 {
        // The load falls to zero within a minute.
        let lagging = usize::try_from((60 - second).max(0) / 8).expect("a small number");
        let lags: Vec<u64> = (0..8)
            .map(|partition| if partition < lagging { 10 } else { 0 })
            .collect();
        let load = load(&lags);
        let mut decision = decide_by_lag(
            &settings,
            &input(second, current, LagState::Fresh(&load), &previous),
        );
        if decision.replicas != current {
            steps.push((second, current, decision.replicas));
            decision.state.last_scale_time = Some(at(second));
        }
        current = decision.replicas;
        previous = decision.state;
    }
    assert_eq!(
        steps,
        [(105, 8, 1)],
        "one step, one window after the recommendation stopped falling"
    );
}

/// Decides once per second on these lags; returns the replicas of every second.
fn simulate(settings: &ScalingSettings, lags: &[Vec<u64>], start: u32) -> Vec<u32> {
    let (mut previous, mut current, mut replicas) = (ScalingState::default(), start, Vec::new());
    for (lags, second) in lags.iter().zip(0..) {
        let load = load(lags);
        let mut decision = decide_by_lag(
            settings,
            &input(second, current, LagState::Fresh(&load), &previous),
        );
        if decision.replicas != current {
            decision.state.last_scale_time = Some(at(second));
        }
        previous = decision.state;
        current = decision.replicas;
        replicas.push(current);
    }
    replicas
}

fn count_steps(replicas: &[u32]) -> usize {
    replicas.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

#[test]
fn each_regretted_scale_down_doubles_the_window_for_an_hour() {
    let scaling = settings("{}", "").scaling;
    let steps = |pairs: &[(i64, i64)]| -> Vec<ScalingStep> {
        let both = pairs.iter().flat_map(|&(down, up)| [(down, 4, 1), (up, 1, 4)]);
        let steps = both.map(|(second, from, to)| ScalingStep {
            time: at(second),
            from,
            to,
            limited_by: LimitedBy::None,
        });
        steps.collect()
    };
    for (pairs, now, minutes) in [
        (vec![], 0, 2),
        (vec![(0, 120)], 121, 4),
        (vec![(0, 121)], 130, 2),
        (vec![(0, 100), (400, 640)], 700, 8),
        (vec![(0, 1), (100, 101), (200, 201), (300, 301)], 400, 16),
        (
            vec![(0, 1), (100, 101), (200, 201), (300, 301), (400, 401)],
            500,
            16,
        ),
        (vec![(0, 100)], 3700, 2),
    ] {
        let window = longest_window(&scaling, &steps(&pairs), at(now));
        assert_eq!(window, SignedDuration::from_mins(minutes), "{pairs:?}");
    }
}

/// A member of the group that reads `partitions`.
fn member(name: &str, partitions: &[u32], rate: f64, is_behind: bool) -> MemberLoad {
    MemberLoad {
        name: name.to_owned(),
        partitions: partitions.to_vec(),
        sample: Some(RateSample {
            records_per_second: rate,
            is_behind,
        }),
        is_slow: is_behind && rate < 400.0,
    }
}

#[test]
fn the_load_of_one_worker_adds_workers_and_is_remembered() {
    let mut uneven = busy_load(&[(400.0, 60_000), (300.0, 60_000), (50.0, 0), (50.0, 0)]);
    uneven.group.mostly_behind_since = None;
    for (slow, cause, named) in [
        (false, LimitedBy::Skew, "(skew)"),
        (true, LimitedBy::SlowWorker, "(slow worker)"),
    ] {
        let rate = if slow { 300.0 } else { 900.0 };
        uneven.group.members = vec![
            member("a", &[0, 1], rate, true),
            member("b", &[2, 3], 800.0, false),
        ];
        // The others have enough capacity, and the backlog would be drained in time if it were even.
        let state = known(10_000.0);
        let settings = settings("{}", "");
        let decision = decide_by_lag(&settings, &input(0, 2, LagState::Fresh(&uneven), &state));
        assert_eq!(
            (decision.replicas, decision.limited_by),
            (4, cause),
            "{}",
            decision.message
        );
        assert!(
            decision.message.contains("worker a") && decision.message.contains(named),
            "{}",
            decision.message
        );
        let mut state = decision.state;
        let step = ScalingStep {
            time: at(0),
            from: 2,
            to: 4,
            limited_by: cause,
        };
        state.record_step(step, Some(&uneven));
        assert_eq!(state.trial, None, "most are not behind");
        let quiet = load(&[10, 10, 10, 10]);
        for (second, recommendation) in [(3599, 3), (3600, 1)] {
            let decision = decide_by_lag(
                &settings,
                &input(
                    second,
                    4,
                    LagState::Fresh(&Load {
                        is_idle: false,
                        ..quiet.clone()
                    }),
                    &state,
                ),
            );
            assert_eq!(decision.recommendation, recommendation, "{second}");
        }
    }
}

#[test]
fn a_scale_up_without_effect_is_undone_and_reported() {
    let settings = settings("{}", "");
    let partitions = [(300.0, 50_000); 12];
    let mut load = busy_load(&partitions);
    load.sustained_per_second = 1400.0;
    load.group.worker_count = 3;
    let mut state = known(1000.0);
    let decision = decide_by_lag(&settings, &input(0, 3, LagState::Fresh(&load), &state));
    assert_eq!(decision.replicas, 12, "{}", decision.message);
    state = decision.state;
    let step = ScalingStep {
        time: at(0),
        from: 3,
        to: 12,
        limited_by: LimitedBy::None,
    };
    state.record_step(step, Some(&load));
    assert_eq!(state.trial.map(|trial| (trial.from, trial.to)), Some((3, 12)));
    load.group.worker_count = 12;
    load.group.has_committed = true;
    load.group.mostly_behind_since = Some(at(10));
    // Each worker is slower now, which proves nothing while the scale-up is judged.
    load.group.measure = Some(Measure::Behind {
        rate: 117.0,
        before: Some(117.0),
    });
    let decide = |second, load: &Load, state: &ScalingState| {
        decide_by_lag(&settings, &input(second, 12, LagState::Fresh(load), state))
    };
    let unsettled = decide(39, &load, &state);
    assert_eq!(unsettled.replicas, 12, "not settled");
    let capacity = unsettled
        .state
        .capacity
        .map(|capacity| capacity.records_per_second);
    assert_eq!(capacity, Some(1000.0), "it only rises while a scale-up is judged");
    let mut missing = load.clone();
    missing.group.worker_count = 11;
    assert_eq!(decide(60, &missing, &state).replicas, 12, "a worker is missing");
    missing = load.clone();
    missing.group.has_committed = false;
    assert_eq!(
        decide(60, &missing, &state).replicas,
        12,
        "a worker has not committed yet"
    );
    let failed = decide(60, &load, &state);
    assert_eq!(
        (failed.replicas, failed.limited_by),
        (3, LimitedBy::Downstream),
        "at once: {}",
        failed.message
    );
    assert_eq!(
        failed.message,
        "desired replicas 3 (was 12): 3 -> 12 brought 1,400/s -> 1,400/s instead of 5,600/s, \
         the bottleneck is downstream of the workers; next trial in 10m"
    );
    let capacity = failed.state.capacity.map(|capacity| capacity.records_per_second);
    assert_eq!(capacity, Some(1000.0));
    // It ends when the throughput rises, when no worker is behind, or with another trial.
    let faster = Load {
        sustained_per_second: 1700.0,
        ..load.clone()
    };
    assert_eq!(decide(70, &faster, &failed.state).state.trial, None);
    let mut quiet = load.clone();
    quiet.group.mostly_behind_since = None;
    quiet.group.quiet_since = Some(at(100));
    assert!(decide(159, &quiet, &failed.state).state.trial.is_some());
    assert_eq!(decide(160, &quiet, &failed.state).state.trial, None);
    let until = failed.state.trial.and_then(|trial| trial.until).expect("a time");
    let again = decide(until.duration_since(at(0)).as_secs(), &load, &failed.state);
    assert_eq!(
        again.state.trial.map(|trial| (trial.from, trial.tries)),
        Some((0, 1))
    );
    // A scale-up that brings what it should is a success.
    let effective = Load {
        sustained_per_second: 3000.0,
        ..load.clone()
    };
    assert_eq!(decide(60, &effective, &state).state.trial, None);
    assert_eq!(
        decide(601, &missing, &state).state.trial,
        None,
        "the workers never came"
    );
}

#[test]
fn the_capacity_is_measured_confirmed_and_tested() {
    let settings = settings("{}", "");
    let measured = |state: &ScalingState, measure, second| {
        let mut load = busy_load(&[(100.0, 10_000); 4]);
        load.group.measure = Some(measure);
        let decision = decide_by_lag(&settings, &input(second, 2, LagState::Fresh(&load), state));
        decision
            .state
            .capacity
            .map(|capacity| capacity.records_per_second)
    };
    let behind = |rate, before| Measure::Behind { rate, before };
    let state = known(1000.0);
    for (measure, capacity) in [
        (behind(400.0, None), 1000.0),
        (behind(400.0, Some(1000.0)), 1000.0),
        (behind(400.0, Some(500.0)), 500.0),
        (behind(1200.0, Some(500.0)), 1200.0),
        (Measure::KeepsUp(900.0), 1000.0),
        (Measure::KeepsUp(1100.0), 1100.0),
    ] {
        assert_eq!(measured(&state, measure, 0), Some(capacity), "{measure:?}");
    }
    assert_eq!(
        measured(&ScalingState::default(), behind(400.0, None), 0),
        Some(400.0)
    );
    assert_eq!(
        measured(&ScalingState::default(), Measure::KeepsUp(400.0), 0),
        None
    );
    let quiet = |state: &ScalingState, second, current| {
        let load = Load {
            is_idle: false,
            ..load(&[10; 4])
        };
        let decision = decide_by_lag(&settings, &input(second, current, LagState::Fresh(&load), state));
        decision
            .state
            .capacity
            .map(|capacity| capacity.records_per_second)
    };
    let day = 24 * 3600 - 60;
    assert_eq!(quiet(&state, day - 1, 2), Some(1000.0));
    assert_eq!(
        quiet(&state, day, 2),
        Some(1250.0),
        "nothing has confirmed it for a day"
    );
    assert_eq!(quiet(&state, day, 1), Some(1000.0), "there is nothing to save");
    let mut rolled_out = state.clone();
    rolled_out.expect_another_capacity();
    assert_eq!(quiet(&rolled_out, 0, 2), Some(1250.0), "after a rollout");
    if let Some(capacity) = &mut rolled_out.capacity {
        capacity.tested_at = Some(at(-119));
    }
    assert_eq!(
        quiet(&rolled_out, 0, 2),
        Some(1000.0),
        "a window after the last test"
    );
}

#[test]
fn the_message_has_a_fixed_order() {
    let settings = settings("{}", "");
    let load = busy_load(&[(375.0, 1472); 12]);
    let state = known(1000.0);
    let decision = decide_by_lag(&settings, &input(0, 3, LagState::Fresh(&load), &state));
    assert_eq!(
        decision.message,
        "desired replicas 6 (was 3): arrivals 4,500/s and backlog 17,664 within 1m; capacity 1,000/s per replica; \
         the busiest of 6 reads 2 of 12 partitions, 75 %"
    );
    let mut quiet = busy_load(&[(180.0, 0); 12]);
    quiet.group.mostly_behind_since = None;
    let held = ScalingState {
        recommendations: [(-300, 6), (-50, 3)]
            .map(|(second, replicas)| Recommendation {
                time: at(second),
                replicas,
            })
            .to_vec(),
        ..known(1000.0)
    };
    let decision = decide_by_lag(&settings, &input(0, 6, LagState::Fresh(&quiet), &held));
    assert_eq!(
        decision.message,
        "desired replicas 6: arrivals 2,160/s and backlog 0 within 1m; capacity 1,000/s per replica; \
         the busiest of 6 reads 2 of 12 partitions, 36 %; \
         recommendation 3, delayed by the scale-down stabilization window (2m, 1m10s left)"
    );
    let mut hot = busy_load(&[(100.0, 0); 12]);
    hot.partitions[7].arrival_per_second = 1200.0;
    let decision = decide_by_lag(&settings, &input(0, 4, LagState::Fresh(&hot), &state));
    assert!(
        decision
            .message
            .contains("partition 7 takes 1,200/s of 1,000/s per replica"),
        "{}",
        decision.message
    );
}

/// A random load: arrivals and lags of partitions, current replicas, and a capacity.
fn any_load() -> impl Strategy<Value = (Vec<(f64, u64)>, u32, Option<f64>, bool)> {
    let partition = (0.0..2000.0, prop_oneof![Just(0), 0_u64..1_000_000]);
    (
        prop::collection::vec(partition, 1..30),
        0_u32..40,
        prop::option::of(1.0..5000.0),
        any::<bool>(),
    )
}

fn random_input(
    (partitions, current, capacity, is_behind): &(Vec<(f64, u64)>, u32, Option<f64>, bool),
) -> (Load, ScalingState, u32) {
    let mut load = busy_load(partitions);
    if !is_behind {
        load.group.mostly_behind_since = None;
        load.group.quiet_since = Some(at(-600));
    }
    (load, capacity.map_or_else(ScalingState::default, known), *current)
}

fn target() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("drainSeconds: 60"), Just("lagPerReplica: 1000")]
}

proptest! {
    #[test]
    fn replicas_stay_between_the_floor_and_the_ceiling(
        random in any_load(),
        (min, more, budget) in (0_u32..20, 0_u32..20, 1_u32..100),
        target in target(),
    ) {
        let max = (min + more).max(1);
        let scaling = format!("{{minReplicas: {min}, maxReplicas: {max}, target: {{{target}}}}}");
        let settings = settings(&scaling, &format!(", connectionBudget: {budget}, connectionsPerWorker: 2"));
        let (load, state, current) = random_input(&random);
        let input = input(0, current, LagState::Fresh(&load), &state);
        let decision = decide_by_lag(&settings, &input);
        let ceiling = max.min(u32::try_from(load.partitions.len()).expect("few")).min(budget / 2);
        prop_assert!(decision.replicas <= ceiling);
        prop_assert!(decision.replicas >= min.min(ceiling));
        prop_assert_eq!(&decide_by_lag(&settings, &input), &decision, "the decision is pure");
    }

    #[test]
    fn a_decision_that_is_repeated_on_one_poll_does_not_change(random in any_load(), rate in 1.0..5000.0, behind in any::<bool>()) {
        let settings = settings("{}", "");
        let (mut load, state, current) = random_input(&random);
        load.group.measure = Some(if behind { Measure::Behind { rate, before: None } } else { Measure::KeepsUp(rate) });
        let first = decide_by_lag(&settings, &input(0, current, LagState::Fresh(&load), &state));
        let again = decide_by_lag(&settings, &input(0, current, LagState::Fresh(&load), &first.state));
        prop_assert_eq!((first.replicas, first.limited_by), (again.replicas, again.limited_by));
        prop_assert_eq!(first.state, again.state);
    }

    #[test]
    fn more_lag_never_asks_for_fewer_workers(
        random in any_load(), more in prop::collection::vec(0_u64..1_000_000, 30), target in target(),
    ) {
        let settings = settings(&format!("{{minReplicas: 0, target: {{{target}}}}}"), "");
        let (less, state, current) = random_input(&random);
        let mut greater = less.clone();
        for (partition, more) in greater.partitions.iter_mut().zip(more) {
            partition.lag += more;
        }
        let recommended = |load: &Load| {
            decide_by_lag(&settings, &input(0, current, LagState::Fresh(load), &state)).recommendation
        };
        let [fewer, greater] = [recommended(&less), recommended(&greater)];
        // With `lagPerReplica`, the tolerance may turn either into the current number.
        let tolerance = if target.starts_with("lag") { current / 10 + 1 } else { 0 };
        prop_assert!(greater + tolerance >= fewer, "{fewer} -> {greater}");
    }

    #[test]
    fn fewest_workers_rises_with_needs_and_falls_with_the_limit(
        partitions in prop::collection::vec((0.0..1000.0_f64, 0.0..1000.0_f64), 1..30),
        capacity in 1.0..5000.0, limits in (0.1..1.0_f64, 0.1..1.0_f64),
    ) {
        // Beyond 95 % of a worker, one partition is not isolated any further.
        let needs = Needs {
            arrivals: partitions.iter().map(|(need, _)| need.min(0.95 * capacity)).collect(),
            needs: Vec::new(),
        };
        let less: Vec<f64> = partitions.iter().map(|(need, _)| *need).collect();
        let more: Vec<f64> = partitions.iter().map(|(need, more)| need + more).collect();
        prop_assert!(needs.fewest_workers(capacity, 1.0, &more) >= needs.fewest_workers(capacity, 1.0, &less));
        let (low, high) = (limits.0.min(limits.1), limits.0.max(limits.1));
        prop_assert!(needs.fewest_workers(capacity, low, &less) >= needs.fewest_workers(capacity, high, &less));
        // More arrivals leave less room beside each partition.
        let busier = Needs {
            arrivals: needs.arrivals.iter().zip(&partitions).map(|(arrival, (_, more))| (arrival + more).min(0.95 * capacity)).collect(),
            needs: Vec::new(),
        };
        prop_assert!(busier.fewest_workers(capacity, 1.0, &more) >= needs.fewest_workers(capacity, 1.0, &less));
    }

    #[test]
    fn an_unknown_capacity_never_adds_workers(random in any_load(), current in 1_u32..40) {
        let (load, _, _) = random_input(&random);
        let state = ScalingState::default();
        let partitions = u32::try_from(load.partitions.len()).expect("few");
        let current = current.min(partitions);
        let decision = decide_by_lag(&settings("{}", ""), &input(0, current, LagState::Fresh(&load), &state));
        prop_assert!(decision.replicas <= current, "{}", decision.message);
    }

    #[test]
    fn no_step_is_made_within_its_cooldown_or_window(
        random in any_load(), (elapsed, since, before) in (0_i64..300, 0_i64..300, 0_u32..30),
    ) {
        let (load, mut state, current) = random_input(&random);
        let partitions = u32::try_from(load.partitions.len()).expect("few");
        let current = current.clamp(1, partitions);
        state.last_scale_time = Some(at(-elapsed));
        state.recommendations = vec![Recommendation { time: at(-since), replicas: before.clamp(1, partitions) }];
        let decision = decide_by_lag(&settings("{}", ""), &input(0, current, LagState::Fresh(&load), &state));
        let is_up = decision.replicas > current;
        prop_assert!(!is_up || elapsed >= 15, "{}", decision.message);
        if decision.replicas < current {
            prop_assert!(elapsed >= 60, "{}", decision.message);
            // Until now `before` was recommended.
            prop_assert!(decision.replicas >= before.clamp(1, partitions).min(current), "{}", decision.message);
        }
    }

    #[test]
    fn a_new_leader_holds_where_its_predecessor_held(random in any_load(), history in prop::collection::vec((0_i64..500, 1_u32..30), 0..6), elapsed in 0_i64..200) {
        let settings = settings("{}", "");
        let (load, mut state, current) = random_input(&random);
        let current = current.clamp(1, u32::try_from(load.partitions.len()).expect("few"));
        let mut history = history;
        history.sort_by_key(|(second, _)| -second);
        state.recommendations = history.into_iter().map(|(second, replicas)| Recommendation { time: at(-second), replicas }).collect();
        state.last_scale_time = Some(at(-elapsed));
        let decision = decide_by_lag(&settings, &input(0, current, LagState::Fresh(&load), &state));
        if decision.replicas == current {
            let status = crds::StreamStageStatus {
                desired_replicas: Some(current),
                scaling: Some(decision.state.to_status(decision.limited_by, String::new(), None)),
                ..crds::StreamStageStatus::default()
            };
            let json = serde_json::to_value(&status).expect("JSON");
            let resumed = ScalingState::resume(&serde_json::from_value(json).expect("a status"), at(0));
            let next = decide_by_lag(&settings, &input(0, current, LagState::Fresh(&load), &resumed));
            prop_assert_eq!(next.replicas, current, "{}: {}", decision.message, next.message);
        }
    }

    #[test]
    fn a_failed_scale_up_never_leaves_more_than_before_it(random in any_load(), (from, more, reached) in (1_u32..10, 1_u32..10, 0.0..2000.0_f64)) {
        let (mut load, mut state, _) = random_input(&random);
        load.sustained_per_second = reached;
        state.trial = Some(Trial {
            from,
            to: from + more,
            processed_per_second: reached.max(1.0),
            reached_per_second: Some(reached),
            tries: 1,
            until: Some(at(60)),
        });
        let decision = decide_by_lag(&settings("{}", ""), &input(0, from + more, LagState::Fresh(&load), &state));
        if decision.state.trial.is_some() {
            prop_assert!(decision.recommendation <= from, "{}", decision.message);
        }
    }

    #[test]
    fn renumbered_members_change_nothing(random in any_load(), rates in prop::collection::vec((1.0..2000.0, any::<bool>()), 2..6)) {
        let (mut load, state, current) = random_input(&random);
        load.group.mostly_behind_since = None;
        let count = u32::try_from(load.partitions.len()).expect("few");
        let members: Vec<MemberLoad> = rates.iter().zip(0_u32..).map(|((rate, behind), number)| {
            let step = rates.len();
            let read: Vec<u32> = (number..count).step_by(step).collect();
            member(&format!("pod-{number}"), &read, *rate, *behind)
        }).collect();
        let decide = |members: Vec<MemberLoad>| {
            let mut load = load.clone();
            load.group.members = members;
            let decision = decide_by_lag(&settings("{}", ""), &input(0, current, LagState::Fresh(&load), &state));
            (decision.replicas, decision.recommendation)
        };
        let mut reversed = members.clone();
        reversed.reverse();
        prop_assert_eq!(decide(members), decide(reversed));
    }

    #[test]
    fn a_constant_lag_causes_at_most_one_step(
        lags in prop::collection::vec(0_u64..50_000, 1..30), start in 0_u32..40,
    ) {
        let window = "scaleUp: {stabilizationWindow: 0s, cooldown: 5s}, scaleDown: {stabilizationWindow: 10s, cooldown: 5s}";
        let settings = settings(&format!("{{target: {{lagPerReplica: 1000}}, {window}}}"), "");
        let start = start.clamp(1, u32::try_from(lags.len()).expect("few"));
        let replicas = simulate(&settings, &vec![lags; 60], start);
        let all: Vec<u32> = std::iter::once(start).chain(replicas).collect();
        prop_assert!(count_steps(&all) <= 1, "{all:?}");
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
    }

    #[test]
    fn an_unknown_lag_changes_nothing_by_default(current in 1_u32..50, history in prop::collection::vec((0_i64..500, 0_u32..50), 0..9)) {
        let recommendations = history.into_iter().map(|(second, replicas)| Recommendation { time: at(-second), replicas }).collect();
        let state = ScalingState { recommendations, ..ScalingState::default() };
        let decision = decide_by_lag(&settings("{}", ""), &input(0, current, LagState::Unknown("gone"), &state));
        prop_assert_eq!(decision.replicas, current);
        prop_assert_eq!(decision.state, state);
    }
}

#[test]
fn a_new_leader_takes_the_state_and_the_field_of_an_earlier_version() {
    let status = |scaling: serde_json::Value| -> crds::StreamStageStatus {
        let decisions = serde_json::json!([
            {"time": "1970-01-12T13:46:30Z", "from": 2, "to": 8, "reason": "", "limitedBy": "Skew"},
            {"time": "1970-01-12T13:46:20Z", "from": 1, "to": 2, "reason": ""},
        ]);
        serde_json::from_value(serde_json::json!({
            "desiredReplicas": 8, "scaling": scaling, "decisions": decisions
        }))
        .expect("a status")
    };
    let earlier = status(serde_json::json!({"recordsPerSecondPerWorker": 400.0}));
    let state = ScalingState::resume(&earlier, at(0));
    let capacity = Capacity {
        records_per_second: 400.0,
        measured_at: Some(at(0)),
        tested_at: None,
    };
    assert_eq!(state.capacity, Some(capacity));
    let steps: Vec<_> = state
        .steps
        .iter()
        .map(|step| (step.to, step.limited_by))
        .collect();
    assert_eq!(
        steps,
        [(2, LimitedBy::None), (8, LimitedBy::Skew)],
        "oldest first"
    );
    let written = state.to_status(LimitedBy::None, String::new(), None);
    assert_eq!(
        (
            written.capacity_per_replica,
            written.records_per_second_per_worker
        ),
        (Some(capacity), None)
    );
    let later = status(serde_json::json!({
        "recordsPerSecondPerWorker": 400.0,
        "capacityPerReplica": {"recordsPerSecond": 700.0, "measuredAt": "1970-01-12T13:46:00Z"},
        "recommendations": [{"time": "1970-01-12T13:46:30Z", "replicas": 2}],
        "trial": {"from": 2, "to": 8, "processedPerSecond": 5.0, "tries": 1, "until": "1970-01-12T14:46:30Z"},
    }));
    let state = ScalingState::resume(&later, at(0));
    assert_eq!(
        state.capacity.map(|capacity| capacity.records_per_second),
        Some(700.0)
    );
    assert_eq!(state.trial.map(|trial| (trial.from, trial.tries)), Some((2, 1)));
    let recommendations: Vec<_> = state.recommendations.iter().map(|entry| entry.replicas).collect();
    assert_eq!(recommendations, [2, 8], "the current replicas count");
}
