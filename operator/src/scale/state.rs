//! State of the algorithm between two decisions.
//!
//! It is in memory, and in the status as of the last write: a new leader continues with the latter. Pure.

use crds::StreamStageStatus;
use crds::status::{Capacity, LimitedBy, Recommendation, ScalingStatus, Trial};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::load::Load;
use super::stabilization;

/// Maximum number of scaling steps that the state has; as many are in the status.
const MAX_STEPS: usize = 10;
/// Throughput before a scale-up is at least this, in records per second, so that a share of it is defined.
const MIN_PROCESSED_PER_SECOND: f64 = 1e-9;

/// State of the scaling algorithm of one stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScalingState {
    /// Capacity of one worker; `None` until it has been measured.
    pub capacity: Option<Capacity>,
    /// Recommendations within the stabilization windows, oldest first.
    pub recommendations: Vec<Recommendation>,
    /// Scale-up whose effect is being judged, or that had no effect.
    pub trial: Option<Trial>,
    /// Last scaling steps, oldest first.
    pub steps: Vec<ScalingStep>,
    /// Time of the last scaling step.
    pub last_scale_time: Option<Timestamp>,
    /// While workers are behind: the capacity at the time when most of them began to be.
    pub episode: Option<Option<f64>>,
}

/// Change of the desired replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalingStep {
    /// Time of the step.
    pub time: Timestamp,
    /// Replicas before the step.
    pub from: u32,
    /// Replicas after the step.
    pub to: u32,
    /// Bound or cause that limited the step.
    pub limited_by: LimitedBy,
}

impl ScalingState {
    /// State of an operator that takes over at `now` from the one that wrote `status`.
    ///
    /// The current replicas count as a recommendation of `now`, because those since the last write are lost: a new
    /// leader never scales down sooner than its predecessor.
    #[must_use]
    pub fn resume(status: &StreamStageStatus, now: Timestamp) -> Self {
        let mut state = Self::from(status);
        if let Some(capacity) = &mut state.capacity {
            // The field of an earlier version has no time; it counts as measured now.
            if status
                .scaling
                .as_ref()
                .is_some_and(|scaling| scaling.capacity_per_replica.is_none())
            {
                capacity.measured_at = Some(now);
            }
        }
        if let Some(desired) = status
            .desired_replicas
            .filter(|_| !state.recommendations.is_empty())
        {
            stabilization::append_recommendation(&mut state.recommendations, desired, now);
        }
        state
    }

    /// State as `status.scaling`.
    #[must_use]
    pub fn to_status(
        &self,
        limited_by: LimitedBy,
        message: String,
        recommendation: Option<u32>,
    ) -> ScalingStatus {
        ScalingStatus {
            limited_by,
            message,
            recommendation,
            open_schedules: Vec::new(),
            last_scale_time: self.last_scale_time,
            capacity_per_replica: self.capacity,
            records_per_second_per_worker: None,
            recommendations: self.recommendations.clone(),
            trial: self.trial,
        }
    }

    /// Records a scaling step. A scale-up while most workers are behind opens a trial, or extends the one that is open.
    pub fn record_step(&mut self, step: ScalingStep, load: Option<&Load>) {
        self.last_scale_time = Some(step.time);
        self.steps.push(step);
        self.steps.drain(..self.steps.len().saturating_sub(MAX_STEPS));
        let Some(load) = load.filter(|_| step.to > step.from && step.from > 0) else {
            return;
        };
        match &mut self.trial {
            Some(trial) if trial.until.is_some() => {}
            Some(trial) if trial.from > 0 => trial.to = step.to,
            trial if load.group.mostly_behind_since.is_some() => {
                *trial = Some(Trial {
                    from: step.from,
                    to: step.to,
                    processed_per_second: load.sustained_per_second.max(MIN_PROCESSED_PER_SECOND),
                    reached_per_second: None,
                    tries: trial.map_or(0, |trial| trial.tries),
                    until: None,
                });
            }
            _ => {}
        }
    }

    /// Notes a rollout: the new workers may have another capacity, so the next quiet time tests it.
    pub fn expect_another_capacity(&mut self) {
        if let Some(capacity) = &mut self.capacity {
            capacity.measured_at = None;
        }
    }
}

impl From<&StreamStageStatus> for ScalingState {
    fn from(status: &StreamStageStatus) -> Self {
        let scaling = status.scaling.clone().unwrap_or_default();
        let of_earlier_version = scaling.records_per_second_per_worker.map(|rate| Capacity {
            records_per_second: rate,
            ..Capacity::default()
        });
        let capacity = scaling.capacity_per_replica.or(of_earlier_version);
        Self {
            capacity: capacity.filter(|capacity| capacity.records_per_second > 0.0),
            recommendations: scaling.recommendations,
            trial: scaling.trial,
            steps: status
                .decisions
                .iter()
                .rev()
                .map(|decision| ScalingStep {
                    time: decision.time,
                    from: decision.from,
                    to: decision.to,
                    limited_by: decision.limited_by,
                })
                .collect(),
            last_scale_time: scaling.last_scale_time,
            episode: None,
        }
    }
}

/// Returns true if `time` is within the last `length`. A time in the future is not: the clock stepped back.
#[must_use]
pub fn is_within(time: Timestamp, length: SignedDuration, now: Timestamp) -> bool {
    let elapsed = now.duration_since(time);
    !elapsed.is_negative() && elapsed < length
}
