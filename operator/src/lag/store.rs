#![expect(
    clippy::disallowed_methods,
    reason = "edge: takes the time of a view and schedules polls"
)]
//! Store of the lag of every stage, and the schedule of its polls.
//!
//! [`super::poller`] writes the results, [`crate::observe`] and [`crate::metrics`] read them. One mutex guards the
//! store, so no method may block: requests to Kafka happen outside of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crds::StreamStage;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::members::GroupMembers;
use super::offsets::{GroupTopic, LagResult, OffsetSnapshot};
use super::tracker::{LagTracker, SnapshotContext};
use super::view::LagView;
use crate::backoff;
use crate::connection::KafkaConnection;
use crate::scale::state::ScalingState;
use crate::stage_summary::reported_status::WorkerCounts;
use crate::stage_summary::{StageRef, StageSummary};

/// Maximum delay between two failing polls, unless the poll interval is longer.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(15);

/// Lag of all stages; shared by the poller, the reconciles and the metrics.
#[derive(Debug, Default)]
pub struct LagStore(Mutex<StageEntries>);

/// Entries are boxed because the capacity of a map is up to twice its length.
type StageEntries = HashMap<Arc<StageRef>, Box<StageEntry>>;

#[derive(Clone, Debug)]
struct StageEntry {
    connection: Arc<KafkaConnection>,
    target: Arc<PollTarget>,
    worker_counts: WorkerCounts,
    poll_interval: Duration,
    tracker: Arc<LagTracker>,
    /// Members of the group when they were last asked for.
    members: Option<GroupMembers>,
    rebalancing_since: Option<Timestamp>,
    /// ID of the Kafka cluster; `None` until a poll over this connection has found it.
    cluster_id: Option<Arc<str>>,
    scaling: Arc<ScalingState>,
    /// Time of the last reconcile that a poll triggered.
    reported_at: Option<Timestamp>,
    /// Time of the next poll; `None` while a poll is running.
    next_poll: Option<Instant>,
}

/// Stage that the poller polls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollTarget {
    /// Stage reference.
    pub stage: Arc<StageRef>,
    /// `metadata.uid`; differs after the stage was recreated.
    pub uid: String,
    /// Consumer group and topic to query.
    pub group_topic: GroupTopic,
}

/// Lag and workers of one stage at one moment, for the metrics.
#[derive(Clone, Debug)]
pub struct StageState {
    /// Stage with its group and topic.
    pub target: Arc<PollTarget>,
    /// Lag of the stage.
    pub view: LagView,
    /// Worker counts of the last poll.
    pub worker_counts: WorkerCounts,
}

impl LagStore {
    /// Returns the state of every registered stage, in no particular order.
    #[must_use]
    pub fn stage_states(&self) -> Vec<StageState> {
        let now = Timestamp::now();
        let entries = self.lock();
        let states = entries.values().map(|entry| StageState {
            target: Arc::clone(&entry.target),
            view: entry.view(now),
            worker_counts: entry.worker_counts,
        });
        states.collect()
    }

    /// Registers `stage` for polling over `connection`, and returns its current lag.
    ///
    /// Without a connection the stage is not polled.
    pub(crate) fn register(&self, stage: &StreamStage, connection: Option<&KafkaConnection>) -> LagView {
        let now = Timestamp::now();
        let target = poll_target(stage);
        let Some(connection) = connection else {
            self.remove(&target.stage);
            let status = stage.status.clone().unwrap_or_default();
            return LagView {
                now,
                scaling: Arc::new(ScalingState::from(&status)),
                ..LagView::default()
            };
        };
        let poll_interval = stage.spec.scaling.poll_interval.as_std();
        let mut entries = self.lock();
        let connection = shared_connection(&entries, &target.stage, connection);
        let entry = entries
            .entry(Arc::clone(&target.stage))
            .or_insert_with(|| Box::new(StageEntry::new(stage, &connection, now)));
        if *entry.target != target {
            **entry = StageEntry::new(stage, &connection, now);
        }
        if entry.connection != connection {
            entry.cluster_id = None;
        }
        if entry.connection != connection || entry.poll_interval != poll_interval {
            entry.connection = connection;
            entry.poll_interval = poll_interval;
            // New credentials are used at once.
            entry.next_poll = entry.next_poll.map(|_| Instant::now());
        }
        entry.view(now)
    }

