//! How many workers a stage should have: a function of what its resource says of them and of what is known about its lag.
//!
//! Must never read a clock or reach the cluster: the operator, the simulator and the tests call the same function.
//! The last decision before [`crate::plan`].

pub mod ceiling;
pub mod demand;
pub mod gate;
pub mod load;
pub mod rules;
pub mod window;

use crds::stage::{OnLagUnknown, ScalingMode};
use crds::status::{LimitedBy, Reason, ScalingStatus, Wish};
use k8s_openapi::jiff::Timestamp;

use self::ceiling::{Ceiling, ceiling};
use self::demand::{Demand, demand};
use self::gate::Gates;
use self::load::Load;
pub use self::rules::Rules;

/// A move of less than this share of the present number is not worth its rebalance.
const TOLERANCE: f64 = 0.1;

/// What a decision looks at beside the rules.
#[derive(Clone, Copy, Debug)]
pub struct Known<'k> {
    /// The time of the decision.
    pub now: Timestamp,
    /// Workers that should exist by the last decision; none before there was one.
    pub current: Option<u32>,
    /// What is known of the lag.
    pub lag: LagKnown<'k>,
    /// Whether pods of an older template are being replaced.
    pub is_rolling: bool,
    /// Whether the group is assigning its partitions.
    pub is_rebalancing: bool,
    /// What was decided before.
    pub before: &'k ScalingStatus,
}

impl<'k> Known<'k> {
    /// What is known when nothing could be read.
    #[must_use]
    pub fn nothing(now: Timestamp, before: &'k ScalingStatus) -> Self {
        Self {
            now,
            current: None,
            lag: LagKnown::Pending,
            is_rolling: false,
            is_rebalancing: false,
            before,
        }
    }

    fn gates<'g>(&self, window: &'g [Wish]) -> Gates<'g> {
        Gates {
            now: self.now,
            is_rolling: self.is_rolling,
            is_rebalancing: self.is_rebalancing,
            last_scale_time: self.before.last_scale_time,
            window,
        }
    }
}

