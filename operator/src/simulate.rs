//! Replays an arrival trace through the operator's scaling algorithm.
//!
//! Pure: the time is that of the trace. Lag and rates come from [`crate::lag::tracker`] and decisions from
//! [`crate::scale`], as in a cluster. Only the workers are modeled: each commits a fixed number of records per second and
//! starts with a delay after a scale-up. [`crate::command::simulate`] is its only caller.

pub mod chart;
pub mod sample;
pub mod trace;

use crds::status::{LimitedBy, ScalingStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use self::sample::Sample;
use self::trace::Trace;
use crate::lag::offsets::{OffsetSnapshot, PartitionSnapshot};
use crate::lag::tracker::{LagTracker, SnapshotContext};
use crate::scale::{ScalingInput, ScalingSettings, decide_by_lag};

/// Assumptions about the simulated workers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WorkerModel {
    /// Throughput per worker, in records per second.
    pub records_per_second: u64,
    /// Time between a scale-up and the first commit of the new workers, in seconds.
    pub startup_seconds: u32,
}

/// Scaling step, or a decision that only changed what limits the replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedDecision {
    /// Seconds since the start of the trace.
    pub second: u32,
    /// Replicas before the decision.
    pub from: u32,
    /// Replicas after the decision.
    pub to: u32,
    /// Bound or gate that limited the decision.
    pub limited_by: LimitedBy,
    /// Message as in `status.scaling.message`.
    pub message: String,
}

/// Replays the trace. Returns one sample per second, and the decisions that changed something.
#[must_use]
pub fn simulate(
    settings: &ScalingSettings,
    trace: &Trace,
    workers: WorkerModel,
) -> (Vec<Sample>, Vec<SimulatedDecision>) {
    let mut topic = SimulatedTopic::new(trace, workers, settings.scaling.min_replicas);
    let mut operator = SimulatedOperator::new(settings);
    let interval = u32::try_from(operator.poll_interval.as_secs())
        .unwrap_or(1)
        .max(1);
    let (mut samples, mut decisions) = (Vec::new(), Vec::new());
    for second in 0..=trace.duration_seconds() {
        topic.tick(second);
        if second % interval == 0
            && let Some(decision) = operator.poll_and_decide(&mut topic, second)
        {
            decisions.push(decision);
        }
        samples.push(Sample {
            lag: topic
                .snapshot()
                .partitions
                .iter()
                .map(PartitionSnapshot::lag)
                .sum(),
            replicas: topic.replicas,
        });
    }
    (samples, decisions)
}

/// Topic of the trace, with the workers that consume it.
struct SimulatedTopic<'t> {
    trace: &'t Trace,
    workers: WorkerModel,
    /// Committed offset and end offset of each partition.
    offsets: Vec<(u64, u64)>,
    replicas: u32,
    ready_replicas: u32,
    /// Second at which a scale-up takes effect, and the ready replicas from then.
    pending_start: Option<(u32, u32)>,
}

impl<'t> SimulatedTopic<'t> {
    fn new(trace: &'t Trace, workers: WorkerModel, replicas: u32) -> Self {
        Self {
            trace,
            workers,
            offsets: vec![(0, 0); trace.partitions()],
            replicas,
            ready_replicas: replicas,
            pending_start: None,
        }
    }

    /// Advances by one second: records arrive, starting workers become ready, and each worker commits what it can.
    fn tick(&mut self, second: u32) {
        for ((_, end), arrived) in self.offsets.iter_mut().zip(self.trace.arrivals(second)) {
            *end += arrived;
        }
        if let Some((_, ready)) = self.pending_start.take_if(|(at, _)| *at <= second) {
            self.ready_replicas = ready;
        }
        let readers = usize::try_from(self.ready_replicas)
            .unwrap_or(usize::MAX)
            .min(self.offsets.len());
        for reader in 0..readers {
            let mut budget = self.workers.records_per_second;
            for (committed, end) in self.offsets.iter_mut().skip(reader).step_by(readers) {
                let processed = budget.min(*end - *committed);
                *committed += processed;
                budget -= processed;
            }
        }
    }

    fn scale(&mut self, second: u32, replicas: u32) {
        self.replicas = replicas;
        // A scale-down takes effect at once.
        if replicas < self.ready_replicas {
            self.ready_replicas = replicas;
        }
        self.pending_start = Some((second + self.workers.startup_seconds, replicas));
    }

