//! Partitions that go from one worker to another, in good order and not: what the first one leaves, the next one
//! takes up, and what the first one does late changes nothing.
#![expect(
    clippy::disallowed_types,
    reason = "edge: reads the source topic, and holds a lock in PostgreSQL"
)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Expected, Generator, Message, Settings};
use e2e::pipeline::{Pipeline, STAGES, Worker, services, until};
use e2e::services::Services;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::{AssertSqlSafe, PgConnection};

const PARTITIONS: i32 = 3;
const WITHIN: Duration = Duration::from_mins(3);
/// Workers that are told to stop in the middle of the backlog.
const STOPS: usize = 5;

/// A record's partition and offset.
type Place = (i32, i64);

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_leaves_nothing_half_done() -> Result<()> {
    let services = services().await?;
    let (generator, messages) = orders(1000);
    let expected = undisturbed(&services, "stop_none", &generator, &messages).await?;
    let pipeline = pipeline(&services, "stop_five", &generator).await?;
    pipeline.produce(1, messages.iter().cloned()).await?;
    let records = records(&services, &pipeline)?;
    let total = i64::try_from(records.len())?;

    for stop in 0..STOPS {
        let before = reached_by_all(&pipeline).await?;
        let worker = pipeline.worker(&[])?;
        until("every stage moves", WITHIN, || async {
            let now = reached_by_all(&pipeline).await?;
            Ok(std::iter::zip(now, before).all(|(now, before)| now > before))
        })
        .await?;
        let status = worker.stop().await?;
        ensure!(status.code() == Some(0), "{status}");
        let after = reached(&pipeline, "stg").await?;
        ensure!(
            after < total,
            "stop {stop} was not in the middle: {after} of {total}"
        );
        stored_is_what_the_positions_say(&pipeline, &records, &messages).await?;
        for stage in STAGES {
            let mirrored = mirrored(&services, &pipeline, stage)?;
            assert_eq!(mirrored, pipeline.positions(stage).await?, "{stage}, stop {stop}");
        }
    }
    let _worker = pipeline.worker(&[])?;
    pipeline.drained(WITHIN).await?;
    assert_eq!(pipeline.rows().await?, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_a_rebalance_refuses_are_committed_after_it() -> Result<()> {
    let services = services().await?;
    let (generator, messages) = orders(1000);
    let pipeline = pipeline(&services, "mirrored", &generator).await?;
    let total = i64::try_from(messages.len())?;
    pipeline.produce(1, messages.into_iter()).await?;
    // One comes or goes all the time, until nothing is left that would bring the next commit.
    let mut workers = vec![pipeline.worker(&[])?];
    while reached(&pipeline, "stg").await? < total {
        let joining = pipeline.worker(&[])?;
        joining.logged("partitions assigned").await?;
        workers.push(joining);
        if workers.len() > 2 {
            workers.remove(0).stop().await?;
        }
    }
    pipeline.drained(WITHIN).await?;
    for stage in STAGES {
        until(&format!("{stage} is mirrored"), WITHIN, || async {
            Ok(mirrored(&services, &pipeline, stage)? == pipeline.positions(stage).await?)
        })
        .await?;
    }
    let refused = workers
        .iter()
        .map(|worker| worker.log().matches("COMMITFAIL").count());
    eprintln!("handover: {} commits refused", refused.sum::<usize>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_while_it_joins_ends() -> Result<()> {
    let services = services().await?;
    let (generator, _) = orders(1);
    let pipeline = pipeline(&services, "stops_early", &generator).await?;
    let _member = pipeline.worker(&[])?;
    for moment in ["stage starts", "serving /livez", "partitions assigned"].repeat(3) {
        let worker = pipeline.worker(&[])?;
        worker.logged(moment).await?;
        let status = worker.stop().await?;
        ensure!(status.code() == Some(0), "stopped at {moment:?}: {status}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_up_after_its_partitions_were_given_away_changes_nothing() -> Result<()> {
    let services = services().await?;
    let (generator, messages) = orders(500);
    let expected = undisturbed(&services, "wakes_none", &generator, &messages).await?;
    let pipeline = pipeline(&services, "wakes_late", &generator).await?;
    let _downstream = pipeline.worker(&["dds", "cdm"])?;
    // It falls asleep before it knows that the positions are those of its batch.
    let asleep = Asleep::at(
        &pipeline,
        "SELECT FROM streamstage.position FOR UPDATE",
        &messages,
    )
    .await?;
    let heir = pipeline.worker(&["stg"])?;
    heir.logged("partitions assigned").await?;
    until("the server gives up waiting for a lock", WITHIN, || async {
        Ok(!asleep.waits(&pipeline).await?)
    })
    .await?;
    asleep.lock.rollback().await?;
    pipeline.drained(WITHIN).await?;

    let stood = (
        pipeline.ends(pipeline.stg_topic())?,
        pipeline.positions("stg").await?,
    );
    assert_eq!(pipeline.rows().await?, expected);
    asleep.worker.signal("CONT")?;
    // It gives its partitions up once the batches that it has in hand are settled.
    until("its batches are settled", WITHIN, || async {
        Ok(asleep.worker.log().contains("partitions revoked"))
    })
    .await?;
    let figures = [
        figure(&asleep.worker, "streamstage_batches_total").await? > 0,
        figure(&asleep.worker, "streamstage_retries_total").await? > 0,
        figure(&asleep.worker, "streamstage_records_total").await? == 0,
    ];
    assert_eq!(
        figures, [true; 3],
        "it had a batch, tried it again, and applied nothing of it"
    );
    let stands = (
        pipeline.ends(pipeline.stg_topic())?,
        pipeline.positions("stg").await?,
    );
    assert_eq!(stands, stood, "published or moved by the late batch");
    pipeline.drained(WITHIN).await?;
    assert_eq!(pipeline.rows().await?, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_commits_late_is_skipped_by_the_next_owner() -> Result<()> {
    let services = services().await?;
    let (generator, messages) = orders(500);
    let expected = undisturbed(&services, "commits_none", &generator, &messages).await?;
    let pipeline = pipeline(&services, "commits_late", &generator).await?;
    let _downstream = pipeline.worker(&["dds", "cdm"])?;
    // It falls asleep in its transaction, with the positions locked.
    let asleep = Asleep::at(
        &pipeline,
        "LOCK TABLE stg.order_events IN EXCLUSIVE MODE",
        &messages,
    )
    .await?;
    asleep.lock.rollback().await?;
    let heir = pipeline.worker(&["stg"])?;
    heir.logged("partitions assigned").await?;
    let heir_waits = format!("{WAITING} AND pid <> {}", asleep.session);
    until("the next owner waits for the positions", WITHIN, || async {
        Ok(pipeline.query::<i64>(&heir_waits).await? > 0)
    })
    .await?;
    let positions = pipeline.positions("stg").await?;
    ensure!(
        positions.values().any(|next| *next == 0),
        "its partition went on: {positions:?}"
    );

    asleep.worker.signal("CONT")?;
    pipeline.drained(WITHIN).await?;
    assert_eq!(pipeline.rows().await?, expected);
    let stored = "streamstage_records_total{stage=\"stg\",outcome=\"stored\"}";
    ensure!(
        figure(&asleep.worker, stored).await? > 0,
        "the late batch did not commit"
    );
    Ok(())
}

/// Sessions of the stage `stg` that wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
    AND application_name = 'streamstage stg' AND wait_event_type = 'Lock'";

/// A worker of `stg` that was stopped (SIGSTOP) while its first batch waited for a lock.
struct Asleep {
    worker: Worker,
    /// What it waited for.
    lock: sqlx::Transaction<'static, sqlx::Postgres>,
    /// Process id of its session.
    session: i32,
}

impl Asleep {
    async fn at(pipeline: &Pipeline, lock_statement: &str, messages: &[Message]) -> Result<Self> {
        let worker = pipeline.worker(&["stg"])?;
        worker.logged("partitions assigned").await?;
        let mut lock = pipeline.pool().begin().await?;
        execute(&mut lock, lock_statement).await?;
        pipeline.produce(1, messages.iter().cloned()).await?;
        until("the worker waits for the lock", WITHIN, || async {
            Ok(pipeline.query::<i64>(WAITING).await? > 0)
        })
        .await?;
        worker.signal("STOP")?;
        let session = pipeline.query(&WAITING.replace("count(*)", "pid")).await?;
        Ok(Self {
            worker,
            lock,
            session,
        })
    }

    async fn waits(&self, pipeline: &Pipeline) -> Result<bool> {
        let waiting: i64 = pipeline
            .query(&format!("{WAITING} AND pid = {}", self.session))
            .await?;
        Ok(waiting > 0)
    }
}

async fn execute(connection: &mut PgConnection, statement: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(connection)
        .await?;
    Ok(())
}

fn orders(count: usize) -> (Generator, Vec<Message>) {
    let mut generator = Generator::new(&Settings {
        seed: 9,
        bad: 0.02,
        ..Settings::default()
    });
    let messages = generator.history(count).collect();
    (generator, messages)
}

/// A pipeline whose batches are small, so that there is always one under way.
async fn pipeline(services: &Services, name: &str, generator: &Generator) -> Result<Pipeline> {
    let mut pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.set_batches("{maxRecords: 20, maxWait: 100ms}")?;
    pipeline.load_dictionary(generator, 0).await?;
    Ok(pipeline)
}

/// The rows of a run that nothing disturbs.
async fn undisturbed(
    services: &Services,
    name: &str,
    generator: &Generator,
    messages: &[Message],
) -> Result<BTreeMap<String, String>> {
    let pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.load_dictionary(generator, 0).await?;
    pipeline.produce(1, messages.iter().cloned()).await?;
    let _worker = pipeline.worker(&[])?;
    pipeline.drained(WITHIN).await?;
    pipeline.rows().await
}

/// The sum of a stage's positions: records that it has done with.
async fn reached(pipeline: &Pipeline, stage: &str) -> Result<i64> {
    Ok(pipeline.positions(stage).await?.values().sum())
}

/// As [`reached`], of every stage.
async fn reached_by_all(pipeline: &Pipeline) -> Result<[i64; 3]> {
    let [stg, dds, cdm] = STAGES;
    Ok([
        reached(pipeline, stg).await?,
        reached(pipeline, dds).await?,
        reached(pipeline, cdm).await?,
    ])
}

/// The sum of a worker's figures whose name, with its labels, begins so.
async fn figure(worker: &Worker, name: &str) -> Result<u64> {
    let (_, figures) = worker.get("/metrics").await?;
    let values = figures.lines().filter(|line| line.starts_with(name));
    values
        .map(|line| Ok(line.rsplit(' ').next().context("no value")?.parse::<u64>()?))
        .sum()
}

/// Of the records before the positions, each good one is stored once, each bad one is a dead letter; of the others
/// there is nothing.
async fn stored_is_what_the_positions_say(
    pipeline: &Pipeline,
    records: &HashMap<Place, Option<Vec<u8>>>,
    messages: &[Message],
) -> Result<()> {
    let positions = pipeline.positions("stg").await?;
    let good: HashSet<&Option<Vec<u8>>> = messages
        .iter()
        .filter(|message| message.expected == Expected::Good)
        .map(|message| &message.value)
        .collect();
    let done = records
        .iter()
        .filter(|((partition, offset), _)| positions.get(partition).is_some_and(|next| offset < next));
    let (stored, dead): (Vec<_>, Vec<_>) = done
        .map(|(_, value)| value)
        .partition(|value| good.contains(value));
    let distinct: HashSet<_> = stored.into_iter().collect();
    let found: i64 = pipeline
        .query(
            "SELECT (SELECT count(*) FROM stg.order_events) + (SELECT count(*) FROM stg.order_event_history)",
        )
        .await?;
    let letters: i64 = pipeline
        .query("SELECT count(*) FROM streamstage.dead_letter")
        .await?;
    assert_eq!(
        (found, letters),
        (distinct.len().try_into()?, dead.len().try_into()?),
        "{positions:?}"
    );
    Ok(())
}

/// Every record of the source topic.
fn records(services: &Services, pipeline: &Pipeline) -> Result<HashMap<Place, Option<Vec<u8>>>> {
    let (topic, ends) = (pipeline.source_topic(), pipeline.ends(pipeline.source_topic())?);
    let consumer = consumer(services, "handover-test")?;
    let mut all = TopicPartitionList::new();
    for &partition in ends.keys() {
        all.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let mut records = HashMap::new();
    while records.len() < usize::try_from(ends.values().sum::<i64>())? {
        let message = consumer
            .poll(WITHIN)
            .context("the source topic ends too early")??;
        let value = message.payload().map(<[u8]>::to_vec);
        records.insert((message.partition(), message.offset()), value);
    }
    Ok(records)
}

/// What a stage's group has committed to Kafka.
fn mirrored(services: &Services, pipeline: &Pipeline, stage: &str) -> Result<BTreeMap<i32, i64>> {
    let consumer = consumer(services, &format!("{}.{stage}", pipeline.name()))?;
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range(pipeline.topic_of(stage)?, 0, PARTITIONS - 1);
    let committed = consumer.committed_offsets(asked, WITHIN)?;
    let offsets = committed.elements().into_iter().map(|element| {
        let offset = element.offset().to_raw().context("no offset")?;
        Ok((element.partition(), offset))
    });
    offsets.collect()
}

fn consumer(services: &Services, group: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", services.bootstrap_servers())
        .set("group.id", group)
        .set("enable.auto.commit", "false");
    Ok(config.create()?)
}
