//! Fifth step: what the resource's status should say.
//!
//! Must never read a clock: the time is passed in. Only objects that were applied, or a refusal, lead to a status.

mod lag;
mod news;
mod progress;
mod ready;
mod trouble;

use crds::status::{ConditionType, Decision, LimitedBy, Reason, ScalingStatus};
use crds::{StreamStage, StreamStageStatus};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use self::progress::Progress;
use crate::lag::view::View;
use crate::owned::STAGE_LABEL;
use crate::plan::{Applied, Resources};
use crate::scale::{LagKnown, Wanted};
use crate::validate::Refusal;

pub use self::news::{Shown, Workers, is_news, moves};
pub use self::progress::is_rolling;

/// Decisions that the status remembers.
const DECISIONS: usize = 10;

/// How a reconcile ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// Every object is as planned; with the pods, when not all of them are ready.
    Applied(&'a Resources<Applied>, &'a [Pod]),
    /// A person must change something first; with the Deployment as it is.
    Refused(&'a Refusal, Option<&'a Deployment>),
    /// A person must change something before anything can be read.
    Unread(&'a Refusal),
}

/// What was decided about the number of workers, and from which reading.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    /// What is known of the lag.
    pub view: &'a View,
    /// How many workers there should be, and why.
    pub wanted: &'a Wanted,
}

/// A condition without its time.
struct Finding {
    type_: ConditionType,
    holds: bool,
    reason: Reason,
    message: String,
}

/// The status of `stage` after a reconcile.
#[must_use]
pub fn status(
    stage: &StreamStage,
    outcome: Outcome<'_>,
    decided: Decided<'_>,
    now: Timestamp,
) -> StreamStageStatus {
    let before = stage.status.clone().unwrap_or_default();
    let (progress, image) = match outcome {
        Outcome::Applied(applied, _) => (Progress::of(&applied.deployment), image(&applied.deployment)),
        Outcome::Refused(_, Some(deployment)) => (Progress::of(deployment), image(deployment)),
        Outcome::Refused(_, None) => (Progress::default(), String::new()),
        Outcome::Unread(_) => (Progress::known(&before), before.image.clone()),
    };
    let mut findings = findings(stage, outcome, &progress, decided.view);
    findings.extend(lag::shown(stage, decided.view, decided.wanted));
    let (lag, partitions) = lag::figures(&before, decided.view);
    let move_ = before
        .desired_replicas
        .zip(progress.desired)
        .filter(|(from, to)| from != to);
    StreamStageStatus {
        observed_generation: stage.metadata.generation.unwrap_or_default(),
        replicas: progress.replicas,
        ready_replicas: progress.ready,
        desired_replicas: progress.desired,
        recommended_replicas: match decided.view.known() {
            LagKnown::Pending => before.recommended_replicas,
            _ => decided.wanted.recommended,
        },
        workers: progress.workers(),
        selector: format!("{STAGE_LABEL}={}", stage.name()),
        consumer_group: stage.consumer_group(),
        image,
        lag,
        partitions,
        scaling: Some(scaling(outcome, &before, decided, move_.map(|_| now))),
        decisions: decisions(&before, decided, move_, now),
        conditions: conditions(stage, &before, findings, now),
    }
}

/// The status of `stage` while the API server fails, in these words: what is known of the workers stays.
#[must_use]
pub fn retrying(stage: &StreamStage, words: &str, now: Timestamp) -> StreamStageStatus {
    let mut status = stage.status.clone().unwrap_or_default();
    let finding = Finding {
        type_: ConditionType::Reconciling,
        holds: true,
        reason: Reason::Retrying,
        message: words.to_owned(),
    };
    status.conditions = conditions(stage, &status, vec![finding], now);
    status
}

/// What limits the number of workers, and when it last changed.
fn scaling(
    outcome: Outcome<'_>,
    before: &StreamStageStatus,
    decided: Decided<'_>,
    moved_at: Option<Timestamp>,
) -> ScalingStatus {
    let scaling = before.scaling.clone().unwrap_or_default();
    let Decided { view, wanted } = decided;
    let rate = view.load().and_then(|load| load.worker_rate);
    // The message has figures of the lag in it: both are told together. What a successor has yet to read, its
    // predecessor has told.
    let is_told = match wanted.reason {
        Reason::FollowsLag => {
            wanted.limited_by == scaling.limited_by && lag::moved(before.lag.as_ref(), view).is_none()
        }
        Reason::LagPending => !scaling.message.is_empty(),
        _ => false,
    };
    ScalingStatus {
        limited_by: match outcome {
            Outcome::Applied(..) => wanted.limited_by,
            _ => scaling.limited_by,
        },
        message: if is_told && moved_at.is_none() {
            scaling.message
        } else {
            wanted.message.clone()
        },
        last_scale_time: moved_at.or(scaling.last_scale_time),
        records_per_second_of_a_worker: rate.or(scaling.records_per_second_of_a_worker),
        window: wanted.window.clone(),
    }
}

