//! Decides whether a lag poll triggers a reconcile.
//!
//! A scaling step and a condition that changes trigger one at once. Measurements change with nearly every poll: they trigger
//! one at most once a minute. Most polls must cause no request to the API server.

use crds::status::Capacity;
use k8s_openapi::jiff::SignedDuration;

use super::conditions::ConditionUpdate;
use super::lag_conditions;
use super::report_policy::{REPORT_INTERVAL, is_capacity_changed};
use crate::lag::view::LagView;
use crate::scale::{LagState, ReplicaDecision, ScalingSettings, decide_replicas};
use crate::stage_summary::reported_status::{LAG_CONDITIONS, ReportedStatus};

/// Returns true if a reconcile would change the desired replicas.
#[must_use]
pub fn would_scale(settings: &ScalingSettings, reported: &ReportedStatus, view: &LagView) -> bool {
    is_scaling_step(
        &decide_replicas(settings, &reported.scaling_input(view)),
        reported,
    )
}

fn is_scaling_step(decision: &ReplicaDecision, reported: &ReportedStatus) -> bool {
    decision.replicas.is_some() && decision.replicas != reported.workers.desired
}

/// Difference between the status of a stage and what a reconcile would write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusDifference {
    /// A user would see no difference.
    None,
    /// Measurements, the recommendation, or what limits the replicas.
    Measurements,
    /// The replicas, a condition, or the open schedules.
    Condition,
}

impl StatusDifference {
    /// Minimum time between the last reconcile that a poll triggered and one for this difference; `None` for no reconcile.
    #[must_use]
    pub fn report_interval(self) -> Option<SignedDuration> {
        match self {
            Self::None => None,
            Self::Measurements => Some(REPORT_INTERVAL),
            Self::Condition => Some(SignedDuration::ZERO),
        }
    }
}

/// Compares the reported status with the one after a reconcile. `decision` is the one on `view`.
#[must_use]
pub fn status_difference(
    reported: &ReportedStatus,
    view: &LagView,
    decision: &ReplicaDecision,
) -> StatusDifference {
    if matches!(view.lag_state(), LagState::Pending) {
        return StatusDifference::None;
    }
    let is_new = |ConditionUpdate { type_, state }: ConditionUpdate| {
        let index = LAG_CONDITIONS.iter().position(|lag| *lag == type_);
        index.is_some_and(|index| reported.reasons[index] != Some(state.reason))
    };
    let mut updates = lag_conditions::condition_updates(view, decision).into_iter();
    let changed_lag = lag_conditions::changed_lag(reported.lag.as_ref(), view);
    // The first lag is reported at once.
    let is_first_lag = reported.lag.is_none() && changed_lag.is_some();
    let is_window_changed = decision.open_schedules != reported.scaling.open_schedules;
    if is_scaling_step(decision, reported) || is_first_lag || is_window_changed || updates.any(is_new) {
        return StatusDifference::Condition;
    }
    let rate = |capacity: Option<Capacity>| capacity.map_or(0.0, |capacity| capacity.records_per_second);
    let is_capacity_changed = is_capacity_changed(
        rate(decision.state.capacity),
        rate(reported.scaling.capacity_per_replica),
    );
    if decision.recommended != reported.workers.recommended
        || decision.limited_by != reported.scaling.limited_by
        || is_capacity_changed
        || changed_lag.is_some()
    {
        StatusDifference::Measurements
    } else {
        StatusDifference::None
    }
}

#[cfg(test)]
pub(super) mod tests {
    use crds::status::{LimitedBy, Reason};
    use crds::{StreamStage, StreamStageStatus};
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::lag::offsets::{LagError, LagErrorReason, OffsetSnapshot, PartitionSnapshot};
    use crate::lag::tracker::{LagTracker, SnapshotContext};
    use crate::status::conditions::merge_conditions;

    pub(in crate::status) fn stage(status: &serde_json::Value) -> StreamStage {
        let stage = json!({
            "apiVersion": "streamstage.dev/v1alpha1",
            "kind": "StreamStage",
            "metadata": {"name": "cdm", "namespace": "orders"},
            "spec": {
                "layer": "cdm",
                "source": {"bootstrapServers": ["kafka:9092"], "topic": "facts"},
                "warehouse": {"host": "postgres", "database": "orders"},
            },
            "status": status,
        });
        serde_json::from_value(stage).expect("a stage")
    }

    /// A lag of three records, followed by `failures` polls while Kafka is unreachable.
    pub(in crate::status) fn view(failures: usize) -> LagView {
        view_with_lag(3, failures)
    }

