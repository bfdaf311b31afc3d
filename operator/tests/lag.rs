#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: imitates brokers, and waits until a deadline"
)]
//! What is read of groups and topics, on three imitated brokers: for what a real broker cannot be made to do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crds::stage::StartFrom;
use operator::kafka::Cluster;
use operator::lag::{PartitionReading, Question, Reading, Unknown, UnknownReason};
use rdkafka::ClientConfig;
use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

const WITHIN: Duration = Duration::from_secs(8);
const PARTITIONS: u32 = 4;

struct Brokers(MockCluster<'static, DefaultProducerContext>);

impl Brokers {
    /// Three brokers, with topics of four partitions that are led by brokers 1, 2, 3 and 1, of 10 records each.
    fn start(topics: &[&str]) -> Self {
        let brokers = Self(MockCluster::new(3).expect("brokers"));
        for topic in topics {
            brokers
                .0
                .create_topic(topic, PARTITIONS.cast_signed(), 1)
                .expect("a topic");
            for (partition, leader) in (0..).zip([1, 2, 3, 1]) {
                brokers
                    .0
                    .partition_leader(topic, partition, Some(leader))
                    .expect("a leader");
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
            .expect("a producer");
        for partition in 0..PARTITIONS.cast_signed() {
            for _ in 0..10 {
                let record = BaseRecord::<(), str>::to(topic)
                    .partition(partition)
                    .payload("record");
                producer.send(record).map_err(|(error, _)| error).expect("queued");
            }
        }
        producer.flush(WITHIN).expect("delivered");
    }

    fn cluster(&self) -> Cluster {
        Cluster::connect(&[self.0.bootstrap_servers()], &[]).expect("a client")
    }
}

fn questions(pairs: &[(&str, &str)]) -> Vec<Question> {
    let question = |(group, topic): &(&str, &str)| Question {
        group: (*group).to_owned(),
        topic: (*topic).to_owned(),
    };
    pairs.iter().map(question).collect()
}

/// A reading of four partitions of 10 records.
fn reading(committed: [Option<u64>; 4]) -> Reading {
    let partitions = (0..)
        .zip(committed)
        .map(|(partition, committed)| PartitionReading {
            partition,
            start: if committed == Some(10) { 10 } else { 0 },
            end: 10,
            committed,
        });
    Reading {
        partitions: partitions.collect(),
    }
}

fn commit(cluster: &Cluster, question: &Question, offsets: &[(u32, u64)]) {
    let offsets: BTreeMap<u32, u64> = offsets.iter().copied().collect();
    cluster
        .commit_start(question, &offsets, WITHIN)
        .expect("committed");
}

fn reason(answer: &Result<Reading, Unknown>) -> Option<UnknownReason> {
    answer.as_ref().err().map(|unknown| unknown.reason)
}

#[test]
fn one_read_answers_every_group_on_every_topic_in_order() {
    let brokers = Brokers::start(&["orders", "facts"]);
    let cluster = brokers.cluster();
    let asked = questions(&[
        ("a", "orders"),
        ("b", "orders"),
        ("a", "facts"),
        ("c", "facts"),
        ("a", "orders"),
    ]);
    commit(&cluster, &asked[0], &[(0, 3), (1, 10), (2, 0), (3, 7)]);
    commit(&cluster, &asked[2], &[(2, 5)]);
    commit(&cluster, &asked[3], &[(0, 10), (1, 10), (2, 10), (3, 10)]);
    let answers = cluster.read(&asked, WITHIN);
    let a_orders = reading([Some(3), Some(10), Some(0), Some(7)]);
    let expected = [
        a_orders.clone(),
        reading([None; 4]),
        reading([None, None, Some(5), None]),
        reading([Some(10); 4]),
        a_orders,
    ];
    assert_eq!(answers, expected.map(Ok));
    assert_eq!(cluster.read(&[], WITHIN), []);
}

#[test]
fn each_broker_is_asked_once_for_the_ends_and_once_for_the_starts_of_all_groups() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_NO_ERROR as ANSWERED, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as REFUSED,
    };
    // More than are asked about at a time.
    const GROUPS: usize = 2500;
    const TOPICS: usize = 30;
    const PARTITIONS: i32 = 60;
    let brokers = Brokers::start(&[]);
    for topic in 0..TOPICS {
        let name = format!("orders-{topic}");
        brokers.0.create_topic(&name, PARTITIONS, 1).expect("a topic");
    }
    let asked: Vec<Question> = (0..GROUPS)
        .map(|group| Question {
            group: format!("group-{group}"),
            topic: format!("orders-{}", group % TOPICS),
        })
        .collect();
    let cluster = brokers.cluster();
    let answered = || {
        cluster
            .read(&asked, WITHIN)
            .iter()
            .filter(|answer| answer.is_ok())
            .count()
    };
    // Each request takes one of these: three brokers are done with the first six, and the next read meets the others.
    let mut answers = vec![ANSWERED; 6];
    answers.extend([REFUSED; 3]);
    brokers.0.request_errors(RDKafkaApiKey::ListOffsets, &answers);
    assert_eq!([answered(), answered(), answered()], [GROUPS, 0, GROUPS]);
}

#[test]
fn an_unknown_topic_leaves_the_others_known() {
    let brokers = Brokers::start(&["orders"]);
    let cluster = brokers.cluster();
    // The group is the same, so a topic that is not there must not spoil its request.
    let answers = cluster.read(&questions(&[("a", "none"), ("a", "orders")]), WITHIN);
    let unknown = answers[0].as_ref().expect_err("there is no such topic");
    assert_eq!(unknown.reason, UnknownReason::UnknownTopic);
    assert!(unknown.message.contains("topic none"), "{unknown}");
    assert_eq!(answers[1], Ok(reading([None; 4])));
}

#[test]
fn a_broker_that_is_down_makes_its_partitions_and_groups_unknown_and_no_others() {
    let brokers = Brokers::start(&["orders", "facts"]);
    // All of these partitions are led by brokers that stay up.
    for partition in 0..PARTITIONS.cast_signed() {
        brokers
            .0
            .partition_leader("facts", partition, Some(1))
            .expect("a leader");
    }
    for (group, broker) in [("up", 2), ("down", 3)] {
        let coordinator = MockCoordinator::Group(group.to_owned());
        brokers.0.coordinator(coordinator, broker).expect("a coordinator");
    }
    let cluster = brokers.cluster();
    let asked = questions(&[("up", "facts"), ("down", "facts"), ("up", "orders")]);
    let all_up = cluster.read(&asked, WITHIN);
    assert!(all_up.iter().all(Result::is_ok), "{all_up:?}");

    brokers.0.broker_down(3).expect("down");
    let deadline = Instant::now() + Duration::from_secs(30);
    let answers = loop {
        let began = Instant::now();
        let answers = cluster.read(&asked, WITHIN);
        let took = began.elapsed();
        assert!(took < WITHIN + Duration::from_secs(2), "{took:?}");
        assert!(answers[1].is_err() && answers[2].is_err(), "{answers:?}");
        // The first request may still go to the broker that has just gone: then nothing is known.
        if answers[0].is_ok() || Instant::now() > deadline {
            break answers;
        }
    };
    assert_eq!(answers[0], Ok(reading([None; 4])));
    assert_eq!(reason(&answers[1]), Some(UnknownReason::Partial), "{answers:?}");
    assert_eq!(reason(&answers[2]), Some(UnknownReason::Partial), "{answers:?}");
    let unknown = answers[2].as_ref().expect_err("one broker is down").to_string();
    assert!(unknown.contains("orders"), "{unknown}");

    brokers.0.broker_up(3).expect("up");
    let deadline = Instant::now() + Duration::from_secs(30);
    while cluster.read(&asked, WITHIN).iter().any(Result::is_err) {
        assert!(Instant::now() < deadline, "the broker is back and is not read");
    }
}

#[test]
fn no_broker_is_unreachable_within_the_deadline() {
    let brokers = Brokers::start(&["orders"]);
    let cluster = brokers.cluster();
    brokers.0.broker_down(-1).expect("down");
    let asked = questions(&[("a", "orders")]);
    let within = Duration::from_secs(2);
    let began = Instant::now();
    let answers = cluster.read(&asked, within);
    assert!(
        began.elapsed() < within + Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    let unknown = answers[0].as_ref().expect_err("no broker");
    assert_eq!(unknown.reason, UnknownReason::Unreachable);
    assert!(
        unknown.message.contains(&brokers.0.bootstrap_servers()),
        "{unknown}"
    );
}

#[test]
fn a_slow_broker_is_waited_for_until_the_deadline_and_no_longer() {
    let brokers = Brokers::start(&["orders"]);
    let cluster = brokers.cluster();
    let asked = questions(&[("a", "orders")]);
    assert!(cluster.read(&asked, WITHIN)[0].is_ok());
    brokers
        .0
        .broker_round_trip_time(-1, Duration::from_secs(20))
        .expect("slow");
    let within = Duration::from_secs(1);
    let began = Instant::now();
    let answers = cluster.read(&asked, within);
    assert!(
        began.elapsed() < within + Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        reason(&answers[0]),
        Some(UnknownReason::Unreachable),
        "{answers:?}"
    );
}

#[test]
fn a_partition_without_a_leader_makes_its_topic_unknown_at_once() {
    let brokers = Brokers::start(&["orders", "facts"]);
    brokers.0.partition_leader("orders", 2, None).expect("no leader");
    let began = Instant::now();
    let answers = brokers
        .cluster()
        .read(&questions(&[("a", "orders"), ("a", "facts")]), WITHIN);
    assert!(began.elapsed() < WITHIN / 2, "{:?}", began.elapsed());
    let unknown = answers[0].as_ref().expect_err("no leader");
    assert_eq!(unknown.reason, UnknownReason::Partial);
    assert!(unknown.message.contains("partition 2"), "{unknown}");
    assert_eq!(answers[1], Ok(reading([None; 4])));
}

#[test]
fn a_missing_right_is_named() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED as NO_GROUP,
        RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as NO_TOPIC,
    };
    let brokers = Brokers::start(&["orders"]);
    let cluster = brokers.cluster();
    let asked = questions(&[("a", "orders")]);
    brokers.0.request_errors(RDKafkaApiKey::OffsetFetch, &[NO_GROUP]);
    let unknown = cluster.read(&asked, WITHIN).remove(0).expect_err("forbidden");
    assert_eq!(unknown.reason, UnknownReason::Forbidden);
    assert!(unknown.message.contains("Describe on the group"), "{unknown}");

    brokers
        .0
        .request_errors(RDKafkaApiKey::ListOffsets, &[NO_TOPIC; 3]);
    let unknown = cluster.read(&asked, WITHIN).remove(0).expect_err("forbidden");
    assert_eq!(unknown.reason, UnknownReason::Forbidden);
    assert!(unknown.message.contains("Describe on the topic"), "{unknown}");
    brokers.0.clear_request_errors(RDKafkaApiKey::ListOffsets);
    assert!(cluster.read(&asked, WITHIN)[0].is_ok());
}

