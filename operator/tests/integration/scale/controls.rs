//! Controls of a user over the scaling: a pause by annotation.

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
