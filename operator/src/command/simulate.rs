#![expect(
    clippy::print_stdout,
    reason = "edge: reads files, and prints the command's own output"
)]
//! `operator simulate`: what the operator would do with a trace of arrivals.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;

use crate::scale::Rules;
use crate::simulate::trace::Trace;
use crate::simulate::{Workers, draw, simulate};

/// Flags of `operator simulate`.
#[derive(Debug, Args)]
pub struct Simulate {
    /// The stage; of several in the file, the one that --stage names
    #[arg(long, short, value_name = "FILE")]
    pub file: PathBuf,
    /// Name of the stage
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// CSV with the heading `seconds,records_per_second`, or a column for each partition; a line holds until the next
    #[arg(long, value_name = "FILE")]
    pub trace: PathBuf,
    /// Partitions that a trace of one column is spread over
    #[arg(long, value_name = "NUMBER", default_value_t = 12)]
    pub partitions: u32,
    /// Records that one worker commits per second
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub worker_rate: u64,
    /// Seconds until a new worker begins
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub worker_start: u32,
    /// Draw lag and workers into this file too
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Plays the trace, prints each decision, and draws lag and workers over time.
///
/// # Errors
/// When a file cannot be read or written, or is no stage or no trace.
pub fn run(flags: &Simulate) -> anyhow::Result<()> {
    let read = |file: &PathBuf| {
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
    };
    let stages =
        crds::document::parse(&read(&flags.file)?).with_context(|| flags.file.display().to_string())?;
    let stage = one(&stages, flags.stage.as_deref()).with_context(|| flags.file.display().to_string())?;
    let trace: Trace = read(&flags.trace)?
        .parse()
        .with_context(|| flags.trace.display().to_string())?;
    let workers = Workers {
        rate: flags.worker_rate,
        start_seconds: flags.worker_start,
    };
    let (seconds, steps) = simulate(&Rules::from(stage), &trace.over(flags.partitions), workers);
    for step in &steps {
        println!(
            "{:>6} s  {:>3} -> {:<3} {}",
            step.second, step.from, step.to, step.words
        );
    }
    println!("\n{}", draw::terminal(&seconds));
    if let Some(file) = &flags.svg {
        std::fs::write(file, draw::svg(&seconds))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The stage of that name, or the only one.
fn one<'s>(stages: &'s [StreamStage], name: Option<&str>) -> anyhow::Result<&'s StreamStage> {
    let asked: Vec<&StreamStage> = stages
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
    match (asked.as_slice(), name) {
        ([stage], _) => Ok(stage),
        ([], Some(name)) => anyhow::bail!("no stage `{name}`: name one of {}", names()),
        ([], None) => anyhow::bail!("no stage in it"),
        _ => anyhow::bail!("several stages: name one with --stage: {}", names()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_found_by_its_name_or_as_the_only_one() {
        let stages = crds::document::parse(include_str!("../../../examples/local.yaml")).expect("stages");
        let said = |stages: &[StreamStage], name| match one(stages, name) {
            Ok(stage) => stage.name().to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(said(&stages, Some("dds")), "dds");
        assert_eq!(said(&stages[..1], None), "stg");
        assert_eq!(
            said(&stages, None),
            "several stages: name one with --stage: stg, dds, cdm"
        );
        assert_eq!(
            said(&stages, Some("ods")),
            "no stage `ods`: name one of stg, dds, cdm"
        );
        assert_eq!(said(&[], None), "no stage in it");
    }
}
