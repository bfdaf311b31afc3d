//! `operator simulate`: replays an arrival trace through the scaling algorithm, without a cluster.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use telemetry::stdout::print_line;

use crate::scale::ScalingSettings;
use crate::simulate::trace::Trace;
use crate::simulate::{WorkerModel, chart, simulate};

/// Flags of `operator simulate`.
#[derive(Debug, Args)]
pub struct Simulate {
    /// Stage file; select one of several stages with --stage
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// Name of the stage
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// CSV with the header `seconds,records_per_second`, or one column per partition; a row applies until the next
    #[arg(long, value_name = "FILE")]
    pub trace: PathBuf,
    /// Partition count for a single-column trace
    #[arg(long, value_name = "NUMBER", default_value_t = 12)]
    pub partitions: u32,
    /// Throughput per worker, in records per second
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub worker_rate: u64,
    /// Startup time of a worker, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub worker_startup_seconds: u32,
    /// Also write a chart of lag and workers to this SVG file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Simulates the stage on the trace and prints each decision and a chart of lag and workers.
///
/// # Errors
/// Fails if a file cannot be read or written, if the stage or the trace is invalid, or if the stage is not selected
/// unambiguously.
pub fn run(flags: &Simulate) -> anyhow::Result<()> {
    let read = |file: &PathBuf| {
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
    };
    let stages =
        crds::document::parse(&read(&flags.file)?).with_context(|| flags.file.display().to_string())?;
    let stage =
        select_stage(&stages, flags.stage.as_deref()).with_context(|| flags.file.display().to_string())?;
    let trace: Trace = read(&flags.trace)?
        .parse()
        .with_context(|| flags.trace.display().to_string())?;
    let workers = WorkerModel {
        records_per_second: flags.worker_rate,
        startup_seconds: flags.worker_startup_seconds,
    };
    let (samples, decisions) = simulate(
        &ScalingSettings::from(stage),
        &trace.spread_over(flags.partitions),
        workers,
    );
    for decision in &decisions {
        print_line(format_args!(
            "{:>6} s  {:>3} -> {:<3} {}",
            decision.second, decision.from, decision.to, decision.message
        ))?;
    }
    print_line(format_args!("\n{}", chart::terminal(&samples)))?;
    if let Some(file) = &flags.svg {
        std::fs::write(file, chart::svg(&samples))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Returns the stage called `name`, or the only stage if `name` is `None`.
fn select_stage<'s>(stages: &'s [StreamStage], name: Option<&str>) -> anyhow::Result<&'s StreamStage> {
    let matching: Vec<&StreamStage> = stages
        .iter()
        .filter(|stage| name.is_none_or(|name| stage.name() == name))
        .collect();
    let names = || {
        stages
            .iter()
            .map(StreamStage::name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (matching.as_slice(), name) {
        ([stage], _) => Ok(stage),
        ([], Some(name)) => anyhow::bail!("stage `{name}` not found; select one of {}", names()),
        ([], None) => anyhow::bail!("the file contains no stage"),
        _ => anyhow::bail!(
            "the file contains several stages; select one with --stage: {}",
            names()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_selected_by_name_or_as_the_only_one() {
        let stages =
            crds::document::parse(include_str!("../../../examples/local.yaml")).expect("valid stages");
        let selected = |stages: &[StreamStage], name| match select_stage(stages, name) {
            Ok(stage) => stage.name().to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(selected(&stages, Some("dds")), "dds");
        assert_eq!(selected(&stages[..1], None), "stg");
        assert_eq!(
            selected(&stages, None),
            "the file contains several stages; select one with --stage: stg, dds, cdm"
        );
        assert_eq!(
            selected(&stages, Some("ods")),
            "stage `ods` not found; select one of stg, dds, cdm"
        );
        assert_eq!(selected(&[], None), "the file contains no stage");
    }
}
