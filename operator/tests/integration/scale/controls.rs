//! Controls of a user over the scaling: a pause by annotation, the maximum step of a scale-down, scheduled bounds.

use operator::scale::schedule::ScheduledBounds;

use super::*;

/// Load that one worker of 1,000 records/s cannot process: 12 partitions with a backlog.
fn overload() -> Load {
    busy_load(&[(400.0, 60_000); 12])
}

fn paused(scaling: &str, warehouse: &str) -> ScalingSettings {
    ScalingSettings {
        is_paused: true,
        ..settings(scaling, warehouse)
    }
}

#[test]
fn a_paused_stage_retains_its_replicas_whatever_the_lag_and_the_bounds_are() {
    let (state, load) = (known(1000.0), overload());
    for (scaling, lag) in [
        ("{}", LagState::Fresh(&load)),
        ("{minReplicas: 5}", LagState::Fresh(&load)),
        ("{maxReplicas: 2}", LagState::Fresh(&load)),
        (
            "{onLagUnknown: Min, scaleDown: {stabilizationWindow: 0s}}",
            LagState::Unknown("no broker answers"),
        ),
        ("{minReplicas: 5}", LagState::Pending),
    ] {
        let now = input(0, 3, lag, &state);
        let decision = decide_replicas(&paused(scaling, ""), &now);
        assert_eq!(
            (decision.replicas, decision.limited_by, decision.reason),
            (Some(3), LimitedBy::Paused, Reason::Paused),
            "{scaling}"
        );
        let unpaused = decide_replicas(&settings(scaling, ""), &now);
        assert_eq!(decision.recommendation, unpaused.recommendation, "{scaling}");
        assert_eq!(
            decision.message,
            format!(
                "paused at 3 replicas by the annotation streamstage.dev/pause-scaling; without it: {}",
                unpaused.message
            )
        );
    }
}

#[test]
fn the_first_step_after_a_pause_follows_at_once() {
    let (mut state, load) = (known(1000.0), overload());
    let scaling = "{scaleUp: {stabilizationWindow: 60s}}";
    for second in 0..=60 {
        let now = input(second, 1, LagState::Fresh(&load), &state);
        state = decide_replicas(&paused(scaling, ""), &now).state;
    }
    let resumed = decide_replicas(
        &settings(scaling, ""),
        &input(61, 1, LagState::Fresh(&load), &state),
    );
    assert!(resumed.replicas > Some(1), "{}", resumed.message);
}

#[test]
fn a_paused_stage_without_workers_of_its_own_decision_starts_some() {
    let (state, paused) = (ScalingState::default(), paused("{minReplicas: 2}", ""));
    let new = ScalingInput::new(at(0), &state);
    assert_eq!(decide_replicas(&paused, &new).replicas, Some(2));
    let resumed = ScalingInput {
        limited_by: LimitedBy::Suspended,
        ..input(0, 0, LagState::Pending, &state)
    };
    assert_eq!(decide_replicas(&paused, &resumed).replicas, Some(2));
    let paused_at_zero = ScalingInput {
        limited_by: LimitedBy::Paused,
        ..resumed
    };
    assert_eq!(decide_replicas(&paused, &paused_at_zero).replicas, Some(0));
    let ended = decide_replicas(&settings("{minReplicas: 2}", ""), &paused_at_zero);
    assert_eq!((ended.replicas, ended.limited_by), (Some(2), LimitedBy::None));
}

#[test]
fn a_pause_exceeds_no_connection_budget_and_no_suspension() {
    let state = ScalingState::default();
    let now = input(0, 9, LagState::Pending, &state);
    let budget = paused("{}", ", connectionBudget: 7, connectionsPerWorker: 2");
    let capped = decide_replicas(&budget, &now);
    assert_eq!(
        (capped.replicas, capped.limited_by),
        (Some(3), LimitedBy::ConnectionBudget)
    );
    let suspended = ScalingSettings {
        is_suspended: true,
        ..paused("{}", "")
    };
    let decision = decide_replicas(&suspended, &now);
    assert_eq!(
        (decision.replicas, decision.limited_by),
        (Some(0), LimitedBy::Suspended)
    );
}

