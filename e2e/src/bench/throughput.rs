//! Throughput of the stages, and of the whole pipeline.
#![expect(clippy::disallowed_methods, reason = "edge: reads the clock")]

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;

use super::copy;
use super::measurement::{self, Measurement, measure_stage, median, wait_beyond};
use super::report::{Goal, Report};
use super::{peer, sizing};
use crate::orders::{Generator, Message, Settings};
use crate::pipeline::{Pipeline, STAGES};
use crate::services::Services;

/// Partitions of each topic.
const PARTITIONS: i32 = 4;

/// Variants in the order of the report.
const VARIANTS: [&str; 9] = [
    "COPY of the messages",
    "Python loader",
    "STG",
    "STG replay",
    "COPY of the vault",
    "DDS",
    "DDS replay",
    "CDM",
    "CDM replay",
];

/// Valid messages of some orders, and a pipeline with their reference data.
pub(super) async fn create_pipeline(
    services: &Services,
    name: &str,
    orders: usize,
) -> Result<(Pipeline, Vec<Message>)> {
    let mut generator = Generator::new(&Settings {
        bad: 0.0,
        ..Settings::default()
    });
    let pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.load_reference_data(&generator, 0).await?;
    let messages = generator.history(orders).collect();
    Ok((pipeline, messages))
}

/// Measures each stage with new records and with a replay, and the peers, in interleaved rounds.
///
/// # Errors
/// When a stage does not finish.
pub(super) async fn measure_stages(
    services: &Services,
    rounds: u32,
    orders: usize,
    report: &mut Report,
) -> Result<()> {
    let mut results: BTreeMap<&str, Vec<Measurement>> = BTreeMap::new();
    let mut message_count = 0;
    for round in 0..rounds {
        let (pipeline, messages) = create_pipeline(services, "bench_stages", orders).await?;
        pipeline
            .produce(u64::from(round), messages.iter().cloned())
            .await?;
        message_count = messages.len();
        let mut add = |name, measured| results.entry(name).or_default().push(measured);
        add(
            "COPY of the messages",
            copy::copy_messages(&pipeline, &messages).await?,
        );
        add("Python loader", peer::load(&pipeline).await?);
        for (stage, fresh, replay) in [
            ("stg", "STG", "STG replay"),
            ("dds", "DDS", "DDS replay"),
            ("cdm", "CDM", "CDM replay"),
        ] {
            add(fresh, measure_stage(&pipeline, stage).await?);
            let flags = ["--to", "earliest", "--all", "--execute"];
            pipeline.run_command("reset-offsets", &[stage], &flags)?;
            add(replay, measure_stage(&pipeline, stage).await?);
            if stage == "dds" {
                add(
                    "COPY of the vault",
                    copy::copy_vault(&pipeline, messages.len()).await?,
                );
            }
        }
    }
    let medians: BTreeMap<&str, Measurement> = results
        .into_iter()
        .map(|(name, rounds)| Ok((name, median(rounds, Measurement::rate)?)))
        .collect::<Result<_>>()?;
    report_stages(&medians, report);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 messages")]
    let messages_per_order = message_count as f64 / orders as f64;
    let stages = ["STG", "DDS", "CDM"].map(|stage| medians[stage]);
    report.set_sizing(sizing::table(stages, messages_per_order));
    Ok(())
}

/// Adds the costs of the variants, and their ratios.
fn report_stages(medians: &BTreeMap<&str, Measurement>, report: &mut Report) {
    for name in VARIANTS {
        report.add_measurement(name, medians[name]);
    }
    let rate = |name: &str| medians[name].rate();
    for (variant, other, goal) in [
        ("STG", "COPY of the messages", Goal::at_least(0.6, 0.1)),
        ("STG", "Python loader", Goal::at_least(2.5, 1.5)),
        ("STG replay", "STG", Goal::at_least(4.0, 2.0)),
        ("DDS", "COPY of the vault", Goal::default()),
        ("DDS replay", "DDS", Goal::at_least(2.0, 1.05)),
        ("CDM replay", "CDM", Goal::at_least(2.0, 1.15)),
    ] {
        report.add_row(&format!("{variant} / {other}"), rate(variant) / rate(other), goal);
    }
    for (stage, goal) in [("STG", 18.0), ("DDS", 25.0), ("CDM", 11.0)] {
        let row = format!("{stage} worker, us per record");
        report.add_row(&row, medians[stage].worker_micros, Goal::at_most(goal));
    }
    report.add_row(
        "DDS WAL, bytes per record",
        medians["DDS"].wal_bytes,
        Goal::at_most(3000.0),
    );
    report.add_row(
        "peak memory of a worker, MiB",
        peak_mib(medians),
        Goal::at_most(64.0),
    );
}

fn peak_mib(medians: &BTreeMap<&str, Measurement>) -> f64 {
    let bytes = medians.values().map(|measured| measured.peak_rss_bytes);
    bytes.fold(0.0, f64::max) / f64::from(1 << 20)
}

/// Measures the three stages at once beside the slowest one alone, with the same messages.
///
/// # Errors
/// When a stage does not finish.
pub(super) async fn measure_pipeline(
    services: &Services,
    rounds: u32,
    orders: usize,
    report: &mut Report,
) -> Result<()> {
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let (pipeline, messages) = create_pipeline(services, "bench_alone", orders).await?;
        pipeline
            .produce(u64::from(round), messages.iter().cloned())
            .await?;
        let mut slowest = f64::INFINITY;
        for stage in STAGES {
            slowest = slowest.min(measure_stage(&pipeline, stage).await?.rate());
        }
        alone.push(slowest);

        let (pipeline, messages) = create_pipeline(services, "bench_together", orders).await?;
        pipeline
            .produce(u64::from(round), messages.iter().cloned())
            .await?;
        let workers = STAGES.map(|stage| pipeline.start_worker(&[stage]));
        let first = wait_beyond(&pipeline, "cdm", 0.0).await?;
        let started = Instant::now();
        // A stage publishes fewer records than it reads: duplicates stay in STG.
        let mut records = 0.0;
        for stage in STAGES {
            records = measurement::end_of(&pipeline, stage)?;
            wait_beyond(&pipeline, stage, records - 1.0).await?;
        }
        together.push((records - first) / started.elapsed().as_secs_f64());
        for worker in workers {
            worker?.stop().await?;
        }
    }
    let rate = |rate: &f64| *rate;
    let (alone, together) = (median(alone, rate)?, median(together, rate)?);
    report.add_row("slowest stage alone, records/s", alone, Goal::default());
    report.add_row("three stages at once, records/s", together, Goal::default());
    report.add_row(
        "three stages at once / slowest alone",
        together / alone,
        Goal::at_least(0.9, 0.4),
    );
    Ok(())
}
