//! The demo: services, history, three stages, a live part, the marts and an independent recount.
//!
//! Everything is real and local, and gone at the end. Progress goes to standard error and only to a terminal, the
//! result to standard output.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
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

use crate::orders::manifest::Manifest;
use crate::orders::{Generator, Message, Settings, send};
use crate::pipeline::{Pipeline, STAGES, Worker};
use crate::recount::{marts, recount};
use crate::services::{Named, Options, Services};

/// The whole pipeline on this machine: real Kafka, PostgreSQL and Redis, the three stages, marts and tags
///
/// Services are started with their data in a scratch folder, and removed at the end. Services that already run can
/// be named instead; the demo then makes a database and topics of its own there.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  demo                          2,000 orders, then half a minute of live orders
  demo --history 50000 --seconds 0
  demo --redis redis://cache:6379      start Kafka and PostgreSQL, use that Redis")]
pub struct Flags {
    /// Orders of the history; each has one to five messages
    #[arg(
        long,
        default_value_t = 2000,
        value_name = "ORDERS",
        env = "STREAMSTAGE_DEMO_HISTORY"
    )]
    history: usize,
    /// Orders a minute of the live part
    #[arg(long, default_value_t = 5.0, value_name = "ORDERS")]
    rate: f64,
    /// Seconds of the live part; Ctrl-C ends it sooner
    #[arg(
        long,
        default_value_t = 30,
        value_name = "SECONDS",
        env = "STREAMSTAGE_DEMO_SECONDS"
    )]
    seconds: u64,
    #[command(flatten)]
    named: Named,
}

/// What was sent: on file, for the recount, and counted.
struct Sent {
    messages: PathBuf,
    file: BufWriter<File>,
    manifest: Manifest,
}

impl Sent {
    fn note(&mut self, message: &Message) -> Result<()> {
        self.manifest.count(message);
        send::write_line(&mut self.file, message)
    }
}

/// Runs the demo from start to end.
///
/// # Errors
/// When something cannot be started, does not finish, or the marts and the recount do not agree.
pub async fn run(flags: Flags) -> Result<()> {
    // Free ports: nothing that runs on this machine is in the way.
    let options = Options {
        named: flags.named.clone(),
        ..Options::default()
    };
    let services = Services::from_env_or_start(options).await?;
    println!("services   {}", services.summary());
    let pipeline = Pipeline::create(&services, "streamstage", 6).await?;
    let mut generator = Generator::new(&Settings::default());
    pipeline.load_dictionary(&generator, 0).await?;
    let messages = pipeline.folder().join("orders.ndjson");
    let file = BufWriter::new(File::create(&messages)?);
    let mut sent = Sent {
        messages,
        file,
        manifest: Manifest::default(),
    };

    history(&pipeline, &mut generator, flags.history, &mut sent).await?;
    let workers = drain(&pipeline).await?;
    live(&pipeline, &mut generator, &flags, &mut sent).await?;
    pipeline.drained(Duration::from_mins(1)).await?;

    summary(&pipeline, &sent.manifest, &workers).await?;
    tables::print(pipeline.pool()).await?;
    compare(&pipeline, &generator, sent).await?;
    for worker in workers {
        worker.stop().await?;
    }
    drop((pipeline, services));
    println!("stopped    services down, scratch folder removed");
    Ok(())
}

/// Sends the history as fast as it goes.
async fn history(
    pipeline: &Pipeline,
    generator: &mut Generator,
    orders: usize,
    sent: &mut Sent,
) -> Result<()> {
    let messages: Vec<Message> = generator.history(orders).collect();
    messages.iter().try_for_each(|message| sent.note(message))?;
    let manifest = pipeline.produce(1, messages.into_iter()).await?;
    println!(
        "history    {orders} orders, {} messages, {} of them bad on purpose",
        manifest.messages, manifest.bad
    );
    Ok(())
}

