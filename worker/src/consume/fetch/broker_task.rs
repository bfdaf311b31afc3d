#![expect(clippy::disallowed_types, reason = "edge: fetches records from the brokers")]
//! Fetches records: one task follows the leaders of the partitions, and one task per leader requests their records.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use kafka::protocol::error::ParseResponseErrorCode as _;
use kafka::protocol::messages::FetchResponse;
use kafka::{Cause, Cluster, Connection, Metadata, RequestError, Settings};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::task::AbortOnDropHandle;

use super::answer::{PartitionOutcome, fetch_request, read_answer};
use super::batch_reader::BatchReader;
use super::fetch_state::{Failing, FetchState, PartitionRequest, Plan};
use super::record_reader::RecordLimits;
use crate::backoff::Backoff;
use crate::consume::settings::REQUEST_TIMEOUT;
use crate::health::{Dependency, Health};

/// Memory of the answers that are not read yet, in KiB. A larger answer is received alone.
const MEMORY_KIB: u32 = 4 << 10;
/// Time in which the brokers have to answer a request for metadata: the first one has half of it.
const METADATA_TIMEOUT: Duration = REQUEST_TIMEOUT.saturating_mul(2);
/// Time that a broker has to send an answer that has begun.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time that a broker may let this client wait between two requests.
const MAX_THROTTLE: Duration = Duration::from_secs(30);
/// Longest delay before a broker is asked again.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Answer of a broker, for the poller.
pub(super) enum Event {
    /// Batches that are not read yet.
    Batches(Box<FetchedBatches>),
    /// The log does not contain the next offset of the partition.
    OutOfRange(PartitionRequest),
}

/// Batches that are not read yet. Their bytes count until they are dropped.
pub(super) struct FetchedBatches {
    /// Reads the batches.
    pub reader: BatchReader,
    /// Generation of the partition.
    pub generation: u64,
    _memory: Arc<Option<OwnedSemaphorePermit>>,
}

/// State that the tasks and the poller share.
pub(super) struct Shared {
    /// State of the fetcher. Its tasks wait for changes.
    pub state: watch::Sender<FetchState>,
    topic: String,
    bootstrap_servers: Vec<String>,
    settings: Settings,
    limits: RecordLimits,
    health: Arc<Health>,
    events: Sender<Event>,
    memory: Arc<Semaphore>,
}

impl Shared {
    /// Creates the state of a fetcher that reads nothing yet, and sends its answers to `events`.
    pub(super) fn new(
        topic: &str,
        bootstrap_servers: &str,
        settings: Settings,
        limits: RecordLimits,
        health: Arc<Health>,
        events: Sender<Event>,
    ) -> Self {
        Self {
            state: watch::Sender::default(),
            topic: topic.to_owned(),
            bootstrap_servers: bootstrap_servers
                .split(',')
                .map(|server| server.trim().to_owned())
                .collect(),
            settings,
            limits,
            health,
            events,
            memory: Arc::new(Semaphore::new(MEMORY_KIB as usize)),
        }
    }

    /// Waits for a change of the state after which `find` returns a value.
    async fn wait_for<T>(&self, find: impl Fn(&FetchState) -> Option<T>) -> T {
        let mut changes = self.state.subscribe();
        loop {
            if let Some(found) = find(&changes.borrow_and_update()) {
                return found;
            }
            // The sender is part of `self`, so a change cannot fail.
            changes.changed().await.unwrap_or_default();
        }
    }

    /// Reports a failure as an outage of the source. The next probe of the source reports its end.
    fn fail(&self, failing: Failing, cause: &str) {
        self.state.send_modify(|state| state.fail(failing));
        self.health.mark_unavailable(Dependency::Source, cause);
    }

    /// Waits until the bytes of an answer may be held. A small answer does not wait, so that the partitions without
    /// records do not wait for the others.
    async fn reserve_memory(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kibibytes = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).min(MEMORY_KIB);
        if kibibytes == 0 {
            return None;
        }
        // The semaphore is never closed.
        Arc::clone(&self.memory).acquire_many_owned(kibibytes).await.ok()
    }

    /// Passes the answers for the planned partitions on.
    fn deliver(&self, plan: &Plan, response: FetchResponse, memory: Option<OwnedSemaphorePermit>) {
        let memory = Arc::new(memory);
        let answers = response.responses.into_iter().flat_map(|topic| topic.partitions);
        for data in answers {
            let wanted = plan
                .wanted
                .iter()
                .find(|wanted| wanted.partition == data.partition_index);
            if let Some(&wanted) = wanted {
                self.accept(wanted, read_answer(&self.topic, wanted, data), &memory);
            }
        }
    }

    fn accept(
        &self,
        wanted: PartitionRequest,
        answer: PartitionOutcome,
        memory: &Arc<Option<OwnedSemaphorePermit>>,
    ) {
        let failing = Failing::Partition(wanted.partition);
        match answer {
            PartitionOutcome::Batches(batches, next_offset) => {
                let mut is_accepted = false;
                self.state.send_if_modified(|state| {
                    is_accepted = state.accept(wanted, next_offset);
                    is_accepted
                });
                if is_accepted {
                    let reader = BatchReader::new(wanted.partition, wanted.offset, batches, self.limits);
                    self.send(Event::Batches(Box::new(FetchedBatches {
                        reader,
                        generation: wanted.generation,
                        _memory: Arc::clone(memory),
                    })));
                }
            }
            PartitionOutcome::Corrupt => self.state.send_modify(|state| state.reject_corrupt(wanted)),
            PartitionOutcome::OutOfRange => {
                let mut is_current = false;
                self.state
                    .send_modify(|state| is_current = state.stop_current(wanted));
                if is_current {
                    self.send(Event::OutOfRange(wanted));
                }
            }
            PartitionOutcome::LeaderChanged => self
                .state
                .send_modify(|state| state.forget_leader(wanted.partition)),
            PartitionOutcome::Failed(cause) => {
                self.state
                    .send_modify(|state| state.forget_leader(wanted.partition));
                self.fail(failing, &cause);
            }
        }
    }

    fn send(&self, event: Event) {
        // The receiver is gone only during a shutdown.
        self.events.send(event).unwrap_or_default();
    }
}

