//! One read of the lag of 1,000 groups, against a client for each group that asks for watermarks by partition.
//!
//! `cargo run --release -p streamstage-operator --example lag_poll` imitates three brokers in its own process, so that
//! both sides have the same ones. The client per group is measured for 20 groups and scaled. It fails when the ratio
//! for all is below 30, when threads come with the groups, or when a read of all takes longer than the default interval.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement: makes clients, reads the clock and prints"
)]

use std::time::{Duration, Instant};

use operator::kafka::Cluster;
use operator::lag::Question;
use rdkafka::ClientConfig;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;

const GROUPS: u32 = 1000;
const TOPICS: u32 = 100;
const PARTITIONS: i32 = 12;
/// Groups that have a client of their own.
const SAMPLE: u32 = 20;
const ROUNDS: u32 = 5;
const WITHIN: Duration = Duration::from_secs(30);

/// Ratio that is to be reached.
const RATIO: f64 = 30.0;
/// Default of `scaling.pollInterval`.
const INTERVAL: Duration = Duration::from_secs(5);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let brokers = MockCluster::new(3)?;
    for number in 0..TOPICS {
        brokers.create_topic(&topic(number), PARTITIONS, 1)?;
    }
    let questions = |count: u32| {
        (0..count).map(|number| Question {
            group: format!("group-{number}"),
            topic: topic(number),
        })
    };
    let all: Vec<Question> = questions(GROUPS).collect();
    let sample: Vec<Question> = questions(SAMPLE).collect();

    let cluster = Cluster::connect(&[brokers.bootstrap_servers()], &[])?;
    read(&cluster, &all)?;
    let before = threads()?;
    let (mut few, mut many) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        few += read(&cluster, &sample)?;
        many += read(&cluster, &all)?;
    }
    let (few, many) = (few / ROUNDS, many / ROUNDS);
    let after = threads()?;

    let clients = (0..SAMPLE).map(|number| client(&brokers.bootstrap_servers(), number));
    let clients = clients.collect::<Result<Vec<_>, _>>()?;
    watermarks(&clients)?;
    let peer = watermarks(&clients)?;
    let peer_threads = (threads()? - after) / clients.len();

    let scaled = peer.as_secs_f64() * f64::from(GROUPS) / f64::from(SAMPLE);
    println!(
        "one client       {SAMPLE:>5} groups {:>9.1} ms",
        milliseconds(few)
    );
    println!(
        "one client       {GROUPS:>5} groups {:>9.1} ms",
        milliseconds(many)
    );
    println!(
        "client per group {SAMPLE:>5} groups {:>9.1} ms",
        milliseconds(peer)
    );
    println!(
        "client per group {GROUPS:>5} groups {:>9.1} ms, scaled",
        scaled * 1e3
    );
    println!(
        "ratio            {SAMPLE:>5} groups {:>9.1}",
        peer.div_duration_f64(few)
    );
    let ratio = scaled / many.as_secs_f64();
    println!("ratio            {GROUPS:>5} groups {ratio:>9.1}");
    println!("threads: {before} before and {after} after; {peer_threads} for each client of a group");
    if ratio < RATIO {
        return Err(format!("a ratio of {ratio:.1} for {GROUPS} groups: {RATIO} are to be reached").into());
    }
    if after > before || many > INTERVAL {
        return Err("threads come with the groups, or one interval is too short for a read".into());
    }
    Ok(())
}

fn topic(number: u32) -> String {
    format!("topic-{}", number % TOPICS)
}

/// How long one read of all of them takes.
fn read(cluster: &Cluster, questions: &[Question]) -> Result<Duration, Failure> {
    let began = Instant::now();
    for answer in cluster.read(questions, WITHIN) {
        answer?;
    }
    Ok(began.elapsed())
}

/// A client as an operator has that makes one for each group.
fn client(servers: &str, number: u32) -> Result<BaseConsumer, Failure> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("group.id", format!("group-{number}"));
    Ok(config.create()?)
}

/// How long these clients take to read their groups, one after the other.
fn watermarks(clients: &[BaseConsumer]) -> Result<Duration, Failure> {
    let began = Instant::now();
    for (number, client) in (0..).zip(clients) {
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_range(&topic(number), 0, PARTITIONS - 1);
        client.committed_offsets(partitions, WITHIN)?;
        for partition in 0..PARTITIONS {
            client.fetch_watermarks(&topic(number), partition, WITHIN)?;
        }
    }
    Ok(began.elapsed())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Threads of this process, those of the imitated brokers with them.
fn threads() -> Result<usize, Failure> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}
