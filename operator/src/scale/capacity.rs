//! Capacity of one worker: what the busiest worker commits while it is behind.
//!
//! A worker that is behind at less than what another one does easily is never evidence. One low measure does not lower
//! the capacity, two in a row do. Pure.

use crds::status::Capacity;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::load::{Load, Measure};
use super::state::ScalingState;

/// Age of the last measure after which a lower number of workers is tried.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);
/// Factor by which an unconfirmed capacity is assumed to be higher.
const TEST_FACTOR: f64 = 1.25;
/// Tolerance for floating-point error before rounding up.
const ROUNDING: f64 = 1e-6;
/// Minimum time between two tests.
const MIN_TEST_INTERVAL: SignedDuration = SignedDuration::from_secs(30);

/// Assumes `initialRate` while no capacity is known.
pub(super) fn assume(state: &mut ScalingState, initial_rate: Option<u32>) {
    if state.capacity.is_none() {
        state.capacity = initial_rate.map(|rate| Capacity {
            records_per_second: f64::from(rate),
            ..Capacity::default()
        });
    }
}

/// Updates the capacity from the measure of this poll.
///
/// While a scale-up is judged, or had no effect, the capacity only rises: a shared bottleneck makes each worker slower.
pub(super) fn learn(state: &mut ScalingState, load: &Load, now: Timestamp) {
    let known = state.capacity.map(|capacity| capacity.records_per_second);
    let is_on_trial = state.trial.is_some_and(|trial| trial.from > 0);
    let learned = match load.group.measure {
        Some(Measure::Behind { rate, before }) => {
            // An assumed capacity, or that of an earlier pod template, does not count as a measure.
            let measured_before = state
                .capacity
                .filter(|capacity| capacity.measured_at.is_some())
                .and(known);
            let measured = rate.max(before.or(measured_before).unwrap_or(0.0));
            Some(
                known
                    .filter(|known| is_on_trial && measured <= *known)
                    .unwrap_or(measured),
            )
        }
        Some(Measure::KeepsUp(rate)) => known.is_some_and(|known| rate > known).then_some(rate),
        None => None,
    };
    if let Some(records_per_second) = learned {
        state.capacity = Some(Capacity {
            records_per_second: round_to_three_digits(records_per_second),
            measured_at: Some(now),
            tested_at: state.capacity.and_then(|capacity| capacity.tested_at),
        });
    }
}

/// Raises the capacity by a quarter after each `interval` without a worker that is behind, if the last measure is older
/// than a day or of an earlier pod template. A capacity that is too low would otherwise never be corrected.
pub(super) fn test(state: &mut ScalingState, load: &Load, interval: SignedDuration, now: Timestamp) {
    let (Some(capacity), Some(quiet_since)) = (&mut state.capacity, load.group.quiet_since) else {
        return;
    };
    let is_confirmed = capacity
        .measured_at
        .is_some_and(|measured| now.duration_since(measured) < MAX_AGE);
    let since = capacity
        .tested_at
        .map_or(quiet_since, |tested| tested.max(quiet_since));
    if !is_confirmed && now.duration_since(since) >= interval.max(MIN_TEST_INTERVAL) {
        capacity.records_per_second = round_to_three_digits(capacity.records_per_second * TEST_FACTOR);
        capacity.tested_at = Some(now);
    }
}

/// Rounds up to three significant digits: more would only change the status.
fn round_to_three_digits(rate: f64) -> f64 {
    let digits = 10_f64.powf(2.0 - rate.max(f64::MIN_POSITIVE).log10().floor());
    (rate * digits - ROUNDING).ceil() / digits
}

/// Notes the capacity at the time when most workers began to be behind.
pub(super) fn note_episode(state: &mut ScalingState, load: &Load) {
    if load.group.mostly_behind_since.is_some() {
        let known = state.capacity.map(|capacity| capacity.records_per_second);
        state.episode.get_or_insert(known);
    } else if load.group.quiet_since.is_some() {
        state.episode = None;
    }
}
