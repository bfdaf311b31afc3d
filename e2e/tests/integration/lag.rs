//! The operator's Kafka queries on a real broker: offsets, start offsets and rebalances.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: acts as the queried groups and producers, and waits until a deadline"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use e2e::pipeline::{start_services, wait_until};
use e2e::services::Services;
use kafka::Restrictions;
use operator::connection::KafkaConnection;
use operator::kafka::{Cluster, GroupState};
use operator::lag::members::GroupMembers;
use operator::lag::offsets::{GroupTopic, LagErrorReason, LagResult, OffsetSnapshot, PartitionSnapshot};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline for changes inside of Kafka, such as a new leader or a rebalance.
const KAFKA_DEADLINE: Duration = Duration::from_mins(1);

/// A Kafka topic for one test, and the operator's client.
struct KafkaFixture {
    services: Services,
    topic: String,
    cluster: Cluster,
}

impl KafkaFixture {
    async fn create(partitions: i32) -> Result<Self> {
        let services = start_services().await?;
        let topic = format!("lag-{:08x}", rand::random::<u32>());
        services.create_topic(&topic, partitions).await?;
        let servers = [services.bootstrap_servers().to_owned()];
        let cluster = cluster(&servers)?;
        let fixture = Self {
            services,
            topic,
            cluster,
        };
        // On a new broker, the first commit creates the offsets topic, and fails until its partitions have leaders.
        wait_until("the group coordinator is ready", KAFKA_DEADLINE, || async {
            Ok(fixture.commit_offsets("first", &[(0, 0)]).await.is_ok())
        })
        .await?;
        Ok(fixture)
    }

    fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.services.bootstrap_servers());
        config
    }

    fn admin_client(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.client_config().create()?)
    }

    fn group_topic(&self, group: &str) -> GroupTopic {
        GroupTopic {
            // Unique, because the topic name is.
            group: format!("{}.{group}", self.topic),
            topic: self.topic.clone(),
        }
    }

    async fn fetch_result(&self, group: &str) -> LagResult {
        let queries = [self.group_topic(group)];
        self.cluster
            .fetch_snapshots(&queries, QUERY_TIMEOUT)
            .await
            .remove(0)
    }

    async fn fetch_snapshot(&self, group: &str) -> Result<OffsetSnapshot> {
        Ok(self.fetch_result(group).await?)
    }

    async fn commit_offsets(&self, group: &str, offsets: &[(u32, u64)]) -> Result<()> {
        let offsets: BTreeMap<_, _> = offsets.iter().copied().collect();
        let group_topic = self.group_topic(group);
        Ok(self
            .cluster
            .commit_start(&group_topic, &offsets, QUERY_TIMEOUT)
            .await?)
    }

    fn produce_with(&self, producer: &BaseProducer, partition: i32, count: usize) -> Result<()> {
        for _ in 0..count {
            let record = BaseRecord::<(), str>::to(&self.topic)
                .partition(partition)
                .payload("record");
            producer.send(record).map_err(|(error, _)| error)?;
        }
        Ok(producer.flush(KAFKA_DEADLINE)?)
    }

    fn produce_records(&self, partition: i32, count: usize) -> Result<()> {
        self.produce_with(&self.client_config().create()?, partition, count)
    }
}

fn cluster(servers: &[String]) -> Result<Cluster> {
    let connection = KafkaConnection::new(servers, &BTreeMap::new());
    let connection = connection.map_err(|error| anyhow!("{error:?}"))?;
    Ok(Cluster::new(&connection, Restrictions::default()))
}

