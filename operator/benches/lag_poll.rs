//! Benchmark of one lag poll of 1,000 groups, compared with one client per group that fetches watermarks by partition.
//!
//! `cargo bench -p streamstage-operator --bench lag_poll` runs three mock brokers in its own process, for both variants.
//! The variant with one client per group is measured with 20 groups and extrapolated. The benchmark fails if the speedup
//! is below 30, if the number of threads grows with the number of groups, or if a poll takes longer than the default
//! poll interval.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "benchmark: creates clients, reads the clock and prints"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka::Restrictions;
use operator::connection::KafkaConnection;
use operator::kafka::Cluster;
use operator::lag::offsets::GroupTopic;
use rdkafka::ClientConfig;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;

const GROUPS: u32 = 1000;
const TOPICS: u32 = 100;
const PARTITIONS: i32 = 12;
/// Number of groups in the variant with one client per group.
const SAMPLE_GROUPS: u32 = 20;
const ROUNDS: u32 = 5;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Required speedup over one client per group.
const MIN_SPEEDUP: f64 = 30.0;
/// Default of `scaling.pollInterval`.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

type BenchError = Box<dyn std::error::Error>;

fn main() -> Result<(), BenchError> {
    let brokers = MockCluster::new(3)?;
    for number in 0..TOPICS {
        brokers.create_topic(&topic(number), PARTITIONS, 1)?;
    }
    let group_topics = |count: u32| {
        (0..count).map(|number| GroupTopic {
            group: format!("group-{number}"),
            topic: topic(number),
        })
    };
    let all: Vec<GroupTopic> = group_topics(GROUPS).collect();
    let sample: Vec<GroupTopic> = group_topics(SAMPLE_GROUPS).collect();

    let runtime = tokio::runtime::Runtime::new()?;
    let servers = brokers.bootstrap_servers();
    let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
    let connection =
        KafkaConnection::new(&servers, &BTreeMap::new()).map_err(|error| format!("{error:?}"))?;
    let cluster = Cluster::new(&connection, Restrictions::default());
    let measure_poll = |group_topics: &[GroupTopic]| runtime.block_on(measure_poll(&cluster, group_topics));
    measure_poll(&all)?;
    let threads_before = thread_count()?;
    let (mut sample_time, mut all_time) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..ROUNDS {
        sample_time += measure_poll(&sample)?;
        all_time += measure_poll(&all)?;
    }
    let (sample_time, all_time) = (sample_time / ROUNDS, all_time / ROUNDS);
    let threads_after = thread_count()?;

    let clients = (0..SAMPLE_GROUPS).map(|number| group_client(&brokers.bootstrap_servers(), number));
    let clients = clients.collect::<Result<Vec<_>, _>>()?;
    measure_watermarks(&clients)?;
    let peer_time = measure_watermarks(&clients)?;
    let threads_per_client = (thread_count()? - threads_after) / clients.len();

    let extrapolated = peer_time.as_secs_f64() * f64::from(GROUPS) / f64::from(SAMPLE_GROUPS);
    println!(
        "one client       {SAMPLE_GROUPS:>5} groups {:>9.1} ms",
        milliseconds(sample_time)
    );
    println!(
        "one client       {GROUPS:>5} groups {:>9.1} ms",
        milliseconds(all_time)
    );
    println!(
        "client per group {SAMPLE_GROUPS:>5} groups {:>9.1} ms",
        milliseconds(peer_time)
    );
    println!(
        "client per group {GROUPS:>5} groups {:>9.1} ms, extrapolated",
        extrapolated * 1e3
    );
    println!(
        "speedup          {SAMPLE_GROUPS:>5} groups {:>9.1}",
        peer_time.div_duration_f64(sample_time)
    );
    let speedup = extrapolated / all_time.as_secs_f64();
    println!("speedup          {GROUPS:>5} groups {speedup:>9.1}");
    println!(
        "threads: {threads_before} before and {threads_after} after the polls; {threads_per_client} per client of a group"
    );
    if speedup < MIN_SPEEDUP {
        return Err(format!("speedup {speedup:.1} for {GROUPS} groups is below {MIN_SPEEDUP}").into());
    }
    if threads_after > threads_before {
        return Err("the number of threads grows with the number of groups".into());
    }
    if all_time > POLL_INTERVAL {
        return Err(format!("a poll of {GROUPS} groups takes longer than {POLL_INTERVAL:?}").into());
    }
    Ok(())
}

fn topic(number: u32) -> String {
    format!("topic-{}", number % TOPICS)
}

/// Measures one poll of these groups.
async fn measure_poll(cluster: &Cluster, group_topics: &[GroupTopic]) -> Result<Duration, BenchError> {
    let started = Instant::now();
    for result in cluster.fetch_snapshots(group_topics, REQUEST_TIMEOUT).await {
        result?;
    }
    Ok(started.elapsed())
}

/// Creates the client of an operator that has one client per group.
fn group_client(servers: &str, number: u32) -> Result<BaseConsumer, BenchError> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("group.id", format!("group-{number}"));
    Ok(config.create()?)
}

/// Measures the time in which these clients fetch the offsets of their groups, one after the other.
fn measure_watermarks(clients: &[BaseConsumer]) -> Result<Duration, BenchError> {
    let started = Instant::now();
    for (number, client) in (0..).zip(clients) {
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_range(&topic(number), 0, PARTITIONS - 1);
        client.committed_offsets(partitions, REQUEST_TIMEOUT)?;
        for partition in 0..PARTITIONS {
            client.fetch_watermarks(&topic(number), partition, REQUEST_TIMEOUT)?;
        }
    }
    Ok(started.elapsed())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Number of threads of this process, including those of the mock brokers.
fn thread_count() -> Result<usize, BenchError> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}
