#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: queries Kafka, until a deadline"
)]
//! Queries Kafka for committed, end and log start offsets. One client per connection serves all groups.
//!
//! Every call blocks for about its timeout, so call it on a blocking thread. A partition without a response makes the
//! lag of its group a [`LagError`]; other groups and topics are not affected. [`crate::lag`] builds the snapshots.
//! Writes nothing to Kafka, except for the start offsets in [`Cluster::commit_start`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crds::stage::StartFrom;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::{Offset, TopicPartitionList};

use crate::lag::offsets::{GroupTopic, LagError, LagResult, Offsets};
use admin::PartitionOffset;
use error::ConnectionErrors;
use responses::{
    CommittedOffsets, TopicLeaders, TopicPartitions, all_offsets, group_by_leader, group_by_topic,
    partition_leaders, partitions,
};

mod admin;
mod error;
mod responses;
mod tails;

/// `client.id` of the operator.
const CLIENT_ID: &str = "streamstage-operator";
/// Offset in Kafka's response for a timestamp after the last record.
const NO_SUCH_RECORD: i64 = -1;

/// Client of a Kafka cluster for one connection.
pub struct Cluster {
    /// Replaced by [`Cluster::replace_client`].
    client: Mutex<Arc<Client>>,
    /// Settings for a replacement, and for the short-lived clients of [`Cluster::find_empty_tails`].
    config: ClientConfig,
    bootstrap_servers: String,
}

