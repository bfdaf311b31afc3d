#![expect(
    clippy::disallowed_methods,
    reason = "edge: polls Kafka at an interval, and takes the time of a poll"
)]
//! Polls the consumer lag of every stage and triggers a reconcile when the result would change the status or the
//! replica count.
//!
//! Makes no decision itself: [`crate::scale`] decides on replicas, [`crate::status`] on what is reported. Stages on the
//! same Kafka connection share one client and one poll round. Stages whose last poll failed form a separate round, so
//! that they never delay the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::mpsc::UnboundedSender;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::offsets::{GroupTopic, LagError, LagErrorReason, LagResult, OffsetSnapshot};
use super::start_offsets::{commit_start, needs_start_commit};
use super::store::{LagStore, PollTarget};
use super::view::LagView;
use crate::connection::KafkaConnection;
use crate::kafka::Cluster;
use crate::metrics::Metrics;
use crate::scale::decide_replicas;
use crate::stage_summary::{CachedStage, StageRef, StageStore, StageSummary};
use crate::status::{needs_reconcile, would_scale};

/// Timeout of one call of [`Cluster`], and so of one poll round.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which the store is checked for stages that are due.
const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum concurrent tail checks: each one opens a client of its own.
const MAX_TAIL_CHECKS: usize = 4;
/// Maximum concurrent commits of start offsets in one poll round.
const MAX_START_COMMITS: usize = 8;

/// Stage that is being polled, with its cached part.
type DueStage = (Arc<PollTarget>, Arc<CachedStage>);

/// Polls until `stop`. Sends each stage that needs a reconcile to `reconcile_requests`.
pub async fn run(
    lag_store: Arc<LagStore>,
    stages: StageStore,
    metrics: Metrics,
    reconcile_requests: UnboundedSender<StageRef>,
    stop: CancellationToken,
) {
    let mut clients = BTreeMap::new();
    let tail_check_permits = Arc::new(Semaphore::new(MAX_TAIL_CHECKS));
    let mut tick = tokio::time::interval(TICK_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        for (connection, targets) in lag_store.take_due(Instant::now()) {
            let round = PollRound {
                cluster: client_for(&mut clients, &connection),
                connection,
                tail_check_permits: Arc::clone(&tail_check_permits),
                lag_store: Arc::clone(&lag_store),
                stages: stages.clone(),
                metrics: metrics.clone(),
                reconcile_requests: reconcile_requests.clone(),
            };
            let poll = round.run(targets.clone());
            tokio::spawn(reschedule_on_panic(Arc::clone(&lag_store), targets, poll));
        }
        clients.retain(|connection, _| lag_store.is_used(connection));
    }
}

/// Runs a poll round. If it panics, schedules its stages again; without that they would never be polled again.
async fn reschedule_on_panic(
    lag_store: Arc<LagStore>,
    targets: Vec<Arc<PollTarget>>,
    round: impl Future<Output = ()> + Send + 'static,
) {
    if let Err(error) = tokio::spawn(round).await {
        tracing::error!(%error, "poll round panicked, rescheduled");
        lag_store.reschedule(&targets);
    }
}

fn client_for(
    clients: &mut BTreeMap<KafkaConnection, Result<Arc<Cluster>, LagError>>,
    connection: &KafkaConnection,
) -> Result<Arc<Cluster>, LagError> {
    let client = clients.entry(connection.clone()).or_insert_with(|| {
        Cluster::connect(&connection.bootstrap_servers, &connection.client_settings).map(Arc::new)
    });
    client.clone()
}

/// One poll of stages that share a Kafka connection.
struct PollRound {
    /// Shared client; the error if librdkafka rejected its settings.
    cluster: Result<Arc<Cluster>, LagError>,
    connection: Arc<KafkaConnection>,
    tail_check_permits: Arc<Semaphore>,
    lag_store: Arc<LagStore>,
    stages: StageStore,
    metrics: Metrics,
    reconcile_requests: UnboundedSender<StageRef>,
}

