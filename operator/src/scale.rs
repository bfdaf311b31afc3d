//! Decides how many workers a stage should have, from its settings and its lag.
//!
//! A pure function: it must never read a clock or access the cluster, because the operator, the simulator and the tests
//! call the same code. It is the last decision before [`crate::plan`]. [`by_lag`] has the algorithm, this module the
//! scaling modes.

pub mod budget;
pub mod by_lag;
mod capacity;
pub mod ceiling;
pub mod decision;
pub mod demand;
pub mod gate;
pub mod input;
pub mod load;
mod message;
pub mod schedule;
pub mod settings;
pub mod stabilization;
pub mod state;
mod trial;

use crds::stage::ScalingMode;
use crds::status::{LimitedBy, Reason};

pub use self::by_lag::decide_by_lag;
use self::ceiling::ceiling;
pub use self::decision::LagDecision;
pub use self::input::{LagState, ScalingInput};
use self::settings::PAUSE_ANNOTATION;
pub use self::settings::ScalingSettings;
use self::state::ScalingState;

/// Number of workers that a stage should have, and the reason.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaDecision {
    /// Replicas to enforce; `None` if another controller writes them to the Deployment.
    pub replicas: Option<u32>,
    /// Replicas of a Deployment that is created now.
    pub initial: u32,
    /// Recommended replicas; set in the mode `Recommend` only.
    pub recommended: Option<u32>,
    /// Demand within the bounds, before the gates; `None` if the lag did not decide.
    pub recommendation: Option<u32>,
    /// Bound, gate or cause that limited the decision.
    pub limited_by: LimitedBy,
    /// Schedules whose bounds applied: their indexes in `spec.scaling.schedules`, ascending.
    pub open_schedules: Vec<u32>,
    /// Reason of the condition `ScalingActive`.
    pub reason: Reason,
    /// Message for the status and for events.
    pub message: String,
    /// State for the next decision.
    pub state: ScalingState,
}

/// Decides the replicas of a stage according to its scaling mode.
#[must_use]
pub fn decide_replicas(settings: &ScalingSettings, input: &ScalingInput<'_>) -> ReplicaDecision {
    let scaling = &settings.scaling;
    let fixed = scaling.replicas.unwrap_or(scaling.min_replicas);
    let enforce =
        |replicas, reason, message| enforce_replicas(input.state.clone(), replicas, reason, message);
    match scaling.mode {
        _ if settings.is_suspended => ReplicaDecision {
            limited_by: LimitedBy::Suspended,
            ..enforce(0, Reason::Suspended, "suspended by spec.suspend".to_owned())
        },
        _ if settings.is_group_taken => {
            let message = "another stage has the consumer group".to_owned();
            enforce(0, Reason::ConsumerGroupConflict, message)
        }
        ScalingMode::Manual => {
            let message = format!("{fixed} replicas set in spec.scaling (mode Manual)");
            apply_connection_budget(settings, enforce(fixed, Reason::Manual, message))
        }
        ScalingMode::Auto if settings.is_paused => {
            apply_connection_budget(settings, hold_present_replicas(settings, input))
        }
        ScalingMode::Auto => decide_by_lag(settings, input).into(),
        ScalingMode::External => apply_connection_budget(settings, decide_external(settings, input)),
        ScalingMode::Recommend => {
            let decision = decide_by_lag(settings, input);
            let decision = ReplicaDecision {
                replicas: None,
                recommended: Some(decision.replicas),
                initial: scaling.min_replicas.min(ceiling(settings, None).replicas),
                reason: Reason::Recommend,
                ..decision.into()
            };
            if settings.is_paused {
                pause(decision, "paused")
            } else {
                decision
            }
        }
    }
}

/// Holds the present replicas, whatever the lag and the bounds are. The algorithm continues to learn from the lag, so
/// that a step follows at once when the annotation is removed.
///
/// A stage without workers of its own decision, new or suspended before, gets those of the mode `Auto`, and holds them.
fn hold_present_replicas(settings: &ScalingSettings, input: &ScalingInput<'_>) -> ReplicaDecision {
    let decision = decide_by_lag(settings, input);
    let present = input
        .current_replicas
        .filter(|_| input.limited_by != LimitedBy::Suspended)
        .unwrap_or(decision.replicas);
    let paused = ReplicaDecision {
        replicas: Some(present),
        initial: present,
        reason: Reason::Paused,
        ..decision.into()
    };
    pause(paused, &format!("paused at {present} replicas"))
}

/// Reports that the annotation pauses the scaling; `outcome` says with which result.
fn pause(decision: ReplicaDecision, outcome: &str) -> ReplicaDecision {
    ReplicaDecision {
        limited_by: LimitedBy::Paused,
        message: format!(
            "{outcome} by the annotation {PAUSE_ANNOTATION}; without it: {}",
            decision.message
        ),
        ..decision
    }
}

fn enforce_replicas(state: ScalingState, replicas: u32, reason: Reason, message: String) -> ReplicaDecision {
    ReplicaDecision {
        replicas: Some(replicas),
        initial: replicas,
        recommended: None,
        recommendation: None,
        limited_by: LimitedBy::None,
        open_schedules: Vec::new(),
        reason,
        message,
        state,
    }
}

fn decide_external(settings: &ScalingSettings, input: &ScalingInput<'_>) -> ReplicaDecision {
    let scaling = &settings.scaling;
    let (initial, message) = match scaling.replicas {
        Some(replicas) => (
            replicas,
            format!("{replicas} replicas set through the scale subresource (mode External)"),
        ),
        None => (
            scaling.min_replicas,
            "another controller sets the replicas of the Deployment (mode External)".to_owned(),
        ),
    };
    ReplicaDecision {
        replicas: scaling.replicas,
        ..enforce_replicas(input.state.clone(), initial, Reason::External, message)
    }
}

/// Caps the replicas by the share in the connection budget of the warehouse: exhausting its connections would also lock
/// out every other user of the database.
fn apply_connection_budget(settings: &ScalingSettings, decision: ReplicaDecision) -> ReplicaDecision {
    let Some(share) = settings.budget_share else {
        return decision;
    };
    let max = share.max_replicas;
    if decision.initial <= max {
        return decision;
    }
    ReplicaDecision {
        replicas: decision.replicas.map(|replicas| replicas.min(max)),
        initial: max,
        limited_by: LimitedBy::ConnectionBudget,
        message: format!("{}; {max} replicas: limited by {share}", decision.message),
        ..decision
    }
}

impl From<LagDecision> for ReplicaDecision {
    fn from(decision: LagDecision) -> Self {
        Self {
            recommendation: decision.demand.is_some().then_some(decision.recommendation),
            limited_by: decision.limited_by,
            open_schedules: decision.open_schedules,
            ..enforce_replicas(
                decision.state,
                decision.replicas,
                decision.reason,
                decision.message,
            )
        }
    }
}
