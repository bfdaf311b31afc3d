//! Services that go away under load: the workers say so, wait, and go on without a restart; nothing is lost, and
//! nothing is dead-lettered that is not bad.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: writes the messages that are sent into a file, and measures the time"
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
use e2e::pipeline::{Pipeline, STAGES, Worker, until};
use e2e::recount::{marts, recount};
use e2e::services::{Options, Service, Services};
use tokio::task::JoinHandle;

/// How long a worker may take to notice that a service went away, or came back.
const NOTICED: Duration = Duration::from_mins(2);
const DRAINED: Duration = Duration::from_mins(3);
/// Time between two messages.
const PACE: Duration = Duration::from_millis(10);
/// Messages that are sent while a service is known to be away.
const MISSED: usize = 100;

/// How a service goes away.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// In good order: clients are told.
    Stop,
    /// As in a crash: connections break, and it recovers when it starts.
    Kill,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_any_service_is_waited_for_and_loses_nothing() -> Result<()> {
    // Never those that the environment names: others use them.
    let mut services = Services::start(&Options::default()).await?;
    let pipeline = Pipeline::create(&services, "faults", 3).await?;
    // So many guests that the next order always needs one that no worker has in its cache.
    let generator = Generator::new(&Settings {
        seed: 12,
        guests: 5000,
        bad: 0.02,
        ..Settings::default()
    });
    pipeline.load_dictionary(&generator, 0).await?;
    let [stg, dds, cdm] = STAGES.map(|stage| pipeline.worker(&[stage]));
    let workers = [stg?, dds?, cdm?];
    let flow = Flow::start(&services, &pipeline, generator).await?;
    all_ready(&workers).await?;

    let [stg, others @ ..] = workers.each_ref();
    let troubles = |worker: &Worker| worker.log().matches("trouble").count();
    let before = others.map(troubles);
    outage(
        &mut services.redis,
        Fault::Stop,
        (&[stg], "dictionary"),
        &flow,
        &workers,
    )
    .await?;
    assert_eq!(
        others.map(troubles),
        before,
        "dds and cdm need no dictionary, but have trouble without it"
    );
    for fault in [Fault::Stop, Fault::Kill] {
        outage(
            &mut services.postgres,
            fault,
            (&[stg], "warehouse"),
            &flow,
            &workers,
        )
        .await?;
    }
    for fault in [Fault::Stop, Fault::Kill] {
        outage(
            &mut services.kafka,
            fault,
            (&workers.each_ref(), "source"),
            &flow,
            &workers,
        )
        .await?;
    }

    let sent = flow.end().await?;
    pipeline.drained(DRAINED).await?;
    nothing_is_lost(&pipeline, sent).await?;
    idle_start(&mut services.postgres, &pipeline).await?;
    idle_start(&mut services.kafka, &pipeline).await?;
    for worker in workers {
        ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_go_on_ends_although_it_waits_for_the_dictionary() -> Result<()> {
    let mut services = Services::start(&Options::default()).await?;
    let mut pipeline = Pipeline::create(&services, "cannot_go_on", 1).await?;
    pipeline.set_batches("{maxRecords: 1}")?;
    let mut generator = Generator::new(&Settings {
        seed: 13,
        guests: 5000,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_dictionary(&generator, 0).await?;
    let messages: Vec<Message> = generator.history(20).collect();
    let worker = pipeline.worker(&["stg"])?;
    worker.logged("partitions assigned").await?;
    let mut lock = pipeline.pool().begin().await?;
    sqlx::query("SELECT FROM streamstage.position FOR UPDATE")
        .execute(&mut *lock)
        .await?;
    pipeline.produce(1, messages[..1].iter().cloned()).await?;
    until("the first batch waits for its position", NOTICED, || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                       AND application_name = 'streamstage stg'";
        Ok(pipeline.query::<i64>(waiting).await? > 0)
    })
    .await?;
    services.redis.stop().await?;
    pipeline.produce(1, messages[1..].iter().cloned()).await?;
    until("the next batch waits for the dictionary", NOTICED, || async {
        Ok(worker.get("/readyz").await?.1.contains("\"dictionary\""))
    })
    .await?;
    sqlx::query("DELETE FROM streamstage.position")
        .execute(&mut *lock)
        .await?;
    lock.commit().await?;
    let (status, log) = worker.ended().await?;
    ensure!(
        !status.success() && log.contains("is gone from streamstage.position"),
        "{status}:\n{log}"
    );
    Ok(())
}

/// Takes a service away, and brings it back after a while. The concerned workers are not ready in between, and
/// say why; all of them live on.
async fn outage(
    service: &mut Service,
    fault: Fault,
    (concerned, trouble): (&[&Worker], &str),
    flow: &Flow,
    workers: &[Worker],
) -> Result<()> {
    let began = Instant::now();
    match fault {
        Fault::Stop => service.stop().await?,
        Fault::Kill => service.kill().await?,
    }
    for worker in concerned {
        until(
            &format!("not ready, because of the {trouble}"),
            NOTICED,
            || async {
                let (status, body) = worker.get("/readyz").await?;
                Ok(status == 503 && body.contains(&format!("\"{trouble}\"")))
            },
        )
        .await?;
    }
    let (before, noticed) = (flow.sent(), began.elapsed());
    until("messages were missed", NOTICED, || async {
        Ok(flow.sent() >= before + MISSED)
    })
    .await?;
    for worker in concerned {
        let (status, body) = worker.get("/readyz").await?;
        ensure!(status == 503, "ready during the outage: {body}");
    }
    for worker in workers {
        let (status, body) = worker.get("/livez").await?;
        ensure!(status == 200, "not alive during the outage: {body}");
    }
    service.start().await?;
    let began = Instant::now();
    all_ready(workers).await?;
    let ready = began.elapsed();
    eprintln!(
        "faults: {trouble}, {fault:?}: noticed after {noticed:.1?}, ready {ready:.1?} after its return"
    );
    Ok(())
}

async fn all_ready(workers: &[Worker]) -> Result<()> {
    for worker in workers {
        until("ready", NOTICED, || async {
            Ok(worker.get("/readyz").await?.0 == 200)
        })
        .await?;
    }
    Ok(())
}

/// A worker that starts while a service is away is ready when the service is back, although no record comes.
async fn idle_start(service: &mut Service, pipeline: &Pipeline) -> Result<()> {
    service.stop().await?;
    let worker = pipeline.worker(&["dds"])?;
    until("trouble", NOTICED, || async {
        let (status, body) = worker.get("/readyz").await?;
        Ok(status == 503 && !body.contains("\"trouble\":{}"))
    })
    .await?;
    service.start().await?;
    all_ready(&[worker]).await
}

/// The marts are those of the messages that were sent, and the dead letters are the bad ones among them.
async fn nothing_is_lost(pipeline: &Pipeline, sent: Sent) -> Result<()> {
    let letters: Vec<(String, i64)> =
        sqlx::query_as("SELECT code, count(*) FROM streamstage.dead_letter GROUP BY code")
            .fetch_all(pipeline.pool())
            .await?;
    let letters: BTreeMap<String, u64> = letters
        .into_iter()
        .map(|(code, letters)| Ok((code, letters.try_into()?)))
        .collect::<Result<_>>()?;
    assert_eq!(letters, sent.manifest.bad_by_code);
    let (dictionary, tags) = pipeline.write_recount_inputs(&sent.generator)?;
    let expected = recount(&sent.file, &dictionary, &tags)?;
    assert_eq!(marts(pipeline.pool()).await?, expected);
    let counters: i64 = expected.products.values().sum();
    eprintln!("faults: {} messages, {counters} counted", sent.manifest.messages);
    Ok(())
}

/// Orders that go on coming, whatever is away: the producer tries again for as long as Kafka is.
struct Flow {
    sent: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    task: JoinHandle<Result<Sent>>,
}

/// What a flow has sent.
struct Sent {
    generator: Generator,
    manifest: Manifest,
    file: PathBuf,
}

impl Flow {
    async fn start(services: &Services, pipeline: &Pipeline, generator: Generator) -> Result<Self> {
        let sender = Sender::connect(services.bootstrap_servers(), pipeline.source_topic(), 1).await?;
        let (sent, ends) = <(Arc<AtomicUsize>, Arc<AtomicBool>)>::default();
        let file = pipeline.folder().join("orders.ndjson");
        let task = tokio::spawn(keep_sending(
            sender,
            generator,
            file,
            Arc::clone(&sent),
            Arc::clone(&ends),
        ));
        Ok(Self { sent, ends, task })
    }

    fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    async fn end(self) -> Result<Sent> {
        self.ends.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn keep_sending(
    mut sender: Sender,
    mut generator: Generator,
    file: PathBuf,
    sent: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
) -> Result<Sent> {
    let mut written = File::create(&file)?;
    let mut pace = tokio::time::interval(PACE);
    loop {
        let messages: Vec<Message> = generator.history(200).collect();
        for message in messages {
            if ends.load(Ordering::Relaxed) {
                let manifest = sender.flush().await?.clone();
                return Ok(Sent {
                    generator,
                    manifest,
                    file,
                });
            }
            pace.tick().await;
            send::write_line(&mut written, &message)?;
            sender.send(&message).await?;
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}