    /// Returns the lag of a stage; an empty view if the stage is not registered or was recreated.
    pub(super) fn current_view(&self, target: &PollTarget, now: Timestamp) -> LagView {
        let entries = self.lock();
        let entry = entries
            .get(&target.stage)
            .filter(|entry| *entry.target == *target);
        entry.map_or_else(
            || LagView {
                now,
                ..LagView::default()
            },
            |entry| entry.view(now),
        )
    }

    /// Takes the stages that are due at `now`, grouped into poll rounds.
    ///
    /// Stages with the same connection share a round. Those whose last poll failed form a round of their own, so that
    /// they never delay the others.
    pub(super) fn take_due(&self, now: Instant) -> Vec<(Arc<KafkaConnection>, Vec<Arc<PollTarget>>)> {
        let mut rounds: BTreeMap<(Arc<KafkaConnection>, bool), Vec<Arc<PollTarget>>> = BTreeMap::new();
        for entry in self
            .lock()
            .values_mut()
            .filter(|entry| entry.next_poll.is_some_and(|next_poll| next_poll <= now))
        {
            entry.next_poll = None;
            let is_failing = entry.tracker.consecutive_failures() > 0;
            let targets = rounds.entry((Arc::clone(&entry.connection), is_failing));
            targets.or_default().push(Arc::clone(&entry.target));
        }
        let rounds = rounds.into_iter();
        rounds
            .map(|((connection, _), targets)| (connection, targets))
            .collect()
    }

