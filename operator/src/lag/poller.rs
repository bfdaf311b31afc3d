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
use tokio_util::sync::CancellationToken;

use super::members::GroupMembers;
use super::offsets::{GroupTopic, LagError, LagErrorReason, LagResult, OffsetSnapshot};
use super::start_offsets::{commit_start, needs_start_commit};
use super::store::{LagStore, PollTarget};
use super::view::LagView;
use crate::budgets::BudgetShares;
use crate::conflict::{ConflictKey, affected_stages, conflict_key};
use crate::connection::KafkaConnection;
use crate::hosts::HostPattern;
use crate::kafka::limits::{ClientLimits, MAX_CLIENTS_PER_NAMESPACE};
use crate::kafka::{Cluster, GroupState};
use crate::metrics::Metrics;
use crate::scale::decide_replicas;
use crate::stage_summary::{CachedStage, StageRef, StageStore, StageSummary, readable};
use crate::status::{status_difference, would_scale};

/// Timeout of one call of [`Cluster`], and so of one poll round.
const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which the store is checked for stages that are due.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum age of the shares in the connection budgets, which depend on all stages.
const MAX_SHARES_AGE: Duration = Duration::from_secs(1);

/// Maximum concurrent commits of start offsets in one poll round.
const MAX_START_COMMITS: usize = 8;

/// States of the groups that were asked for.
type Groups = BTreeMap<GroupTopic, GroupState>;

/// Stage that is being polled, with its cached part.
type DueStage = (Arc<PollTarget>, Arc<CachedStage>);

/// Polls until `stop`. Sends each stage that needs a reconcile to `reconcile_requests`.
pub async fn run(
    lag_store: Arc<LagStore>,
    stages: StageStore,
    allowed_hosts: Vec<HostPattern>,
    metrics: Metrics,
    reconcile_requests: UnboundedSender<StageRef>,
    stop: CancellationToken,
) {
    let mut clients = Clients::new(allowed_hosts);
    let mut shares: Option<(Instant, Arc<BudgetShares>)> = None;
    let mut tick = tokio::time::interval(TICK_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        for (connection, targets) in lag_store.take_due(Instant::now()) {
            let current = shares
                .take()
                .filter(|(since, _)| since.elapsed() < MAX_SHARES_AGE);
            let (_, budget_shares) =
                shares.insert(current.unwrap_or_else(|| (Instant::now(), current_shares(&stages))));
            let round = PollRound {
                cluster: clients.client_for(
                    &connection,
                    targets[0].stage.namespace.as_deref().unwrap_or_default(),
                ),
                connection,
                lag_store: Arc::clone(&lag_store),
                stages: stages.clone(),
                budget_shares: Arc::clone(budget_shares),
                metrics: metrics.clone(),
                reconcile_requests: reconcile_requests.clone(),
            };
            let poll = round.run(targets.clone());
            tokio::spawn(reschedule_on_panic(Arc::clone(&lag_store), targets, poll));
        }
        clients.retain(|connection| lag_store.is_used(connection));
    }
}