/// Starts the stages one after another, so that each shows its own speed; they go on running.
async fn drain(pipeline: &Pipeline) -> Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for stage in STAGES {
        let worker = pipeline.worker(&[stage])?;
        let started = worker.logged("stage starts").await?.0;
        let drained = progress::watch(pipeline, stage).await?;
        let (records, rate) = (drained.records, drained.per_second());
        let (start, memory) = (started.as_millis(), worker.peak_rss_bytes()? >> 20);
        println!(
            "{stage:<10} {records:>8} messages in   {rate:>7.0}/s   started in {start} ms, {memory} MiB at most"
        );
        workers.push(worker);
    }
    Ok(workers)
}

/// Sends single messages at a steady rate, until the time is over or Ctrl-C.
async fn live(pipeline: &Pipeline, generator: &mut Generator, flags: &Flags, sent: &mut Sent) -> Result<()> {
    if flags.seconds == 0 || flags.rate <= 0.0 {
        return Ok(());
    }
    println!(
        "live       {} orders a minute for {} s (Ctrl-C ends it sooner)",
        flags.rate, flags.seconds
    );
    let until = Instant::now() + Duration::from_secs(flags.seconds);
    let mut every = tokio::time::interval(Duration::from_secs_f64(60.0 / flags.rate));
    while Instant::now() < until {
        tokio::select! {
            _ = every.tick() => {}
            () = tokio::time::sleep_until(until.into()) => break,
            _ = tokio::signal::ctrl_c() => break,
        }
        let messages: Vec<Message> = generator.live().take(1).collect();
        messages.iter().try_for_each(|message| sent.note(message))?;
        pipeline.produce(2, messages.into_iter()).await?;
    }
    Ok(())
}

/// Messages in and out of every stage, dead letters by reason, and what waits.
async fn summary(pipeline: &Pipeline, manifest: &Manifest, workers: &[Worker]) -> Result<()> {
    println!();
    for (stage, output) in STAGES
        .iter()
        .zip([Some(pipeline.stg_topic()), Some(pipeline.dds_topic()), None])
    {
        let read: i64 = pipeline.positions(stage).await?.values().sum();
        let written = output.map(|topic| pipeline.ends(topic)).transpose()?;
        let written = written.map_or_else(String::new, |ends| {
            format!("{:>8} out", ends.values().sum::<i64>())
        });
        println!("{stage:<10} {read:>8} in   {written}");
    }
    let codes = tables::dead_letters(pipeline.pool()).await?;
    let shown: Vec<String> = codes
        .iter()
        .map(|(code, letters)| format!("{code} {letters}"))
        .collect();
    println!("dead       {}", shown.join(", "));
    let pending: i64 = pipeline
        .query("SELECT count(*) FROM stg.pending_enrichment")
        .await?;
    println!("pending    {pending}, workers {}\n", workers.len());
    let expected = manifest
        .bad_by_code
        .iter()
        .map(|(code, letters)| (code.clone(), i64::try_from(*letters).unwrap_or(0)));
    ensure!(
        codes.iter().cloned().eq(expected),
        "dead letters differ from the bad messages that were sent"
    );
    Ok(())
}

/// Compares the marts with a count that shares nothing with the worker.
async fn compare(pipeline: &Pipeline, generator: &Generator, sent: Sent) -> Result<()> {
    let messages = sent.messages;
    drop(sent.file.into_inner()?);
    let (dictionary, tags) = pipeline.write_recount_inputs(generator)?;
    let expected = recount(&messages, &dictionary, &tags)?;
    let found = marts(pipeline.pool()).await?;
    let agree = expected == found;
    println!(
        "recount    products {}, categories {}, tags {}: {}",
        expected.products.len(),
        expected.categories.len(),
        expected.tags.len(),
        if agree { "all agree" } else { "they DIFFER" }
    );
    ensure!(agree, "the marts differ from the recount");
    Ok(())
}