fn partition(partition: u32, start: u64, end: u64, committed: Option<u64>) -> PartitionSnapshot {
    PartitionSnapshot {
        partition,
        start,
        end,
        committed,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_group_has_its_own_committed_offsets_or_none_at_all() -> Result<()> {
    let kafka = KafkaFixture::create(3).await?;
    for number in 0..3 {
        kafka.produce_records(number, 10)?;
    }
    // As the operator does before the first worker, while the group has no members.
    kafka
        .commit_offsets("lagging", &[(0, 0), (1, 4), (2, 10)])
        .await?;
    kafka.commit_offsets("done", &[(0, 10), (1, 10), (2, 10)]).await?;
    let queries = ["lagging", "done", "new"].map(|group| kafka.group_topic(group));
    let results = kafka.cluster.fetch_snapshots(&queries, QUERY_TIMEOUT).await;
    let partitions = results
        .into_iter()
        .map(|result| result.map(|snapshot| snapshot.partitions));
    let partitions = partitions.collect::<Result<Vec<_>, _>>()?;
    let all = |start, committed| [0, 1, 2].map(|number| partition(number, start, 10, committed));
    let lagging = [
        partition(0, 0, 10, Some(0)),
        partition(1, 0, 10, Some(4)),
        partition(2, 10, 10, Some(10)),
    ];
    assert_eq!(partitions, [lagging, all(10, Some(10)), all(0, None)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_snapshot_has_deleted_records_and_added_partitions() -> Result<()> {
    let kafka = KafkaFixture::create(1).await?;
    kafka.produce_records(0, 20)?;
    kafka.commit_offsets("group", &[(0, 5)]).await?;
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&kafka.topic, 0, Offset::Offset(12))?;
    kafka
        .admin_client()?
        .delete_records(&before, &AdminOptions::new())
        .await?;
    assert_eq!(
        kafka.fetch_snapshot("group").await?.partitions,
        [partition(0, 12, 20, Some(5))]
    );

    let new_partitions = NewPartitions::new(&kafka.topic, 3);
    kafka
        .admin_client()?
        .create_partitions([&new_partitions], &AdminOptions::new())
        .await?;
    let deadline = Instant::now() + KAFKA_DEADLINE;
    let expected = [
        partition(0, 12, 20, Some(5)),
        partition(1, 0, 0, None),
        partition(2, 0, 0, None),
    ];
    // A new partition has no leader for a moment; the snapshot fails until then.
    while kafka
        .fetch_snapshot("group")
        .await
        .map(|snapshot| snapshot.partitions)
        .unwrap_or_default()
        != expected
    {
        ensure!(
            Instant::now() < deadline,
            "the partitions are missing: {:?}",
            kafka.fetch_snapshot("group").await
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_topic_is_recreated_offsets_are_out_of_range_or_missing() -> Result<()> {
    let kafka = KafkaFixture::create(1).await?;
    kafka.produce_records(0, 20)?;
    kafka.commit_offsets("group", &[(0, 15)]).await?;
    kafka.fetch_snapshot("group").await?;
    let deleted = kafka
        .admin_client()?
        .delete_topics(&[&kafka.topic], &AdminOptions::new())
        .await?;
    ensure!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    let deadline = Instant::now() + KAFKA_DEADLINE;
    loop {
        let result = kafka.fetch_result("group").await;
        if result.is_err_and(|error| error.reason == LagErrorReason::UnknownTopic) {
            break;
        }
        ensure!(Instant::now() < deadline, "the topic still exists");
    }
    while kafka.services.create_topic(&kafka.topic, 1).await.is_err() {
        ensure!(Instant::now() < deadline, "the topic cannot be recreated");
    }
    loop {
        match kafka.fetch_result("group").await {
            // Kafka removes the committed offsets of a deleted topic.
            Ok(snapshot) => {
                assert_eq!(snapshot.partitions, [partition(0, 0, 0, None)]);
                break;
            }
            Err(error) if error.reason == LagErrorReason::OffsetOutOfRange => break,
            Err(error) => ensure!(Instant::now() < deadline, "{error}"),
        }
    }
    // As after a restore of the committed offsets.
    kafka.commit_offsets("group", &[(0, 15)]).await?;
    let error = kafka
        .fetch_result("group")
        .await
        .err()
        .context("a committed offset beyond the end was accepted")?;
    assert_eq!(error.reason, LagErrorReason::OffsetOutOfRange);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_does_not_change_the_end_and_its_marker_is_no_lag_once_it_is_read() -> Result<()>
{
    let kafka = KafkaFixture::create(2).await?;
    kafka.produce_records(1, 5)?;
    let mut config = kafka.client_config();
    let producer: BaseProducer = config.set("transactional.id", &kafka.topic).create()?;
    producer.init_transactions(KAFKA_DEADLINE)?;
    producer.begin_transaction()?;
    kafka.produce_with(&producer, 0, 8)?;
    assert_eq!(
        kafka.fetch_snapshot("group").await?.partitions[0],
        partition(0, 0, 0, None)
    );
    producer.commit_transaction(KAFKA_DEADLINE)?;
    // Eight records and the transaction marker.
    let deadline = Instant::now() + KAFKA_DEADLINE;
    while kafka.fetch_snapshot("group").await?.partitions[0] != partition(0, 0, 9, None) {
        ensure!(
            Instant::now() < deadline,
            "{:?}",
            kafka.fetch_snapshot("group").await?
        );
    }
    // The worker's position advances over the marker, which is no record.
    kafka.commit_offsets("group", &[(0, 9), (1, 5)]).await?;
    let snapshot = kafka.fetch_snapshot("group").await?;
    assert_eq!(
        snapshot
            .partitions
            .iter()
            .map(PartitionSnapshot::lag)
            .sum::<u64>(),
        0
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn start_offsets_are_those_of_start_from() -> Result<()> {
    use crds::stage::StartFrom;
    let kafka = KafkaFixture::create(2).await?;
    let producer: BaseProducer = kafka.client_config().create()?;
    for timestamp in [1_000, 2_000, 3_000] {
        let record = BaseRecord::<(), str>::to(&kafka.topic)
            .partition(0)
            .payload("record");
        producer
            .send(record.timestamp(timestamp))
            .map_err(|(error, _)| error)?;
    }
    producer.flush(KAFKA_DEADLINE)?;
    let starts = [
        ("Earliest", [0, 0]),
        ("Latest", [3, 0]),
        ("1970-01-01T00:00:02Z", [1, 0]),
        ("1970-01-01T00:01:00Z", [3, 0]),
    ];
    for (start_from, expected) in starts {
        let offsets = kafka
            .cluster
            .start_offsets(&kafka.topic, start_from.parse::<StartFrom>()?, QUERY_TIMEOUT)
            .await?;
        assert_eq!(
            offsets.into_values().collect::<Vec<_>>(),
            expected,
            "{start_from}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_rebalancing_while_a_member_joins_and_its_offsets_cannot_be_changed() -> Result<()> {
    let kafka = KafkaFixture::create(1).await?;
    let query = kafka.group_topic("group");
    let describe = async || -> Result<GroupState> {
        let described = kafka
            .cluster
            .describe_groups(std::slice::from_ref(&query), QUERY_TIMEOUT)
            .await?;
        Ok(described.get(&query).cloned().unwrap_or_default())
    };
    assert!(!describe().await?.is_rebalancing());
    let group = &query.group;
    let mut config = kafka.client_config();
    config.set("group.id", group).set("session.timeout.ms", "45000");
    let first: BaseConsumer = config.create()?;
    first.subscribe(&[&kafka.topic])?;
    let deadline = Instant::now() + KAFKA_DEADLINE;
    while first.assignment()?.count() == 0 {
        first.poll(Duration::from_millis(50));
        ensure!(Instant::now() < deadline, "the first member has no partition");
    }
    let state = describe().await?;
    assert!(!state.is_rebalancing());
    let Some(GroupMembers::Assigned(members)) = state.members else {
        bail!("the members are unknown: {state:?}");
    };
    assert_eq!(members.into_values().collect::<Vec<_>>(), [[0]]);
    let error = kafka
        .commit_offsets("group", &[(0, 0)])
        .await
        .err()
        .context("offsets of a group with members were changed")?;
    ensure!(error.to_string().contains("members"), "{error:#}");

    // The first member is not polled, so its partition is not revoked and the rebalance waits.
    let second: BaseConsumer = config.create()?;
    second.subscribe(&[&kafka.topic])?;
    while !describe().await?.is_rebalancing() {
        second.poll(Duration::from_millis(10));
        ensure!(Instant::now() < deadline, "no rebalance is reported");
    }
    while describe().await?.is_rebalancing() {
        first.poll(Duration::from_millis(10));
        second.poll(Duration::from_millis(10));
        ensure!(Instant::now() < deadline, "the rebalance does not complete");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_reported_as_unreachable_within_the_timeout() -> Result<()> {
    // The margin of two seconds is for a machine that other tests use too, but not with all cores.
    let _exclusive = crate::exclusive().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .to_string();
    let cluster = cluster(std::slice::from_ref(&closed))?;
    let timeout = Duration::from_secs(2);
    let group_topic = GroupTopic {
        group: "group".to_owned(),
        topic: "topic".to_owned(),
    };
    let start = Instant::now();
    let result = cluster
        .fetch_snapshots(std::slice::from_ref(&group_topic), timeout)
        .await
        .remove(0);
    ensure!(
        start.elapsed() < timeout + Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let error = result.err().context("no broker listens on the port")?;
    assert_eq!(error.reason, LagErrorReason::Unreachable);
    ensure!(error.message.contains(&closed), "{error}");
    let offsets = BTreeMap::from([(0, 0)]);
    let start = Instant::now();
    for result in [
        cluster
            .describe_groups(std::slice::from_ref(&group_topic), timeout)
            .await
            .map(drop),
        cluster.commit_start(&group_topic, &offsets, timeout).await,
    ] {
        assert_eq!(
            result.err().map(|error| error.reason),
            Some(LagErrorReason::Unreachable)
        );
    }
    ensure!(
        start.elapsed() < 2 * timeout + Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}
