//! Plays a trace of arrivals against the decision that the operator makes.
//!
//! Pure: time is that of the trace. Lag and rates are followed by [`crate::lag::track`] and decided by [`crate::scale`],
//! as in a cluster; only the workers are made up here: each commits a fixed number of records per second, and begins
//! some time after it was asked for.

pub mod draw;
pub mod trace;

use crds::status::{LimitedBy, ScalingStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use self::trace::Trace;
use crate::lag::track::{Surroundings, Track};
use crate::lag::{PartitionReading, Reading};
use crate::scale::{Known, Rules, follow};

/// How the made-up workers work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Workers {
    /// Records that one worker commits per second.
    pub rate: u64,
    /// Seconds until a worker that was asked for begins.
    pub start_seconds: u32,
}

/// What happened in one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Second {
    /// Records that are not committed yet.
    pub lag: u64,
    /// Workers that should exist.
    pub replicas: u32,
}

/// A change of the number of workers, or of what limits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Seconds since the beginning.
    pub second: u32,
    /// Workers before.
    pub from: u32,
    /// Workers after.
    pub to: u32,
    /// What limits it.
    pub limited_by: LimitedBy,
    /// The decision in words.
    pub words: String,
}

/// Plays the trace; every second, and every step of the decision.
#[must_use]
pub fn simulate(rules: &Rules, trace: &Trace, workers: Workers) -> (Vec<Second>, Vec<Step>) {
    let mut world = World::new(trace, workers, rules.scaling.min_replicas);
    let mut decider = Decider::new(rules);
    let interval = u32::try_from(decider.poll_interval.as_secs()).unwrap_or(1).max(1);
    let (mut seconds, mut steps) = (Vec::new(), Vec::new());
    for second in 0..=trace.seconds() {
        world.pass(second);
        if second % interval == 0
            && let Some(step) = decider.decide(&mut world, second)
        {
            steps.push(step);
        }
        seconds.push(Second {
            lag: world.reading().partitions.iter().map(PartitionReading::lag).sum(),
            replicas: world.replicas,
        });
    }
    (seconds, steps)
}

/// The topic and the workers of the trace.
struct World<'t> {
    trace: &'t Trace,
    workers: Workers,
    /// Committed offset and end of each partition.
    offsets: Vec<(u64, u64)>,
    replicas: u32,
    /// Workers that work, and when the next ones begin.
    ready: u32,
    coming: Option<(u32, u32)>,
}

impl<'t> World<'t> {
    fn new(trace: &'t Trace, workers: Workers, replicas: u32) -> Self {
        Self {
            trace,
            workers,
            offsets: vec![(0, 0); trace.partitions()],
            replicas,
            ready: replicas,
            coming: None,
        }
    }

    /// Lets one second pass: records arrive, workers begin, and commit what they can.
    fn pass(&mut self, second: u32) {
        for ((_, end), arrived) in self.offsets.iter_mut().zip(self.trace.arrivals(second)) {
            *end += arrived;
        }
        if let Some((_, ready)) = self.coming.take_if(|(at, _)| *at <= second) {
            self.ready = ready;
        }
        let readers = usize::try_from(self.ready)
            .unwrap_or(usize::MAX)
            .min(self.offsets.len());
        for reader in 0..readers {
            let mut left = self.workers.rate;
            for (committed, end) in self.offsets.iter_mut().skip(reader).step_by(readers) {
                let done = left.min(*end - *committed);
                *committed += done;
                left -= done;
            }
        }
    }

    fn scale(&mut self, second: u32, replicas: u32) {
        self.replicas = replicas;
        if replicas < self.ready {
            self.ready = replicas;
        }
        self.coming = Some((second + self.workers.start_seconds, replicas));
    }

    fn reading(&self) -> Reading {
        let partitions = self
            .offsets
            .iter()
            .zip(0..)
            .map(|(&(committed, end), partition)| PartitionReading {
                partition,
                start: 0,
                end,
                committed: Some(committed),
            });
        Reading {
            partitions: partitions.collect(),
        }
    }
}

/// What the operator remembers of the stage.
struct Decider<'s> {
    rules: &'s Rules,
    poll_interval: SignedDuration,
    track: Track,
    before: ScalingStatus,
}

impl<'s> Decider<'s> {
    fn new(rules: &'s Rules) -> Self {
        let interval = rules.scaling.poll_interval.as_std();
        Self {
            rules,
            poll_interval: SignedDuration::try_from(interval).unwrap_or(SignedDuration::from_secs(5)),
            track: Track::default(),
            before: ScalingStatus::default(),
        }
    }

    /// One poll; a step when the number of workers, or its limit, changes.
    fn decide(&mut self, world: &mut World<'_>, second: u32) -> Option<Step> {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(i64::from(second));
        let stuck_after = self.rules.scaling.stuck_after.as_std();
        let around = Surroundings {
            ready: world.ready,
            stuck_after: SignedDuration::try_from(stuck_after).unwrap_or(SignedDuration::MAX),
        };
        self.track.read(&world.reading(), now, around);
        let known = Known {
            current: Some(world.replicas),
            lag: self.track.known(now, self.poll_interval),
            ..Known::nothing(now, &self.before)
        };
        let followed = follow(self.rules, &known);
        let step = Step {
            second,
            from: followed.from,
            to: followed.replicas,
            limited_by: followed.limited_by,
            words: followed.message,
        };
        let is_new = step.from != step.to || step.limited_by != self.before.limited_by;
        if step.from != step.to {
            self.before.last_scale_time = Some(now);
            world.scale(second, step.to);
        }
        self.before.window = followed.window;
        self.before.limited_by = step.limited_by;
        is_new.then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use crds::StreamStage;

    use super::*;

    fn rules(scaling: &str) -> Rules {
        let text = format!(
            "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {{name: cdm}}, spec: {{layer: cdm, \
             source: {{bootstrapServers: ['kafka:9092'], topic: facts}}, \
             warehouse: {{host: postgres, database: orders}}, scaling: {scaling}}}}}"
        );
        Rules::from(&serde_saphyr::from_str::<StreamStage>(&text).expect("a stage"))
    }

    #[test]
    fn a_burst_is_met_in_one_move_and_left_in_one() {
        let trace: Trace = "seconds,records_per_second\n0,0\n10,20000\n20,0\n400,0\n"
            .parse()
            .expect("a trace");
        let trace = trace.over(6);
        let workers = Workers {
            rate: 1000,
            start_seconds: 5,
        };
        let (seconds, steps) = simulate(&rules("{pollInterval: 1s}"), &trace, workers);
        let moves: Vec<(u32, u32)> = steps
            .iter()
            .filter(|step| step.from != step.to)
            .map(|step| (step.from, step.to))
            .collect();
        assert_eq!(moves, [(1, 6), (6, 1)], "{steps:#?}");
        assert!(steps[0].second <= 12, "{steps:#?}");
        assert_eq!(seconds.last().map(|second| second.lag), Some(0));
    }

    #[test]
    fn nothing_arrives_and_nobody_works_with_no_minimum() {
        let trace: Trace = "seconds,0,1\n0,0,0\n60,0,0\n".parse().expect("a trace");
        let (seconds, steps) = simulate(
            &rules("{minReplicas: 0}"),
            &trace,
            Workers {
                rate: 1,
                start_seconds: 0,
            },
        );
        assert!(seconds.iter().all(|second| second.replicas == 0), "{steps:?}");
    }
}