#[test]
fn a_group_that_moves_to_another_broker_is_read_there() {
    use RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR as MOVED;
    let brokers = Brokers::start(&["orders"]);
    for partition in 0..PARTITIONS.cast_signed() {
        let led = brokers.0.partition_leader("orders", partition, Some(2));
        led.expect("a leader");
    }
    let cluster = brokers.cluster();
    let asked = questions(&[("a", "orders")]);
    let coordinate = |broker| {
        let coordinator = MockCoordinator::Group("a".to_owned());
        brokers.0.coordinator(coordinator, broker).expect("a coordinator");
    };
    coordinate(1);
    assert!(cluster.read(&asked, WITHIN)[0].is_ok());

    coordinate(2);
    brokers.0.request_errors(RDKafkaApiKey::OffsetFetch, &[MOVED]);
    let moved = cluster.read(&asked, WITHIN).remove(0);
    assert_eq!(reason(&moved), Some(UnknownReason::Partial), "{moved:?}");
    brokers.0.broker_down(1).expect("down");
    let again = cluster.read(&asked, WITHIN).remove(0);
    assert!(again.is_ok(), "{again:?}");
}

#[test]
fn an_answer_that_nobody_waits_for_does_no_harm() {
    let brokers = Brokers::start(&[]);
    brokers.0.create_topic("wide", 400, 1).expect("a topic");
    let cluster = brokers.cluster();
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for round in 0..1000 {
                    let within = Duration::from_micros(round % 80 * 250);
                    drop(cluster.offsets_at("wide", StartFrom::Latest, within));
                }
            });
        }
    });
    let after = cluster.offsets_at("wide", StartFrom::Latest, WITHIN);
    assert!(after.is_ok(), "{after:?}");
}
