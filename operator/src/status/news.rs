//! Whether a reading is worth a reconcile, and what of a status tells that.
//!
//! Must never miss what a person would see, nor make news of what nobody would.

use crds::StreamStageStatus;
use crds::status::{ConditionType, Lag, LimitedBy, Reason, ScalingStatus, Wish};
use serde::Deserialize as _;
use serde::de::IntoDeserializer as _;
use serde::de::value::Error;

use super::{Finding, lag, told};
use crate::lag::view::View;
use crate::scale::{Known, LagKnown, Rules, Wanted, wanted};

/// The conditions that a reading changes by itself; what it changes of the others shows in figures.
const NEWS: [ConditionType; 2] = [ConditionType::LagObserved, ConditionType::ScalingActive];

/// What a status shows that news are told from.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Its workers.
    pub workers: Workers,
    /// The lag.
    lag: Option<Lag>,
    /// The last decision, without words.
    scaling: ScalingStatus,
    /// The reasons of [`NEWS`].
    reasons: [Option<Reason>; NEWS.len()],
}

/// The workers of a stage, by its status.
#[derive(Clone, Copy, Debug, Default)]
pub struct Workers {
    /// Workers that there should be.
    pub desired: Option<u32>,
    /// Workers that are ready.
    pub ready: u32,
    /// Workers that the lag leads to, in the mode Recommend.
    pub recommended: Option<u32>,
    /// What limits their number.
    pub limited_by: Option<LimitedBy>,
}

impl From<&StreamStageStatus> for Workers {
    fn from(status: &StreamStageStatus) -> Self {
        Self {
            desired: status.desired_replicas,
            ready: status.ready_replicas,
            recommended: status.recommended_replicas,
            limited_by: status.scaling.as_ref().map(|scaling| scaling.limited_by),
        }
    }
}

impl From<StreamStageStatus> for Shown {
    fn from(status: StreamStageStatus) -> Self {
        let reason = |type_: ConditionType| {
            let reason = told(&status, type_)?.reason.as_str();
            // One that only another version knows is as good as none: it is told anew.
            let known: Result<_, Error> = Reason::deserialize(reason.into_deserializer());
            known.ok()
        };
        Self {
            workers: Workers::from(&status),
            reasons: NEWS.map(reason),
            lag: status.lag,
            scaling: ScalingStatus {
                message: String::new(),
                ..status.scaling.unwrap_or_default()
            },
        }
    }
}

impl Shown {
    fn known<'k>(&'k self, view: &'k View) -> Known<'k> {
        Known {
            current: self.workers.desired,
            lag: view.known(),
            is_rebalancing: view.is_rebalancing,
            ..Known::nothing(view.now, &self.scaling)
        }
    }
}

/// Whether the number of workers should be another than is shown.
#[must_use]
pub fn moves(rules: &Rules, shown: &Shown, view: &View) -> bool {
    is_move(&wanted(rules, &shown.known(view)), shown)
}

fn is_move(wanted: &Wanted, shown: &Shown) -> bool {
    wanted.replicas.is_some() && wanted.replicas != shown.workers.desired
}

/// Whether a reading should lead to a reconcile: a person would see a difference, or the number of workers moves.
#[must_use]
pub fn is_news(rules: &Rules, shown: &Shown, view: &View) -> bool {
    let known = shown.known(view);
    if matches!(known.lag, LagKnown::Pending) {
        return false;
    }
    let wanted = wanted(rules, &known);
    let last = |window: &[Wish]| window.last().map(|wish| wish.replicas);
    let is_new = |Finding { type_, reason, .. }: Finding| {
        let news = NEWS.iter().position(|news| *news == type_);
        news.is_some_and(|news| shown.reasons[news] != Some(reason))
    };
    is_move(&wanted, shown)
        || wanted.recommended != shown.workers.recommended
        || wanted.limited_by != shown.scaling.limited_by
        || last(&wanted.window) != last(&shown.scaling.window)
        || lag::moved(shown.lag.as_ref(), view).is_some()
        || lag::findings(view, &wanted).into_iter().any(is_new)
}

#[cfg(test)]
pub(super) mod tests {
    use crds::StreamStage;
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
        behind(3, failures)
    }

    /// A lag that stands still, and then so many readings that found no broker.
    fn behind(lag: u64, failures: usize) -> View {
        let mut track = Track::default();
        let around = Surroundings {
            ready: 1,
            stuck_after: SignedDuration::from_mins(10),
        };
        let partition = PartitionReading {
            partition: 0,
            start: 0,
            end: 7 + lag,
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

    /// A status that shows all of a view, and whether there was news on the way to it.
    fn shown(view: &View) -> (Rules, Shown, Vec<bool>) {
        let mut stage = stage(&told("True", "1970-01-01T00:00:00Z"));
        let rules = Rules::from(&stage);
        let mut news = Vec::new();
        // First everything is news, then what follows from the new number; at last all is shown.
        for _ in 0..3 {
            let before = stage.status.clone().unwrap_or_default();
            let shown = Shown::from(before.clone());
            news.push(is_news(&rules, &shown, view));
            let wanted = wanted(&rules, &shown.known(view));
            let findings = lag::shown(&stage, view, &wanted);
            stage.status = Some(StreamStageStatus {
                recommended_replicas: wanted.recommended,
                desired_replicas: wanted.replicas,
                lag: lag::figures(&before, view).0,
                scaling: Some(ScalingStatus {
                    limited_by: wanted.limited_by,
                    window: wanted.window.clone(),
                    ..ScalingStatus::default()
                }),
                conditions: conditions(&stage, &before, findings, view.now),
                ..before
            });
        }
        (rules, stage.status.map(Shown::from).unwrap_or_default(), news)
    }

    #[test]
    fn what_a_status_shows_is_no_news() {
        for view in [view(0), view(2), behind(300, 0)] {
            let (_, _, news) = shown(&view);
            assert_eq!((news[0], news[2]), (true, false), "{news:?}");
        }
    }

    #[test]
    fn whatever_a_person_would_see_is_news() {
        let view = view(0);
        let (rules, shown, _) = shown(&view);
        assert!(!is_news(&rules, &shown, &view));
        let differences: [fn(&mut Shown); 6] = [
            |shown| shown.workers.desired = Some(9),
            |shown| shown.workers.recommended = Some(9),
            |shown| shown.scaling.limited_by = LimitedBy::Rollout,
            |shown| {
                let (time, replicas) = (Timestamp::UNIX_EPOCH, 9);
                shown.scaling.window = vec![Wish { time, replicas }];
            },
            |shown| shown.lag = None,
            |shown| shown.reasons[1] = Some(Reason::LagUnknown),
        ];
        for (number, differ) in differences.into_iter().enumerate() {
            let mut other = shown.clone();
            differ(&mut other);
            assert!(is_news(&rules, &other, &view), "difference {number}");
        }
    }
}