/// Shares of all stages in the connection budgets of their warehouses.
fn current_shares(stages: &StageStore) -> Arc<BudgetShares> {
    let stages = stages.state();
    let stages = readable(&stages);
    Arc::new(BudgetShares::new(stages))
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

/// Clients of Kafka, by connection.
struct Clients {
    /// Each with the namespace that it was created for.
    clients: BTreeMap<KafkaConnection, (String, Arc<Cluster>)>,
    limits: ClientLimits,
}

impl Clients {
    fn new(allowed_hosts: Vec<HostPattern>) -> Self {
        Self {
            clients: BTreeMap::new(),
            limits: ClientLimits::new(allowed_hosts),
        }
    }

    /// Returns the client of a connection, which is created if the namespace may have a further one.
    fn client_for(
        &mut self,
        connection: &KafkaConnection,
        namespace: &str,
    ) -> Result<Arc<Cluster>, LagError> {
        if let Some((_, client)) = self.clients.get(connection) {
            return Ok(Arc::clone(client));
        }
        let owned = self.clients.values().filter(|(owner, _)| owner == namespace);
        if owned.count() >= MAX_CLIENTS_PER_NAMESPACE {
            let message = format!(
                "the stages of namespace {namespace} have more than {MAX_CLIENTS_PER_NAMESPACE} Kafka connections; \
                 use the same bootstrap servers and credentials in stages of one cluster"
            );
            return Err(LagError::new(LagErrorReason::Unreachable, message));
        }
        let client = Arc::new(Cluster::new(connection, self.limits.restrict(namespace)));
        let entry = (namespace.to_owned(), Arc::clone(&client));
        self.clients.insert(connection.clone(), entry);
        Ok(client)
    }

    fn retain(&mut self, is_used: impl Fn(&KafkaConnection) -> bool) {
        self.clients.retain(|connection, _| is_used(connection));
        self.limits.forget_unused();
    }
}

/// One poll of stages that share a Kafka connection.
struct PollRound {
    /// Shared client; the error if the namespace may have no further one.
    cluster: Result<Arc<Cluster>, LagError>,
    connection: Arc<KafkaConnection>,
    lag_store: Arc<LagStore>,
    stages: StageStore,
    budget_shares: Arc<BudgetShares>,
    metrics: Metrics,
    reconcile_requests: UnboundedSender<StageRef>,
}

impl PollRound {
    async fn run(self, targets: Vec<Arc<PollTarget>>) {
        let start = Instant::now();
        let due = self.existing_stages(targets);
        let queries: Vec<GroupTopic> = due.iter().map(|(target, _)| target.group_topic.clone()).collect();
        let results = match &self.cluster {
            Ok(cluster) => cluster.fetch_snapshots(&queries, KAFKA_TIMEOUT).await,
            Err(error) => vec![Err(error.clone()); due.len()],
        };
        self.metrics.stages.record_poll(start.elapsed());
        self.record_cluster_id(&due);
        let now = Timestamp::now();
        let lagging = queries
            .iter()
            .zip(&results)
            .filter(|(_, result)| result.as_ref().is_ok_and(OffsetSnapshot::has_lag));
        let lagging = lagging.map(|(query, _)| query.clone()).collect();
        let groups = self.describe_groups(lagging).await;
        self.record_results(due, results, (&groups, now)).await;
    }

    /// Records the ID of the cluster. A new one may reveal or resolve conflicts, so it requests reconciles of the stages that
    /// share a group.
    fn record_cluster_id(&self, due: &[DueStage]) {
        let id = self
            .cluster
            .as_ref()
            .ok()
            .and_then(|cluster| cluster.cluster_id());
        let Some(id) = id else { return };
        let changed = due.iter().filter_map(|(target, cached)| {
            let stage = cached.0.as_ref().ok()?;
            let is_new = self.lag_store.set_cluster_id(target, &self.connection, &id);
            is_new.then(|| conflict_key(stage))
        });
        let changed: BTreeSet<ConflictKey> = changed.collect();
        if changed.is_empty() {
            return;
        }
        let stages = self.stages.state();
        let stages = readable(&stages);
        for stage in affected_stages(&changed, stages) {
            self.request_reconcile(stage);
        }
    }

    fn request_reconcile(&self, stage: StageRef) {
        // The receiver is dropped only while the operator shuts down.
        self.reconcile_requests.unbounded_send(stage).unwrap_or_default();
    }

    /// Records the results, commits missing start offsets, and requests the reconciles.
    async fn record_results(
        &self,
        due: Vec<DueStage>,
        results: Vec<LagResult>,
        (groups, now): (&Groups, Timestamp),
    ) {
        let (mut recorded, mut starting) = (Vec::new(), Vec::new());
        for (due, result) in due.into_iter().zip(results) {
            match (&due.1.0, result) {
                (Ok(stage), Ok(snapshot)) if needs_start_commit(stage, &snapshot) => {
                    starting.push((due, snapshot));
                }
                (_, result) => {
                    let members = groups
                        .get(&due.0.group_topic)
                        .and_then(|group| group.members.clone());
                    self.record_result(&due, result, (members, now));
                    recorded.push(due);
                }
            }
        }
        // The other stages do not wait for the commits.
        let commits: Vec<BoxFuture<'_, ()>> = starting
            .into_iter()
            .map(|(due, snapshot)| self.commit_start_and_record(due, snapshot, (groups, now)).boxed())
            .collect();
        let commits = stream::iter(commits)
            .buffer_unordered(MAX_START_COMMITS)
            .collect::<()>();
        tokio::join!(self.request_reconciles(recorded, (groups, now)), commits);
    }

    /// Commits the start offsets. The lag counts as unknown until the next poll reads them.
    async fn commit_start_and_record(
        &self,
        due: DueStage,
        snapshot: OffsetSnapshot,
        (groups, now): (&Groups, Timestamp),
    ) {
        let Ok(stage) = &due.1.0 else { return };
        let group_topic = &due.0.group_topic;
        let committed = match &self.cluster {
            Ok(cluster) => {
                commit_start(cluster, group_topic, stage.start_from, &snapshot, KAFKA_TIMEOUT).await
            }
            Err(error) => Err(error.clone()),
        };
        let error = committed.map_or_else(
            |error| error,
            |()| {
                let message = "the start offsets of the group were just committed; the next poll reads them";
                LagError::new(LagErrorReason::PartialOffsets, message)
            },
        );
        self.record_result(&due, Err(error), (None, now));
        self.request_reconciles(vec![due], (groups, now)).await;
    }

    fn record_result(
        &self,
        (target, cached): &DueStage,
        result: LagResult,
        (members, now): (Option<GroupMembers>, Timestamp),
    ) {
        let Ok(stage) = &cached.0 else { return };
        if let Err(error) = &result {
            tracing::debug!(stage = %target.stage, reason = ?error.reason, %error, "failed to poll lag");
            self.metrics.stages.record_poll_error(error.reason);
        }
        self.lag_store
            .record(target, &self.connection, stage, (result, members), now);
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

    /// Requests a reconcile of each stage whose status or replica count would change.
    ///
    /// Before that, looks up which groups are rebalancing, for the stages that would scale: a scaling step waits for
    /// the end of a rebalance.
    async fn request_reconciles(&self, due: Vec<DueStage>, (groups, now): (&Groups, Timestamp)) {
        let scaling = due.iter().filter(|(target, cached)| {
            let would_scale = |stage| self.would_scale(target, stage, now);
            !groups.contains_key(&target.group_topic) && cached.0.as_ref().is_ok_and(would_scale)
        });
        let scaling = scaling.map(|(target, _)| target.group_topic.clone()).collect();
        let described = self.describe_groups(scaling).await;
        for (target, cached) in due {
            let Ok(stage) = &cached.0 else { continue };
            let group = groups
                .get(&target.group_topic)
                .or_else(|| described.get(&target.group_topic));
            // An unknown group state does not delay a scaling step: the cooldown still applies.
            let is_rebalancing = group.is_some_and(GroupState::is_rebalancing);
            self.lag_store.set_rebalancing(&target, is_rebalancing, now);
            let view = self.lag_store.current_view(&target, now);
            let settings = self.budget_shares.settings(stage);
            let decision = decide_replicas(&settings, &stage.reported.scaling_input(&view));
            self.lag_store
                .advance_scaling(&target, &view, decision.state.clone());
            let difference = status_difference(&stage.reported, &view, &decision);
            let interval = difference.report_interval();
            if interval.is_some_and(|interval| self.lag_store.begin_report(&target, interval, now)) {
                self.request_reconcile(StageRef::clone(&target.stage));
            }
        }
    }

    /// Returns true if the stage would scale, provided that its group is not rebalancing.
    fn would_scale(&self, target: &PollTarget, stage: &StageSummary, now: Timestamp) -> bool {
        let view = LagView {
            rebalancing_since: None,
            ..self.lag_store.current_view(target, now)
        };
        would_scale(&self.budget_shares.settings(stage), &stage.reported, &view)
    }

    /// States of the groups that the brokers describe.
    async fn describe_groups(&self, queries: Vec<GroupTopic>) -> Groups {
        match &self.cluster {
            Ok(cluster) => {
                let described = cluster.describe_groups(&queries, KAFKA_TIMEOUT).await;
                described.unwrap_or_default()
            }
            Err(_) => Groups::new(),
        }
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

    fn stage(name: &str, start_from: &str, broker: &str) -> StreamStage {
        let text = format!(
            "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {{name: {name}, namespace: orders}}, \
             spec: {{layer: cdm, source: {{bootstrapServers: ['{broker}'], topic: facts, startFrom: {start_from}}}, \
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

    /// A poll round over a broker that does not answer, with two stages: one without start offsets, and one with a
    /// recorded snapshot.
    fn poll_round(broker: &str) -> (PollRound, Vec<DueStage>, mpsc::UnboundedReceiver<StageRef>) {
        let connection = KafkaConnection::new(&[broker.to_owned()], &BTreeMap::new()).expect("settings");
        let lag_store = Arc::<LagStore>::default();
        let (stages, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Init);
        for stage in [
            stage("starting", "Latest", broker),
            stage("started", "Earliest", broker),
        ] {
            lag_store.register(&stage, Some(&connection));
            writer.apply_watcher_event(&Event::InitApply(DeserializeGuard(Ok(stage.into()))));
        }
        writer.apply_watcher_event(&Event::InitDone);
        let (reconcile_requests, requested) = mpsc::unbounded();
        let (connection, targets) = lag_store.take_due(Instant::now()).remove(0);
        let round = PollRound {
            cluster: Clients::new(vec!["127.0.0.1".parse().expect("a pattern")])
                .client_for(&connection, "orders"),
            connection,
            lag_store,
            stages: [stages].into_iter().collect(),
            budget_shares: Arc::default(),
            metrics: Metrics::register(&mut Registry::default()),
            reconcile_requests,
        };
        let mut due = round.existing_stages(targets);
        due.sort_by_key(|(target, _)| std::cmp::Reverse(target.stage.name.clone()));
        let second = k8s_openapi::jiff::SignedDuration::from_secs(1);
        round.record_result(&due[1], Ok(snapshot(Some(3))), (None, Timestamp::now() - second));
        (round, due, requested)
    }

    #[test]
    fn a_namespace_has_a_limited_number_of_clients_and_takes_none_of_another() {
        let mut clients = Clients::new(Vec::new());
        let connection = |number: usize| {
            KafkaConnection::new(&[format!("127.0.0.1:{number}")], &BTreeMap::new()).expect("settings")
        };
        for number in 0..MAX_CLIENTS_PER_NAMESPACE {
            assert!(
                clients.client_for(&connection(number), "team-a").is_ok(),
                "{number}"
            );
        }
        let further = connection(MAX_CLIENTS_PER_NAMESPACE);
        let error = clients
            .client_for(&further, "team-a")
            .err()
            .expect("too many clients");
        assert!(error.message.contains("namespace team-a"), "{error}");
        assert!(clients.client_for(&connection(0), "team-a").is_ok(), "it exists");
        assert!(clients.client_for(&further, "team-b").is_ok());
        clients.retain(|used| *used != connection(0));
        assert!(
            clients.client_for(&connection(99), "team-a").is_ok(),
            "one is gone"
        );
    }

    #[tokio::test]
    async fn a_commit_of_start_offsets_delays_no_other_stage() {
        let broker = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = broker.local_addr().expect("an address").to_string();
        let (round, due, mut requested) = poll_round(&address);
        assert_eq!(due[0].0.stage.name, "starting");
        let starting = Arc::clone(&due[0].0);
        let lag_store = Arc::clone(&round.lag_store);
        let failures = || {
            let view = lag_store.current_view(&starting, Timestamp::now());
            view.tracker.map(|tracker| tracker.consecutive_failures())
        };
        let results = vec![Ok(snapshot(None)), Ok(snapshot(Some(4)))];
        let groups = Groups::new();
        let recorded = round.record_results(due, results, (&groups, Timestamp::now()));
        tokio::select! {
            stage = requested.next() => {
                assert_eq!(stage.map(|stage| stage.name), Some("started".to_owned()));
                assert_eq!(failures(), Some(0), "its start offsets are still being committed");
            }
            () = recorded => panic!("no reconcile was requested"),
        }
    }
}
