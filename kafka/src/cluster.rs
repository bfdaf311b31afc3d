#![expect(clippy::disallowed_methods, reason = "edge: asks brokers until a deadline")]
//! Brokers of a cluster, and the leaders of the partitions of topics.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::error::{ParseResponseErrorCode as _, ResponseError};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::time::Instant;
use uuid::Uuid;

use crate::connection::{Connection, Settings};
use crate::error::{Cause, RequestError};

/// Maximum number of brokers in an answer. More are an error.
pub const MAX_BROKERS: usize = 1000;
/// Maximum number of partitions in an answer.
const MAX_PARTITIONS: usize = 100_000;
/// Time below which no further broker is asked.
const MIN_TIMEOUT: Duration = Duration::from_millis(50);

/// Metadata of a cluster.
#[derive(Debug, Default)]
pub struct Metadata {
    /// Address of the broker that answered.
    pub answered_by: String,
    /// ID of the cluster.
    pub cluster_id: Option<String>,
    /// Address of each broker, by id.
    pub brokers: BTreeMap<i32, String>,
    /// Each topic, or its error.
    pub topics: BTreeMap<String, Result<TopicMetadata, ResponseError>>,
}

/// Metadata of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicMetadata {
    /// ID of the topic; nil if the brokers have no topic IDs.
    pub topic_id: Uuid,
    /// Broker id of the leader of each partition; `None` without a leader whose address is known.
    pub leaders: BTreeMap<i32, Option<i32>>,
}

impl Metadata {
    /// Metadata of a topic.
    ///
    /// # Errors
    /// The error of the topic.
    pub fn topic(&self, name: &str) -> Result<&TopicMetadata, ResponseError> {
        let missing = Err(ResponseError::UnknownTopicOrPartition);
        self.topics
            .get(name)
            .map_or(missing, |topic| topic.as_ref().map_err(|error| *error))
    }
}

/// A cluster. It has a connection to one of its brokers.
pub struct Cluster {
    settings: Settings,
    bootstrap_servers: Vec<String>,
    /// Addresses from the last answer: bootstrap servers may be gone.
    known: Vec<String>,
    connection: Option<Connection>,
}

impl Cluster {
    /// A cluster that is not connected yet.
    #[must_use]
    pub fn new(bootstrap_servers: Vec<String>, settings: Settings) -> Self {
        Self {
            settings,
            bootstrap_servers,
            known: Vec::new(),
            connection: None,
        }
    }

