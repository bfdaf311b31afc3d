//! The demo: services, a history of orders, three stages, live orders, the marts and an independent recount.
//!
//! Everything is real and local, and is removed at the end.
//! Progress bars are on standard error if that is a terminal; the result is on standard output.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "edge: measures time, writes files, prints the result"
)]

mod progress;
mod tables;

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use telemetry::stdout::print_line;

use crate::orders::manifest::Manifest;
use crate::orders::{Generator, Message, Settings, send};
use crate::pipeline::{Pipeline, STAGES, Worker};
use crate::recount::{read_marts, recount};
use crate::services::{ExternalServices, Options, Services};

/// Run the whole pipeline on this machine: Kafka, PostgreSQL and Redis, the three stages, marts and tags
///
/// Services are started with their data in a scratch folder, and removed at the end. With external services, the demo
/// creates its own database and topics there.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  demo                          2,000 orders, then half a minute of live orders
  demo --history 50000 --seconds 0
  demo --redis redis://cache:6379      start Kafka and PostgreSQL, use this Redis")]
pub struct Flags {
    /// Number of orders in the history; each has one to five messages
    #[arg(
        long,
        default_value_t = 2000,
        value_name = "ORDERS",
        env = "STREAMSTAGE_DEMO_HISTORY"
    )]
    history: usize,
    /// Live orders per minute
    #[arg(long, default_value_t = 5.0, value_name = "ORDERS")]
    rate: f64,
    /// Duration of the live part, in seconds; Ctrl-C ends it sooner
    #[arg(
        long,
        default_value_t = 30,
        value_name = "SECONDS",
        env = "STREAMSTAGE_DEMO_SECONDS"
    )]
    seconds: u64,
    #[command(flatten)]
    external: ExternalServices,
}

/// Messages that were sent: in a file for the recount, and counted.
struct SentMessages {
    messages: PathBuf,
    file: BufWriter<File>,
    manifest: Manifest,
}

impl SentMessages {
    fn record(&mut self, message: &Message) -> Result<()> {
        self.manifest.count(message);
        send::write_line(&mut self.file, message)
    }
}

/// Runs the demo from start to end.
///
/// # Errors
/// When a program cannot be started, a step does not finish, or the marts and the recount differ.
pub async fn run(flags: Flags) -> Result<()> {
    // Free ports, so that services on this machine do not conflict.
    let options = Options {
        external: flags.external.clone(),
        ..Options::default()
    };
    let services = Services::from_env_or_start(options).await?;
    print_line(format_args!("services   {}", services.summary()))?;
    let pipeline = Pipeline::create(&services, "streamstage", 6).await?;
    let mut generator = Generator::new(&Settings::default());
    pipeline.load_reference_data(&generator, 0).await?;
    let messages = pipeline.folder().join("orders.ndjson");
    let file = BufWriter::new(File::create(&messages)?);
    let mut sent = SentMessages {
        messages,
        file,
        manifest: Manifest::default(),
    };

    produce_history(&pipeline, &mut generator, flags.history, &mut sent).await?;
    let workers = drain_stages(&pipeline).await?;
    produce_live(&pipeline, &mut generator, &flags, &mut sent).await?;
    pipeline.wait_drained(Duration::from_mins(1)).await?;

    print_summary(&pipeline, &sent.manifest, &workers).await?;
    tables::print_marts(pipeline.pool()).await?;
    compare_with_recount(&pipeline, &generator, sent).await?;
    for worker in workers {
        worker.stop().await?;
    }
    drop((pipeline, services));
    print_line("stopped    services stopped, scratch folder removed")?;
    Ok(())
}

/// Produces the history without a rate limit.
async fn produce_history(
    pipeline: &Pipeline,
    generator: &mut Generator,
    orders: usize,
    sent: &mut SentMessages,
) -> Result<()> {
    let messages: Vec<Message> = generator.history(orders).collect();
    messages.iter().try_for_each(|message| sent.record(message))?;
    let manifest = pipeline.produce(1, messages.into_iter()).await?;
    print_line(format_args!(
        "history    {orders} orders, {} messages, {} of them malformed on purpose",
        manifest.messages, manifest.bad
    ))?;
    Ok(())
}

