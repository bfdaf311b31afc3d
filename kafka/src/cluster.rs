//! Brokers of a cluster, and the leaders of a topic's partitions.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::error::{ParseResponseErrorCode as _, ResponseError};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::{StrBytes, VersionRange};
use uuid::Uuid;

use crate::connection::{Connection, Settings};
use crate::error::{Cause, RequestError};

/// Maximum number of brokers, and of partitions of a topic, in an answer. More are an error.
pub const MAX_BROKERS: usize = 1000;
const MAX_PARTITIONS: usize = 100_000;
/// Versions of the metadata request: since 10 with topic IDs.
const METADATA_VERSIONS: VersionRange = VersionRange { min: 7, max: 12 };

/// Metadata of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicMetadata {
    /// ID of the topic; nil if the brokers have no topic IDs.
    pub topic_id: Uuid,
    /// Broker id of the leader of each partition; `None` without a leader.
    pub leaders: BTreeMap<i32, Option<i32>>,
    /// Address of each broker, by id.
    pub brokers: BTreeMap<i32, String>,
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
    /// A cluster that is not connected yet. `bootstrap_servers` are separated by commas.
    #[must_use]
    pub fn new(bootstrap_servers: &str, settings: Settings) -> Self {
        let servers = bootstrap_servers
            .split(',')
            .map(|server| server.trim().to_owned());
        Self {
            settings,
            bootstrap_servers: servers.collect(),
            known: Vec::new(),
            connection: None,
        }
    }

    /// Fetches the metadata of a topic from the first broker that answers, each within `timeout`.
    ///
    /// # Errors
    /// The last error, if no broker answers; or the error of the topic.
    pub async fn topic_metadata(
        &mut self,
        topic: &str,
        timeout: Duration,
    ) -> Result<TopicMetadata, RequestError> {
        if let Some(mut connection) = self.connection.take()
            && let Ok(response) = request_metadata(&mut connection, topic, timeout).await
        {
            return self.accept(connection, &response);
        }
        let mut last = RequestError::new("bootstrap.servers", "Metadata", Cause::malformed("no address"));
        for address in [&self.bootstrap_servers[..], &self.known[..]].concat() {
            match self.request_from(&address, topic, timeout).await {
                Ok((connection, response)) => return self.accept(connection, &response),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn request_from(
        &self,
        address: &str,
        topic: &str,
        timeout: Duration,
    ) -> Result<(Connection, MetadataResponse), RequestError> {
        let mut connection = Connection::open(address, &self.settings, timeout).await?;
        let response = request_metadata(&mut connection, topic, timeout).await?;
        Ok((connection, response))
    }

    fn accept(
        &mut self,
        connection: Connection,
        response: &MetadataResponse,
    ) -> Result<TopicMetadata, RequestError> {
        let metadata = read_metadata(response);
        let metadata = metadata.map_err(|cause| RequestError::new(connection.broker(), "Metadata", cause))?;
        self.known = metadata.brokers.values().cloned().collect();
        self.connection = Some(connection);
        Ok(metadata)
    }
}

async fn request_metadata(
    connection: &mut Connection,
    topic: &str,
    timeout: Duration,
) -> Result<MetadataResponse, RequestError> {
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name))]))
        .with_allow_auto_topic_creation(false);
    connection.request(&request, METADATA_VERSIONS, timeout).await
}

/// Reads the answer for one topic.
fn read_metadata(response: &MetadataResponse) -> Result<TopicMetadata, Cause> {
    let [topic] = &response.topics[..] else {
        return Err(Cause::malformed(format!(
            "{} topics instead of one",
            response.topics.len()
        )));
    };
    if let Some(error) = topic.error_code.err() {
        return Err(Cause::Broker(error));
    }
    if response.brokers.len() > MAX_BROKERS || topic.partitions.len() > MAX_PARTITIONS {
        let counts = (response.brokers.len(), topic.partitions.len());
        return Err(Cause::malformed(format!(
            "{} brokers and {} partitions",
            counts.0, counts.1
        )));
    }
    let brokers = response.brokers.iter().map(|broker| {
        let host = if broker.host.contains(':') {
            format!("[{}]", broker.host)
        } else {
            broker.host.to_string()
        };
        (broker.node_id.0, format!("{host}:{}", broker.port))
    });
    let leaders = topic.partitions.iter().map(|partition| {
        let has_leader = partition.error_code.err() != Some(ResponseError::LeaderNotAvailable)
            && *partition.leader_id >= 0;
        (
            partition.partition_index,
            has_leader.then_some(*partition.leader_id),
        )
    });
    Ok(TopicMetadata {
        topic_id: topic.topic_id,
        leaders: leaders.collect(),
        brokers: brokers.collect(),
    })
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
            .with_error_code(error_code)
            .with_topic_id(Uuid::from_u128(7))
            .with_partitions(vec![leader(0, 1), leader(1, -1)]);
        MetadataResponse::default()
            .with_brokers(vec![broker; brokers])
            .with_topics(vec![topic])
    }

    #[test]
    fn an_answer_names_the_leaders_and_the_addresses() {
        let metadata = read_metadata(&response(1, 0)).expect("metadata");
        assert_eq!(metadata.topic_id, Uuid::from_u128(7));
        assert_eq!(metadata.leaders, BTreeMap::from([(0, Some(1)), (1, None)]));
        assert_eq!(metadata.brokers, BTreeMap::from([(1, "[::1]:9092".to_owned())]));
    }

    #[test]
    fn too_many_brokers_an_error_of_the_topic_and_no_topic_are_errors() {
        assert!(read_metadata(&response(MAX_BROKERS + 1, 0)).is_err());
        assert!(read_metadata(&MetadataResponse::default()).is_err());
        let denied = read_metadata(&response(1, 29)).expect_err("not authorized");
        assert!(matches!(
            denied,
            Cause::Broker(ResponseError::TopicAuthorizationFailed)
        ));
    }
}
