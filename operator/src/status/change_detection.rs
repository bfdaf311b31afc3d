//! Decides whether a lag poll triggers a reconcile.
//!
//! Every difference that a user would see in the status must trigger one, and nothing else may: most polls must cause no
//! request to the API server.

use crds::status::Capacity;

use super::conditions::ConditionUpdate;
use super::lag_conditions;
use super::report_policy::is_capacity_changed;
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

/// Returns true if a reconcile would change the replicas or a visible part of the status. `decision` is the one on
/// `view`.
#[must_use]
pub fn needs_reconcile(reported: &ReportedStatus, view: &LagView, decision: &ReplicaDecision) -> bool {
    if matches!(view.lag_state(), LagState::Pending) {
        return false;
    }
    let rate = |capacity: Option<Capacity>| capacity.map_or(0.0, |capacity| capacity.records_per_second);
    let is_new = |ConditionUpdate { type_, state }: ConditionUpdate| {
        let index = LAG_CONDITIONS.iter().position(|lag| *lag == type_);
        index.is_some_and(|index| reported.reasons[index] != Some(state.reason))
    };
    is_scaling_step(decision, reported)
        || decision.recommended != reported.workers.recommended
        || decision.limited_by != reported.scaling.limited_by
        || is_capacity_changed(
            rate(decision.state.capacity),
            rate(reported.scaling.capacity_per_replica),
        )
        || lag_conditions::changed_lag(reported.lag.as_ref(), view).is_some()
        || lag_conditions::condition_updates(view, decision)
            .into_iter()
            .any(is_new)
}

#[cfg(test)]
pub(super) mod tests {
    use crds::status::{LimitedBy, Reason};
    use crds::{StreamStage, StreamStageStatus};
    use k8s_openapi::jiff::{SignedDuration, Timestamp};
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

    /// A status that reports all of `view`, and for each reconcile until then whether the poll triggered it.
    fn reported(view: &LagView) -> (ScalingSettings, ReportedStatus, Vec<bool>) {
        let mut stage = stage(&status_json("True", "1970-01-01T00:00:00Z"));
        let settings = ScalingSettings::from(&stage);
        let mut triggered = Vec::new();
        // The first reconcile reports the lag, the second what follows from the new replicas; then all is reported.
        for _ in 0..3 {
            let before = stage.status.clone().unwrap_or_default();
            let reported = ReportedStatus::from(before.clone());
            let decision = decide_replicas(&settings, &reported.scaling_input(view));
            triggered.push(needs_reconcile(&reported, view, &decision));
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
    fn an_unchanged_status_triggers_no_reconcile() {
        for view in [view(0), view(2), view_with_lag(300, 0)] {
            let (_, _, triggered) = reported(&view);
            assert_eq!((triggered[0], triggered[2]), (true, false), "{triggered:?}");
        }
    }

    #[test]
    fn every_visible_difference_triggers_a_reconcile() {
        let view = view(0);
        let (settings, reported, _) = reported(&view);
        let needs_reconcile = |reported: &ReportedStatus| {
            let decision = decide_replicas(&settings, &reported.scaling_input(&view));
            needs_reconcile(reported, &view, &decision)
        };
        assert!(!needs_reconcile(&reported));
        let differences: [fn(&mut ReportedStatus); 6] = [
            |reported| reported.workers.desired = Some(9),
            |reported| reported.workers.recommended = Some(9),
            |reported| reported.scaling.limited_by = LimitedBy::Rollout,
            |reported| {
                let records_per_second = 9.0;
                reported.scaling.capacity_per_replica = Some(Capacity {
                    records_per_second,
                    ..Capacity::default()
                });
            },
            |reported| reported.lag = None,
            |reported| reported.reasons[1] = Some(Reason::LagUnknown),
        ];
        for (number, apply_difference) in differences.into_iter().enumerate() {
            let mut other = reported.clone();
            apply_difference(&mut other);
            assert!(needs_reconcile(&other), "difference {number}");
        }
    }
}