    /// A constant lag, followed by `failures` polls while Kafka is unreachable.
    fn view_with_lag(lag: u64, failures: usize) -> LagView {
        let mut tracker = LagTracker::default();
        let context = SnapshotContext::with_hidden_members(1, SignedDuration::from_mins(10));
        let partition = PartitionSnapshot {
            partition: 0,
            start: 0,
            end: 7 + lag,
            committed: Some(7),
        };
        for second in 0..2 {
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second);
            let partitions = vec![partition];
            tracker.record(&OffsetSnapshot { partitions }, now, &context);
        }
        for _ in 0..failures {
            tracker.record_failure(LagError::new(LagErrorReason::Unreachable, "Kafka is unreachable"));
        }
        LagView {
            now: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1),
            tracker: Some(tracker.into()),
            poll_interval: SignedDuration::from_secs(1),
            ..LagView::default()
        }
    }

    pub(in crate::status) fn status_json(ready: &str, transition_time: &str) -> serde_json::Value {
        let condition = |type_: &str, status: &str, reason: &str| {
            json!({
                "type": type_,
                "status": status,
                "reason": reason,
                "message": "a message",
                "lastTransitionTime": transition_time,
            })
        };
        json!({
            "desiredReplicas": 2,
            "conditions": [
                condition("Ready", ready, "AllReady"),
                condition("SourceReachable", "True", "Reachable"),
                condition("LagObserved", "True", "Observed"),
                condition("ScalingActive", "True", "FollowsLag"),
            ],
            "decisions": [{"time": "1970-01-01T00:00:00Z", "from": 1, "to": 2, "reason": "a message"}],
            "laggingPartitions": [
                {"partition": 0, "lag": 3, "committedOffset": 7, "endOffset": 10, "stuck": false},
            ],
        })
    }

    /// A status that reports all of `view`, and for each reconcile until then the difference that the poll found.
    fn reported(view: &LagView) -> (ScalingSettings, ReportedStatus, Vec<StatusDifference>) {
        let mut stage = stage(&status_json("True", "1970-01-01T00:00:00Z"));
        let settings = ScalingSettings::from(&stage);
        let mut triggered = Vec::new();
        // The first reconcile reports the lag, the second what follows from the new replicas; then all is reported.
        for _ in 0..3 {
            let before = stage.status.clone().unwrap_or_default();
            let reported = ReportedStatus::from(before.clone());
            let decision = decide_replicas(&settings, &reported.scaling_input(view));
            triggered.push(status_difference(&reported, view, &decision));
            let updates = lag_conditions::visible_updates(&stage, view, &decision);
            stage.status = Some(StreamStageStatus {
                recommended_replicas: decision.recommended,
                desired_replicas: decision.replicas,
                lag: lag_conditions::lag_status(&before, view).0,
                scaling: Some(decision.state.to_status(decision.limited_by, String::new(), None)),
                conditions: merge_conditions(&stage, &before, updates, view.now),
                ..before
            });
        }
        (
            settings,
            stage.status.map(ReportedStatus::from).unwrap_or_default(),
            triggered,
        )
    }

    #[test]
    fn an_unchanged_status_has_no_difference() {
        for view in [view(0), view(2), view_with_lag(300, 0)] {
            let (_, _, triggered) = reported(&view);
            let expected = (StatusDifference::Condition, StatusDifference::None);
            assert_eq!((triggered[0], triggered[2]), expected, "{triggered:?}");
        }
    }

    #[test]
    fn a_difference_of_measurements_differs_from_one_of_replicas_or_conditions() {
        let view = view(0);
        let (settings, reported, _) = reported(&view);
        let difference = |reported: &ReportedStatus| {
            let decision = decide_replicas(&settings, &reported.scaling_input(&view));
            status_difference(reported, &view, &decision)
        };
        assert_eq!(difference(&reported), StatusDifference::None);
        assert_eq!(StatusDifference::None.report_interval(), None);
        let conditions: [fn(&mut ReportedStatus); 4] = [
            |reported| reported.scaling.open_schedules = vec![0],
            |reported| reported.workers.desired = Some(9),
            |reported| reported.lag = None,
            |reported| reported.reasons[1] = Some(Reason::LagUnknown),
        ];
        let measurements: [fn(&mut ReportedStatus); 4] = [
            |reported| reported.workers.recommended = Some(9),
            |reported| reported.scaling.limited_by = LimitedBy::Rollout,
            |reported| {
                let records_per_second = 9.0;
                reported.scaling.capacity_per_replica = Some(Capacity {
                    records_per_second,
                    ..Capacity::default()
                });
            },
            |reported| reported.lag.as_mut().expect("a lag").total = 900,
        ];
        for (changes, expected) in [
            (&conditions[..], StatusDifference::Condition),
            (&measurements, StatusDifference::Measurements),
        ] {
            for (number, change) in changes.iter().enumerate() {
                let mut other = reported.clone();
                change(&mut other);
                assert_eq!(difference(&other), expected, "difference {number}");
            }
        }
    }
}
