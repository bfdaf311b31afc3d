//! Gates: they delay or reduce a scaling step and never start one. Pure.

use crds::stage::{Duration, Scaling};
use crds::status::{LimitedBy, Recommendation};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::stabilization;

/// Observations that the gates depend on.
#[derive(Clone, Copy, Debug)]
pub struct GateInput<'a> {
    /// Time of the decision.
    pub now: Timestamp,
    /// True while a rollout replaces pods of an older template.
    pub is_rolling: bool,
    /// True while the consumer group rebalances.
    pub is_rebalancing: bool,
    /// Time of the last scaling step; `None` before the first one.
    pub last_scale_time: Option<Timestamp>,
    /// Recommendations of the past, oldest first; the last one is the current recommendation.
    pub recommendations: &'a [Recommendation],
}

/// Returns the replica count that the gates allow on the way from `from` to `to`, and the gate that limited it.
#[must_use]
pub fn apply_gates(scaling: &Scaling, from: u32, to: u32, input: &GateInput<'_>) -> (u32, LimitedBy) {
    if from == to {
        return (to, LimitedBy::None);
    }
    if input.is_rolling {
        return (from, LimitedBy::Rollout);
    }
    if input.is_rebalancing {
        return (from, LimitedBy::Rebalancing);
    }
    let (stabilized, cooldown) = if to > from {
        let up = &scaling.scale_up;
        let lowest = recommendations_within(input, up.stabilization_window).min();
        (lowest.unwrap_or(to).clamp(from, to), up.cooldown)
    } else {
        let down = &scaling.scale_down;
        let highest = recommendations_within(input, down.stabilization_window)
            .max()
            .unwrap_or(to)
            .clamp(to, from);
        // Following a recommendation that still falls would cost one rebalance per step of its fall.
        (if highest > to { from } else { highest }, down.cooldown)
    };
    if stabilized == from {
        return (from, LimitedBy::Stabilization);
    }
    let since_last_step = input.last_scale_time.map(|last| input.now.duration_since(last));
    if since_last_step.is_some_and(|elapsed| elapsed < signed(cooldown)) {
        return (from, LimitedBy::Cooldown);
    }
    let limited_by = if stabilized == to {
        LimitedBy::None
    } else {
        LimitedBy::Stabilization
    };
    (stabilized, limited_by)
}

/// Length of the longer of the two stabilization windows. Older recommendations have no effect and can be dropped.
#[must_use]
pub fn longest_window(scaling: &Scaling) -> SignedDuration {
    let [up, down] = [
        scaling.scale_up.stabilization_window,
        scaling.scale_down.stabilization_window,
    ];
    signed(up).max(signed(down))
}

fn recommendations_within(input: &GateInput<'_>, window: Duration) -> impl Iterator<Item = u32> {
    stabilization::recommendations_since(input.recommendations, input.now, signed(window))
        .map(|recommendation| recommendation.replicas)
}

/// Converts a duration of the spec. The schema bounds it far below the maximum of a `SignedDuration`.
fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration.as_std()).unwrap_or(SignedDuration::MAX)
}