/// The last moves, the newest first.
fn decisions(
    before: &StreamStageStatus,
    decided: Decided<'_>,
    move_: Option<(u32, u32)>,
    now: Timestamp,
) -> Vec<Decision> {
    let load = decided.view.read();
    let made = move_.map(|(from, to)| Decision {
        time: now,
        from,
        to,
        reason: decided.wanted.message.clone(),
        lag: load.map(crate::scale::load::Load::total),
        drain_seconds: lag::drain_seconds(load),
    });
    made.into_iter()
        .chain(before.decisions.iter().cloned())
        .take(DECISIONS)
        .collect()
}

fn image(deployment: &Deployment) -> String {
    let pod = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let worker = pod.and_then(|pod| pod.containers.iter().find(|container| container.name == "worker"));
    worker
        .and_then(|container| container.image.clone())
        .unwrap_or_default()
}

fn findings(stage: &StreamStage, outcome: Outcome<'_>, progress: &Progress, view: &View) -> Vec<Finding> {
    let (ready, reconciling, stalled) = match outcome {
        Outcome::Refused(refusal, _) | Outcome::Unread(refusal) => {
            let why = (refusal.reason, refusal.message.clone());
            let waiting = (Reason::Converged, "waiting for a change by a person".to_owned());
            ((false, why.clone()), (false, waiting), (true, why))
        }
        Outcome::Applied(applied, pods) => (
            ready::ready(stage, &applied.deployment, pods, (progress, view)),
            progress.reconciling(is_edited(stage)),
            (
                false,
                (Reason::NotStalled, "nothing stands in the way".to_owned()),
            ),
        ),
    };
    let suspended = if stage.spec.suspend {
        (true, (Reason::Suspended, "paused by spec.suspend".to_owned()))
    } else {
        (false, (Reason::NotSuspended, "not paused".to_owned()))
    };
    [
        (ConditionType::Ready, ready),
        (ConditionType::Reconciling, reconciling),
        (ConditionType::Stalled, stalled),
        (ConditionType::Suspended, suspended),
    ]
    .into_iter()
    .map(|(type_, (holds, (reason, message)))| Finding {
        type_,
        holds,
        reason,
        message,
    })
    .collect()
}

/// Whether the resource was edited since the last status, or that status was about an edit.
fn is_edited(stage: &StreamStage) -> bool {
    let told = stage.status.as_ref().map(|status| status.observed_generation);
    let reconciling = condition(stage, ConditionType::Reconciling);
    told != stage.metadata.generation
        || reconciling.is_some_and(|told| told.reason == Reason::RollingOut.to_string())
}

/// What the stage's status says of this.
fn condition(stage: &StreamStage, type_: ConditionType) -> Option<&Condition> {
    told(stage.status.as_ref()?, type_)
}

/// What a status says of this.
fn told(status: &StreamStageStatus, type_: ConditionType) -> Option<&Condition> {
    let type_ = type_.to_string();
    let mut conditions = status.conditions.iter();
    conditions.find(|condition| condition.type_ == type_)
}

/// The findings as conditions; the time of one whose status did not change stays. What nothing was found about stays
/// as it was.
fn conditions(
    stage: &StreamStage,
    before: &StreamStageStatus,
    findings: Vec<Finding>,
    now: Timestamp,
) -> Vec<Condition> {
    let mut conditions = before.conditions.clone();
    for finding in findings {
        let type_ = finding.type_.to_string();
        let status = if finding.holds { "True" } else { "False" };
        let known = conditions.iter().position(|known| known.type_ == type_);
        let same = known.filter(|known| conditions[*known].status == status);
        let condition = Condition {
            last_transition_time: same
                .map_or(Time(now), |known| conditions[known].last_transition_time.clone()),
            message: finding.message,
            observed_generation: stage.metadata.generation,
            reason: finding.reason.to_string(),
            status: status.to_owned(),
            type_,
        };
        match known {
            Some(known) => conditions[known] = condition,
            None => conditions.push(condition),
        }
    }
    conditions
}

/// Whether nothing is left to look after: no pods are on their way, and nothing is wrong.
#[must_use]
pub fn is_settled(status: &StreamStageStatus) -> bool {
    let limited = status.scaling.as_ref().map(|scaling| scaling.limited_by);
    is(status, ConditionType::Reconciling, "False")
        && !is_stalled(status)
        && (is(status, ConditionType::Ready, "True") || limited == Some(LimitedBy::Suspended))
}

/// Whether a person must change something first.
#[must_use]
pub fn is_stalled(status: &StreamStageStatus) -> bool {
    is(status, ConditionType::Stalled, "True")
}

fn is(status: &StreamStageStatus, type_: ConditionType, wanted: &str) -> bool {
    told(status, type_).is_some_and(|told| told.status == wanted)
}