    fn snapshot(&self) -> OffsetSnapshot {
        let partitions = self
            .offsets
            .iter()
            .zip(0..)
            .map(|(&(committed, end), partition)| PartitionSnapshot {
                partition,
                start: 0,
                end,
                committed: Some(committed),
            });
        OffsetSnapshot {
            partitions: partitions.collect(),
        }
    }
}

/// State that the operator carries from poll to poll.
struct SimulatedOperator<'s> {
    settings: &'s ScalingSettings,
    poll_interval: SignedDuration,
    tracker: LagTracker,
    status: ScalingStatus,
}

impl<'s> SimulatedOperator<'s> {
    fn new(settings: &'s ScalingSettings) -> Self {
        let interval = settings.scaling.poll_interval.as_std();
        Self {
            settings,
            poll_interval: SignedDuration::try_from(interval).unwrap_or(SignedDuration::from_secs(5)),
            tracker: LagTracker::default(),
            status: ScalingStatus::default(),
        }
    }

    /// Runs one lag poll and decides on it. Returns the decision if the replicas or their limit changed.
    fn poll_and_decide(&mut self, topic: &mut SimulatedTopic<'_>, second: u32) -> Option<SimulatedDecision> {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::from(second));
        let stuck_after = self.settings.scaling.stuck_after.as_std();
        let context = SnapshotContext {
            ready_replicas: topic.ready_replicas,
            stuck_after: SignedDuration::try_from(stuck_after).unwrap_or(SignedDuration::MAX),
        };
        self.tracker.record(&topic.snapshot(), now, context);
        let input = ScalingInput {
            current_replicas: Some(topic.replicas),
            lag: self.tracker.lag_state(now, self.poll_interval),
            ..ScalingInput::new(now, &self.status)
        };
        let lag_decision = decide_by_lag(self.settings, &input);
        let decision = SimulatedDecision {
            second,
            from: lag_decision.from,
            to: lag_decision.replicas,
            limited_by: lag_decision.limited_by,
            message: lag_decision.message,
        };
        let is_change = decision.from != decision.to || decision.limited_by != self.status.limited_by;
        if decision.from != decision.to {
            self.status.last_scale_time = Some(now);
            topic.scale(second, decision.to);
        }
        self.status.recommendations = lag_decision.recommendations;
        self.status.limited_by = decision.limited_by;
        is_change.then_some(decision)
    }
}

#[cfg(test)]
mod tests {
    use crds::StreamStage;

    use super::*;

    fn settings(scaling: &str) -> ScalingSettings {
        let document = format!(
            "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {{name: cdm}}, spec: {{layer: cdm, \
             source: {{bootstrapServers: ['kafka:9092'], topic: facts}}, \
             warehouse: {{host: postgres, database: orders}}, scaling: {scaling}}}}}"
        );
        ScalingSettings::from(&serde_saphyr::from_str::<StreamStage>(&document).expect("a valid stage"))
    }

    #[test]
    fn a_burst_causes_one_scale_up_and_one_scale_down() {
        let trace: Trace = "seconds,records_per_second\n0,0\n10,20000\n20,0\n400,0\n"
            .parse()
            .expect("a valid trace");
        let workers = WorkerModel {
            records_per_second: 1000,
            startup_seconds: 5,
        };
        let (samples, decisions) = simulate(&settings("{pollInterval: 1s}"), &trace.spread_over(6), workers);
        let steps: Vec<(u32, u32)> = decisions
            .iter()
            .filter(|decision| decision.from != decision.to)
            .map(|decision| (decision.from, decision.to))
            .collect();
        assert_eq!(steps, [(1, 6), (6, 1)], "{decisions:#?}");
        assert!(decisions[0].second <= 12, "{decisions:#?}");
        assert_eq!(samples.last().map(|sample| sample.lag), Some(0));
    }

    #[test]
    fn an_idle_topic_with_min_replicas_0_stays_at_zero_workers() {
        let trace: Trace = "seconds,0,1\n0,0,0\n60,0,0\n".parse().expect("a valid trace");
        let workers = WorkerModel {
            records_per_second: 1,
            startup_seconds: 0,
        };
        let (samples, decisions) = simulate(&settings("{minReplicas: 0}"), &trace, workers);
        assert!(samples.iter().all(|sample| sample.replicas == 0), "{decisions:?}");
    }
}
