//! Decides how many workers a stage should have, from its settings and its lag.
//!
//! A pure function: it must never read a clock or access the cluster, because the operator, the simulator and the tests
//! call the same code. It is the last decision before [`crate::plan`].
//!
//! Flow: lag -> [`mod@demand`] -> recommendation (within the bounds) -> tolerance -> [`gate`] -> desired replicas.

pub mod ceiling;
pub mod demand;
pub mod gate;
pub mod load;
pub mod settings;
pub mod stabilization;

use crds::stage::{OnLagUnknown, ScalingMode};
use crds::status::{LimitedBy, Reason, Recommendation, ScalingStatus};
use k8s_openapi::jiff::Timestamp;

use self::ceiling::{Ceiling, ceiling};
use self::demand::{Demand, demand};
use self::gate::GateInput;
use self::load::Load;
pub use self::settings::ScalingSettings;

/// Scaling steps up to this share of the current replicas are skipped: a rebalance costs more than they gain.
const TOLERANCE: f64 = 0.1;

/// Observations that a scaling decision depends on, besides the [`ScalingSettings`].
#[derive(Clone, Copy, Debug)]
pub struct ScalingInput<'a> {
    /// Time of the decision.
    pub now: Timestamp,
    /// Desired replicas of the previous decision; `None` before the first one.
    pub current_replicas: Option<u32>,
    /// Lag of the stage.
    pub lag: LagState<'a>,
    /// True while a rollout replaces pods of an older template.
    pub is_rolling: bool,
    /// True while the consumer group rebalances.
    pub is_rebalancing: bool,
    /// Scaling status that the previous decision left.
    pub previous: &'a ScalingStatus,
}

impl<'a> ScalingInput<'a> {
    /// Input without any observation: the replicas are unknown and the lag is pending.
    #[must_use]
    pub fn new(now: Timestamp, previous: &'a ScalingStatus) -> Self {
        Self {
            now,
            current_replicas: None,
            lag: LagState::Pending,
            is_rolling: false,
            is_rebalancing: false,
            previous,
        }
    }

    fn gate_input<'r>(&self, recommendations: &'r [Recommendation]) -> GateInput<'r> {
        GateInput {
            now: self.now,
            is_rolling: self.is_rolling,
            is_rebalancing: self.is_rebalancing,
            last_scale_time: self.previous.last_scale_time,
            recommendations,
        }
    }
}

/// State of the lag of a stage, as far as decisions may rely on it. The texts are error messages.
#[derive(Clone, Copy, Debug)]
pub enum LagState<'a> {
    /// Fewer than two polls have succeeded, so the rates are unknown.
    Pending,
    /// The last poll failed, but too recently to act on it.
    TransientError(&'a str),
    /// The lag is unknown: polls keep failing, return partial offsets, or the last result is too old.
    Unknown(&'a str),
    /// The last poll succeeded and is recent enough.
    Fresh(&'a Load),
}

/// Number of workers that a stage should have, and the reason.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaDecision {
    /// Replicas to enforce; `None` if another controller writes them to the Deployment.
    pub replicas: Option<u32>,
    /// Replicas of a Deployment that is created now.
    pub initial: u32,
    /// Recommended replicas; set in the mode `Recommend` only.
    pub recommended: Option<u32>,
    /// Bound or gate that limited the decision.
    pub limited_by: LimitedBy,
    /// Reason of the condition `ScalingActive`.
    pub reason: Reason,
    /// Message for the status and for events.
    pub message: String,
    /// Recommendations within the stabilization windows, oldest first.
    pub recommendations: Vec<Recommendation>,
}

/// Decides the replicas of a stage according to its scaling mode.
#[must_use]
pub fn decide_replicas(settings: &ScalingSettings, input: &ScalingInput<'_>) -> ReplicaDecision {
    let scaling = &settings.scaling;
    let fixed = scaling.replicas.unwrap_or(scaling.min_replicas);
    match scaling.mode {
        _ if settings.is_suspended => ReplicaDecision {
            limited_by: LimitedBy::Suspended,
            ..enforce_replicas(0, Reason::Suspended, "suspended by spec.suspend".to_owned())
        },
        ScalingMode::Manual => {
            let message = format!("{fixed} replicas set in spec.scaling (mode Manual)");
            apply_connection_budget(settings, enforce_replicas(fixed, Reason::Manual, message))
        }
        ScalingMode::External => apply_connection_budget(settings, decide_external(settings)),
        ScalingMode::Auto => decide_by_lag(settings, input).into(),
        ScalingMode::Recommend => {
            let decision = decide_by_lag(settings, input);
            ReplicaDecision {
                replicas: None,
                recommended: Some(decision.replicas),
                initial: scaling.min_replicas.min(ceiling(settings, None).replicas),
                reason: Reason::Recommend,
                ..decision.into()
            }
        }
    }
}

fn enforce_replicas(replicas: u32, reason: Reason, message: String) -> ReplicaDecision {
    ReplicaDecision {
        replicas: Some(replicas),
        initial: replicas,
        recommended: None,
        limited_by: LimitedBy::None,
        reason,
        message,
        recommendations: Vec::new(),
    }
}

fn decide_external(settings: &ScalingSettings) -> ReplicaDecision {
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
        ..enforce_replicas(initial, Reason::External, message)
    }
}