/// Follows the leaders of the partitions, and runs a task for each of them.
pub(super) async fn follow_leaders(shared: Arc<Shared>) {
    let mut cluster = Cluster::new(shared.bootstrap_servers.clone(), shared.settings.clone());
    let mut tasks = BTreeMap::new();
    let mut backoff = Backoff::default();
    loop {
        shared
            .wait_for(|state| state.needs_metadata().then_some(()))
            .await;
        let metadata = cluster.metadata(&[&shared.topic], METADATA_TIMEOUT).await;
        let with_topic = metadata
            .as_ref()
            .map_err(ToString::to_string)
            .and_then(|metadata| {
                let topic = metadata.topic(&shared.topic);
                topic
                    .map(|topic| (metadata, topic))
                    .map_err(|error| format!("{}: {error}", shared.topic))
            });
        match with_topic {
            Ok((metadata, topic)) => {
                let mut leaderless = Vec::new();
                shared
                    .state
                    .send_modify(|state| leaderless = state.set_leaders(topic));
                run_tasks(&shared, metadata, &mut tasks);
                for partition in leaderless {
                    let cause = format!("{}: no leader for the partition {partition}", shared.topic);
                    shared.fail(Failing::Partition(partition), &cause);
                }
            }
            Err(cause) => shared.fail(Failing::Metadata, &cause),
        }
        if shared.state.borrow().is_healthy() {
            backoff = Backoff::default();
        }
        // Also after a success: a broker that was not the leader a moment ago may say so for a while.
        tokio::time::sleep(backoff.next_delay().min(MAX_RETRY_DELAY)).await;
    }
}

/// Ends the tasks of brokers that lead no partition or have moved, and starts those that are missing.
fn run_tasks(
    shared: &Arc<Shared>,
    metadata: &Metadata,
    tasks: &mut BTreeMap<i32, (String, AbortOnDropHandle<()>)>,
) {
    let leaders = shared.state.borrow().leading_brokers();
    tasks.retain(|id, (address, _)| leaders.contains(id) && metadata.brokers.get(id) == Some(address));
    for id in leaders {
        if let Some(address) = metadata.brokers.get(&id)
            && !tasks.contains_key(&id)
        {
            let task = tokio::spawn(fetch_from_broker(Arc::clone(shared), id, address.clone()));
            tasks.insert(id, (address.clone(), AbortOnDropHandle::new(task)));
        }
    }
}

/// Fetches the records of the partitions that a broker leads.
async fn fetch_from_broker(shared: Arc<Shared>, broker: i32, address: String) {
    let mut connection = None;
    let mut backoff = Backoff::default();
    loop {
        let plan = shared
            .wait_for(|state| Some(state.plan(broker)).filter(|plan| !plan.wanted.is_empty()))
            .await;
        let was_connected = connection.is_some();
        let Err(error) = fetch(&shared, &mut connection, &address, &plan).await else {
            backoff = Backoff::default();
            if !shared.state.borrow().is_healthy() {
                shared
                    .state
                    .send_modify(|state| state.recover(Failing::Broker(broker)));
            }
            continue;
        };
        connection = None;
        // A broker closes a connection that was idle for long, or that has to authenticate again.
        if was_connected && matches!(error.cause, Cause::Connection(_)) {
            continue;
        }
        shared.state.send_modify(|state| state.forget_broker(broker));
        shared.fail(Failing::Broker(broker), &error.to_string());
        tokio::time::sleep(backoff.next_delay().min(MAX_RETRY_DELAY)).await;
    }
}

/// Sends one request, and passes its answer on.
async fn fetch(
    shared: &Shared,
    slot: &mut Option<Connection>,
    address: &str,
    plan: &Plan,
) -> Result<(), RequestError> {
    let connection = match slot {
        Some(connection) => connection,
        None => slot.insert(Connection::open(address, &shared.settings, REQUEST_TIMEOUT).await?),
    };
    let request = fetch_request(&shared.topic, plan);
    let announced = connection.send(&request, REQUEST_TIMEOUT).await?;
    let memory = shared.reserve_memory(announced.bytes()).await;
    let response = announced.receive(RECEIVE_TIMEOUT).await?;
    if let Some(error) = response.error_code.err() {
        return Err(RequestError::new(address, "Fetch", Cause::Broker(error)));
    }
    let throttle = Duration::from_millis(u64::try_from(response.throttle_time_ms).unwrap_or(0));
    shared.deliver(plan, response, memory);
    // A broker that limits this client answers the next request only after this time.
    if !throttle.is_zero() {
        tokio::time::sleep(throttle.min(MAX_THROTTLE)).await;
    }
    Ok(())
}