#[test]
fn a_pause_in_the_mode_recommend_retains_the_recommendation() {
    let (state, load) = (known(1000.0), overload());
    let now = input(0, 1, LagState::Fresh(&load), &state);
    let scaling = "{mode: Recommend}";
    let [decision, unpaused] =
        [paused(scaling, ""), settings(scaling, "")].map(|settings| decide_replicas(&settings, &now));
    assert_eq!(
        (decision.replicas, decision.limited_by),
        (None, LimitedBy::Paused)
    );
    assert!(unpaused.recommended > Some(1));
    assert_eq!(decision.recommended, unpaused.recommended);
    assert!(
        decision.message.starts_with("paused by the annotation"),
        "{}",
        decision.message
    );
}

#[test]
fn only_the_value_true_of_the_annotation_pauses() {
    for (annotations, is_paused) in [
        ("{}", false),
        ("{streamstage.dev/pause-scaling: 'true'}", true),
        ("{streamstage.dev/pause-scaling: 'false'}", false),
        ("{streamstage.dev/pause-scaling: ''}", false),
    ] {
        let document = format!(
            "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, \
             metadata: {{name: cdm, annotations: {annotations}}}, spec: {{layer: cdm, \
             source: {{bootstrapServers: ['kafka:9092'], topic: facts}}, \
             warehouse: {{host: postgres, database: orders}}}}}}"
        );
        let stage: StreamStage = serde_saphyr::from_str(&document).expect("a valid stage");
        assert_eq!(
            ScalingSettings::from(&stage).is_paused,
            is_paused,
            "{annotations}"
        );
    }
}

/// Settings without gates other than `max_step`.
fn stepped(max_step: &str) -> String {
    format!("{{scaleDown: {{stabilizationWindow: 0s, cooldown: 0s, maxStep: {max_step}}}}}")
}

#[test]
fn a_scale_down_removes_at_most_the_maximum_step() {
    for (max_step, current, expected) in [
        ("3", 10, (7, LimitedBy::MaxStep)),
        ("25%", 10, (7, LimitedBy::MaxStep)),
        ("1%", 10, (9, LimitedBy::MaxStep)),
        ("1%", 2, (1, LimitedBy::None)),
        ("9", 10, (1, LimitedBy::None)),
        ("100%", 10, (1, LimitedBy::None)),
        ("null", 10, (1, LimitedBy::None)),
    ] {
        let decided = decide(&stepped(max_step), &[0; 12], current);
        assert_eq!(decided, expected, "{max_step} of {current}");
    }
}

#[test]
fn the_message_names_the_maximum_step() {
    let (state, load) = (known(1000.0), load(&[0; 12]));
    let settings = settings(&stepped("25%"), "");
    let decision = decide_by_lag(&settings, &input(0, 8, LagState::Fresh(&load), &state));
    assert!(
        decision.message.starts_with("desired replicas 6 (was 8): ")
            && decision
                .message
                .ends_with("recommendation 1, delayed by scaleDown.maxStep (25%)"),
        "{}",
        decision.message
    );
}

#[test]
fn the_cooldown_spaces_the_steps() {
    let settings = settings(
        "{scaleDown: {stabilizationWindow: 0s, cooldown: 60s, maxStep: 2}}",
        "",
    );
    let replicas = simulate(&settings, &vec![vec![0; 12]; 181], 7);
    let steps: Vec<(usize, u32)> = (1..replicas.len())
        .filter(|&second| replicas[second] != replicas[second - 1])
        .map(|second| (second, replicas[second]))
        .collect();
    assert_eq!((replicas[0], steps), (5, vec![(60, 3), (120, 1)]));
}

#[test]
fn a_maximum_step_limits_neither_a_scale_up_nor_a_changed_bound() {
    let scale_up = decide(&stepped("1"), &[60_000; 12], 1);
    assert!(scale_up.0 > 2, "{scale_up:?}");
    let lowered = "{maxReplicas: 3, scaleDown: {stabilizationWindow: 0s, cooldown: 0s, maxStep: 1}}";
    assert_eq!(decide(lowered, &[0; 12], 10).0, 3);
}

#[test]
fn a_maximum_step_limits_a_scale_down_while_the_lag_is_unknown() {
    let settings = settings(
        "{onLagUnknown: Min, scaleDown: {stabilizationWindow: 0s, cooldown: 0s, maxStep: 2}}",
        "",
    );
    let state = ScalingState::default();
    let unknown = LagState::Unknown("no broker answers");
    let decision = decide_by_lag(&settings, &input(0, 9, unknown, &state));
    assert_eq!(
        (decision.replicas, decision.limited_by),
        (7, LimitedBy::LagUnknown)
    );
}