impl PollRound {
    async fn run(self, targets: Vec<Arc<PollTarget>>) {
        let start = Instant::now();
        let due = self.existing_stages(targets);
        let queries: Vec<GroupTopic> = due.iter().map(|(target, _)| target.group_topic.clone()).collect();
        let results = self
            .call_kafka(move |cluster| cluster.fetch_snapshots(&queries, KAFKA_TIMEOUT))
            .await;
        self.metrics.stages.record_poll(start.elapsed());
        let now = Timestamp::now();
        let results = results.unwrap_or_else(|error| vec![Err(error); due.len()]);
        self.record_results(due, results, now).await;
    }

    /// Records the results, commits missing start offsets, and requests the reconciles.
    async fn record_results(&self, due: Vec<DueStage>, results: Vec<LagResult>, now: Timestamp) {
        let (mut recorded, mut starting) = (Vec::new(), Vec::new());
        for (due, result) in due.into_iter().zip(results) {
            match (&due.1.0, result) {
                (Ok(stage), Ok(snapshot)) if needs_start_commit(stage, &snapshot) => {
                    starting.push((due, snapshot));
                }
                (_, result) => {
                    self.record_result(&due, result, now);
                    recorded.push(due);
                }
            }
        }
        // The other stages do not wait for the commits.
        let commits: Vec<BoxFuture<'_, ()>> = starting
            .into_iter()
            .map(|(due, snapshot)| self.commit_start_and_record(due, snapshot, now).boxed())
            .collect();
        let commits = stream::iter(commits)
            .buffer_unordered(MAX_START_COMMITS)
            .collect::<()>();
        tokio::join!(self.request_reconciles(recorded, now), commits);
    }

    /// Commits the start offsets. The lag counts as unknown until the next poll reads them.
    async fn commit_start_and_record(&self, due: DueStage, snapshot: OffsetSnapshot, now: Timestamp) {
        let Ok(stage) = &due.1.0 else { return };
        let (group_topic, start_from) = (due.0.group_topic.clone(), stage.start_from);
        let commit = self.call_kafka(move |cluster| {
            commit_start(cluster, &group_topic, start_from, &snapshot, KAFKA_TIMEOUT)
        });
        let error = match commit.await {
            Ok(Ok(())) => {
                let message = "the start offsets of the group were just committed; the next poll reads them";
                LagError::new(LagErrorReason::PartialOffsets, message)
            }
            Ok(Err(error)) | Err(error) => error,
        };
        self.record_result(&due, Err(error), now);
        self.request_reconciles(vec![due], now).await;
    }

    fn record_result(&self, (target, cached): &DueStage, mut result: LagResult, now: Timestamp) {
        let Ok(stage) = &cached.0 else { return };
        if let Ok(snapshot) = &mut result {
            self.check_tails(target, self.lag_store.drop_empty_tails(target, snapshot));
        }
        if let Err(error) = &result {
            tracing::debug!(stage = %target.stage, reason = ?error.reason, %error, "failed to poll lag");
            self.metrics.stages.record_poll_error(error.reason);
        }
        self.lag_store
            .record(target, &self.connection, stage, result, now);
    }

    /// Returns the stages that still exist and are readable; removes the others from the store and the metrics.
    fn existing_stages(&self, targets: Vec<Arc<PollTarget>>) -> Vec<DueStage> {
        let mut existing = Vec::with_capacity(targets.len());
        for target in targets {
            if let Some(cached) = self.stages.get(&target.stage).filter(|cached| cached.0.is_ok()) {
                existing.push((target, cached));
            } else {
                self.lag_store.remove(&target.stage);
                self.metrics.stages.remove_stage(&target.stage);
            }
        }
        existing
    }

