//! Partitions are reassigned from one worker to another, gracefully or not. The new owner continues at the position of
//! the old one, and a late batch of the old owner has no effect.
#![expect(
    clippy::disallowed_types,
    reason = "edge: reads the source topic, and holds a lock in PostgreSQL"
)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Expected, Generator, Message, Settings};
use e2e::pipeline::{Pipeline, STAGES, Worker, start_services, wait_until};
use e2e::services::Services;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::{AssertSqlSafe, PgConnection};

const PARTITIONS: i32 = 3;
const DEADLINE: Duration = Duration::from_mins(3);
/// Workers that are stopped in the middle of the backlog.
const STOPS: usize = 5;

/// Partition and offset of a record.
type RecordId = (i32, i64);

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_leaves_no_batch_incomplete() -> Result<()> {
    // Each stop must come before the end of the backlog.
    let _exclusive = crate::exclusive().await;
    let services = start_services().await?;
    let (generator, messages) = generate_orders(1000);
    let expected = run_undisturbed(&services, "stop_none", &generator, &messages).await?;
    let pipeline = create_pipeline(&services, "stop_five", &generator).await?;
    pipeline.produce(1, messages.iter().cloned()).await?;
    let records = read_source_records(&services, &pipeline)?;
    let total = i64::try_from(records.len())?;

    for stop in 0..STOPS {
        let before = processed_by_stage(&pipeline).await?;
        let worker = pipeline.start_worker(&[])?;
        wait_until("every stage makes progress", DEADLINE, || async {
            let now = processed_by_stage(&pipeline).await?;
            Ok(std::iter::zip(now, before).all(|(now, before)| now > before))
        })
        .await?;
        let status = worker.stop().await?;
        ensure!(status.code() == Some(0), "{status}");
        let after = processed_records(&pipeline, "stg").await?;
        ensure!(
            after < total,
            "stop {stop} was not in the middle: {after} of {total}"
        );
        assert_stored_up_to_positions(&pipeline, &records, &messages).await?;
        for stage in STAGES {
            let committed = pipeline.committed_offsets(stage)?;
            assert_eq!(
                committed,
                pipeline.positions(stage).await?,
                "{stage}, stop {stop}"
            );
        }
    }
    let _worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    assert_eq!(pipeline.row_digests().await?, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_kafka_rejects_during_a_rebalance_are_committed_after_it() -> Result<()> {
    let services = start_services().await?;
    let (generator, messages) = generate_orders(1000);
    let pipeline = create_pipeline(&services, "recommitted", &generator).await?;
    let total = i64::try_from(messages.len())?;
    pipeline.produce(1, messages.into_iter()).await?;
    // Workers join and leave until the backlog is processed, so that no later batch causes another commit. Each waits for
    // the group of the backlog: a worker that is stopped while it joins delays its group, and no group would ever settle.
    let assigned = format!("partitions assigned\",\"topic\":\"{}\"", pipeline.source_topic());
    let mut workers = vec![pipeline.start_worker(&[])?];
    while processed_records(&pipeline, "stg").await? < total {
        let joining = pipeline.start_worker(&[])?;
        joining.wait_for_log(&assigned).await?;
        workers.push(joining);
        if workers.len() > 2 {
            workers.remove(0).stop().await?;
        }
    }
    pipeline.wait_drained(DEADLINE).await?;
    for stage in STAGES {
        let description = format!("the positions of {stage} are committed to Kafka");
        wait_until(&description, DEADLINE, || async {
            Ok(pipeline.committed_offsets(stage)? == pipeline.positions(stage).await?)
        })
        .await?;
    }
    let rejected = workers
        .iter()
        .map(|worker| worker.log().matches("COMMITFAIL").count());
    eprintln!("handover: {} commits rejected", rejected.sum::<usize>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_while_it_joins_the_group_exits() -> Result<()> {
    let services = start_services().await?;
    let (generator, _) = generate_orders(1);
    let pipeline = create_pipeline(&services, "stops_early", &generator).await?;
    let _member = pipeline.start_worker(&[])?;
    for moment in ["stage started", "serving /livez", "partitions assigned"].repeat(3) {
        let worker = pipeline.start_worker(&[])?;
        worker.wait_for_log(moment).await?;
        let status = worker.stop().await?;
        ensure!(status.code() == Some(0), "stopped at {moment:?}: {status}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_resumes_after_its_partitions_were_reassigned_changes_nothing() -> Result<()> {
    let services = start_services().await?;
    let (generator, messages) = generate_orders(500);
    let expected = run_undisturbed(&services, "resumes_none", &generator, &messages).await?;
    let pipeline = create_pipeline(&services, "resumes_late", &generator).await?;
    let _downstream = pipeline.start_worker(&["dds", "cdm"])?;
    // It is halted before its position check.
    let halted = HaltedWorker::at_lock(
        &pipeline,
        "SELECT FROM streamstage.position FOR UPDATE",
        &messages,
    )
    .await?;
    let new_owner = pipeline.start_worker(&["stg"])?;
    new_owner.wait_for_log("partitions assigned").await?;
    wait_until("the server ends the halted session", DEADLINE, || async {
        Ok(!halted.is_waiting(&pipeline).await?)
    })
    .await?;
    halted.lock.rollback().await?;
    pipeline.wait_drained(DEADLINE).await?;

    let before = (
        pipeline.end_offsets(pipeline.stg_topic())?,
        pipeline.positions("stg").await?,
    );
    assert_eq!(pipeline.row_digests().await?, expected);
    halted.worker.signal("CONT")?;
    // Its partitions are revoked when its in-flight batches are finished.
    wait_until("its batches are finished", DEADLINE, || async {
        Ok(halted.worker.log().contains("partitions revoked"))
    })
    .await?;
    let checks = [
        metric_sum(&halted.worker, "streamstage_worker_batches_total").await? > 0,
        metric_sum(&halted.worker, "streamstage_worker_batch_retries_total").await? > 0,
        metric_sum(&halted.worker, "streamstage_worker_records_total").await? == 0,
    ];
    assert_eq!(
        checks, [true; 3],
        "it had a batch, retried it, and applied no record of it"
    );
    let after = (
        pipeline.end_offsets(pipeline.stg_topic())?,
        pipeline.positions("stg").await?,
    );
    assert_eq!(
        after, before,
        "the late batch produced records or changed a position"
    );
    pipeline.wait_drained(DEADLINE).await?;
    assert_eq!(pipeline.row_digests().await?, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_owner_skips_a_batch_that_commits_late() -> Result<()> {
    let services = start_services().await?;
    let (generator, messages) = generate_orders(500);
    let expected = run_undisturbed(&services, "commits_none", &generator, &messages).await?;
    let pipeline = create_pipeline(&services, "commits_late", &generator).await?;
    let _downstream = pipeline.start_worker(&["dds", "cdm"])?;
    // It is halted in its transaction, with the positions locked.
    let halted = HaltedWorker::at_lock(
        &pipeline,
        "LOCK TABLE stg.order_events IN EXCLUSIVE MODE",
        &messages,
    )
    .await?;
    halted.lock.rollback().await?;
    let new_owner = pipeline.start_worker(&["stg"])?;
    new_owner.wait_for_log("partitions assigned").await?;
    let new_owner_sessions = format!("{WAITING_SESSIONS} AND pid <> {}", halted.session);
    wait_until("the new owner waits for the positions", DEADLINE, || async {
        Ok(pipeline.query_scalar::<i64>(&new_owner_sessions).await? > 0)
    })
    .await?;
    let positions = pipeline.positions("stg").await?;
    ensure!(
        positions.values().any(|next| *next == 0),
        "its partition made progress: {positions:?}"
    );

    halted.worker.signal("CONT")?;
    pipeline.wait_drained(DEADLINE).await?;
    assert_eq!(pipeline.row_digests().await?, expected);
    let stored = "streamstage_worker_records_total{stage=\"stg\",outcome=\"stored\"}";
    ensure!(
        metric_sum(&halted.worker, stored).await? > 0,
        "the late batch did not commit"
    );
    Ok(())
}

/// Counts the sessions of the stage `stg` that wait for a lock.
const WAITING_SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
    AND application_name = 'streamstage stg' AND wait_event_type = 'Lock'";

/// A worker of `stg` that was halted (SIGSTOP) while its first batch waited for a lock.
struct HaltedWorker {
    worker: Worker,
    /// Transaction with the lock.
    lock: sqlx::Transaction<'static, sqlx::Postgres>,
    /// Backend process id of the worker's session.
    session: i32,
}

impl HaltedWorker {
    async fn at_lock(pipeline: &Pipeline, lock_statement: &str, messages: &[Message]) -> Result<Self> {
        let worker = pipeline.start_worker(&["stg"])?;
        worker.wait_for_log("partitions assigned").await?;
        let mut lock = pipeline.pool().begin().await?;
        execute(&mut lock, lock_statement).await?;
        pipeline.produce(1, messages.iter().cloned()).await?;
        wait_until("the worker waits for the lock", DEADLINE, || async {
            Ok(pipeline.query_scalar::<i64>(WAITING_SESSIONS).await? > 0)
        })
        .await?;
        worker.signal("STOP")?;
        let query = WAITING_SESSIONS.replace("count(*)", "pid");
        let session = pipeline.query_scalar(&query).await?;
        Ok(Self {
            worker,
            lock,
            session,
        })
    }

    async fn is_waiting(&self, pipeline: &Pipeline) -> Result<bool> {
        let sessions: i64 = pipeline
            .query_scalar(&format!("{WAITING_SESSIONS} AND pid = {}", self.session))
            .await?;
        Ok(sessions > 0)
    }
}

async fn execute(connection: &mut PgConnection, statement: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(connection)
        .await?;
    Ok(())
}

fn generate_orders(count: usize) -> (Generator, Vec<Message>) {
    let mut generator = Generator::new(&Settings {
        seed: 9,
        bad: 0.02,
        ..Settings::default()
    });
    let messages = generator.history(count).collect();
    (generator, messages)
}

/// Creates a pipeline with small batches, so that a batch is always in flight.
async fn create_pipeline(services: &Services, name: &str, generator: &Generator) -> Result<Pipeline> {
    let mut pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.set_batch_settings("{maxRecords: 20, maxWait: 100ms}")?;
    pipeline.load_reference_data(generator, 0).await?;
    Ok(pipeline)
}

/// Row digests of a run without interruptions.
async fn run_undisturbed(
    services: &Services,
    name: &str,
    generator: &Generator,
    messages: &[Message],
) -> Result<BTreeMap<String, String>> {
    let pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.load_reference_data(generator, 0).await?;
    pipeline.produce(1, messages.iter().cloned()).await?;
    let _worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    pipeline.row_digests().await
}

/// Number of records that a stage has processed: the sum of its positions.
async fn processed_records(pipeline: &Pipeline, stage: &str) -> Result<i64> {
    Ok(pipeline.positions(stage).await?.values().sum())
}

/// As [`processed_records`], for every stage.
async fn processed_by_stage(pipeline: &Pipeline) -> Result<[i64; 3]> {
    let [stg, dds, cdm] = STAGES;
    Ok([
        processed_records(pipeline, stg).await?,
        processed_records(pipeline, dds).await?,
        processed_records(pipeline, cdm).await?,
    ])
}

/// Sum of a worker's metrics whose name and labels start with `prefix`.
async fn metric_sum(worker: &Worker, prefix: &str) -> Result<u64> {
    let (_, metrics) = worker.http_get("/metrics").await?;
    let values = metrics.lines().filter(|line| line.starts_with(prefix));
    values
        .map(|line| Ok(line.rsplit(' ').next().context("no value")?.parse::<u64>()?))
        .sum()
}

/// Each valid record before the positions is stored once, each malformed one is a dead letter, and no later record has
/// any effect.
async fn assert_stored_up_to_positions(
    pipeline: &Pipeline,
    records: &HashMap<RecordId, Option<Vec<u8>>>,
    messages: &[Message],
) -> Result<()> {
    let positions = pipeline.positions("stg").await?;
    let good: HashSet<&Option<Vec<u8>>> = messages
        .iter()
        .filter(|message| message.expected == Expected::Good)
        .map(|message| &message.value)
        .collect();
    let processed = records
        .iter()
        .filter(|((partition, offset), _)| positions.get(partition).is_some_and(|next| offset < next));
    let (valid, malformed): (Vec<_>, Vec<_>) = processed
        .map(|(_, value)| value)
        .partition(|value| good.contains(value));
    let distinct: HashSet<_> = valid.into_iter().collect();
    let stored: i64 = pipeline
        .query_scalar(
            "SELECT (SELECT count(*) FROM stg.order_events) + (SELECT count(*) FROM stg.order_event_history)",
        )
        .await?;
    let dead_letters: i64 = pipeline
        .query_scalar("SELECT count(*) FROM streamstage.dead_letter")
        .await?;
    assert_eq!(
        (stored, dead_letters),
        (distinct.len().try_into()?, malformed.len().try_into()?),
        "{positions:?}"
    );
    Ok(())
}

/// Reads every record of the source topic.
fn read_source_records(
    services: &Services,
    pipeline: &Pipeline,
) -> Result<HashMap<RecordId, Option<Vec<u8>>>> {
    let topic = pipeline.source_topic();
    let end_offsets = pipeline.end_offsets(topic)?;
    let consumer = create_consumer(services, "handover-test")?;
    let mut all = TopicPartitionList::new();
    for &partition in end_offsets.keys() {
        all.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let mut records = HashMap::new();
    while records.len() < usize::try_from(end_offsets.values().sum::<i64>())? {
        let message = consumer
            .poll(DEADLINE)
            .context("a record of the source topic is missing")??;
        let value = message.payload().map(<[u8]>::to_vec);
        records.insert((message.partition(), message.offset()), value);
    }
    Ok(records)
}

fn create_consumer(services: &Services, group: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", services.bootstrap_servers())
        .set("group.id", group)
        .set("enable.auto.commit", "false");
    Ok(config.create()?)
}