/// What is known of the lag.
#[derive(Clone, Copy, Debug)]
pub enum LagKnown<'k> {
    /// It has not been read twice yet: there are no rates.
    Pending,
    /// The last reading failed, and it is too soon to act on that; in words.
    Missed(&'k str),
    /// It could not be read for a while, or only in part, or long ago; in words.
    Unknown(&'k str),
    /// It was read.
    Read(&'k Load),
}

/// How many workers a stage should have, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The number that is enforced; none when another controller writes it into the Deployment.
    pub replicas: Option<u32>,
    /// The number that a new Deployment starts with.
    pub initial: u32,
    /// The number that the lag leads to, in the mode Recommend.
    pub recommended: Option<u32>,
    /// What limits it.
    pub limited_by: LimitedBy,
    /// Who decides; the reason of the condition `ScalingActive`.
    pub reason: Reason,
    /// The decision in words.
    pub message: String,
    /// The wishes of the stabilization windows.
    pub window: Vec<Wish>,
}

/// Decides how many workers a stage with these rules should have.
#[must_use]
pub fn wanted(rules: &Rules, known: &Known<'_>) -> Wanted {
    let scaling = &rules.scaling;
    let fixed = scaling.replicas.unwrap_or(scaling.min_replicas);
    match scaling.mode {
        _ if rules.is_suspended => Wanted {
            limited_by: LimitedBy::Suspended,
            ..enforced(0, Reason::Suspended, "paused by spec.suspend".to_owned())
        },
        ScalingMode::Manual => {
            let message = format!("spec.scaling asks for {fixed} in the mode Manual");
            within_budget(rules, enforced(fixed, Reason::Manual, message))
        }
        ScalingMode::External => within_budget(rules, external(rules)),
        ScalingMode::Auto => follow(rules, known).into(),
        ScalingMode::Recommend => {
            let followed = follow(rules, known);
            Wanted {
                replicas: None,
                recommended: Some(followed.replicas),
                initial: scaling.min_replicas.min(ceiling(rules, None).replicas),
                reason: Reason::Recommend,
                ..followed.into()
            }
        }
    }
}

fn enforced(replicas: u32, reason: Reason, message: String) -> Wanted {
    Wanted {
        replicas: Some(replicas),
        initial: replicas,
        recommended: None,
        limited_by: LimitedBy::None,
        reason,
        message,
        window: Vec::new(),
    }
}

fn external(rules: &Rules) -> Wanted {
    let scaling = &rules.scaling;
    let (number, message) = match scaling.replicas {
        Some(replicas) => (
            replicas,
            format!("another controller asks for {replicas} through the scale subresource"),
        ),
        None => (
            scaling.min_replicas,
            "the Deployment's replicas are left to another controller".to_owned(),
        ),
    };
    Wanted {
        replicas: scaling.replicas,
        ..enforced(number, Reason::External, message)
    }
}

/// Caps the number by the connections that the warehouse has for this stage: exhausting it would stop every other
/// user of the database too.
fn within_budget(rules: &Rules, wanted: Wanted) -> Wanted {
    let (Some(budget), Some(ceiling)) = (rules.connection_budget, rules.affordable()) else {
        return wanted;
    };
    if wanted.initial <= ceiling {
        return wanted;
    }
    Wanted {
        replicas: wanted.replicas.map(|replicas| replicas.min(ceiling)),
        initial: ceiling,
        limited_by: LimitedBy::ConnectionBudget,
        message: format!(
            "{}, limited to {ceiling}: connectionBudget {budget} / connectionsPerWorker {}",
            wanted.message, rules.connections_per_worker
        ),
        ..wanted
    }
}

/// A number of workers that follows the lag, with every term of the decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Followed {
    /// Workers before.
    pub from: u32,
    /// Workers after.
    pub replicas: u32,
    /// What the lag asks for; none while it is not known.
    pub demand: Option<Demand>,
    /// The most workers.
    pub ceiling: Ceiling,
    /// The number between `minReplicas` and the ceiling, before the gates.
    pub wish: u32,
    /// What limits it.
    pub limited_by: LimitedBy,
    /// Whether the lag decides, or why not.
    pub reason: Reason,
    /// The wishes of the stabilization windows, this one included.
    pub window: Vec<Wish>,
    /// The decision in words.
    pub message: String,
}

impl From<Followed> for Wanted {
    fn from(followed: Followed) -> Self {
        Self {
            limited_by: followed.limited_by,
            window: followed.window,
            ..enforced(followed.replicas, followed.reason, followed.message)
        }
    }
}

/// The number of workers that follows the lag: demand, bounds, tolerance, gates.
#[must_use]
pub fn follow(rules: &Rules, known: &Known<'_>) -> Followed {
    let scaling = &rules.scaling;
    match known.lag {
        LagKnown::Read(load) => follow_load(rules, known, load),
        LagKnown::Missed(cause) | LagKnown::Unknown(cause) => {
            let held = known.current.unwrap_or(scaling.min_replicas);
            let words = format!("the lag is not known: {cause}");
            let why = (LimitedBy::LagUnknown, Reason::LagUnknown, words);
            match (scaling.on_lag_unknown, known.lag) {
                (OnLagUnknown::Min, LagKnown::Unknown(_)) => retreat(rules, known, held, why),
                _ => held_at(rules, known, held, why),
            }
        }
        LagKnown::Pending => {
            let to = known.current.unwrap_or(scaling.min_replicas);
            let words = "the lag is being read".to_owned();
            held_at(
                rules,
                known,
                to,
                (known.before.limited_by, Reason::LagPending, words),
            )
        }
    }
}