    /// Starts a check of unchanged tails for readable records; the next poll uses the result.
    fn check_tails(&self, target: &Arc<PollTarget>, tails: Vec<(u32, u64, u64)>) {
        let (Ok(cluster), false) = (self.cluster.clone(), tails.is_empty()) else {
            return;
        };
        // If no permit is free, a later poll checks the tail; it will still be there.
        let Ok(permit) = Arc::clone(&self.tail_check_permits).try_acquire_owned() else {
            return;
        };
        let Some(guard) = self.lag_store.begin_tail_check(target) else {
            return;
        };
        let (lag_store, target) = (Arc::clone(&self.lag_store), Arc::clone(target));
        tokio::task::spawn_blocking(move || {
            // After an error a later poll checks the tails again.
            if let Ok(empty) = cluster.find_empty_tails(&target.group_topic.topic, &tails, KAFKA_TIMEOUT) {
                lag_store.record_tail_check(&target, &tails, &empty);
            }
            drop((permit, guard));
        });
    }

    /// Requests a reconcile of each stage whose status or replica count would change.
    ///
    /// Before that, looks up which groups are rebalancing, for the stages that would scale: a scaling step waits for
    /// the end of a rebalance.
    async fn request_reconciles(&self, due: Vec<DueStage>, now: Timestamp) {
        let scaling: Vec<&str> = due
            .iter()
            .filter(|(target, cached)| {
                cached
                    .0
                    .as_ref()
                    .is_ok_and(|stage| self.would_scale(target, stage, now))
            })
            .map(|(target, _)| target.group_topic.group.as_str())
            .collect();
        let rebalancing = self.rebalancing_groups(&scaling).await;
        for (target, cached) in due {
            let Ok(stage) = &cached.0 else { continue };
            let is_rebalancing = rebalancing.contains(&target.group_topic.group);
            self.lag_store.set_rebalancing(&target, is_rebalancing, now);
            let view = self.lag_store.current_view(&target, now);
            let decision = decide_replicas(&stage.scaling_settings, &stage.reported.scaling_input(&view));
            self.lag_store
                .advance_scaling(&target, &view, decision.state.clone());
            if needs_reconcile(&stage.reported, &view, &decision) {
                // The receiver is dropped only while the operator shuts down.
                self.reconcile_requests
                    .unbounded_send(StageRef::clone(&target.stage))
                    .unwrap_or_default();
            }
        }
    }

    /// Returns true if the stage would scale, provided that its group is not rebalancing.
    fn would_scale(&self, target: &PollTarget, stage: &StageSummary, now: Timestamp) -> bool {
        let view = LagView {
            rebalancing_since: None,
            ..self.lag_store.current_view(target, now)
        };
        would_scale(&stage.scaling_settings, &stage.reported, &view)
    }

    async fn rebalancing_groups(&self, groups: &[&str]) -> BTreeSet<String> {
        if groups.is_empty() {
            return BTreeSet::new();
        }
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        let result = self.call_kafka(move |cluster| {
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            cluster.rebalancing_groups(&groups, KAFKA_TIMEOUT)
        });
        // An unknown group state does not delay a scaling step: the cooldown still applies.
        result.await.and_then(|groups| groups).unwrap_or_default()
    }

