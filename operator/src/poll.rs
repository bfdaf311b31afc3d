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

use crds::StreamStage;
use futures::channel::mpsc::UnboundedSender;
use k8s_openapi::jiff::Timestamp;
use kube::core::error_boundary::DeserializeGuard;
use kube::runtime::reflector::ObjectRef;
use tokio_util::sync::CancellationToken;

use crate::connection::Connection;
use crate::kafka::Cluster;
use crate::lag::{Question, Reading, Unknown, UnknownReason};
use crate::metrics::Metrics;
use crate::observe::Stages;
use crate::scale::{Known, wanted};
use crate::status::is_news;

pub use self::lags::{Lags, Poll, Seen, Workers};

/// How long one round of readings may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked for stages whose time has come.
const TICK: Duration = Duration::from_millis(100);

/// A stage in the operator's store.
pub type Place = ObjectRef<DeserializeGuard<StreamStage>>;
type Answer = Result<Reading, Unknown>;
/// A stage that is being read, as the store has it.
type Due = (Arc<Poll>, Arc<DeserializeGuard<StreamStage>>);

/// Reads lags until `stop`; stages with news go to `news`.
pub async fn run(
    lags: Arc<Lags>,
    stages: Stages,
    metrics: Metrics,
    news: UnboundedSender<Place>,
    stop: CancellationToken,
) {
    let mut clients = BTreeMap::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        for (connection, polls) in lags.take_due(Instant::now()) {
            let round = Round {
                client: client(&mut clients, &connection),
                lags: Arc::clone(&lags),
                stages: stages.clone(),
                metrics: metrics.clone(),
                news: news.clone(),
            };
            tokio::spawn(round.run(polls));
        }
        clients.retain(|connection, _| lags.uses(connection));
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
        for ((poll, guarded), answer) in due.iter().zip(answers) {
            let Ok(stage) = &guarded.0 else { continue };
            let mut answer = self.started(stage, answer).await;
            if let Ok(reading) = &mut answer {
                self.look_into(poll, self.lags.trim(poll, reading));
            }
            if let Err(unknown) = &answer {
                tracing::debug!(stage = %poll.place, reason = ?unknown.reason, %unknown, "lag not read");
                self.metrics.unread(unknown.reason);
            }
            self.lags.note(poll, stage, answer, now);
        }
        self.tell(due, now).await;
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
        let (lags, poll) = (Arc::clone(&self.lags), Arc::clone(poll));
        tokio::task::spawn_blocking(move || {
            // What cannot be read now is tried again: it still stands there.
            if let Ok(empty) = cluster.empty_tails(&poll.question.topic, &tails, PATIENCE) {
                lags.looked_into(&poll, &tails, &empty);
            }
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
            if is_news(stage, &self.lags.known(&poll, now)) {
                // The controller is gone only when the operator is stopping.
                self.news.unbounded_send(poll.place.clone()).unwrap_or_default();
            }
        }
    }

    fn moves(&self, poll: &Poll, stage: &StreamStage, now: Timestamp) -> bool {
        let status = stage.status.clone().unwrap_or_default();
        let before = status.scaling.unwrap_or_default();
        let view = self.lags.known(poll, now);
        let known = Known {
            current: status.desired_replicas,
            lag: view.known(),
            ..Known::nothing(now, &before)
        };
        let wanted = wanted(stage, &known);
        wanted.replicas.is_some() && wanted.replicas != status.desired_replicas
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