/// Caps the replicas by the connection budget of the warehouse: exhausting its connections would also lock out every
/// other user of the database.
fn apply_connection_budget(settings: &ScalingSettings, decision: ReplicaDecision) -> ReplicaDecision {
    let (Some(budget), Some(max)) = (settings.connection_budget, settings.max_replicas_by_connections())
    else {
        return decision;
    };
    if decision.initial <= max {
        return decision;
    }
    ReplicaDecision {
        replicas: decision.replicas.map(|replicas| replicas.min(max)),
        initial: max,
        limited_by: LimitedBy::ConnectionBudget,
        message: format!(
            "{}, limited to {max}: connectionBudget {budget} / connectionsPerWorker {}",
            decision.message, settings.connections_per_worker
        ),
        ..decision
    }
}

/// Decision of the lag-based algorithm, with every intermediate result.
#[derive(Clone, Debug, PartialEq)]
pub struct LagDecision {
    /// Replicas before the decision.
    pub from: u32,
    /// Desired replicas, after the gates.
    pub replicas: u32,
    /// Demand of the load; `None` while the lag is unknown.
    pub demand: Option<Demand>,
    /// Upper bound of the replicas.
    pub ceiling: Ceiling,
    /// Demand clamped to `minReplicas` and the ceiling, before the gates.
    pub recommendation: u32,
    /// Bound or gate that limited the decision.
    pub limited_by: LimitedBy,
    /// [`Reason::FollowsLag`], or why the lag did not decide.
    pub reason: Reason,
    /// Recommendations within the stabilization windows, oldest first; the last one is from this decision.
    pub recommendations: Vec<Recommendation>,
    /// Message for the status and for events.
    pub message: String,
}

impl From<LagDecision> for ReplicaDecision {
    fn from(decision: LagDecision) -> Self {
        Self {
            limited_by: decision.limited_by,
            recommendations: decision.recommendations,
            ..enforce_replicas(decision.replicas, decision.reason, decision.message)
        }
    }
}

