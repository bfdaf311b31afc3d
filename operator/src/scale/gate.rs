//! What may hold a move, or lessen it; nothing here ever asks for one.

use crds::stage::{Duration, Scaling};
use crds::status::{LimitedBy, Wish};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::window;

/// What the gates look at.
#[derive(Clone, Copy, Debug)]
pub struct Gates<'g> {
    /// The time of the decision.
    pub now: Timestamp,
    /// Whether pods of an older template are being replaced.
    pub is_rolling: bool,
    /// Whether the group is assigning its partitions.
    pub is_rebalancing: bool,
    /// When the number of workers last changed.
    pub last_scale_time: Option<Timestamp>,
    /// The wishes of the past, this one included.
    pub window: &'g [Wish],
}

/// How far a move from one number of workers to another may go, and what held it back.
#[must_use]
pub fn pass(scaling: &Scaling, from: u32, to: u32, gates: &Gates<'_>) -> (u32, LimitedBy) {
    if from == to {
        return (to, LimitedBy::None);
    }
    if gates.is_rolling {
        return (from, LimitedBy::Rollout);
    }
    if gates.is_rebalancing {
        return (from, LimitedBy::Rebalancing);
    }
    let (steady, cooldown) = if to > from {
        let up = &scaling.scale_up;
        let lowest = wishes(gates, up.stabilization_window).min();
        (lowest.unwrap_or(to).clamp(from, to), up.cooldown)
    } else {
        let down = &scaling.scale_down;
        let highest = wishes(gates, down.stabilization_window)
            .max()
            .unwrap_or(to)
            .clamp(to, from);
        // While the wish is still falling, following it would take as many moves, and rebalances, as it has steps.
        (if highest > to { from } else { highest }, down.cooldown)
    };
    if steady == from {
        return (from, LimitedBy::Stabilization);
    }
    let rested = gates.last_scale_time.map(|last| gates.now.duration_since(last));
    if rested.is_some_and(|rested| rested < signed(cooldown)) {
        return (from, LimitedBy::Cooldown);
    }
    let limited_by = if steady == to {
        LimitedBy::None
    } else {
        LimitedBy::Stabilization
    };
    (steady, limited_by)
}

/// The longer of both windows: how long a wish has to be remembered.
#[must_use]
pub fn memory(scaling: &Scaling) -> SignedDuration {
    let [up, down] = [
        scaling.scale_up.stabilization_window,
        scaling.scale_down.stabilization_window,
    ];
    signed(up).max(signed(down))
}

fn wishes(gates: &Gates<'_>, length: Duration) -> impl Iterator<Item = u32> {
    window::within(gates.window, gates.now, signed(length)).map(|wish| wish.replicas)
}

/// A duration of the resource; its bounds are far below those of a signed one.
fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration.as_std()).unwrap_or(SignedDuration::MAX)
}
