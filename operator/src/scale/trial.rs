//! Trial of a scale-up: more workers that do not raise the throughput show that the bottleneck is downstream of them.
//!
//! A step up while most workers are behind opens a trial; [`super::state`] does that when the step is made. Pure.

use crds::status::{LimitedBy, Trial};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::load::Load;
use super::state::ScalingState;

/// Time for which members and lag must be unchanged before a scale-up is judged.
const SETTLE_TIME: SignedDuration = SignedDuration::from_secs(30);
/// A scale-up that brings less than this share of what it should is without effect.
const MIN_EFFECT: f64 = 0.3;
/// Time until a scale-up without effect is tried again; doubles with each one. Also the maximum duration of a trial.
const RETRY_DELAY: SignedDuration = SignedDuration::from_mins(10);
/// Maximum number of doublings.
const MAX_DOUBLINGS: u32 = 3;
/// The bottleneck is gone when the throughput exceeds the judged one by this factor.
const RELEASE_FACTOR: f64 = 1.2;
/// The bottleneck is gone when no worker has been behind for this long.
const RELEASE_QUIET_TIME: SignedDuration = SignedDuration::from_secs(60);

/// Judges the trial of `state`, and limits the demand by its result.
pub(super) fn judge(
    state: &mut ScalingState,
    load: &Load,
    (demand, cause): (u32, LimitedBy),
    now: Timestamp,
) -> (u32, LimitedBy) {
    let Some(trial) = state.trial.filter(|trial| trial.from > 0) else {
        return (demand, cause);
    };
    state.trial = match trial.until {
        Some(until) => retain_failed(trial, until, load, now),
        None => judge_open(trial, load, state.last_scale_time, now),
    };
    match state.trial {
        Some(failed) if failed.until.is_some() => {
            if trial.until.is_none() {
                restore_capacity(state);
            }
            let cause = if demand >= failed.from {
                LimitedBy::Downstream
            } else {
                cause
            };
            (demand.min(failed.from), cause)
        }
        _ => (demand, cause),
    }
}

/// Returns the failed trial while it applies; without one while it does not.
fn retain_failed(trial: Trial, until: Timestamp, load: &Load, now: Timestamp) -> Option<Trial> {
    let reached = trial.reached_per_second.unwrap_or_default();
    let is_quiet = has_lasted(load.group.quiet_since, RELEASE_QUIET_TIME, now);
    if load.sustained_per_second > RELEASE_FACTOR * reached || is_quiet {
        None
    } else if now >= until && load.group.mostly_behind_since.is_some() {
        // One more scale-up may be tried.
        Some(Trial {
            tries: trial.tries,
            ..Trial::default()
        })
    } else {
        Some(trial)
    }
}

/// Returns the trial while it is open, the failed trial, or `None` if the scale-up had an effect or no verdict.
fn judge_open(
    trial: Trial,
    load: &Load,
    last_scale_time: Option<Timestamp>,
    now: Timestamp,
) -> Option<Trial> {
    let group = &load.group;
    if last_scale_time.is_none_or(|time| now.duration_since(time) > RETRY_DELAY) {
        // Its workers never came.
        return None;
    }
    let is_assigned = group.assigning_since.is_none() && has_lasted(group.unchanged_since, SETTLE_TIME, now);
    if group.mostly_behind_since.is_none() {
        return (!is_assigned).then_some(trial);
    }
    let is_settled = has_lasted(group.mostly_behind_since, SETTLE_TIME, now);
    if group.worker_count < trial.to || !is_settled || !group.has_committed {
        return Some(trial);
    }
    let gained = load.sustained_per_second / trial.processed_per_second - 1.0;
    let due = f64::from(trial.to) / f64::from(trial.from) - 1.0;
    let delay = RETRY_DELAY * 2_i32.pow(trial.tries.min(MAX_DOUBLINGS));
    (gained < MIN_EFFECT * due).then(|| Trial {
        reached_per_second: Some(load.sustained_per_second),
        tries: trial.tries.saturating_add(1),
        until: Some(now + delay),
        ..trial
    })
}

/// Raises the capacity to that before the workers were behind: what was measured since is that of the bottleneck.
fn restore_capacity(state: &mut ScalingState) {
    if let (Some(Some(before)), Some(capacity)) = (state.episode, &mut state.capacity) {
        capacity.records_per_second = capacity.records_per_second.max(before);
    }
}

fn has_lasted(since: Option<Timestamp>, time: SignedDuration, now: Timestamp) -> bool {
    since.is_some_and(|since| now.duration_since(since) >= time)
}
