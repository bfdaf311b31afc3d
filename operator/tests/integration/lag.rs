#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: runs mock brokers, and waits until a deadline"
)]
//! Lag polls against three mock brokers, for faults that a real broker cannot be made to show.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crds::stage::StartFrom;
use kafka::Restrictions;
use operator::connection::KafkaConnection;
use operator::kafka::Cluster;
use operator::lag::offsets::{GroupTopic, LagError, LagErrorReason, OffsetSnapshot, PartitionSnapshot};
use rdkafka::ClientConfig;
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

const TIMEOUT: Duration = Duration::from_secs(8);
const PARTITIONS: u32 = 4;

struct Brokers(MockCluster<'static, DefaultProducerContext>);

impl Brokers {
    /// Starts three brokers and creates the topics: four partitions with 10 records each, led by brokers 1, 2, 3 and 1.
    fn start(topics: &[&str]) -> Self {
        let brokers = Self(MockCluster::new(3).expect("start the brokers"));
        for topic in topics {
            brokers
                .0
                .create_topic(topic, PARTITIONS.cast_signed(), 1)
                .expect("create the topic");
            for (partition, leader) in (0..).zip([1, 2, 3, 1]) {
                brokers
                    .0
                    .partition_leader(topic, partition, Some(leader))
                    .expect("set the leader");
            }
            brokers.produce(topic);
        }
        brokers
    }

    fn produce(&self, topic: &str) {
        let mut config = ClientConfig::new();
        let producer: BaseProducer = config
            .set("bootstrap.servers", self.0.bootstrap_servers())
            .create()
            .expect("create a producer");
        for partition in 0..PARTITIONS.cast_signed() {
            for _ in 0..10 {
                let record = BaseRecord::<(), str>::to(topic)
                    .partition(partition)
                    .payload("record");
                producer
                    .send(record)
                    .map_err(|(error, _)| error)
                    .expect("enqueue a record");
            }
        }
        producer.flush(TIMEOUT).expect("deliver the records");
    }

    fn cluster(&self) -> Cluster {
        let servers = self.0.bootstrap_servers();
        let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
        let connection = KafkaConnection::new(&servers, &BTreeMap::new()).expect("settings");
        Cluster::new(&connection, Restrictions::default())
    }
}

fn group_topics(pairs: &[(&str, &str)]) -> Vec<GroupTopic> {
    let group_topic = |(group, topic): &(&str, &str)| GroupTopic {
        group: (*group).to_owned(),
        topic: (*topic).to_owned(),
    };
    pairs.iter().map(group_topic).collect()
}

/// Snapshot of four partitions with 10 records each.
fn snapshot(committed: [Option<u64>; 4]) -> OffsetSnapshot {
    let partitions = (0..)
        .zip(committed)
        .map(|(partition, committed)| PartitionSnapshot {
            partition,
            start: if committed == Some(10) { 10 } else { 0 },
            end: 10,
            committed,
        });
    OffsetSnapshot {
        partitions: partitions.collect(),
    }
}

async fn commit(cluster: &Cluster, group_topic: &GroupTopic, offsets: &[(u32, u64)]) {
    let offsets: BTreeMap<u32, u64> = offsets.iter().copied().collect();
    let committed = cluster.commit_start(group_topic, &offsets, TIMEOUT).await;
    committed.expect("commit the offsets");
}

fn error_reason(result: &Result<OffsetSnapshot, LagError>) -> Option<LagErrorReason> {
    result.as_ref().err().map(|error| error.reason)
}

#[tokio::test]
async fn one_poll_returns_every_group_and_topic_in_order() {
    let brokers = Brokers::start(&["orders", "facts"]);
    let cluster = brokers.cluster();
    let queries = group_topics(&[
        ("a", "orders"),
        ("b", "orders"),
        ("a", "facts"),
        ("c", "facts"),
        ("a", "orders"),
    ]);
    commit(&cluster, &queries[0], &[(0, 3), (1, 10), (2, 0), (3, 7)]).await;
    commit(&cluster, &queries[2], &[(2, 5)]).await;
    commit(&cluster, &queries[3], &[(0, 10), (1, 10), (2, 10), (3, 10)]).await;
    let results = cluster.fetch_snapshots(&queries, TIMEOUT).await;
    let a_orders = snapshot([Some(3), Some(10), Some(0), Some(7)]);
    let expected = [
        a_orders.clone(),
        snapshot([None; 4]),
        snapshot([None, None, Some(5), None]),
        snapshot([Some(10); 4]),
        a_orders,
    ];
    assert_eq!(results, expected.map(Ok));
    assert_eq!(cluster.fetch_snapshots(&[], TIMEOUT).await, []);
}

#[tokio::test]
async fn a_poll_finds_the_id_of_the_cluster() {
    let brokers = Brokers::start(&["orders"]);
    let (first, second) = (brokers.cluster(), brokers.cluster());
    assert_eq!(first.cluster_id(), None);
    let queries = group_topics(&[("a", "orders")]);
    for cluster in [&first, &second] {
        assert!(cluster.fetch_snapshots(&queries, TIMEOUT).await[0].is_ok());
    }
    let id = first.cluster_id().expect("the brokers send an ID");
    assert_eq!(second.cluster_id(), Some(id));
    let other = Brokers::start(&["orders"]).cluster();
    drop(other.fetch_snapshots(&queries, TIMEOUT).await);
    assert_ne!(first.cluster_id(), other.cluster_id());
}

#[tokio::test]
async fn each_broker_gets_one_request_for_all_end_offsets_and_one_for_all_log_start_offsets() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_NO_ERROR as NO_ERROR, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as FORBIDDEN,
    };
    // More groups than requests in flight at a time.
    const GROUPS: usize = 2500;
    const TOPICS: usize = 30;
    const PARTITIONS: i32 = 60;
    let brokers = Brokers::start(&[]);
    for topic in 0..TOPICS {
        let name = format!("orders-{topic}");
        brokers
            .0
            .create_topic(&name, PARTITIONS, 1)
            .expect("create the topic");
    }
    let queries: Vec<GroupTopic> = (0..GROUPS)
        .map(|group| GroupTopic {
            group: format!("group-{group}"),
            topic: format!("orders-{}", group % TOPICS),
        })
        .collect();
    let cluster = brokers.cluster();
    let polled_groups = async || {
        let results = cluster.fetch_snapshots(&queries, TIMEOUT).await;
        results.iter().filter(|result| result.is_ok()).count()
    };
    // Each request consumes one of these. The first poll of three brokers consumes the first six; the second poll gets
    // the errors.
    let mut responses = vec![NO_ERROR; 6];
    responses.extend([FORBIDDEN; 3]);
    brokers.0.request_errors(RDKafkaApiKey::ListOffsets, &responses);
    assert_eq!(
        [
            polled_groups().await,
            polled_groups().await,
            polled_groups().await
        ],
        [GROUPS, 0, GROUPS]
    );
}

