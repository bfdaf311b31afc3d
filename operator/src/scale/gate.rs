//! Gates: they delay or reduce a scaling step and never start one. Pure.

use crds::stage::{Duration, Scaling};
use crds::status::LimitedBy;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::stabilization;
use super::state::{ScalingState, ScalingStep, is_within};

/// Time for which a scale-down that a longer window would have saved doubles the window.
const REGRET_MEMORY: SignedDuration = SignedDuration::from_hours(1);
/// Maximum factor of the scale-down window.
const MAX_WINDOW_FACTOR: i32 = 8;
/// Maximum time for which a rebalance delays a step: one that never ends must not stop scaling.
pub const MAX_REBALANCE_DELAY: SignedDuration = SignedDuration::from_mins(2);

/// Rollout of a pod template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rollout {
    /// Every worker has the current template.
    #[default]
    None,
    /// Workers are being replaced.
    InProgress,
    /// The rollout exceeded its progress deadline of ten minutes.
    Stalled,
}

/// Observations that the gates depend on.
#[derive(Clone, Copy, Debug)]
pub struct GateInput<'a> {
    /// Time of the decision.
    pub now: Timestamp,
    /// Rollout of a pod template.
    pub rollout: Rollout,
    /// Time since which the consumer group rebalances.
    pub rebalancing_since: Option<Timestamp>,
    /// State with the recommendations, of which the last one is the current one, and with the last steps.
    pub state: &'a ScalingState,
}

/// Returns the replica count that the gates allow on the step from `from` to `to`, and the gate that limited it.
#[must_use]
pub fn apply_gates(scaling: &Scaling, from: u32, to: u32, input: &GateInput<'_>) -> (u32, LimitedBy) {
    if from == to {
        return (to, LimitedBy::None);
    }
    let is_up = to > from;
    let (stabilized, cooldown) = if is_up {
        (
            lowest_recommendation(scaling, from, to, input),
            scaling.scale_up.cooldown,
        )
    } else {
        (
            highest_recommendation(scaling, from, to, input),
            scaling.scale_down.cooldown,
        )
    };
    if stabilized == from {
        return (from, LimitedBy::Stabilization);
    }
    let last_scale_time = input.state.last_scale_time;
    if last_scale_time.is_some_and(|last| is_within(last, signed(cooldown), input.now)) {
        return (from, LimitedBy::Cooldown);
    }
    if input
        .rebalancing_since
        .is_some_and(|since| is_within(since, MAX_REBALANCE_DELAY, input.now))
    {
        return (from, LimitedBy::Rebalancing);
    }
    match input.rollout {
        Rollout::InProgress => return (from, LimitedBy::Rollout),
        Rollout::Stalled if !is_up => return (from, LimitedBy::Rollout),
        Rollout::Stalled | Rollout::None => {}
    }
    let allowed = if is_up {
        stabilized
    } else {
        stabilized.max(lowest_step(scaling, from))
    };
    let limited_by = if allowed != stabilized {
        LimitedBy::MaxStep
    } else if stabilized == to {
        LimitedBy::None
    } else {
        LimitedBy::Stabilization
    };
    (allowed, limited_by)
}

/// Lowest number of workers that one step down from `from` may reach.
fn lowest_step(scaling: &Scaling, from: u32) -> u32 {
    let max_step = scaling.scale_down.max_step;
    max_step.map_or(0, |step| from - step.replicas_of(from))
}

/// Lowest recommendation of the scale-up window.
fn lowest_recommendation(scaling: &Scaling, from: u32, to: u32, input: &GateInput<'_>) -> u32 {
    let lowest = recommendations_within(input, signed(scaling.scale_up.stabilization_window)).min();
    lowest.unwrap_or(to).clamp(from, to)
}

/// Highest recommendation of the scale-down window; `from` while it is about to fall further, so that a fall is one
/// step. After a scale-up without effect there is nothing to stabilize.
fn highest_recommendation(scaling: &Scaling, from: u32, to: u32, input: &GateInput<'_>) -> u32 {
    let is_ineffective = |from: u32| {
        let trial = input.state.trial.filter(|trial| trial.until.is_some());
        trial.is_some_and(|trial| from > trial.from)
    };
    if is_ineffective(from) {
        return to;
    }
    let window = scale_down_window(scaling, &input.state.steps, input.now);
    let highest = |window| {
        let highest = recommendations_within(input, window).max();
        highest.unwrap_or(to).clamp(to, from)
    };
    let highest_now = highest(window);
    let after_cooldown = (window - signed(scaling.scale_down.cooldown)).max(SignedDuration::ZERO);
    if highest(after_cooldown) < highest_now {
        from
    } else {
        highest_now
    }
}

/// Length of the scale-down window: doubled for each scale-down of the last hour that was followed by a scale-up within
/// the window then in force.
#[must_use]
pub fn scale_down_window(scaling: &Scaling, steps: &[ScalingStep], now: Timestamp) -> SignedDuration {
    let configured = signed(scaling.scale_down.stabilization_window);
    let max = configured
        .checked_mul(MAX_WINDOW_FACTOR)
        .unwrap_or(SignedDuration::MAX);
    steps.windows(2).fold(configured, |window, pair| {
        let [down, up] = pair else { return window };
        let is_regretted = down.to < down.from
            && up.to > up.from
            && up.time.duration_since(down.time) <= window
            && is_within(up.time, REGRET_MEMORY, now);
        if is_regretted {
            (window + window).min(max)
        } else {
            window
        }
    })
}

/// Length of the longer of the two stabilization windows. Older recommendations have no effect and can be dropped.
#[must_use]
pub fn longest_window(scaling: &Scaling, steps: &[ScalingStep], now: Timestamp) -> SignedDuration {
    signed(scaling.scale_up.stabilization_window).max(scale_down_window(scaling, steps, now))
}

fn recommendations_within(input: &GateInput<'_>, window: SignedDuration) -> impl Iterator<Item = u32> {
    stabilization::recommendations_since(&input.state.recommendations, input.now, window)
        .map(|recommendation| recommendation.replicas)
}

/// Converts a duration of the spec. The schema bounds it far below the maximum of a `SignedDuration`.
pub(super) fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration.as_std()).unwrap_or(SignedDuration::MAX)
}
