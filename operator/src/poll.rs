#![expect(
    clippy::disallowed_methods,
    reason = "edge: reads the lag of every stage from Kafka, again and again"
)]
//! Reads the lag of every stage at its interval, and asks for a reconcile when there is news.
//!
//! Must never decide: what a reading means is [`crate::scale`]'s, and what a person is told is [`crate::status`]'s.
//! Stages of one cluster are read together, over one client; no stage waits for one whose readings fail.

pub(crate) mod lags;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::mpsc::UnboundedSender;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::connection::Connection;
use crate::kafka::Cluster;
use crate::lag::view::View;
use crate::lag::{Question, Reading, Unknown, UnknownReason};
use crate::metrics::Metrics;
use crate::outline::{Guarded, Outline, Stages};
use crate::status::{is_news, moves};

pub use self::lags::{Lags, Poll, Seen};

/// How long one round of readings may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for stages whose time has come.
const TICK: Duration = Duration::from_millis(100);

/// Tails that are looked into at a time: each look has a client of its own.
const LOOKS: usize = 4;
/// Groups of one round whose start is committed at a time.
const STARTS: usize = 8;

/// A stage in the operator's store.
pub type Place = ObjectRef<Guarded>;
type Answer = Result<Reading, Unknown>;
/// A stage that is being read, as the store has it.
type Due = (Arc<Poll>, Arc<Guarded>);

/// Reads lags until `stop`; stages with news go to `news`.
pub async fn run(
    lags: Arc<Lags>,
    stages: Stages,
    metrics: Metrics,
    news: UnboundedSender<Place>,
    stop: CancellationToken,
) {
    let mut clients = BTreeMap::new();
    let looks = Arc::new(Semaphore::new(LOOKS));
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        for (connection, polls) in lags.take_due(Instant::now()) {
            let round = Round {
                client: client(&mut clients, &connection),
                connection,
                looks: Arc::clone(&looks),
                lags: Arc::clone(&lags),
                stages: stages.clone(),
                metrics: metrics.clone(),
                news: news.clone(),
            };
            tokio::spawn(seen_through(Arc::clone(&lags), polls.clone(), round.run(polls)));
        }
        clients.retain(|connection, _| lags.uses(connection));
    }
}

/// Has the stages of a round that broke off read again.
async fn seen_through(
    lags: Arc<Lags>,
    polls: Vec<Arc<Poll>>,
    round: impl Future<Output = ()> + Send + 'static,
) {
    if let Err(error) = tokio::spawn(round).await {
        tracing::error!(%error, "a round of readings broke off");
        lags.give_back(&polls);
    }
}

/// The client of a cluster, or why there is none.
type Client = Result<Arc<Cluster>, Unknown>;

fn client(clients: &mut BTreeMap<Connection, Client>, connection: &Connection) -> Client {
    let client = clients
        .entry(connection.clone())
        .or_insert_with(|| Cluster::connect(&connection.servers, &connection.security).map(Arc::new));
    client.clone()
}

/// One reading of some stages of one cluster.
struct Round {
    client: Client,
    connection: Arc<Connection>,
    looks: Arc<Semaphore>,
    lags: Arc<Lags>,
    stages: Stages,
    metrics: Metrics,
    news: UnboundedSender<Place>,
}

impl Round {
    async fn run(self, polls: Vec<Arc<Poll>>) {
        let begun = Instant::now();
        let due = self.present(polls);
        let questions: Vec<Question> = due.iter().map(|(poll, _)| poll.question.clone()).collect();
        let answers = self.ask(move |cluster| cluster.read(&questions, PATIENCE)).await;
        self.metrics.polled(begun.elapsed());
        let now = Timestamp::now();
        let answers = answers.unwrap_or_else(|unknown| vec![Err(unknown); due.len()]);
        self.take(due, answers, now).await;
    }

