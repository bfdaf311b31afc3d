//! Message of a decision, in a fixed order: desired replicas, cause, values, limit. Pure.

use std::fmt::Write as _;

use crds::status::LimitedBy;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::decision::LagDecision;
use super::demand::{Demand, Needs};
use super::gate::{MAX_REBALANCE_DELAY, scale_down_window, signed};
use super::input::ScalingInput;
use super::load::Load;
use super::settings::ScalingSettings;

/// Describes a decision by `load`.
pub(super) fn describe(
    settings: &ScalingSettings,
    input: &ScalingInput<'_>,
    load: &Load,
    decision: &LagDecision,
) -> String {
    let mut text = format!("desired replicas {}", decision.replicas);
    // Writing to a String cannot fail.
    let _ = match decision.from {
        from if from == decision.replicas => Ok(()),
        from => write!(text, " (was {from})"),
    };
    let _ = write!(text, ": {}", cause(settings, load, decision));
    if let Some(limit) = limit(settings, input, decision) {
        let _ = write!(text, "; {limit}");
    }
    text
}

/// Cause of the demand, with its values.
fn cause(settings: &ScalingSettings, load: &Load, decision: &LagDecision) -> String {
    let by_load = || match &decision.demand {
        Some(demand) => values(settings, load, decision.replicas, demand),
        None => String::new(),
    };
    match decision.limited_by {
        LimitedBy::Downstream => downstream(decision).unwrap_or_else(by_load),
        LimitedBy::HotPartition => hot_partition(load, decision).unwrap_or_else(by_load),
        LimitedBy::SlowWorker | LimitedBy::Skew => uneven_members(load, decision).unwrap_or_else(by_load),
        _ => by_load(),
    }
}

fn values(settings: &ScalingSettings, load: &Load, replicas: u32, demand: &Demand) -> String {
    let target = &settings.scaling.target;
    let arrivals = group_digits(load.arrival_per_second());
    let backlog = group_digits(super::load::to_f64(demand.lag));
    if let Some(lag_per_replica) = target.lag_per_replica {
        return format!("arrivals {arrivals}/s and backlog {backlog}; {lag_per_replica} records per replica");
    }
    let drain_seconds = target.effective_drain_seconds();
    let drain_time = format_duration(SignedDuration::from_secs(drain_seconds.into()));
    let mut text = format!("arrivals {arrivals}/s and backlog {backlog} within {drain_time}");
    let Some(capacity) = demand.capacity else {
        text.push_str("; capacity per replica not measured yet");
        return text;
    };
    let _ = write!(text, "; capacity {}/s per replica", group_digits(capacity));
    let partitions = load.partitions.len();
    if replicas > 0 && partitions > 0 {
        let each = partitions.div_ceil(replicas as usize);
        let share = Needs::new(load, drain_seconds).busiest_load(replicas) / capacity * 100.0;
        let _ = write!(
            text,
            "; the busiest of {replicas} reads {each} of {partitions} partitions, {share:.0} %"
        );
    }
    text
}

fn downstream(decision: &LagDecision) -> Option<String> {
    let trial = decision.state.trial?;
    let reached = trial.reached_per_second?;
    let expected = trial.processed_per_second * f64::from(trial.to) / f64::from(trial.from.max(1));
    Some(format!(
        "{} -> {} brought {}/s -> {}/s instead of {}/s, the bottleneck is downstream of the workers",
        trial.from,
        trial.to,
        group_digits(trial.processed_per_second),
        group_digits(reached),
        group_digits(expected),
    ))
}

fn hot_partition(load: &Load, decision: &LagDecision) -> Option<String> {
    let hottest = load
        .partitions
        .iter()
        .max_by(|left, right| left.arrival_per_second.total_cmp(&right.arrival_per_second))?;
    let capacity = decision.demand.as_ref()?.capacity?;
    Some(format!(
        "partition {} takes {}/s of {}/s per replica, and only one worker can read it",
        hottest.partition,
        group_digits(hottest.arrival_per_second),
        group_digits(capacity),
    ))
}