#[tokio::test]
async fn an_unknown_topic_does_not_affect_the_others() {
    let brokers = Brokers::start(&["orders"]);
    let cluster = brokers.cluster();
    // Both are in one request for the group, which must not fail because one topic does not exist.
    let results = cluster
        .fetch_snapshots(&group_topics(&[("a", "missing"), ("a", "orders")]), TIMEOUT)
        .await;
    let error = results[0].as_ref().expect_err("the topic does not exist");
    assert_eq!(error.reason, LagErrorReason::UnknownTopic);
    assert!(error.message.contains("topic missing"), "{error}");
    assert_eq!(results[1], Ok(snapshot([None; 4])));
}

#[tokio::test]
async fn a_broker_outage_affects_only_its_partitions_and_groups() {
    let brokers = Brokers::start(&["orders", "facts"]);
    // Move the leaders of all these partitions to brokers that stay up.
    for partition in 0..PARTITIONS.cast_signed() {
        brokers
            .0
            .partition_leader("facts", partition, Some(1))
            .expect("set the leader");
    }
    for (group, broker) in [("up", 2), ("down", 3)] {
        let coordinator = MockCoordinator::Group(group.to_owned());
        brokers
            .0
            .coordinator(coordinator, broker)
            .expect("set the coordinator");
    }
    let cluster = brokers.cluster();
    let queries = group_topics(&[("up", "facts"), ("down", "facts"), ("up", "orders")]);
    let all_up = cluster.fetch_snapshots(&queries, TIMEOUT).await;
    assert!(all_up.iter().all(Result::is_ok), "{all_up:?}");

    brokers.0.broker_down(3).expect("stop the broker");
    let deadline = Instant::now() + Duration::from_secs(30);
    let results = loop {
        let started = Instant::now();
        let results = cluster.fetch_snapshots(&queries, TIMEOUT).await;
        let elapsed = started.elapsed();
        assert!(elapsed < TIMEOUT + Duration::from_secs(2), "{elapsed:?}");
        assert!(results[1].is_err() && results[2].is_err(), "{results:?}");
        // The first poll may still use the stopped broker and fail as a whole.
        if results[0].is_ok() || Instant::now() > deadline {
            break results;
        }
    };
    assert_eq!(results[0], Ok(snapshot([None; 4])));
    assert_eq!(
        error_reason(&results[1]),
        Some(LagErrorReason::PartialOffsets),
        "{results:?}"
    );
    assert_eq!(
        error_reason(&results[2]),
        Some(LagErrorReason::PartialOffsets),
        "{results:?}"
    );
    let error = results[2].as_ref().expect_err("one broker is down").to_string();
    assert!(error.contains("orders"), "{error}");

    brokers.0.broker_up(3).expect("start the broker");
    let deadline = Instant::now() + Duration::from_secs(30);
    while cluster
        .fetch_snapshots(&queries, TIMEOUT)
        .await
        .iter()
        .any(Result::is_err)
    {
        assert!(
            Instant::now() < deadline,
            "the broker is up, but polls still fail"
        );
    }
}

