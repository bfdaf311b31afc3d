//! Outages of services under load: the workers report them, retry, and recover without a restart. No record is lost, and
//! only malformed ones are dead-lettered.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: writes the messages to a file, and measures time"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::orders::manifest::Manifest;
use e2e::orders::send::{self, Sender};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, STAGES, Worker, wait_until};
use e2e::recount::{read_marts, recount};
use e2e::services::{Options, Service, Services};
use tokio::task::JoinHandle;

/// Deadline until a worker detects an outage or a recovery.
const DETECTION_DEADLINE: Duration = Duration::from_mins(2);
const DRAIN_TIMEOUT: Duration = Duration::from_mins(3);
/// Interval between two messages.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(10);
/// Messages that are sent after an outage was detected, before the service is restarted.
const MESSAGES_DURING_OUTAGE: usize = 100;

/// Cause of an outage.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Graceful shutdown: the service closes its connections.
    Stop,
    /// Crash: connections break, and the service recovers its data at the next start.
    Kill,
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_survive_an_outage_of_any_dependency_without_loss() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    // Own services, because they are stopped.
    let mut services = Services::start(&Options::default()).await?;
    let pipeline = Pipeline::create(&services, "faults", 3).await?;
    // Many users, so that the next order always has one that is in no worker's cache.
    let generator = Generator::new(&Settings {
        seed: 12,
        users: 5000,
        bad: 0.02,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    let [stg, dds, cdm] = STAGES.map(|stage| pipeline.start_worker(&[stage]));
    let workers = [stg?, dds?, cdm?];
    let producer = BackgroundProducer::start(&services, &pipeline, generator).await?;
    wait_all_ready(&workers).await?;

    let [stg, others @ ..] = workers.each_ref();
    let count_messages = |worker: &Worker| {
        let log = worker.log();
        ["dependency unavailable", "dependency recovered"].map(|message| log.matches(message).count())
    };
    let before = others.map(count_messages);
    run_outage(
        &mut services.redis,
        Fault::Stop,
        (&[stg], "reference_data"),
        &producer,
        &workers,
    )
    .await?;
    assert_eq!(
        others.map(count_messages),
        before,
        "dds and cdm report an outage, although they use no reference data"
    );
    for fault in [Fault::Stop, Fault::Kill] {
        run_outage(
            &mut services.postgres,
            fault,
            (&[stg], "warehouse"),
            &producer,
            &workers,
        )
        .await?;
    }
    for fault in [Fault::Stop, Fault::Kill] {
        run_outage(
            &mut services.kafka,
            fault,
            (&workers.each_ref(), "source"),
            &producer,
            &workers,
        )
        .await?;
    }

    let sent = producer.stop().await?;
    pipeline.wait_drained(DRAIN_TIMEOUT).await?;
    assert_nothing_lost(&pipeline, sent).await?;
    start_during_outage(&mut services.postgres, &pipeline).await?;
    start_during_outage(&mut services.kafka, &pipeline).await?;
    for worker in workers {
        ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_a_fatal_error_exits_although_reference_data_is_unavailable() -> Result<()> {
    let mut services = Services::start(&Options::default()).await?;
    let mut pipeline = Pipeline::create(&services, "fatal_error", 1).await?;
    pipeline.set_batch_settings("{maxRecords: 1}")?;
    let mut generator = Generator::new(&Settings {
        seed: 13,
        users: 5000,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    let messages: Vec<Message> = generator.history(20).collect();
    let worker = pipeline.start_worker(&["stg"])?;
    worker.wait_for_log("partitions assigned").await?;
    let mut lock = pipeline.pool().begin().await?;
    sqlx::query("SELECT FROM streamstage.position FOR UPDATE")
        .execute(&mut *lock)
        .await?;
    pipeline.produce(1, messages[..1].iter().cloned()).await?;
    wait_until(
        "the first batch waits for its position",
        DETECTION_DEADLINE,
        || async {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                       AND application_name = 'streamstage stg'";
            Ok(pipeline.query_scalar::<i64>(waiting).await? > 0)
        },
    )
    .await?;
    services.redis.stop().await?;
    pipeline.produce(1, messages[1..].iter().cloned()).await?;
    wait_until(
        "the next batch waits for reference data",
        DETECTION_DEADLINE,
        || async { Ok(worker.http_get("/readyz").await?.1.contains("\"reference_data\"")) },
    )
    .await?;
    sqlx::query("DELETE FROM streamstage.position")
        .execute(&mut *lock)
        .await?;
    lock.commit().await?;
    let (status, log) = worker.wait_exit().await?;
    ensure!(
        !status.success() && log.contains("is missing from streamstage.position"),
        "{status}:\n{log}"
    );
    Ok(())
}

/// Stops a service and restarts it later. Meanwhile the affected workers are not ready and report the dependency; all
/// workers stay alive.
async fn run_outage(
    service: &mut Service,
    fault: Fault,
    (affected, dependency): (&[&Worker], &str),
    producer: &BackgroundProducer,
    workers: &[Worker],
) -> Result<()> {
    let stopped_at = Instant::now();
    match fault {
        Fault::Stop => service.stop().await?,
        Fault::Kill => service.kill().await?,
    }
    for worker in affected {
        wait_until(
            &format!("not ready, because {dependency} is unavailable"),
            DETECTION_DEADLINE,
            || async {
                let (status, body) = worker.http_get("/readyz").await?;
                Ok(status == 503 && body.contains(&format!("\"{dependency}\"")))
            },
        )
        .await?;
    }
    let (before, detection_time) = (producer.sent(), stopped_at.elapsed());
    wait_until(
        "messages were sent during the outage",
        DETECTION_DEADLINE,
        || async { Ok(producer.sent() >= before + MESSAGES_DURING_OUTAGE) },
    )
    .await?;
    for worker in affected {
        let (status, body) = worker.http_get("/readyz").await?;
        ensure!(status == 503, "ready during the outage: {body}");
    }
    for worker in workers {
        let (status, body) = worker.http_get("/livez").await?;
        ensure!(status == 200, "not alive during the outage: {body}");
    }
    service.start().await?;
    let restarted_at = Instant::now();
    wait_all_ready(workers).await?;
    let recovery_time = restarted_at.elapsed();
    eprintln!(
        "faults: {dependency}, {fault:?}: detected after {detection_time:.1?}, ready {recovery_time:.1?} after the restart"
    );
    Ok(())
}

async fn wait_all_ready(workers: &[Worker]) -> Result<()> {
    for worker in workers {
        wait_until("ready", DETECTION_DEADLINE, || async {
            Ok(worker.http_get("/readyz").await?.0 == 200)
        })
        .await?;
    }
    Ok(())
}

/// Starts a worker during an outage: it becomes ready after the restart of the service, without a new record.
async fn start_during_outage(service: &mut Service, pipeline: &Pipeline) -> Result<()> {
    service.stop().await?;
    let worker = pipeline.start_worker(&["dds"])?;
    wait_until("a dependency is unavailable", DETECTION_DEADLINE, || async {
        let (status, body) = worker.http_get("/readyz").await?;
        Ok(status == 503 && !body.contains("\"unavailable\":{}"))
    })
    .await?;
    service.start().await?;
    wait_all_ready(&[worker]).await
}

/// The marts equal a recount of the sent messages, and the dead letters are the malformed ones.
async fn assert_nothing_lost(pipeline: &Pipeline, sent: SentMessages) -> Result<()> {
    let dead_letters: Vec<(String, i64)> =
        sqlx::query_as("SELECT code, count(*) FROM streamstage.dead_letter GROUP BY code")
            .fetch_all(pipeline.pool())
            .await?;
    let dead_letters: BTreeMap<String, u64> = dead_letters
        .into_iter()
        .map(|(code, count)| Ok((code, count.try_into()?)))
        .collect::<Result<_>>()?;
    assert_eq!(dead_letters, sent.manifest.bad_by_code);
    let (reference_data, tags) = pipeline.write_recount_inputs(&sent.generator)?;
    let expected = recount(&sent.file, &reference_data, &tags)?;
    assert_eq!(read_marts(pipeline.pool()).await?, expected);
    let counted: i64 = expected.products.values().sum();
    eprintln!("faults: {} messages, {counted} counted", sent.manifest.messages);
    Ok(())
}

/// Task that produces orders also during outages; the producer retries while Kafka is unavailable.
struct BackgroundProducer {
    sent: Arc<AtomicUsize>,
    stop_requested: Arc<AtomicBool>,
    task: JoinHandle<Result<SentMessages>>,
}

/// Messages that a [`BackgroundProducer`] has sent.
struct SentMessages {
    generator: Generator,
    manifest: Manifest,
    file: PathBuf,
}

impl BackgroundProducer {
    async fn start(services: &Services, pipeline: &Pipeline, generator: Generator) -> Result<Self> {
        let sender = Sender::connect(services.bootstrap_servers(), pipeline.source_topic(), 1).await?;
        let (sent, stop_requested) = <(Arc<AtomicUsize>, Arc<AtomicBool>)>::default();
        let file = pipeline.folder().join("orders.ndjson");
        let task = tokio::spawn(produce_until_stopped(
            sender,
            generator,
            file,
            Arc::clone(&sent),
            Arc::clone(&stop_requested),
        ));
        Ok(Self {
            sent,
            stop_requested,
            task,
        })
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    async fn stop(self) -> Result<SentMessages> {
        self.stop_requested.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn produce_until_stopped(
    mut sender: Sender,
    mut generator: Generator,
    file: PathBuf,
    sent: Arc<AtomicUsize>,
    stop_requested: Arc<AtomicBool>,
) -> Result<SentMessages> {
    let mut writer = File::create(&file)?;
    let mut ticks = tokio::time::interval(MESSAGE_INTERVAL);
    loop {
        let messages: Vec<Message> = generator.history(200).collect();
        for message in messages {
            if stop_requested.load(Ordering::Relaxed) {
                let manifest = sender.flush().await?.clone();
                return Ok(SentMessages {
                    generator,
                    manifest,
                    file,
                });
            }
            ticks.tick().await;
            send::write_line(&mut writer, &message)?;
            sender.send(&message).await?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}