/// Starts the stages one after another and waits until each is drained, to measure its throughput alone.
/// Returns the workers, still running.
async fn drain_stages(pipeline: &Pipeline) -> Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for stage in STAGES {
        let worker = pipeline.start_worker(&[stage])?;
        let started = worker.wait_for_log("stage started").await?.0;
        let drained = progress::wait_drained(pipeline, stage).await?;
        let (records, rate) = (drained.records, drained.records_per_second());
        let (start, memory) = (started.as_millis(), worker.peak_rss_bytes()? >> 20);
        print_line(format_args!(
            "{stage:<10} {records:>8} messages in   {rate:>7.0}/s   started in {start} ms, {memory} MiB at most"
        ))?;
        workers.push(worker);
    }
    Ok(workers)
}

/// Produces single messages at a steady rate, until the duration has passed or Ctrl-C.
async fn produce_live(
    pipeline: &Pipeline,
    generator: &mut Generator,
    flags: &Flags,
    sent: &mut SentMessages,
) -> Result<()> {
    if flags.seconds == 0 || flags.rate <= 0.0 {
        return Ok(());
    }
    print_line(format_args!(
        "live       {} orders per minute for {} s (Ctrl-C ends it sooner)",
        flags.rate, flags.seconds
    ))?;
    let end = Instant::now() + Duration::from_secs(flags.seconds);
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(60.0 / flags.rate));
    while Instant::now() < end {
        tokio::select! {
            _ = ticks.tick() => {}
            () = tokio::time::sleep_until(end.into()) => break,
            _ = tokio::signal::ctrl_c() => break,
        }
        let messages: Vec<Message> = generator.live().take(1).collect();
        messages.iter().try_for_each(|message| sent.record(message))?;
        pipeline.produce(2, messages.into_iter()).await?;
    }
    Ok(())
}

/// Prints the records in and out of every stage, dead letters by code, and the number of pending orders.
async fn print_summary(pipeline: &Pipeline, manifest: &Manifest, workers: &[Worker]) -> Result<()> {
    print_line("")?;
    for (stage, output) in STAGES
        .iter()
        .zip([Some(pipeline.stg_topic()), Some(pipeline.dds_topic()), None])
    {
        let consumed: i64 = pipeline.positions(stage).await?.values().sum();
        let produced = output.map(|topic| pipeline.end_offsets(topic)).transpose()?;
        let produced = produced.map_or_else(String::new, |end_offsets| {
            format!("{:>8} out", end_offsets.values().sum::<i64>())
        });
        print_line(format_args!("{stage:<10} {consumed:>8} in   {produced}"))?;
    }
    let codes = tables::count_dead_letters(pipeline.pool()).await?;
    let counts: Vec<String> = codes
        .iter()
        .map(|(code, count)| format!("{code} {count}"))
        .collect();
    print_line(format_args!("dead       {}", counts.join(", ")))?;
    let pending: i64 = pipeline
        .query_scalar("SELECT count(*) FROM stg.pending_enrichment")
        .await?;
    print_line(format_args!("pending    {pending}, workers {}\n", workers.len()))?;
    let expected = manifest
        .bad_by_code
        .iter()
        .map(|(code, count)| (code.clone(), i64::try_from(*count).unwrap_or(0)));
    ensure!(
        codes.iter().cloned().eq(expected),
        "dead letters differ from the malformed messages that were sent"
    );
    Ok(())
}

/// Compares the marts with a recount that shares no code with the worker.
async fn compare_with_recount(pipeline: &Pipeline, generator: &Generator, sent: SentMessages) -> Result<()> {
    let messages = sent.messages;
    drop(sent.file.into_inner()?);
    let (reference_data, tags) = pipeline.write_recount_inputs(generator)?;
    let expected = recount(&messages, &reference_data, &tags)?;
    let marts = read_marts(pipeline.pool()).await?;
    let agree = expected == marts;
    print_line(format_args!(
        "recount    products {}, categories {}, tags {}: {}",
        expected.products.len(),
        expected.categories.len(),
        expected.tags.len(),
        if agree { "all agree" } else { "DIFFERENT" }
    ))?;
    ensure!(agree, "the marts differ from the recount");
    Ok(())
}