    /// Runs a call of the Kafka client on a blocking thread.
    async fn call_kafka<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Cluster) -> T + Send + 'static,
    ) -> Result<T, LagError> {
        let cluster = self.cluster.clone()?;
        let result = tokio::task::spawn_blocking(move || call(&cluster)).await;
        result.map_err(|error| {
            let message = format!("the lag poll panicked: {error}; report this as a bug of the operator");
            LagError::new(LagErrorReason::PartialOffsets, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use crds::StreamStage;
    use futures::channel::mpsc;
    use kube::core::error_boundary::DeserializeGuard;
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::lag::offsets::PartitionSnapshot;
    use crate::lag::store;

    #[tokio::test]
    async fn stages_of_a_panicked_poll_round_are_polled_again() {
        let lag_store = Arc::<LagStore>::default();
        let targets = store::tests::start_poll(&lag_store);
        let later = || Instant::now() + Duration::from_mins(1);
        reschedule_on_panic(Arc::clone(&lag_store), targets.clone(), async {}).await;
        assert!(lag_store.take_due(later()).is_empty(), "a poll is running");
        reschedule_on_panic(Arc::clone(&lag_store), targets.clone(), async {
            panic!("on purpose")
        })
        .await;
        let rescheduled: Vec<_> = lag_store
            .take_due(later())
            .into_iter()
            .flat_map(|(_, targets)| targets)
            .collect();
        assert_eq!(rescheduled, targets);
    }

    fn stage(name: &str, start_from: &str) -> StreamStage {
        let text = format!(
            "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {{name: {name}, namespace: orders}}, \
             spec: {{layer: cdm, source: {{bootstrapServers: ['127.0.0.1:1'], topic: facts, startFrom: {start_from}}}, \
             warehouse: {{host: h, database: d}}}}, status: {{desiredReplicas: 1}}}}"
        );
        serde_saphyr::from_str(&text).expect("a stage")
    }

    fn snapshot(committed: Option<u64>) -> OffsetSnapshot {
        OffsetSnapshot {
            partitions: vec![PartitionSnapshot {
                partition: 0,
                start: 0,
                end: 9,
                committed,
            }],
        }
    }

    /// A poll round over a cluster that is unreachable, with two stages: one without start offsets, and one with a
    /// recorded snapshot.
    fn poll_round() -> (PollRound, Vec<DueStage>, mpsc::UnboundedReceiver<StageRef>) {
        let connection =
            KafkaConnection::new(&["127.0.0.1:1".to_owned()], &BTreeMap::new()).expect("settings");
        let lag_store = Arc::<LagStore>::default();
        let (stages, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Init);
        for stage in [stage("starting", "Latest"), stage("started", "Earliest")] {
            lag_store.register(&stage, Some(&connection));
            writer.apply_watcher_event(&Event::InitApply(DeserializeGuard(Ok(stage.into()))));
        }
        writer.apply_watcher_event(&Event::InitDone);
        let (reconcile_requests, requested) = mpsc::unbounded();
        let (connection, targets) = lag_store.take_due(Instant::now()).remove(0);
        let round = PollRound {
            cluster: client_for(&mut BTreeMap::new(), &connection),
            connection,
            tail_check_permits: Arc::new(Semaphore::new(MAX_TAIL_CHECKS)),
            lag_store,
            stages: [stages].into_iter().collect(),
            metrics: Metrics::register(&mut Registry::default()),
            reconcile_requests,
        };
        let mut due = round.existing_stages(targets);
        due.sort_by_key(|(target, _)| std::cmp::Reverse(target.stage.name.clone()));
        let second = k8s_openapi::jiff::SignedDuration::from_secs(1);
        round.record_result(&due[1], Ok(snapshot(Some(3))), Timestamp::now() - second);
        (round, due, requested)
    }

    #[tokio::test]
    async fn a_commit_of_start_offsets_delays_no_other_stage() {
        let (round, due, mut requested) = poll_round();
        assert_eq!(due[0].0.stage.name, "starting");
        let starting = Arc::clone(&due[0].0);
        let lag_store = Arc::clone(&round.lag_store);
        let failures = || {
            let view = lag_store.current_view(&starting, Timestamp::now());
            view.tracker.map(|tracker| tracker.consecutive_failures())
        };
        let results = vec![Ok(snapshot(None)), Ok(snapshot(Some(4)))];
        let recorded = round.record_results(due, results, Timestamp::now());
        tokio::select! {
            stage = requested.next() => {
                assert_eq!(stage.map(|stage| stage.name), Some("started".to_owned()));
                assert_eq!(failures(), Some(0), "its start offsets are still being committed");
            }
            () = recorded => panic!("no reconcile was requested"),
        }
    }
}
