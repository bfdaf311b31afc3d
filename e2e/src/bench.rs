//! Benchmarks of the whole pipeline beside its peers, on this machine: real services, the real worker, one run.
//!
//! Only ratios of one run are comparable, because machines differ. The measurements of a round are interleaved, and the
//! result is the median of the rounds. The limit of a stage is `COPY` of the same data into a bare table. A run in which
//! other programs took more than a tenth of the machine is rejected.
mod copy;
mod growth;
mod latency;
mod machine;
mod measurement;
mod peer;
mod report;
mod scale_out;
mod sizing;
mod throughput;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use machine::Usage;
use report::Report;
use telemetry::stdout::print_line;

use crate::services::{Options, Services};

/// Maximum share of the machine that other programs may take.
const MAX_FOREIGN_SHARE: f64 = 0.1;

/// Measure the pipeline beside COPY and a batched Python loader, as ratios of one run
///
/// Starts its own Kafka, PostgreSQL and Redis, and removes them at the end. Prints a table; exits with 1 if a row misses
/// its floor, or if other programs took more than a tenth of the machine.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  bench                         every benchmark, about ten minutes on two cores
  bench stages latency          some of them
  bench growth --growth-orders 1000000")]
pub struct Flags {
    /// Benchmarks to run [default: all]
    names: Vec<Name>,
    /// Rounds; the result is their median
    #[arg(long, default_value_t = 3, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Orders of a round; each has 3.5 messages on average
    #[arg(long, default_value_t = 8000, value_name = "ORDERS")]
    orders: usize,
    /// Orders in the warehouse before the benchmark `growth` measures
    #[arg(long, default_value_t = 100_000, value_name = "ORDERS")]
    growth_orders: u32,
    /// Accept a machine that other programs use
    #[arg(long)]
    force: bool,
    /// Write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the ratios into this file, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Throughput of each stage, of new records and of a replay, beside COPY and a Python loader
    Stages,
    /// Three stages at once beside the slowest one alone
    Pipeline,
    /// Time from the produced order to the row of each layer, with default settings
    Latency,
    /// One, two and four workers of a stage: CPU time per record, and deadlocks
    ScaleOut,
    /// The vault's write path in an empty warehouse and in a large one
    Growth,
}

/// Runs the benchmarks, and prints their results.
///
/// # Errors
/// When a service cannot be started, a row misses its floor, or the machine is busy.
pub async fn run(flags: Flags) -> Result<()> {
    let is_selected = |name| flags.names.is_empty() || flags.names.contains(&name);
    let services = Services::start(&Options::default()).await?;
    let start = Usage::read()?;
    let mut report = Report::default();
    if is_selected(Name::Stages) {
        Box::pin(throughput::measure_stages(
            &services,
            flags.rounds,
            flags.orders,
            &mut report,
        ))
        .await?;
    }
    if is_selected(Name::Pipeline) {
        Box::pin(throughput::measure_pipeline(
            &services,
            flags.rounds,
            flags.orders,
            &mut report,
        ))
        .await?;
    }
    if is_selected(Name::Latency) {
        latency::measure(&services, &mut report).await?;
    }
    if is_selected(Name::ScaleOut) {
        Box::pin(scale_out::measure(&services, flags.orders, &mut report)).await?;
    }
    if is_selected(Name::Growth) {
        growth::measure(&services, flags.orders, flags.growth_orders, &mut report).await?;
    }
    let foreign = Usage::read()?.foreign_share(&start);
    report.foreign_share = foreign;
    print_line(&report)?;
    if let Some(path) = &flags.json {
        std::fs::write(path, report.to_json()?)?;
    }
    if let Some(path) = &flags.svg {
        std::fs::write(path, report.to_svg())?;
    }
    drop(services);
    ensure!(
        flags.force || foreign <= MAX_FOREIGN_SHARE,
        "other programs took {:.0} % of the machine: stop them, or accept the figures with --force",
        foreign * 100.0
    );
    let missed = report.missed();
    ensure!(missed.is_empty(), "below the floor: {}", missed.join(", "));
    Ok(())
}