    /// Returns true if the last report of the stage, which is a reconcile that a poll triggers, is at least `interval` old,
    /// and notes the next one then.
    pub(super) fn begin_report(&self, target: &PollTarget, interval: SignedDuration, now: Timestamp) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entry_for(&mut entries, target) else {
            return false;
        };
        let is_due = entry.reported_at.is_none_or(|reported| {
            let elapsed = now.duration_since(reported);
            // A clock that steps back must not delay a report.
            elapsed >= interval || elapsed.is_negative()
        });
        if is_due {
            entry.reported_at = Some(now);
        }
        is_due
    }

    /// Records the result of a poll over `connection` with the members of the group, and schedules the next poll.
    ///
    /// A group without lag is not asked for its members; they count as unchanged.
    pub(crate) fn record(
        &self,
        target: &PollTarget,
        connection: &KafkaConnection,
        stage: &StageSummary,
        (result, members): (LagResult, Option<GroupMembers>),
        now: Timestamp,
    ) {
        let mut entries = self.lock();
        let Some(entry) = entry_for(&mut entries, target) else {
            return;
        };
        if *entry.connection != *connection {
            // The credentials changed during the poll: drop a result of the old ones and poll again at once.
            entry.next_poll = Some(Instant::now());
            return;
        }
        entry.worker_counts = stage.reported.workers;
        let tracker = Arc::make_mut(&mut entry.tracker);
        let stuck_after = to_signed(stage.scaling_settings.scaling.stuck_after.as_std());
        if result.as_ref().is_ok_and(OffsetSnapshot::has_lag) || members.is_some() {
            entry.members = members;
        }
        let mut context = SnapshotContext::with_hidden_members(entry.worker_counts.ready, stuck_after);
        if let Some(members) = &entry.members {
            context.members = members.clone();
        }
        match result {
            Ok(snapshot) => tracker.record(&snapshot, now, &context),
            Err(error) => tracker.record_failure(error),
        }
        let delay = match tracker.consecutive_failures() {
            0 => entry.poll_interval,
            failures => backoff::retry_delay(failures, stage.name())
                .clamp(entry.poll_interval, MAX_RETRY_DELAY.max(entry.poll_interval)),
        };
        entry.next_poll = Some(Instant::now() + delay);
    }

    /// Schedules the next poll of stages whose poll ended without a result.
    pub(super) fn reschedule(&self, targets: &[Arc<PollTarget>]) {
        let mut entries = self.lock();
        for target in targets {
            if let Some(entry) = entry_for(&mut entries, target).filter(|entry| entry.next_poll.is_none()) {
                entry.next_poll = Some(Instant::now() + entry.poll_interval);
            }
        }
    }

    /// Records the ID of the cluster that a poll over `connection` found. Returns true if it differs from the one before.
    pub(super) fn set_cluster_id(
        &self,
        target: &PollTarget,
        connection: &KafkaConnection,
        cluster_id: &Arc<str>,
    ) -> bool {
        let mut entries = self.lock();
        let entry = entry_for(&mut entries, target)
            .filter(|entry| *entry.connection == *connection)
            .filter(|entry| entry.cluster_id.as_ref() != Some(cluster_id));
        let is_new = entry.is_some();
        if let Some(entry) = entry {
            entry.cluster_id = Some(Arc::clone(cluster_id));
        }
        is_new
    }

    /// ID of the Kafka cluster of a stage; `None` until a poll has found it.
    pub(crate) fn cluster_id(&self, stage: &StageRef) -> Option<Arc<str>> {
        self.lock().get(stage)?.cluster_id.clone()
    }

    /// Records whether the group of a stage rebalances at `now`.
    pub(super) fn set_rebalancing(&self, target: &PollTarget, is_rebalancing: bool, now: Timestamp) {
        if let Some(entry) = entry_for(&mut self.lock(), target) {
            let since = entry.rebalancing_since.unwrap_or(now);
            entry.rebalancing_since = is_rebalancing.then_some(since);
        }
    }

    /// Stores the state that a decision on `view` left, unless a reconcile has replaced it since.
    pub(super) fn advance_scaling(&self, target: &PollTarget, view: &LagView, state: ScalingState) {
        if let Some(entry) = entry_for(&mut self.lock(), target)
            && Arc::ptr_eq(&entry.scaling, &view.scaling)
        {
            entry.scaling = Arc::new(state);
        }
    }

    /// Replaces the state by the one that a reconcile left: it alone knows of scaling steps and rollouts.
    pub(crate) fn replace_scaling(&self, stage: &StageRef, scaling: ScalingState) {
        if let Some(entry) = self.lock().get_mut(stage) {
            entry.scaling = Arc::new(scaling);
        }
    }

    /// Returns true if at least one stage is polled over this connection.
    pub(super) fn is_used(&self, connection: &KafkaConnection) -> bool {
        self.lock().values().any(|entry| *entry.connection == *connection)
    }

    /// Removes a stage: it is no longer polled, and its lag is discarded.
    pub(crate) fn remove(&self, stage: &StageRef) {
        self.lock().remove(stage);
    }

    fn lock(&self) -> MutexGuard<'_, StageEntries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StageEntry {
    /// Entry of a new or recreated stage, due at once.
    fn new(stage: &StreamStage, connection: &Arc<KafkaConnection>, now: Timestamp) -> Self {
        let status = stage.status.clone().unwrap_or_default();
        Self {
            connection: Arc::clone(connection),
            target: Arc::new(poll_target(stage)),
            worker_counts: WorkerCounts::from(&status),
            poll_interval: stage.spec.scaling.poll_interval.as_std(),
            tracker: Arc::new(LagTracker::from_status(&status)),
            members: None,
            reported_at: None,
            rebalancing_since: None,
            cluster_id: None,
            scaling: Arc::new(ScalingState::resume(&status, now)),
            next_poll: Some(Instant::now()),
        }
    }

    fn view(&self, now: Timestamp) -> LagView {
        LagView {
            now,
            tracker: Some(Arc::clone(&self.tracker)),
            poll_interval: to_signed(self.poll_interval),
            rebalancing_since: self.rebalancing_since,
            scaling: Arc::clone(&self.scaling),
        }
    }
}

/// Returns the entry of a stage; `None` if the stage was deleted or recreated since the poll began.
fn entry_for<'e>(entries: &'e mut StageEntries, target: &PollTarget) -> Option<&'e mut StageEntry> {
    let entry = entries.get_mut(&target.stage)?;
    (*entry.target == *target).then_some(entry)
}

/// Returns an equal connection that is already in the store, if any: thousands of stages share one cluster.
///
/// Tries the entry of the stage first, because a connection rarely changes.
fn shared_connection(
    entries: &StageEntries,
    stage: &StageRef,
    connection: &KafkaConnection,
) -> Arc<KafkaConnection> {
    let mut candidates = entries.get(stage).into_iter().chain(entries.values());
    let equal = candidates.find(|entry| *entry.connection == *connection);
    equal.map_or_else(
        || Arc::new(connection.clone()),
        |entry| Arc::clone(&entry.connection),
    )
}

fn poll_target(stage: &StreamStage) -> PollTarget {
    PollTarget {
        stage: Arc::new(StageRef::new(stage.name()).within(stage.namespace())),
        uid: stage.metadata.uid.clone().unwrap_or_default(),
        group_topic: GroupTopic::from(stage),
    }
}

fn to_signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