    /// Notes what was answered, commits the starts that are lacking, and tells the news.
    async fn take(&self, due: Vec<Due>, answers: Vec<Answer>, now: Timestamp) {
        let (mut read, mut starting) = (Vec::new(), Vec::new());
        for (due, answer) in due.into_iter().zip(answers) {
            if due.1.0.as_ref().is_ok_and(|stage| start::lacks(stage, &answer)) {
                starting.push((due, answer));
            } else {
                self.note(&due, answer, now);
                read.push(due);
            }
        }
        // Nobody waits for a start that is being committed.
        let starting: Vec<BoxFuture<'_, ()>> = starting
            .into_iter()
            .map(|(due, answer)| self.begin(due, answer, now).boxed())
            .collect();
        let starting = stream::iter(starting).buffer_unordered(STARTS).collect::<()>();
        tokio::join!(self.tell(read, now), starting);
    }

    async fn begin(&self, due: Due, answer: Answer, now: Timestamp) {
        let answer = self.started(&due, answer).await;
        self.note(&due, answer, now);
        self.tell(vec![due], now).await;
    }

    fn note(&self, (poll, guarded): &Due, mut answer: Answer, now: Timestamp) {
        let Ok(stage) = &guarded.0 else { return };
        if let Ok(reading) = &mut answer {
            self.look_into(poll, self.lags.trim(poll, reading));
        }
        if let Err(unknown) = &answer {
            tracing::debug!(stage = %poll.place, reason = ?unknown.reason, %unknown, "lag not read");
            self.metrics.unread(unknown.reason);
        }
        self.lags.note(poll, &self.connection, stage, answer, now);
    }

    /// The stages that are still there, and readable; the others are forgotten.
    fn present(&self, polls: Vec<Arc<Poll>>) -> Vec<Due> {
        let mut present = Vec::with_capacity(polls.len());
        for poll in polls {
            if let Some(guarded) = self.stages.get(&poll.place).filter(|guarded| guarded.0.is_ok()) {
                present.push((poll, guarded));
            } else {
                self.lags.forget(&poll.place);
                self.metrics.forget(&poll.place);
            }
        }
        present
    }

    /// Looks whether there is anything to read in tails that stand still; the next reading knows.
    fn look_into(&self, poll: &Arc<Poll>, tails: Vec<(u32, u64, u64)>) {
        let (Ok(cluster), false) = (self.client.clone(), tails.is_empty()) else {
            return;
        };
        // Whom nothing is free for is looked into at a later reading: it still stands there.
        let Ok(permit) = Arc::clone(&self.looks).try_acquire_owned() else {
            return;
        };
        let Some(turn) = self.lags.begin_look(poll) else {
            return;
        };
        let (lags, poll) = (Arc::clone(&self.lags), Arc::clone(poll));
        tokio::task::spawn_blocking(move || {
            // What cannot be read now is tried again.
            if let Ok(empty) = cluster.empty_tails(&poll.question.topic, &tails, PATIENCE) {
                lags.looked_into(&poll, &tails, &empty);
            }
            drop((permit, turn));
        });
    }

    /// Asks for a reconcile of the stages with news. The groups of those that would move are looked at first: a group
    /// that is assigning its partitions should be left to finish.
    async fn tell(&self, due: Vec<Due>, now: Timestamp) {
        let moving: Vec<&str> = due
            .iter()
            .filter(|(poll, guarded)| guarded.0.as_ref().is_ok_and(|stage| self.moves(poll, stage, now)))
            .map(|(poll, _)| poll.question.group.as_str())
            .collect();
        let rebalancing = self.rebalancing(&moving).await;
        for (poll, guarded) in due {
            let Ok(stage) = &guarded.0 else { continue };
            self.lags
                .set_rebalancing(&poll, rebalancing.contains(&poll.question.group));
            if is_news(&stage.rules, &stage.shown, &self.lags.known(&poll, now)) {
                // The controller is gone only when the operator is stopping.
                self.news
                    .unbounded_send(Place::clone(&poll.place))
                    .unwrap_or_default();
            }
        }
    }

    /// Whether the stage would move, were its group settled.
    fn moves(&self, poll: &Poll, stage: &Outline, now: Timestamp) -> bool {
        let view = View {
            is_rebalancing: false,
            ..self.lags.known(poll, now)
        };
        moves(&stage.rules, &stage.shown, &view)
    }

    async fn rebalancing(&self, groups: &[&str]) -> BTreeSet<String> {
        if groups.is_empty() {
            return BTreeSet::new();
        }
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        let asked = self.ask(move |cluster| {
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            cluster.rebalancing(&groups, PATIENCE)
        });
        // What a group is doing that cannot be asked holds nothing: the cooldown still does.
        asked.await.and_then(|found| found).unwrap_or_default()
    }

