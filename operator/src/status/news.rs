//! Whether a reading is worth a reconcile, and what of a status that takes.
//!
//! Must never miss what a person would see, nor make news of what nobody would.

use crds::status::{ConditionType, Wish};
use crds::{StreamStage, StreamStageStatus};

use super::{Finding, lag};
use crate::lag::view::View;
use crate::scale::{Known, LagKnown, wanted};

/// The conditions that a reading changes by itself; what it changes of the others shows in figures.
const NEWS: [ConditionType; 2] = [ConditionType::LagObserved, ConditionType::ScalingActive];

/// Whether a reading should lead to a reconcile: a person would see a difference, or the number of workers moves.
#[must_use]
pub fn is_news(stage: &StreamStage, view: &View) -> bool {
    let before = stage.status.clone().unwrap_or_default();
    let scaling = before.scaling.clone().unwrap_or_default();
    let known = Known {
        current: before.desired_replicas,
        lag: view.known(),
        is_rebalancing: view.is_rebalancing,
        ..Known::nothing(view.now, &scaling)
    };
    if matches!(known.lag, LagKnown::Pending) {
        return false;
    }
    let wanted = wanted(stage, &known);
    let last = |window: &[Wish]| window.last().map(|wish| wish.replicas);
    let is_told = |finding: &Finding| {
        let type_ = finding.type_.to_string();
        let mut conditions = before.conditions.iter();
        let told = conditions.find(|condition| condition.type_ == type_);
        told.is_some_and(|told| told.reason == finding.reason.to_string())
    };
    let mut findings = lag::findings(stage, view, &wanted).into_iter();
    (wanted.replicas.is_some() && wanted.replicas != before.desired_replicas)
        || wanted.recommended != before.recommended_replicas
        || wanted.limited_by != scaling.limited_by
        || last(&wanted.window) != last(&scaling.window)
        || lag::figures(&before, view).0 != before.lag
        || findings.any(|finding| NEWS.contains(&finding.type_) && !is_told(&finding))
}

/// What [`is_news`] looks at of a status.
#[must_use]
pub fn slim(mut status: StreamStageStatus) -> StreamStageStatus {
    let news = NEWS.map(|type_| type_.to_string());
    status
        .conditions
        .retain(|condition| news.contains(&condition.type_));
    for condition in &mut status.conditions {
        (condition.status, condition.message) = (String::new(), String::new());
    }
    status.conditions.shrink_to_fit();
    if let Some(scaling) = &mut status.scaling {
        scaling.message = String::new();
    }
    StreamStageStatus {
        ready_replicas: status.ready_replicas,
        desired_replicas: status.desired_replicas,
        recommended_replicas: status.recommended_replicas,
        lag: status.lag,
        scaling: status.scaling,
        conditions: status.conditions,
        ..StreamStageStatus::default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use crds::status::ScalingStatus;
    use k8s_openapi::jiff::{SignedDuration, Timestamp};
    use serde_json::json;

    use super::*;
    use crate::lag::track::{Surroundings, Track};
    use crate::lag::{PartitionReading, Reading, Unknown, UnknownReason};
    use crate::status::conditions;

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

    /// A lag of three records, and then so many readings that found no broker.
    pub(in crate::status) fn view(failures: usize) -> View {
        let mut track = Track::default();
        let around = Surroundings {
            ready: 1,
            stuck_after: SignedDuration::from_mins(10),
        };
        let partition = PartitionReading {
            partition: 0,
            start: 0,
            end: 10,
            committed: Some(7),
        };
        for second in 0..2 {
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second);
            let partitions = vec![partition];
            track.read(&Reading { partitions }, now, around);
        }
        for _ in 0..failures {
            track.failed(Unknown::new(UnknownReason::Unreachable, "no broker answers"));
        }
        View {
            now: Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1),
            track: Some(track.into()),
            poll_interval: SignedDuration::from_secs(1),
            is_rebalancing: false,
        }
    }

    pub(in crate::status) fn told(ready: &str, reachable_since: &str) -> serde_json::Value {
        let condition = |type_: &str, status: &str, reason: &str| {
            json!({
                "type": type_,
                "status": status,
                "reason": reason,
                "message": "words",
                "lastTransitionTime": reachable_since,
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
            "decisions": [{"time": "1970-01-01T00:00:00Z", "from": 1, "to": 2, "reason": "words"}],
            "partitions": [{"partition": 0, "lag": 3, "committed": 7, "end": 10, "stuck": false}],
        })
    }

    #[test]
    fn a_slim_status_makes_the_same_news() {
        for failures in [0, 2] {
            let view = view(failures);
            let mut stage = stage(&told("True", "1970-01-01T00:00:00Z"));
            let mut news = Vec::new();
            // First everything is news, then what follows from the new number; at last all is told.
            for _ in 0..3 {
                let mut slimmed = stage.clone();
                slimmed.status = slimmed.status.map(slim);
                assert!(slimmed.status != stage.status, "nothing was taken away");
                news.push(is_news(&stage, &view));
                assert_eq!(is_news(&slimmed, &view), news[news.len() - 1]);
                let before = stage.status.clone().unwrap_or_default();
                let scaling = before.scaling.clone().unwrap_or_default();
                let known = Known {
                    current: before.desired_replicas,
                    lag: view.known(),
                    ..Known::nothing(view.now, &scaling)
                };
                let wanted = wanted(&stage, &known);
                let findings = lag::findings(&stage, &view, &wanted);
                stage.status = Some(StreamStageStatus {
                    recommended_replicas: wanted.recommended,
                    desired_replicas: wanted.replicas,
                    lag: lag::figures(&before, &view).0,
                    scaling: Some(ScalingStatus {
                        limited_by: wanted.limited_by,
                        window: wanted.window.clone(),
                        ..ScalingStatus::default()
                    }),
                    conditions: conditions(&stage, &before, findings, view.now),
                    ..before
                });
            }
            assert_eq!((news[0], news[2]), (true, false), "{news:?}");
        }
    }
}