    /// Fetches the metadata of topics from the first broker that answers within half of the remaining time.
    ///
    /// # Errors
    /// The last error, if no broker answers.
    pub async fn metadata(&mut self, topics: &[&str], timeout: Duration) -> Result<Metadata, RequestError> {
        let deadline = Instant::now() + timeout;
        let half_of_remaining = || deadline.saturating_duration_since(Instant::now()) / 2;
        if let Some(mut connection) = self.connection.take()
            && let Ok(response) = request_metadata(&mut connection, topics, half_of_remaining()).await
        {
            return self.accept(connection, response);
        }
        let mut last = RequestError::new("bootstrap.servers", "Metadata", Cause::malformed("no address"));
        for address in [&self.bootstrap_servers[..], &self.known[..]].concat() {
            match self.request_from(&address, topics, half_of_remaining()).await {
                Ok((connection, response)) => return self.accept(connection, response),
                // The time that is left after several brokers is too short to say more than the first one.
                Err(error) if half_of_remaining() < MIN_TIMEOUT => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn request_from(
        &self,
        address: &str,
        topics: &[&str],
        timeout: Duration,
    ) -> Result<(Connection, MetadataResponse), RequestError> {
        let mut connection = Connection::open(address, &self.settings, timeout).await?;
        let response = request_metadata(&mut connection, topics, timeout).await?;
        Ok((connection, response))
    }

    fn accept(
        &mut self,
        connection: Connection,
        response: MetadataResponse,
    ) -> Result<Metadata, RequestError> {
        let metadata = read_metadata(response);
        let mut metadata =
            metadata.map_err(|cause| RequestError::new(connection.broker(), "Metadata", cause))?;
        connection.broker().clone_into(&mut metadata.answered_by);
        self.known = metadata.brokers.values().cloned().collect();
        self.connection = Some(connection);
        Ok(metadata)
    }
}

async fn request_metadata(
    connection: &mut Connection,
    topics: &[&str],
    timeout: Duration,
) -> Result<MetadataResponse, RequestError> {
    let topics = topics.iter().map(|topic| {
        let name = TopicName(StrBytes::from_string((*topic).to_owned()));
        MetadataRequestTopic::default().with_name(Some(name))
    });
    let request = MetadataRequest::default()
        .with_topics(Some(topics.collect()))
        .with_allow_auto_topic_creation(false);
    connection.request(&request, timeout).await
}

fn read_metadata(response: MetadataResponse) -> Result<Metadata, Cause> {
    let partitions: usize = response.topics.iter().map(|topic| topic.partitions.len()).sum();
    if response.brokers.len() > MAX_BROKERS || partitions > MAX_PARTITIONS {
        let brokers = response.brokers.len();
        return Err(Cause::malformed(format!(
            "{brokers} brokers and {partitions} partitions"
        )));
    }
    let brokers = response
        .brokers
        .iter()
        .map(|broker| (broker.node_id.0, address(&broker.host, broker.port)));
    let brokers: BTreeMap<i32, String> = brokers.collect();
    let topics = response.topics.into_iter().filter_map(|topic| {
        let leaders = topic.partitions.iter().map(|partition| {
            let has_leader = partition.error_code.err() != Some(ResponseError::LeaderNotAvailable)
                && brokers.contains_key(&partition.leader_id);
            (
                partition.partition_index,
                has_leader.then_some(*partition.leader_id),
            )
        });
        let metadata = TopicMetadata {
            topic_id: topic.topic_id,
            leaders: leaders.collect(),
        };
        let result = topic.error_code.err().map_or(Ok(metadata), Err);
        Some((topic.name?.to_string(), result))
    });
    Ok(Metadata {
        topics: topics.collect(),
        brokers,
        answered_by: String::new(),
        cluster_id: response.cluster_id.map(|id| id.to_string()),
    })
}

/// `host:port`, with brackets around an IPv6 address.
fn address(host: &str, port: i32) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::metadata_response::{
        MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    };

    use super::*;

    fn response(brokers: usize, error_code: i16) -> MetadataResponse {
        let broker = MetadataResponseBroker::default()
            .with_node_id(1.into())
            .with_host("::1".into())
            .with_port(9092);
        let leader = |index, leader: i32| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(leader.into())
        };
        let topic = MetadataResponseTopic::default()
            .with_name(Some(TopicName("orders".into())))
            .with_error_code(error_code)
            .with_topic_id(Uuid::from_u128(7))
            .with_partitions(vec![leader(0, 1), leader(1, -1), leader(2, 9)]);
        MetadataResponse::default()
            .with_brokers(vec![broker; brokers])
            .with_cluster_id(Some("a-cluster".into()))
            .with_topics(vec![topic])
    }

    #[test]
    fn an_answer_names_the_leaders_and_the_addresses() {
        let metadata = read_metadata(response(1, 0)).expect("metadata");
        let topic = metadata.topics["orders"].as_ref().expect("a topic");
        assert_eq!(topic.topic_id, Uuid::from_u128(7));
        assert_eq!(
            topic.leaders,
            BTreeMap::from([(0, Some(1)), (1, None), (2, None)])
        );
        assert_eq!(metadata.brokers, BTreeMap::from([(1, "[::1]:9092".to_owned())]));
        assert_eq!(metadata.cluster_id.as_deref(), Some("a-cluster"));
    }

    #[test]
    fn too_many_brokers_are_an_error_and_the_error_of_a_topic_is_its_own() {
        assert!(read_metadata(response(MAX_BROKERS + 1, 0)).is_err());
        let metadata = read_metadata(response(1, 29)).expect("metadata");
        assert_eq!(
            metadata.topics["orders"],
            Err(ResponseError::TopicAuthorizationFailed)
        );
    }
}