/// A number that the lag does not decide; the bounds hold all the same.
fn held_at(
    rules: &Rules,
    known: &Known<'_>,
    to: u32,
    (limited_by, reason, words): (LimitedBy, Reason, String),
) -> Followed {
    let ceiling = ceiling(rules, None);
    let replicas = bounded(rules, to, ceiling);
    Followed {
        from: known.current.unwrap_or(replicas),
        replicas,
        demand: None,
        ceiling,
        wish: replicas,
        limited_by,
        reason,
        window: known.before.window.clone(),
        message: format!("holding {replicas}: {words}"),
    }
}

/// The way to `minReplicas` while the lag is not known, as slow as any other move.
fn retreat(rules: &Rules, known: &Known<'_>, held: u32, why: (LimitedBy, Reason, String)) -> Followed {
    let scaling = &rules.scaling;
    // Nothing is known, so nothing goes to zero either.
    let aim = scaling.min_replicas.max(1).min(held);
    let window = window::with(&known.before.window, held, aim, known.now, gate::memory(scaling));
    let (to, _) = gate::pass(scaling, held, aim, &known.gates(&window));
    Followed {
        window,
        ..held_at(rules, known, to, why)
    }
}

fn follow_load(rules: &Rules, known: &Known<'_>, load: &Load) -> Followed {
    let scaling = &rules.scaling;
    let from = known.current.unwrap_or(scaling.min_replicas);
    let ceiling = ceiling(rules, Some(load.partitions.len()));
    let demand = demand(scaling, load, from == 0);
    let wish = bounded(rules, demand.replicas, ceiling);
    let window = window::with(&known.before.window, from, wish, known.now, gate::memory(scaling));
    let aim = if is_negligible(rules, from, wish, ceiling) {
        from
    } else {
        wish
    };
    let (to, gate) = gate::pass(scaling, from, aim, &known.gates(&window));
    // Bounds that a person has moved hold at once, whatever the gates say.
    let replicas = bounded(rules, to, ceiling);
    let limited_by = if gate == LimitedBy::None {
        bound(&demand, wish, ceiling)
    } else {
        gate
    };
    Followed {
        from,
        replicas,
        ceiling,
        wish,
        limited_by,
        reason: Reason::FollowsLag,
        message: words(load, &demand, wish, replicas, limited_by),
        demand: Some(demand),
        window,
    }
}

fn bounded(rules: &Rules, replicas: u32, ceiling: Ceiling) -> u32 {
    let floor = rules.scaling.min_replicas.min(ceiling.replicas);
    replicas.clamp(floor, ceiling.replicas)
}

/// Whether a move is too small; one to a bound never is, or the bound would never be reached.
fn is_negligible(rules: &Rules, from: u32, wish: u32, ceiling: Ceiling) -> bool {
    let at_bound = wish == ceiling.replicas || wish <= rules.scaling.min_replicas;
    !at_bound && f64::from(from.abs_diff(wish)) <= TOLERANCE * f64::from(from)
}

/// What keeps the wish from being what all the lag asks for.
fn bound(demand: &Demand, wish: u32, ceiling: Ceiling) -> LimitedBy {
    if demand.replicas < wish {
        LimitedBy::Min
    } else if demand.replicas > wish || (demand.unsaturated > wish && wish == ceiling.replicas) {
        ceiling.by
    } else if demand.unsaturated > wish {
        LimitedBy::HotPartition
    } else {
        LimitedBy::None
    }
}

/// The decision in one sentence, with its figures.
fn words(load: &Load, demand: &Demand, wish: u32, replicas: u32, limited_by: LimitedBy) -> String {
    let Demand {
        replicas: asked,
        need,
        capacity,
        unit,
        ..
    } = demand;
    let lag = load.total();
    let limit = match limited_by {
        LimitedBy::None => String::new(),
        limit => format!("; limited by {limit:?}"),
    };
    let held = if replicas == wish {
        String::new()
    } else {
        format!(", {replicas} instead of {wish}")
    };
    format!("lag {lag} asks for {asked}: {need:.0} {unit} needed, {capacity:.0} a worker{limit}{held}")
}