#[tokio::test]
async fn an_outage_of_all_brokers_is_reported_within_the_deadline() {
    let brokers = Brokers::start(&["orders"]);
    let cluster = brokers.cluster();
    brokers.0.broker_down(-1).expect("stop all brokers");
    let queries = group_topics(&[("a", "orders")]);
    let timeout = Duration::from_secs(2);
    let started = Instant::now();
    let results = cluster.fetch_snapshots(&queries, timeout).await;
    assert!(
        started.elapsed() < timeout + Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    let error = results[0].as_ref().expect_err("no broker");
    assert_eq!(error.reason, LagErrorReason::Unreachable);
    assert!(error.message.contains(&brokers.0.bootstrap_servers()), "{error}");
}

#[tokio::test]
async fn a_slow_broker_delays_a_poll_no_longer_than_the_deadline() {
    let brokers = Brokers::start(&["orders"]);
    let cluster = brokers.cluster();
    let queries = group_topics(&[("a", "orders")]);
    assert!(cluster.fetch_snapshots(&queries, TIMEOUT).await[0].is_ok());
    brokers
        .0
        .broker_round_trip_time(-1, Duration::from_secs(20))
        .expect("delay the responses");
    let timeout = Duration::from_secs(1);
    let started = Instant::now();
    let results = cluster.fetch_snapshots(&queries, timeout).await;
    assert!(
        started.elapsed() < timeout + Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(
        error_reason(&results[0]),
        Some(LagErrorReason::Unreachable),
        "{results:?}"
    );
}

#[tokio::test]
async fn a_partition_without_a_leader_fails_its_topic_at_once() {
    let brokers = Brokers::start(&["orders", "facts"]);
    brokers
        .0
        .partition_leader("orders", 2, None)
        .expect("remove the leader");
    let started = Instant::now();
    let results = brokers
        .cluster()
        .fetch_snapshots(&group_topics(&[("a", "orders"), ("a", "facts")]), TIMEOUT)
        .await;
    assert!(started.elapsed() < TIMEOUT / 2, "{:?}", started.elapsed());
    let error = results[0].as_ref().expect_err("a partition has no leader");
    assert_eq!(error.reason, LagErrorReason::PartialOffsets);
    assert!(error.message.contains("partition 2"), "{error}");
    assert_eq!(results[1], Ok(snapshot([None; 4])));
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED as NO_GROUP,
        RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as NO_TOPIC,
    };
    let brokers = Brokers::start(&["orders"]);
    let cluster = brokers.cluster();
    let queries = group_topics(&[("a", "orders")]);
    brokers.0.request_errors(RDKafkaApiKey::OffsetFetch, &[NO_GROUP]);
    let error = cluster
        .fetch_snapshots(&queries, TIMEOUT)
        .await
        .remove(0)
        .expect_err("forbidden");
    assert_eq!(error.reason, LagErrorReason::AuthorizationFailed);
    assert!(error.message.contains("Describe on the group"), "{error}");

    brokers
        .0
        .request_errors(RDKafkaApiKey::ListOffsets, &[NO_TOPIC; 3]);
    let error = cluster
        .fetch_snapshots(&queries, TIMEOUT)
        .await
        .remove(0)
        .expect_err("forbidden");
    assert_eq!(error.reason, LagErrorReason::AuthorizationFailed);
    assert!(error.message.contains("Describe on the topic"), "{error}");
    brokers.0.clear_request_errors(RDKafkaApiKey::ListOffsets);
    assert!(cluster.fetch_snapshots(&queries, TIMEOUT).await[0].is_ok());
}

#[tokio::test]
async fn a_group_is_polled_at_its_new_coordinator() {
    use RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR as MOVED;
    let brokers = Brokers::start(&["orders"]);
    for partition in 0..PARTITIONS.cast_signed() {
        let result = brokers.0.partition_leader("orders", partition, Some(2));
        result.expect("set the leader");
    }
    let cluster = brokers.cluster();
    let queries = group_topics(&[("a", "orders")]);
    let set_coordinator = |broker| {
        let coordinator = MockCoordinator::Group("a".to_owned());
        brokers
            .0
            .coordinator(coordinator, broker)
            .expect("set the coordinator");
    };
    set_coordinator(1);
    assert!(cluster.fetch_snapshots(&queries, TIMEOUT).await[0].is_ok());

    set_coordinator(2);
    brokers.0.request_errors(RDKafkaApiKey::OffsetFetch, &[MOVED]);
    let moved = cluster.fetch_snapshots(&queries, TIMEOUT).await.remove(0);
    assert_eq!(
        error_reason(&moved),
        Some(LagErrorReason::PartialOffsets),
        "{moved:?}"
    );
    brokers.0.broker_down(1).expect("stop the broker");
    let retried = cluster.fetch_snapshots(&queries, TIMEOUT).await.remove(0);
    assert!(retried.is_ok(), "{retried:?}");
}

#[tokio::test]
async fn a_poll_that_was_given_up_does_no_harm_to_the_next_one() {
    let brokers = Brokers::start(&[]);
    brokers.0.create_topic("wide", 400, 1).expect("create the topic");
    let cluster = brokers.cluster();
    for round in 0..200 {
        let timeout = Duration::from_micros(round % 80 * 250);
        drop(cluster.start_offsets("wide", StartFrom::Latest, timeout).await);
    }
    let result = cluster.start_offsets("wide", StartFrom::Latest, TIMEOUT).await;
    assert!(result.is_ok(), "{result:?}");
}