impl Cluster {
    /// Creates a client, which connects at its first request. `client_settings` are those of
    /// [`crds::kafka::sasl_tls::client_settings`].
    ///
    /// # Errors
    /// If librdkafka rejects a setting, such as a malformed certificate.
    pub fn connect(
        bootstrap_servers: &[String],
        client_settings: &[(&str, String)],
    ) -> Result<Self, LagError> {
        let bootstrap_servers = bootstrap_servers.join(",");
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &bootstrap_servers)
            .set("client.id", CLIENT_ID)
            // The client never joins this group. Without one, librdkafka (2.12.1) dereferences a null pointer when the
            // coordinator of a queried group has changed: https://github.com/confluentinc/librdkafka/issues/5040.
            .set("group.id", CLIENT_ID)
            // End offsets are last stable offsets, so records of an open transaction do not count as lag.
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("socket.timeout.ms", "10000")
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("reconnect.backoff.max.ms", "2000")
            .set_log_level(RDKafkaLogLevel::Emerg);
        for (name, value) in client_settings {
            config.set(*name, value);
        }
        let client = Client::create(&config).map_err(error::invalid_setting)?;
        Ok(Self {
            client: Mutex::new(Arc::new(client)),
            config,
            bootstrap_servers,
        })
    }

    /// Fetches the offsets of each group and topic, in the order of `queries`.
    ///
    /// Committed offsets are fetched before end offsets, and end offsets before log start offsets, so that concurrent
    /// progress never yields a committed offset beyond the end. Each step gets half of the remaining time, so that one
    /// broker that does not respond leaves time for the later steps.
    #[must_use]
    pub fn fetch_snapshots(&self, queries: &[GroupTopic], timeout: Duration) -> Vec<LagResult> {
        let used = self.client();
        let (results, is_lost) = self.query(queries, Instant::now() + timeout);
        if is_lost {
            self.replace_client(&used);
        }
        results
    }

    /// Returns the results, and true if the client must be replaced.
    fn query(&self, queries: &[GroupTopic], deadline: Instant) -> (Vec<LagResult>, bool) {
        let topics = queries.iter().map(|query| query.topic.as_str());
        let topics = match self.topic_leaders(topics.collect(), half_of_remaining(deadline)) {
            Ok(topics) => topics,
            Err(error) => {
                // A client that lost all its brokers may not reconnect when they are available again.
                return (vec![Err(error); queries.len()], true);
            }
        };
        let (committed, is_lost) = self.committed_offsets(queries, &topics, half_of_remaining(deadline));
        let existing = topics
            .iter()
            .filter_map(|(topic, leaders)| Some((*topic, leaders.as_ref().ok()?)));
        let all = group_by_leader(
            &topics,
            existing.flat_map(|(topic, leaders)| partitions(topic, leaders)),
        );
        let ends = group_by_topic(self.list_offsets(&all, Offset::End, half_of_remaining(deadline)));
        let needed = group_by_leader(&topics, responses::needed_log_starts(&committed, &ends));
        let starts = group_by_topic(self.list_offsets(&needed, Offset::Beginning, deadline));
        let snapshot = |query| responses::snapshot_for(query, &topics, &committed, &ends, &starts);
        (queries.iter().map(snapshot).collect(), is_lost)
    }

    /// Returns those of the groups that are rebalancing: a scaling step now would prolong the rebalance.
    ///
    /// # Errors
    /// If a broker does not respond, because it may coordinate one of the groups.
    pub fn rebalancing_groups(
        &self,
        groups: &[&str],
        timeout: Duration,
    ) -> Result<BTreeSet<String>, LagError> {
        let deadline = Instant::now() + timeout;
        match admin::unstable_groups(self.client().client(), deadline) {
            Ok(unstable) => Ok(unstable
                .into_iter()
                .filter(|group| groups.contains(&group.as_str()))
                .collect()),
            Err(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::BrokerTransportFailure) => {
                Err(self.unreachable_error())
            }
            Err(code) => Err(error::group_error("*", "Describe", code)),
        }
    }

    /// Commits the start offsets of a group without members.
    ///
    /// # Errors
    /// If Kafka rejects the commit or does not respond; some partitions may have been committed then.
    pub fn commit_start(
        &self,
        group_topic: &GroupTopic,
        offsets: &Offsets,
        timeout: Duration,
    ) -> Result<(), LagError> {
        let deadline = Instant::now() + timeout;
        let GroupTopic { group, topic } = group_topic;
        let group_error = |code| error::group_error(group, "Read", code);
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, offset) in offsets {
            let offset = Offset::Offset(offset.cast_signed());
            let added = list.add_partition_offset(topic, partition.cast_signed(), offset);
            added.map_err(|_| group_error(RDKafkaErrorCode::InvalidArgument))?;
        }
        let group_id =
            CString::new(group.as_str()).map_err(|_| group_error(RDKafkaErrorCode::InvalidArgument))?;
        let altered =
            admin::alter_offsets(self.client().client(), &group_id, &list, deadline).map_err(|code| {
                match code {
                    RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::BrokerTransportFailure => {
                        self.unreachable_error()
                    }
                    code => group_error(code),
                }
            })?;
        let committed = altered
            .into_iter()
            .map(|partition| partition.offset.map_err(group_error));
        if committed.collect::<Result<Vec<_>, _>>()?.len() == offsets.len() {
            Ok(())
        } else {
            Err(group_error(RDKafkaErrorCode::BadMessage))
        }
    }

    /// Resolves `startFrom` to the start offset of every partition. A time after the last record resolves to the end.
    ///
    /// # Errors
    /// If the topic or the offset of a partition is unknown.
    pub fn start_offsets(
        &self,
        topic: &str,
        start_from: StartFrom,
        timeout: Duration,
    ) -> Result<Offsets, LagError> {
        let deadline = Instant::now() + timeout;
        let topics = self.topic_leaders([topic].into(), half_of_remaining(deadline))?;
        let leaders = topics[topic].as_ref().map_err(LagError::clone)?;
        let all = group_by_leader(&topics, partitions(topic, leaders));
        let list = |offset, deadline| self.list_offsets(&all, offset, deadline);
        match start_from {
            StartFrom::Earliest => all_offsets(topic, leaders, list(Offset::Beginning, deadline)),
            StartFrom::Latest => all_offsets(topic, leaders, list(Offset::End, deadline)),
            StartFrom::Timestamp(time) => {
                // End offsets come first, so that a record that arrives in between is not skipped.
                let ends = all_offsets(topic, leaders, list(Offset::End, half_of_remaining(deadline)))?;
                let timestamp = Offset::Offset(time.as_millisecond().max(0));
                let resolved = list(timestamp, deadline).into_iter().map(|mut resolved| {
                    if resolved.offset == Ok(NO_SUCH_RECORD) {
                        let end = u32::try_from(resolved.partition)
                            .ok()
                            .and_then(|partition| ends.get(&partition));
                        resolved.offset = Ok(end.map_or(NO_SUCH_RECORD, |end| end.cast_signed()));
                    }
                    resolved
                });
                all_offsets(topic, leaders, resolved.collect())
            }
        }
    }

    /// Returns the partitions with an empty tail: no readable record from the position to the end.
    ///
    /// Transaction markers and compacted gaps occupy offsets that no consumer can read. `tails` are
    /// `(partition, position, end)`. Opens a client of its own and reads records, so pass only unchanged tails.
    ///
    /// # Errors
    /// If a partition cannot be read, or not to its end within the timeout.
    pub fn find_empty_tails(
        &self,
        topic: &str,
        tails: &[(u32, u64, u64)],
        timeout: Duration,
    ) -> Result<BTreeSet<u32>, LagError> {
        let deadline = Instant::now() + timeout;
        tails::find_empty_tails(&self.config, &self.bootstrap_servers, topic, tails, deadline)
    }

    /// Fetches the leaders of the partitions of each topic: one request for all topics, and one for each topic that is
    /// missing in the response.
    fn topic_leaders<'q>(
        &self,
        topics: BTreeSet<&'q str>,
        deadline: Instant,
    ) -> Result<TopicLeaders<'q>, LagError> {
        let metadata = self
            .client()
            .fetch_metadata(None, remaining(deadline))
            .map_err(|_| self.unreachable_error())?;
        self.client().context().clear();
        let by_name: BTreeMap<&str, &MetadataTopic> = metadata
            .topics()
            .iter()
            .map(|topic| (topic.name(), topic))
            .collect();
        let with_leaders = topics.into_iter().map(|topic| {
            let leaders = match by_name.get(topic) {
                Some(metadata) => partition_leaders(metadata),
                None => self.describe_topic(topic, deadline),
            };
            (topic, leaders)
        });
        Ok(with_leaders.collect())
    }

    /// Fetches the leaders of one topic. Only a request by name distinguishes a forbidden topic from an unknown one.
    fn describe_topic(&self, topic: &str, deadline: Instant) -> Result<Vec<i32>, LagError> {
        let response = self.client().fetch_metadata(Some(topic), remaining(deadline));
        let metadata = response.map_err(|error| {
            let code = error.rdkafka_error_code();
            error::topic_error(topic, code.unwrap_or(RDKafkaErrorCode::InvalidTopic))
        })?;
        let unknown = || error::topic_error(topic, RDKafkaErrorCode::UnknownTopic);
        metadata
            .topics()
            .first()
            .map_or_else(|| Err(unknown()), partition_leaders)
    }

    /// Fetches the committed offsets, with one request per group. Returns true with them if the client lost the
    /// coordinator of a group.
    fn committed_offsets(
        &self,
        queries: &[GroupTopic],
        topics: &TopicLeaders<'_>,
        deadline: Instant,
    ) -> (CommittedOffsets, bool) {
        let mut committed: CommittedOffsets = queries
            .iter()
            .map(|query| (query.clone(), Ok(BTreeMap::new())))
            .collect();
        let mut topics_by_group = BTreeMap::<&str, BTreeSet<&str>>::new();
        for GroupTopic { group, topic } in queries {
            topics_by_group.entry(group).or_default().insert(topic);
        }
        let requests = topics_by_group.into_iter().filter_map(|(group, names)| {
            let existing = names
                .into_iter()
                .filter_map(|topic| Some((topic, topics[topic].as_ref().ok()?)));
            let mut list = TopicPartitionList::new();
            for (topic, partition) in existing.flat_map(|(topic, leaders)| partitions(topic, leaders)) {
                list.add_partition(topic, partition.cast_signed());
            }
            let group_id = CString::new(group).ok()?;
            (list.count() > 0).then_some((group, (group_id, list)))
        });
        let (groups, requests): (Vec<&str>, Vec<_>) = requests.unzip();
        let results = admin::committed_offsets(self.client().client(), &requests, deadline);
        let is_lost = results.iter().any(admin::is_coordinator_lost);
        for (group, result) in groups.into_iter().zip(results) {
            responses::add_committed(&mut committed, group, result);
        }
        (committed, is_lost)
    }

    /// Lists offsets of partitions, with one request per leader.
    fn list_offsets(
        &self,
        by_leader: &[TopicPartitions<'_>],
        offset: Offset,
        deadline: Instant,
    ) -> Vec<PartitionOffset> {
        let lists = by_leader.iter().filter_map(|partitions| {
            let mut list = TopicPartitionList::with_capacity(partitions.len());
            for (topic, partition) in partitions {
                list.add_partition(topic, partition.cast_signed());
            }
            list.set_all_offsets(offset).ok().map(|()| list)
        });
        admin::list_offsets(self.client().client(), &lists.collect::<Vec<_>>(), deadline)
    }

    /// Error for a missing response, with the cause that the client reported for its connections.
    fn unreachable_error(&self) -> LagError {
        // Polling delivers the errors to the context; the client has no records to poll.
        let client = self.client();
        while client.poll(Duration::ZERO).is_some() {}
        error::unreachable_error(&self.bootstrap_servers, client.context().last())
    }

    fn client(&self) -> Arc<Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces a client that lost all brokers or a coordinator; see [`admin::is_coordinator_lost`]. Of several polls
    /// that fail with the same client, only the first one replaces it.
    fn replace_client(&self, used: &Arc<Client>) {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&client, used) {
            return;
        }
        // If no new client can be created, the old one stays in use.
        if let Ok(new) = Client::create(&self.config) {
            *client = Arc::new(new);
        }
    }
}

/// librdkafka client that closes on a thread of its own: closing waits for its pending requests.
struct Client(Option<BaseConsumer<ConnectionErrors>>);

impl Client {
    fn create(config: &ClientConfig) -> KafkaResult<Self> {
        let consumer = config.create_with_context(ConnectionErrors::default())?;
        Ok(Self(Some(consumer)))
    }
}

impl Deref for Client {
    type Target = BaseConsumer<ConnectionErrors>;

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Some(consumer) => consumer,
            None => unreachable!("only drop removes the consumer"),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let consumer = self.0.take();
        std::thread::spawn(move || drop(consumer));
    }
}

fn half_of_remaining(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
