//! What the operator reads of groups and topics, on a real Kafka.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: plays the groups and producers that are read, and waits until a deadline"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::pipeline::services;
use e2e::services::Services;
use operator::kafka::Cluster;
use operator::lag::{PartitionReading, Question, Reading, UnknownReason};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const WITHIN: Duration = Duration::from_secs(10);
/// How long something that Kafka does by itself may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A Kafka with one topic, and the operator's client.
struct Scene {
    services: Services,
    topic: String,
    cluster: Cluster,
}

impl Scene {
    async fn set(partitions: i32) -> Result<Self> {
        let services = services().await?;
        let topic = format!("lag-{:08x}", rand::random::<u32>());
        services.create_topic(&topic, partitions).await?;
        let servers = [services.bootstrap_servers().to_owned()];
        let cluster = Cluster::connect(&servers, &[])?;
        Ok(Self {
            services,
            topic,
            cluster,
        })
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.services.bootstrap_servers());
        config
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.config().create()?)
    }

    fn question(&self, group: &str) -> Question {
        Question {
            // A group of its own, since the topic's name is.
            group: format!("{}.{group}", self.topic),
            topic: self.topic.clone(),
        }
    }

    fn read(&self, group: &str) -> Result<Reading> {
        let answers = self.cluster.read(&[self.question(group)], WITHIN);
        Ok(answers.into_iter().next().context("no answer")??)
    }

    fn commit(&self, group: &str, offsets: &[(u32, u64)]) -> Result<()> {
        let offsets: BTreeMap<_, _> = offsets.iter().copied().collect();
        Ok(self
            .cluster
            .commit_start(&self.question(group), &offsets, WITHIN)?)
    }

    fn produce(&self, producer: &BaseProducer, partition: i32, count: usize) -> Result<()> {
        for _ in 0..count {
            let record = BaseRecord::<(), str>::to(&self.topic)
                .partition(partition)
                .payload("record");
            producer.send(record).map_err(|(error, _)| error)?;
        }
        Ok(producer.flush(PATIENCE)?)
    }

    fn send(&self, partition: i32, count: usize) -> Result<()> {
        self.produce(&self.config().create()?, partition, count)
    }
}