/// `at(0)` is 1970-01-12 13:46:40 UTC, a Monday.
const AFTERNOON: &str = "start: '0 12 * * 1-5', end: '0 18 * * 1-5'";
const EVENING: &str = "start: '0 20 * * *', end: '0 22 * * *'";

#[test]
fn the_bounds_of_an_open_schedule_replace_those_of_the_stage() {
    for (schedules, current, expected) in [
        (format!("{{{AFTERNOON}, minReplicas: 4}}"), 1, (4, LimitedBy::Min)),
        (format!("{{{EVENING}, minReplicas: 4}}"), 1, (1, LimitedBy::None)),
        (
            format!("{{{AFTERNOON}, maxReplicas: 2}}"),
            6,
            (2, LimitedBy::None),
        ),
        // The partition count still limits.
        (
            format!("{{{AFTERNOON}, minReplicas: 100}}"),
            1,
            (12, LimitedBy::Min),
        ),
        // Several are open: the highest minimum, and the lowest maximum that is not below it.
        (
            format!("{{{AFTERNOON}, minReplicas: 2, maxReplicas: 3}}, {{{AFTERNOON}, minReplicas: 5}}"),
            1,
            (5, LimitedBy::Min),
        ),
    ] {
        let scaling = format!("{{schedules: [{schedules}], scaleDown: {{stabilizationWindow: 5m}}}}");
        let mut lags = [0; 12];
        lags[0] = 60;
        let decided = decide(&scaling, &lags, current);
        assert_eq!(decided.0, expected.0, "{scaling}: {decided:?}");
        if current == 1 && expected.0 <= 5 {
            assert_eq!(decided.1, expected.1, "{scaling}");
        }
    }
}

#[test]
fn the_highest_minimum_and_the_lowest_maximum_that_is_not_below_it_apply() {
    for (scaling, expected) in [
        (
            "A, minReplicas: 2, maxReplicas: 3|A, minReplicas: 5, maxReplicas: 8|A, maxReplicas: 6",
            (5, Some(6)),
        ),
        ("A, minReplicas: 5|A, maxReplicas: 3", (5, Some(20))),
        ("A, maxReplicas: 3", (1, Some(3))),
        ("E, minReplicas: 9|A, minReplicas: 4", (4, Some(20))),
    ] {
        let schedules: Vec<String> = scaling
            .split('|')
            .map(|schedule| format!("{{{schedule}}}").replace("{A", &format!("{{{AFTERNOON}")))
            .map(|schedule| schedule.replace("{E", &format!("{{{EVENING}")))
            .collect();
        let document = format!("{{maxReplicas: 20, schedules: [{}]}}", schedules.join(", "));
        let bounds = ScheduledBounds::at(&settings(&document, "").scaling, at(0)).expect("an open window");
        assert_eq!((bounds.min_replicas, bounds.max_replicas), expected, "{scaling}");
    }
}

#[test]
fn a_schedule_applies_at_its_boundaries_even_while_the_lag_is_unknown() {
    let scaling = "{schedules: [{start: '47 13 * * *', end: '48 13 * * *', minReplicas: 4}]}";
    let (state, settings) = (ScalingState::default(), settings(scaling, ""));
    for (second, expected, open) in [
        (19, 1, vec![]),
        (20, 4, vec![0]),
        (79, 4, vec![0]),
        (80, 1, vec![]),
    ] {
        let error = LagState::TransientError("no broker answers");
        let decision = decide_replicas(&settings, &input(second, 1, error, &state));
        assert_eq!(
            (decision.replicas, decision.open_schedules),
            (Some(expected), open.clone()),
            "second {second}"
        );
        let note = "; minReplicas 4 by schedules[0]";
        assert_eq!(
            decision.message.ends_with(note),
            !open.is_empty(),
            "{}",
            decision.message
        );
    }
}

#[test]
fn the_connection_budget_limits_a_schedule_and_an_invalid_one_is_never_open() {
    let (state, load) = (known(1000.0), load(&[0; 12]));
    let now = input(0, 1, LagState::Fresh(&load), &state);
    let budget = ", connectionBudget: 7, connectionsPerWorker: 2";
    let scaling = format!("{{schedules: [{{{AFTERNOON}, minReplicas: 9}}]}}");
    assert_eq!(
        decide_replicas(&settings(&scaling, budget), &now).replicas,
        Some(3)
    );
    let scaling = format!("{{schedules: [{{{AFTERNOON}, minReplicas: 9, timezone: Europe/Atlantis}}]}}");
    assert_eq!(decide_replicas(&settings(&scaling, ""), &now).replicas, Some(1));
}