    /// Calls the client, which blocks.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Cluster) -> T + Send + 'static,
    ) -> Result<T, Unknown> {
        let cluster = self.client.clone()?;
        let asked = tokio::task::spawn_blocking(move || question(&cluster)).await;
        asked.map_err(|error| Unknown::new(UnknownReason::Partial, format!("the reading broke off: {error}")))
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
    use crate::lag::PartitionReading;

    #[tokio::test]
    async fn stages_of_a_round_that_broke_off_are_read_again() {
        let lags = Arc::<Lags>::default();
        let polls = lags::tests::taken(&lags);
        let later = || Instant::now() + Duration::from_mins(1);
        seen_through(Arc::clone(&lags), polls.clone(), async {}).await;
        assert!(lags.take_due(later()).is_empty(), "it is being read");
        seen_through(Arc::clone(&lags), polls.clone(), async { panic!("as asked for") }).await;
        let again: Vec<_> = lags
            .take_due(later())
            .into_iter()
            .flat_map(|(_, polls)| polls)
            .collect();
        assert_eq!(again, polls);
    }

    fn stage(name: &str, start: &str) -> StreamStage {
        let text = format!(
            "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {{name: {name}, namespace: orders}}, \
             spec: {{layer: cdm, source: {{bootstrapServers: ['127.0.0.1:1'], topic: facts, startFrom: {start}}}, \
             warehouse: {{host: h, database: d}}}}, status: {{desiredReplicas: 1}}}}"
        );
        serde_saphyr::from_str(&text).expect("a stage")
    }

    fn reading(committed: Option<u64>) -> Reading {
        Reading {
            partitions: vec![PartitionReading {
                partition: 0,
                start: 0,
                end: 9,
                committed,
            }],
        }
    }

    /// A round over a cluster that does not answer, with two stages: one that lacks a start, and one that was read
    /// before.
    fn round() -> (Round, Vec<Due>, mpsc::UnboundedReceiver<Place>) {
        let connection = Connection::new(&["127.0.0.1:1".to_owned()], &BTreeMap::new()).expect("settings");
        let lags = Arc::<Lags>::default();
        let (stages, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Init);
        for stage in [stage("starting", "Latest"), stage("started", "Earliest")] {
            lags.view(&stage, Some(&connection));
            writer.apply_watcher_event(&Event::InitApply(DeserializeGuard(Ok(stage.into()))));
        }
        writer.apply_watcher_event(&Event::InitDone);
        let (news, told) = mpsc::unbounded();
        let (connection, polls) = lags.take_due(Instant::now()).remove(0);
        let round = Round {
            client: Cluster::connect(&connection.servers, &connection.security).map(Arc::new),
            connection,
            looks: Arc::new(Semaphore::new(LOOKS)),
            lags,
            stages,
            metrics: Metrics::register(&mut Registry::default()),
            news,
        };
        let mut due = round.present(polls);
        due.sort_by_key(|(poll, _)| std::cmp::Reverse(poll.place.name.clone()));
        let second = k8s_openapi::jiff::SignedDuration::from_secs(1);
        round.note(&due[1], Ok(reading(Some(3))), Timestamp::now() - second);
        (round, due, told)
    }

    #[tokio::test]
    async fn no_stage_waits_for_the_start_of_another() {
        let (round, due, mut told) = round();
        assert_eq!(due[0].0.place.name, "starting");
        let starting = Arc::clone(&due[0].0);
        let lags = Arc::clone(&round.lags);
        let failures = || {
            let view = lags.known(&starting, Timestamp::now());
            view.track.map(|track| track.failures())
        };
        let answers = vec![Ok(reading(None)), Ok(reading(Some(4)))];
        let taken = round.take(due, answers, Timestamp::now());
        tokio::select! {
            place = told.next() => {
                assert_eq!(place.map(|place| place.name), Some("started".to_owned()));
                assert_eq!(failures(), Some(0), "its start is still being committed");
            }
            () = taken => panic!("nothing was told"),
        }
    }
}