fn partition(partition: u32, start: u64, end: u64, committed: Option<u64>) -> PartitionReading {
    PartitionReading {
        partition,
        start,
        end,
        committed,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_group_is_read_with_what_it_committed_or_nothing() -> Result<()> {
    let scene = Scene::set(3).await?;
    for number in 0..3 {
        scene.send(number, 10)?;
    }
    // As an operator does before the first worker: nobody is a member yet.
    scene.commit("behind", &[(0, 0), (1, 4), (2, 10)])?;
    scene.commit("done", &[(0, 10), (1, 10), (2, 10)])?;
    let asked = ["behind", "done", "fresh"].map(|group| scene.question(group));
    let answers = scene.cluster.read(&asked, WITHIN);
    let partitions = answers
        .into_iter()
        .map(|answer| answer.map(|reading| reading.partitions));
    let partitions = partitions.collect::<Result<Vec<_>, _>>()?;
    let all = |start, committed| [0, 1, 2].map(|number| partition(number, start, 10, committed));
    let behind = [
        partition(0, 0, 10, Some(0)),
        partition(1, 0, 10, Some(4)),
        partition(2, 10, 10, Some(10)),
    ];
    assert_eq!(partitions, [behind, all(10, Some(10)), all(0, None)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_and_added_partitions_are_seen_by_the_next_read() -> Result<()> {
    let scene = Scene::set(1).await?;
    scene.send(0, 20)?;
    scene.commit("group", &[(0, 5)])?;
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&scene.topic, 0, Offset::Offset(12))?;
    scene
        .admin()?
        .delete_records(&before, &AdminOptions::new())
        .await?;
    assert_eq!(scene.read("group")?.partitions, [partition(0, 12, 20, Some(5))]);

    let grown = NewPartitions::new(&scene.topic, 3);
    scene
        .admin()?
        .create_partitions([&grown], &AdminOptions::new())
        .await?;
    let deadline = Instant::now() + PATIENCE;
    let expected = [
        partition(0, 12, 20, Some(5)),
        partition(1, 0, 0, None),
        partition(2, 0, 0, None),
    ];
    // A new partition has no leader for a moment, and is unknown for as long.
    while scene
        .read("group")
        .map(|reading| reading.partitions)
        .unwrap_or_default()
        != expected
    {
        ensure!(
            Instant::now() < deadline,
            "the partitions are not seen: {:?}",
            scene.read("group")
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_is_out_of_range_or_fresh() -> Result<()> {
    let scene = Scene::set(1).await?;
    scene.send(0, 20)?;
    scene.commit("group", &[(0, 15)])?;
    scene.read("group")?;
    let deleted = scene
        .admin()?
        .delete_topics(&[&scene.topic], &AdminOptions::new())
        .await?;
    ensure!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = scene.cluster.read(&[scene.question("group")], WITHIN).remove(0);
        if answer.is_err_and(|unknown| unknown.reason == UnknownReason::UnknownTopic) {
            break;
        }
        ensure!(Instant::now() < deadline, "the topic is still read");
    }
    while scene.services.create_topic(&scene.topic, 1).await.is_err() {
        ensure!(Instant::now() < deadline, "the topic cannot be made anew");
    }
    loop {
        match scene.cluster.read(&[scene.question("group")], WITHIN).remove(0) {
            // Kafka drops the offsets of a deleted topic.
            Ok(reading) => {
                assert_eq!(reading.partitions, [partition(0, 0, 0, None)]);
                break;
            }
            Err(unknown) if unknown.reason == UnknownReason::OffsetOutOfRange => break,
            Err(unknown) => ensure!(Instant::now() < deadline, "{unknown}"),
        }
    }
    // As after a restore that brought the offsets back.
    scene.commit("group", &[(0, 15)])?;
    let unknown = scene.cluster.read(&[scene.question("group")], WITHIN).remove(0);
    let unknown = unknown.err().context("a commit beyond the end was read")?;
    assert_eq!(unknown.reason, UnknownReason::OffsetOutOfRange);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_adds_no_end_and_its_marker_is_an_empty_tail() -> Result<()> {
    let scene = Scene::set(2).await?;
    scene.send(1, 5)?;
    let mut config = scene.config();
    let producer: BaseProducer = config.set("transactional.id", &scene.topic).create()?;
    producer.init_transactions(PATIENCE)?;
    producer.begin_transaction()?;
    scene.produce(&producer, 0, 8)?;
    assert_eq!(scene.read("group")?.partitions[0], partition(0, 0, 0, None));
    producer.commit_transaction(PATIENCE)?;
    // Eight records and the marker.
    let deadline = Instant::now() + PATIENCE;
    while scene.read("group")?.partitions[0] != partition(0, 0, 9, None) {
        ensure!(Instant::now() < deadline, "{:?}", scene.read("group")?);
    }
    let empty = |tails: &[(u32, u64, u64)]| scene.cluster.empty_tails(&scene.topic, tails, WITHIN);
    assert_eq!(empty(&[(0, 8, 9), (1, 4, 5)])?, BTreeSet::from([0]));
    assert_eq!(empty(&[(0, 7, 9), (1, 5, 5)])?, BTreeSet::from([1]));
    assert_eq!(empty(&[])?, BTreeSet::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_begins_where_its_stage_says() -> Result<()> {
    use crds::stage::StartFrom;
    let scene = Scene::set(2).await?;
    let producer: BaseProducer = scene.config().create()?;
    for timestamp in [1_000, 2_000, 3_000] {
        let record = BaseRecord::<(), str>::to(&scene.topic)
            .partition(0)
            .payload("record");
        producer
            .send(record.timestamp(timestamp))
            .map_err(|(error, _)| error)?;
    }
    producer.flush(PATIENCE)?;
    let starts = [
        ("Earliest", [0, 0]),
        ("Latest", [3, 0]),
        ("1970-01-01T00:00:02Z", [1, 0]),
        ("1970-01-01T00:01:00Z", [3, 0]),
    ];
    for (start, expected) in starts {
        let offsets = scene
            .cluster
            .offsets_at(&scene.topic, start.parse::<StartFrom>()?, WITHIN)?;
        assert_eq!(offsets.into_values().collect::<Vec<_>>(), expected, "{start}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_rebalancing_while_a_member_joins_and_keeps_its_offsets() -> Result<()> {
    let scene = Scene::set(1).await?;
    let Question { group, .. } = scene.question("group");
    let rebalancing = || scene.cluster.rebalancing(&[&group], WITHIN);
    assert_eq!(rebalancing()?, BTreeSet::new());
    let mut config = scene.config();
    config.set("group.id", &group).set("session.timeout.ms", "45000");
    let first: BaseConsumer = config.create()?;
    first.subscribe(&[&scene.topic])?;
    let deadline = Instant::now() + PATIENCE;
    while first.assignment()?.count() == 0 {
        first.poll(Duration::from_millis(50));
        ensure!(Instant::now() < deadline, "the first member has nothing");
    }
    assert_eq!(rebalancing()?, BTreeSet::new());
    let refused = scene
        .commit("group", &[(0, 0)])
        .err()
        .context("offsets of members were changed")?;
    ensure!(refused.to_string().contains("members"), "{refused:#}");

    // The first member gives nothing back as long as it is not polled, and the second waits.
    let second: BaseConsumer = config.create()?;
    second.subscribe(&[&scene.topic])?;
    while rebalancing()? != BTreeSet::from([group.clone()]) {
        second.poll(Duration::from_millis(10));
        ensure!(Instant::now() < deadline, "the group is not seen to rebalance");
    }
    while !rebalancing()?.is_empty() {
        first.poll(Duration::from_millis(10));
        second.poll(Duration::from_millis(10));
        ensure!(Instant::now() < deadline, "the group does not settle");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_unreachable_within_the_deadline() -> Result<()> {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .to_string();
    let cluster = Cluster::connect(std::slice::from_ref(&closed), &[])?;
    let within = Duration::from_secs(2);
    let question = Question {
        group: "group".to_owned(),
        topic: "topic".to_owned(),
    };
    let began = Instant::now();
    let unknown = cluster.read(std::slice::from_ref(&question), within).remove(0);
    ensure!(
        began.elapsed() < within + Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    let unknown = unknown.err().context("nobody is there")?;
    assert_eq!(unknown.reason, UnknownReason::Unreachable);
    ensure!(unknown.message.contains(&closed), "{unknown}");
    let offsets = BTreeMap::from([(0, 0)]);
    let began = Instant::now();
    for refused in [
        cluster.rebalancing(&["group"], within).map(drop),
        cluster.commit_start(&question, &offsets, within),
    ] {
        assert_eq!(
            refused.err().map(|unknown| unknown.reason),
            Some(UnknownReason::Unreachable)
        );
    }
    ensure!(
        began.elapsed() < 2 * within + Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    Ok(())
}
