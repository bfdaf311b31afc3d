//! Decision by the lag, with every intermediate result. Pure.
//!
//! Flow: load -> `capacity` -> `demand` -> `trial` -> recommendation (within the bounds) -> `gate` -> desired
//! replicas. Every change of the state is part of the decision.

use crds::stage::OnLagUnknown;
use crds::status::{LimitedBy, Reason};

use super::ceiling::{Ceiling, ceiling};
use super::decision::LagDecision;
use super::demand::{Demand, Replicas, demand};
use super::input::{LagState, ScalingInput};
use super::load::Load;
use super::schedule::ScheduledBounds;
use super::settings::ScalingSettings;
use super::state::ScalingState;
use super::{capacity, gate, message, stabilization, trial};

/// Decides the replicas by the lag: demand, bounds, gates. While the lag is unknown, it applies `onLagUnknown`.
///
/// While windows of schedules are open, their bounds replace those of the stage.
#[must_use]
pub fn decide_by_lag(settings: &ScalingSettings, input: &ScalingInput<'_>) -> LagDecision {
    let Some(bounds) = ScheduledBounds::at(&settings.scaling, input.now) else {
        return decide_within_bounds(settings, input);
    };
    let decision = decide_within_bounds(&bounds.replace_in(settings), input);
    LagDecision {
        message: format!("{}; {bounds}", decision.message),
        open_schedules: bounds.open_schedules,
        ..decision
    }
}

fn decide_within_bounds(settings: &ScalingSettings, input: &ScalingInput<'_>) -> LagDecision {
    let scaling = &settings.scaling;
    let current = input.current_replicas.unwrap_or(scaling.min_replicas);
    match input.lag {
        LagState::Fresh(load) => decide_by_load(settings, input, load),
        LagState::TransientError(error) | LagState::Unknown(error) => {
            let cause = (
                LimitedBy::LagUnknown,
                Reason::LagUnknown,
                format!("lag unknown: {error}"),
            );
            match (scaling.on_lag_unknown, input.lag) {
                (OnLagUnknown::Min, LagState::Unknown(_)) => {
                    step_down_to_min(settings, input, current, cause)
                }
                _ => hold_at(settings, input, current, cause),
            }
        }
        LagState::Pending => {
            let limited_by = match input.limited_by {
                // The pause has ended.
                LimitedBy::Paused => LimitedBy::None,
                limited_by => limited_by,
            };
            let cause = (limited_by, Reason::LagPending, "lag not measured yet".to_owned());
            hold_at(settings, input, current, cause)
        }
    }
}

/// Returns `replicas`, clamped to the bounds, as a decision that does not depend on the lag.
fn hold_at(
    settings: &ScalingSettings,
    input: &ScalingInput<'_>,
    replicas: u32,
    (limited_by, reason, cause): (LimitedBy, Reason, String),
) -> LagDecision {
    let ceiling = ceiling(settings, None);
    let replicas = clamp_replicas(settings, replicas, ceiling);
    LagDecision {
        from: input.current_replicas.unwrap_or(replicas),
        replicas,
        demand: None,
        ceiling,
        recommendation: replicas,
        limited_by,
        reason,
        state: input.state.clone(),
        open_schedules: Vec::new(),
        message: format!("holding at {replicas} replicas: {cause}"),
    }
}

/// Scales down to `minReplicas` while the lag is unknown, through the same gates as every other scaling step.
fn step_down_to_min(
    settings: &ScalingSettings,
    input: &ScalingInput<'_>,
    current: u32,
    cause: (LimitedBy, Reason, String),
) -> LagDecision {
    // Only a known lag of zero justifies zero workers.
    let target = settings.scaling.min_replicas.max(1).min(current);
    let mut state = input.state.clone();
    push_recommendation(settings, input, &mut state, (current, target));
    let (replicas, _) = gate::apply_gates(&settings.scaling, current, target, &input.gate_input(&state));
    LagDecision {
        state,
        ..hold_at(settings, input, replicas, cause)
    }
}

fn decide_by_load(settings: &ScalingSettings, input: &ScalingInput<'_>, load: &Load) -> LagDecision {
    let (scaling, now) = (&settings.scaling, input.now);
    let from = input.current_replicas.unwrap_or(scaling.min_replicas);
    let ceiling = ceiling(settings, Some(load.partitions.len()));
    let floor = scaling.min_replicas.min(ceiling.replicas);
    let mut state = input.state.clone();
    capacity::assume(&mut state, scaling.target.initial_rate);
    capacity::note_episode(&mut state, load);
    capacity::learn(&mut state, load, now);
    if from > floor {
        let interval = gate::signed(scaling.scale_down.stabilization_window);
        capacity::test(&mut state, load, interval, now);
    }
    let bounds = Replicas {
        current: from,
        floor,
        ceiling: ceiling.replicas,
    };
    let demand = demand(scaling, load, &state, bounds, now);
    let (demanded, cause) = trial::judge(&mut state, load, (demand.replicas, demand.cause), now);
    let recommendation = clamp_replicas(settings, demanded, ceiling);
    push_recommendation(settings, input, &mut state, (from, recommendation));
    let (allowed, gate) = gate::apply_gates(scaling, from, recommendation, &input.gate_input(&state));
    // Changed bounds apply at once, whatever the gates allow.
    let replicas = clamp_replicas(settings, allowed, ceiling);
    let limited_by = match (
        gate,
        limiting_cause(load, &demand, cause, (demanded, recommendation), ceiling),
    ) {
        (LimitedBy::None, cause) => cause,
        // The cause of a step is remembered with the step.
        (LimitedBy::Stabilization, cause) if replicas != from => cause,
        (gate, _) => gate,
    };
    let mut decision = LagDecision {
        from,
        replicas,
        ceiling,
        recommendation,
        limited_by,
        reason: Reason::FollowsLag,
        open_schedules: Vec::new(),
        message: String::new(),
        demand: Some(demand),
        state,
    };
    decision.message = message::describe(settings, input, load, &decision);
    decision
}

fn push_recommendation(
    settings: &ScalingSettings,
    input: &ScalingInput<'_>,
    state: &mut ScalingState,
    (current, recommendation): (u32, u32),
) {
    let window = gate::longest_window(&settings.scaling, &state.steps, input.now);
    state.recommendations = stabilization::push_recommendation(
        &state.recommendations,
        current,
        recommendation,
        input.now,
        window,
    );
}

fn clamp_replicas(settings: &ScalingSettings, replicas: u32, ceiling: Ceiling) -> u32 {
    let floor = settings.scaling.min_replicas.min(ceiling.replicas);
    replicas.clamp(floor, ceiling.replicas)
}

/// Bound that makes the recommendation differ from the demand, or else the cause of the demand.
fn limiting_cause(
    load: &Load,
    demand: &Demand,
    cause: LimitedBy,
    (demanded, recommendation): (u32, u32),
    ceiling: Ceiling,
) -> LimitedBy {
    if demanded > recommendation {
        ceiling.by
    } else if demanded < recommendation {
        LimitedBy::Min
    } else if cause != LimitedBy::None {
        cause
    } else if load.slow_members().next().is_some() {
        LimitedBy::SlowWorker
    } else if demand.is_unmet && recommendation == ceiling.replicas {
        ceiling.by
    } else {
        LimitedBy::None
    }
}
