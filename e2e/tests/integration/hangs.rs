//! Dependencies that hang: their connections stay open, and nothing answers. A worker notices it, connects again, and ends
//! in time at a SIGTERM. Nothing is lost or counted twice.
#![expect(
    clippy::disallowed_methods,
    reason = "edge: forwards connections, and measures time"
)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, STAGES, Worker, start_services, wait_until};
use e2e::recount::{read_marts, recount};
use e2e::services::{Options, Service, Services};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use url::Url;

/// Termination grace period that the operator gives to a worker with the default `batch.maxWait`.
const GRACE_PERIOD: Duration = Duration::from_secs(31);
const DEADLINE: Duration = Duration::from_mins(2);
const ORDERS: usize = 600;

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_in_time_whatever_hangs_and_loses_nothing() -> Result<()> {
    let _exclusive = crate::exclusive().await;
    // Own services, because they are halted.
    let services = Services::start(&Options::default()).await?;
    let mut pipeline = Pipeline::create(&services, "hangs", 3).await?;
    pipeline.set_batch_settings("{maxRecords: 20}")?;
    let mut generator = Generator::new(&Settings {
        seed: 31,
        users: 5000,
        bad: 0.0,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    let messages: Vec<Message> = generator.history(ORDERS).collect();
    let file = pipeline.write_messages(&messages)?;
    for (service, chunk) in [&services.postgres, &services.kafka, &services.redis]
        .into_iter()
        .zip(messages.chunks(messages.len().div_ceil(3)))
    {
        pipeline.produce(1, chunk.iter().cloned()).await?;
        halt_in_the_middle_of_work(&pipeline, service).await?;
    }
    let _worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    let (reference_data, tags) = pipeline.write_recount_inputs(&generator)?;
    let expected = recount(&file, &reference_data, &tags)?;
    ensure!(expected.products.values().sum::<i64>() > 0, "no order is counted");
    assert_eq!(read_marts(pipeline.pool()).await?, expected);
    let dead_letters = "SELECT count(*) FROM streamstage.dead_letter";
    assert_eq!(pipeline.query_scalar::<i64>(dead_letters).await?, 0);
    Ok(())
}

/// Halts a service while a worker processes records, and ends the worker meanwhile.
async fn halt_in_the_middle_of_work(pipeline: &Pipeline, service: &Service) -> Result<()> {
    let before = read_positions(pipeline).await?;
    let worker = pipeline.start_worker(&[])?;
    wait_until("every stage is at work", DEADLINE, || async {
        let now = read_positions(pipeline).await?;
        Ok(now.iter().zip(&before).all(|(now, before)| now > before))
    })
    .await?;
    service.halt()?;
    let ended = end_worker(worker).await;
    service.resume()?;
    eprintln!(
        "hangs: {} halted, exit after {:.1?}",
        service.endpoint().as_str(),
        ended?
    );
    Ok(())
}

/// Sends SIGTERM, with a client that never finishes its request; returns the time until the exit.
async fn end_worker(worker: Worker) -> Result<Duration> {
    let mut client = TcpStream::connect(worker.address().await?).await?;
    client.write_all(b"GET /livez HTTP/1.1\r\n").await?;
    let signaled_at = Instant::now();
    worker.signal("TERM")?;
    let (status, log) = worker.wait_exit().await?;
    let duration = signaled_at.elapsed();
    ensure!(status.success(), "{status}:\n{log}");
    ensure!(duration < GRACE_PERIOD, "exit after {duration:?}:\n{log}");
    Ok(duration)
}

/// Sum of the positions of each stage.
async fn read_positions(pipeline: &Pipeline) -> Result<Vec<i64>> {
    let mut sums = Vec::new();
    for stage in STAGES {
        sums.push(pipeline.positions(stage).await?.values().sum());
    }
    Ok(sums)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_replaces_a_connection_that_went_silent_during_a_statement() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "silent", 1).await?;
    let server = pipeline.pool().connect_options();
    let proxy = Proxy::start(format!("{}:{}", server.get_host(), server.get_port())).await?;
    pipeline.set_warehouse_host(&proxy.address)?;
    let mut generator = Generator::new(&Settings::default());
    pipeline.load_reference_data(&generator, 0).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    worker.wait_for_log("partitions assigned").await?;
    let mut lock = pipeline.pool().begin().await?;
    sqlx::query("SELECT FROM streamstage.position FOR UPDATE")
        .execute(&mut *lock)
        .await?;
    pipeline.produce(1, generator.history(10)).await?;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
        AND datname = current_database() AND application_name = 'streamstage stg'";
    wait_until("a statement is in progress", DEADLINE, || async {
        Ok(pipeline.query_scalar::<i64>(waiting).await? > 0)
    })
    .await?;
    proxy.silence();
    lock.commit().await?;
    wait_until("the outage is reported", DEADLINE, || async {
        let (status, body) = worker.http_get("/readyz").await?;
        Ok(status == 503 && body.contains("no answer"))
    })
    .await?;
    assert_eq!(worker.http_get("/livez").await?.0, 200, "an outage is not a hang");
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    wait_until("ready", DEADLINE, || async {
        Ok(worker.http_get("/readyz").await?.0 == 200)
    })
    .await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_replaces_a_redis_connection_that_went_silent() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "silent_redis", 1).await?;
    let server = Url::parse(&services.redis_url(0))?;
    let host = server.host_str().context("the URL of Redis has no host")?;
    let server = format!("{host}:{}", server.port().unwrap_or(6379));
    let proxy = Proxy::start(server.clone()).await?;
    pipeline.edit(&format!("{server}/"), &format!("{}/", proxy.address))?;
    // Many users, so that later orders have one that is not in the cache.
    let mut generator = Generator::new(&Settings {
        users: 5000,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 0).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.produce(1, generator.history(10)).await?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    proxy.silence();
    pipeline.produce(2, generator.history(10)).await?;
    pipeline.wait_stages_drained(&["stg"], DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

/// Forwards connections to a server, until it falls silent: open connections stay open, and new ones work.
struct Proxy {
    address: String,
    /// Number of the newest connection.
    newest: watch::Sender<u64>,
    /// Connections up to this number are silent.
    silent: watch::Sender<u64>,
}

impl Proxy {
    async fn start(server: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (newest, silent) = (watch::Sender::new(0), watch::Sender::new(0));
        let (numbers, silenced) = (newest.clone(), silent.clone());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.context("accept")?;
                let server = TcpStream::connect(&server).await.context("connect")?;
                numbers.send_modify(|number| *number += 1);
                let number = *numbers.borrow();
                tokio::spawn(forward(client, server, number, silenced.subscribe()));
            }
            #[expect(unreachable_code, reason = "gives the task a type")]
            anyhow::Ok(())
        });
        Ok(Self {
            address,
            newest,
            silent,
        })
    }

    fn silence(&self) {
        self.silent.send_replace(*self.newest.borrow());
    }
}

async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    number: u64,
    mut silent: watch::Receiver<u64>,
) {
    let silenced = async { silent.wait_for(|newest| *newest >= number).await.map(drop) };
    tokio::select! {
        _ended = copy_bidirectional(&mut client, &mut server) => {}
        _silenced = silenced => std::future::pending().await,
    }
}