/// Decides the replicas by the lag: demand, bounds, tolerance, gates. While the lag is unknown, it applies
/// `onLagUnknown`.
#[must_use]
pub fn decide_by_lag(settings: &ScalingSettings, input: &ScalingInput<'_>) -> LagDecision {
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
            let cause = (
                input.previous.limited_by,
                Reason::LagPending,
                "lag not measured yet".to_owned(),
            );
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
        recommendations: input.previous.recommendations.clone(),
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
    let scaling = &settings.scaling;
    // Only a known lag of zero justifies zero workers.
    let target = scaling.min_replicas.max(1).min(current);
    let recommendations = stabilization::push_recommendation(
        &input.previous.recommendations,
        current,
        target,
        input.now,
        gate::longest_window(scaling),
    );
    let (replicas, _) = gate::apply_gates(scaling, current, target, &input.gate_input(&recommendations));
    LagDecision {
        recommendations,
        ..hold_at(settings, input, replicas, cause)
    }
}

fn decide_by_load(settings: &ScalingSettings, input: &ScalingInput<'_>, load: &Load) -> LagDecision {
    let scaling = &settings.scaling;
    let from = input.current_replicas.unwrap_or(scaling.min_replicas);
    let ceiling = ceiling(settings, Some(load.partitions.len()));
    let demand = demand(scaling, load, from == 0);
    let recommendation = clamp_replicas(settings, demand.replicas, ceiling);
    let recommendations = stabilization::push_recommendation(
        &input.previous.recommendations,
        from,
        recommendation,
        input.now,
        gate::longest_window(scaling),
    );
    let target = if is_within_tolerance(settings, from, recommendation, ceiling) {
        from
    } else {
        recommendation
    };
    let (allowed, gate) = gate::apply_gates(scaling, from, target, &input.gate_input(&recommendations));
    // Changed bounds apply at once, whatever the gates allow.
    let replicas = clamp_replicas(settings, allowed, ceiling);
    let limited_by = if gate == LimitedBy::None {
        limiting_bound(&demand, recommendation, ceiling)
    } else {
        gate
    };
    LagDecision {
        from,
        replicas,
        ceiling,
        recommendation,
        limited_by,
        reason: Reason::FollowsLag,
        message: decision_message(load, &demand, recommendation, replicas, limited_by),
        demand: Some(demand),
        recommendations,
    }
}

fn clamp_replicas(settings: &ScalingSettings, replicas: u32, ceiling: Ceiling) -> u32 {
    let floor = settings.scaling.min_replicas.min(ceiling.replicas);
    replicas.clamp(floor, ceiling.replicas)
}

/// True if the step is too small to be worth it. A step to a bound never is: the bound could not be reached otherwise.
fn is_within_tolerance(settings: &ScalingSettings, from: u32, recommendation: u32, ceiling: Ceiling) -> bool {
    let is_at_bound = recommendation == ceiling.replicas || recommendation <= settings.scaling.min_replicas;
    !is_at_bound && f64::from(from.abs_diff(recommendation)) <= TOLERANCE * f64::from(from)
}

/// Bound that makes the recommendation differ from the demand.
fn limiting_bound(demand: &Demand, recommendation: u32, ceiling: Ceiling) -> LimitedBy {
    if demand.replicas < recommendation {
        LimitedBy::Min
    } else if demand.replicas > recommendation
        || (demand.unsaturated > recommendation && recommendation == ceiling.replicas)
    {
        ceiling.by
    } else if demand.unsaturated > recommendation {
        LimitedBy::HotPartition
    } else {
        LimitedBy::None
    }
}

fn decision_message(
    load: &Load,
    demand: &Demand,
    recommendation: u32,
    replicas: u32,
    limited_by: LimitedBy,
) -> String {
    let lag = load.total_lag();
    let Demand {
        replicas: recommended,
        need,
        capacity,
        unit,
        ..
    } = demand;
    let limit = match limited_by {
        LimitedBy::None => String::new(),
        limit => format!("; limited by {limit:?}"),
    };
    let difference = if replicas == recommendation {
        String::new()
    } else {
        format!(", {replicas} instead of {recommendation}")
    };
    format!(
        "lag {lag}: {recommended} workers recommended ({need:.0} {unit} needed, {capacity:.0} per worker){limit}{difference}"
    )
}
