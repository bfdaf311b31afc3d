#![expect(clippy::disallowed_methods, reason = "edge: reads the clock")]
//! Progress of a process: the step that each of its tasks executes, and since when.
//!
//! Every step has a deadline of its own, after which it fails and is retried; an outage of a dependency is therefore a
//! series of short steps. A step that takes longer than the limit hangs, and a restart is the only remedy.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Default limit of a step: longer than any deadline of a step.
const STEP_LIMIT: Duration = Duration::from_mins(5);

/// Steps in progress, shared by the tasks of a process.
#[derive(Clone, Debug)]
pub struct Progress {
    limit: Duration,
    steps: Arc<Mutex<BTreeMap<String, (&'static str, Instant)>>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self::with_limit(STEP_LIMIT)
    }
}

impl Progress {
    /// Progress without a step; a step is stalled after `limit`.
    #[must_use]
    pub fn with_limit(limit: Duration) -> Self {
        Self {
            limit,
            steps: Arc::default(),
        }
    }

    /// Begins a step of a task, in place of the step that it executes. Dropping the guard ends it; the task waits for
    /// work then, as long as it takes.
    #[must_use]
    pub fn begin_step(&self, task: &str, step: &'static str) -> StepGuard {
        let guard = StepGuard {
            progress: self.clone(),
            task: task.to_owned(),
            step,
        };
        guard.renew();
        guard
    }

    /// Steps over the limit, such as `stg commit: write a batch for 301 s`; empty if no step is.
    #[must_use]
    pub fn stalled(&self) -> String {
        self.describe(self.limit)
    }

    /// Every step in progress, as [`Self::stalled`].
    #[must_use]
    pub fn in_progress(&self) -> String {
        self.describe(Duration::ZERO)
    }

    fn describe(&self, min_age: Duration) -> String {
        let steps = self.lock();
        let old = steps.iter().filter(|(_, (_, since))| since.elapsed() >= min_age);
        let old =
            old.map(|(task, (step, since))| format!("{task}: {step} for {} s", since.elapsed().as_secs()));
        old.collect::<Vec<_>>().join(", ")
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (&'static str, Instant)>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step in progress.
#[derive(Debug)]
pub struct StepGuard {
    progress: Progress,
    task: String,
    step: &'static str,
}

impl StepGuard {
    /// Begins the step again, for a loop that executes it many times.
    pub fn renew(&self) {
        let mut steps = self.progress.lock();
        let current = (self.step, Instant::now());
        match steps.get_mut(&self.task) {
            Some(step) => *step = current,
            None => drop(steps.insert(self.task.clone(), current)),
        }
    }
}

impl Drop for StepGuard {
    fn drop(&mut self) {
        self.progress.lock().remove(&self.task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_stalled_after_the_limit_and_until_it_ends() {
        let progress = Progress::default();
        let step = progress.begin_step("stg poll", "poll Kafka");
        assert_eq!(progress.stalled(), "");
        assert_eq!(progress.in_progress(), "stg poll: poll Kafka for 0 s");
        drop(progress.begin_step("stg poll", "assign partitions"));
        assert_eq!(
            progress.in_progress(),
            "",
            "the inner step has replaced the outer one"
        );
        step.renew();
        assert_eq!(progress.in_progress(), "stg poll: poll Kafka for 0 s");
        drop(step);
        assert_eq!(progress.in_progress(), "");
        let progress = Progress::with_limit(Duration::ZERO);
        let _step = progress.begin_step("stg poll", "poll Kafka");
        let _other = progress.begin_step("dds poll", "poll Kafka");
        assert_eq!(
            progress.stalled(),
            "dds poll: poll Kafka for 0 s, stg poll: poll Kafka for 0 s"
        );
    }
}