fn uneven_members(load: &Load, decision: &LagDecision) -> Option<String> {
    let rate =
        |sample: Option<super::load::RateSample>| sample.map_or(0.0, |sample| sample.records_per_second);
    let members = &load.group.members;
    let best = members
        .iter()
        .map(|member| rate(member.sample))
        .fold(0.0, f64::max);
    let behind = members
        .iter()
        .filter(|member| member.sample.is_some_and(|sample| sample.is_behind));
    let slowest = behind.min_by(|left, right| rate(left.sample).total_cmp(&rate(right.sample)))?;
    let (name, rate) = (&slowest.name, group_digits(rate(slowest.sample)));
    Some(if decision.limited_by == LimitedBy::SlowWorker {
        let best = group_digits(best);
        format!(
            "worker {name} commits {rate}/s, others {best}/s (slow worker): delete the pod, or check its node"
        )
    } else {
        let count = slowest.partitions.len();
        format!(
            "worker {name} commits {rate}/s and is behind in its {count} partitions, others are not (skew)"
        )
    })
}

/// Limit of the desired replicas.
fn limit(settings: &ScalingSettings, input: &ScalingInput<'_>, decision: &LagDecision) -> Option<String> {
    let (scaling, state, now) = (&settings.scaling, &decision.state, input.now);
    let recommendation = decision.recommendation;
    let held = |limit: String| Some(format!("recommendation {recommendation}, delayed by {limit}"));
    match decision.limited_by {
        LimitedBy::Stabilization if recommendation < decision.from => {
            let window = scale_down_window(scaling, &state.steps, now);
            let left = window_end(decision, window).map_or(window, |end| end.duration_since(now));
            let (window, left) = (format_duration(window), format_duration(left));
            held(format!(
                "the scale-down stabilization window ({window}, {left} left)"
            ))
        }
        LimitedBy::Stabilization => {
            let window = format_duration(signed(scaling.scale_up.stabilization_window));
            held(format!("the scale-up stabilization window ({window})"))
        }
        LimitedBy::Cooldown => {
            let is_up = recommendation > decision.from;
            let cooldown = if is_up {
                scaling.scale_up.cooldown
            } else {
                scaling.scale_down.cooldown
            };
            held(format!(
                "the cooldown after the last scaling step ({})",
                format_duration(signed(cooldown))
            ))
        }
        LimitedBy::MaxStep => {
            let step = scaling.scale_down.max_step?;
            held(format!("scaleDown.maxStep ({step})"))
        }
        LimitedBy::Rebalancing => held("a rebalance of the consumer group".to_owned()),
        LimitedBy::Rollout => held("a rollout".to_owned()),
        LimitedBy::Downstream => {
            let until = state.trial.and_then(|trial| trial.until)?;
            let left = format_duration(until.duration_since(now).max(SignedDuration::ZERO));
            Some(format!("next trial in {left}"))
        }
        LimitedBy::None => overdue_rebalance(input, decision),
        LimitedBy::HotPartition | LimitedBy::Skew | LimitedBy::SlowWorker => None,
        bound @ LimitedBy::ConnectionBudget => Some(match settings.budget_share {
            Some(share) => format!("limited by {share}"),
            None => format!("limited by {bound:?}"),
        }),
        bound => Some(format!("limited by {bound:?}")),
    }
}

/// Note on a scaling step that did not wait for the end of a rebalance.
fn overdue_rebalance(input: &ScalingInput<'_>, decision: &LagDecision) -> Option<String> {
    let since = input.gate_input(&decision.state).rebalancing_since?;
    (decision.from != decision.replicas).then(|| {
        let elapsed = format_duration(input.now.duration_since(since));
        let limit = format_duration(MAX_REBALANCE_DELAY);
        format!("the consumer group has been rebalancing for {elapsed}, longer than {limit}")
    })
}

/// End of the window that the last recommendation needs to become the highest one.
fn window_end(decision: &LagDecision, window: SignedDuration) -> Option<Timestamp> {
    let recommendations = &decision.state.recommendations;
    let highest = recommendations
        .iter()
        .rposition(|recommendation| recommendation.replicas > decision.recommendation)?;
    let since = recommendations.get(highest + 1)?.time;
    since.checked_add(window).ok()
}

/// Formats a rate or a number of records with separators: `17,666`.
fn group_digits(number: f64) -> String {
    if number.abs() < 10.0 && number.fract() != 0.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Formats a duration: `45s`, `2m`, `1m10s`, `1h20m`.
fn format_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, 0) => format!("{minutes}m"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, 0, _) => format!("{hours}h"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}
