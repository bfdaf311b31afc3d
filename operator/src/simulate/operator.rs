//! Operator in a simulation: what it remembers, and what the status of the stage says. Pure.

use crds::StreamStageStatus;
use crds::status::{Capacity, Decision, LimitedBy};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::cluster::SimulatedCluster;
use super::outcome::SimulatedDecision;
use crate::lag::tracker::{LagTracker, SnapshotContext};
use crate::scale::state::{ScalingState, ScalingStep};
use crate::scale::{LagState, ScalingInput, ScalingSettings, decide_by_lag};
use crate::status::report_policy::{ReportPolicy, Reportable};

/// State that the operator carries from poll to poll.
pub(super) struct SimulatedOperator<'s> {
    settings: &'s ScalingSettings,
    pub(super) poll_seconds: u32,
    tracker: LagTracker,
    state: ScalingState,
    limited_by: LimitedBy,
    policy: ReportPolicy,
    /// Status as it was last written.
    status: StreamStageStatus,
    /// Number of status writes, and of those that changed only `limitedBy`.
    pub(super) writes: u32,
    pub(super) flips: u32,
}

impl<'s> SimulatedOperator<'s> {
    pub(super) fn new(settings: &'s ScalingSettings, capacity: Option<f64>, replicas: u32) -> Self {
        let interval = settings.scaling.poll_interval.as_std();
        let capacity = capacity.map(|records_per_second| Capacity {
            records_per_second,
            measured_at: Some(Timestamp::UNIX_EPOCH),
            tested_at: None,
        });
        let state = ScalingState {
            capacity,
            ..ScalingState::default()
        };
        let mut operator = Self {
            settings,
            poll_seconds: u32::try_from(interval.as_secs()).unwrap_or(1).max(1),
            tracker: LagTracker::default(),
            state,
            limited_by: LimitedBy::None,
            policy: ReportPolicy::default(),
            status: StreamStageStatus::default(),
            writes: 0,
            flips: 0,
        };
        operator.write_status(replicas, LimitedBy::None);
        operator
    }

    /// Another operator takes over, and knows the status only.
    pub(super) fn restart(&mut self, second: u32) {
        self.tracker = LagTracker::from_status(&self.status);
        self.state = ScalingState::resume(&self.status, timestamp(second));
    }

    /// A rollout of another version begins.
    pub(super) fn roll_out(&mut self) {
        self.state.expect_another_capacity();
    }

    /// Runs one lag poll and decides on it. Returns the decision if the replicas or their limit changed.
    pub(super) fn poll_and_decide(
        &mut self,
        cluster: &mut SimulatedCluster<'_>,
        second: u32,
    ) -> Option<SimulatedDecision> {
        let now = timestamp(second);
        let stuck_after = self.settings.scaling.stuck_after.as_std();
        let context = SnapshotContext {
            ready_replicas: cluster.ready_replicas(),
            members: cluster.group_members(),
            stuck_after: SignedDuration::try_from(stuck_after).unwrap_or(SignedDuration::MAX),
        };
        self.tracker.record(&cluster.snapshot(), now, &context);
        let interval = SignedDuration::from_secs(self.poll_seconds.into());
        let input = ScalingInput {
            current_replicas: Some(cluster.replicas),
            lag: self.tracker.lag_state(now, interval),
            limited_by: self.limited_by,
            ..ScalingInput::new(now, &self.state)
        };
        let LagState::Fresh(load) = input.lag else {
            return None;
        };
        let decision = decide_by_lag(self.settings, &input);
        let is_step = decision.from != decision.replicas;
        let is_change = is_step || decision.limited_by != self.limited_by;
        let mut state = decision.state.clone();
        if is_step {
            let step = ScalingStep {
                time: now,
                from: decision.from,
                to: decision.replicas,
                limited_by: decision.limited_by,
            };
            state.record_step(step, Some(load));
            cluster.scale(decision.replicas);
        }
        let reportable = Reportable::new(decision.limited_by, state.capacity, load);
        self.state = state;
        self.limited_by = decision.limited_by;
        if let Some(report) = self.policy.next_report(reportable, is_step, now) {
            self.writes += 1;
            let reported = self.status.scaling.as_ref().map(|scaling| scaling.limited_by);
            self.flips += u32::from(self.writes > 1 && reported != Some(report.limited_by));
            self.write_status(cluster.replicas, report.limited_by);
        }
        is_change.then_some(SimulatedDecision {
            second,
            from: decision.from,
            to: decision.replicas,
            limited_by: decision.limited_by,
            message: decision.message,
        })
    }

    fn write_status(&mut self, replicas: u32, limited_by: LimitedBy) {
        let decisions = self.state.steps.iter().rev().map(|step| Decision {
            time: step.time,
            from: step.from,
            to: step.to,
            limited_by: step.limited_by,
            ..Decision::default()
        });
        self.status = StreamStageStatus {
            desired_replicas: Some(replicas),
            decisions: decisions.collect(),
            scaling: Some(self.state.to_status(limited_by, String::new(), None)),
            ..StreamStageStatus::default()
        };
    }
}

fn timestamp(second: u32) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second.into())
}
