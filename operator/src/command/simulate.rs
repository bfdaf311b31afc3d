//! `operator simulate`: replays an arrival trace through the scaling algorithm, without a cluster.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use telemetry::stdout::print_line;

use crate::scale::ScalingSettings;
use crate::simulate::arrivals::Arrivals;
use crate::simulate::curve::Curve;
use crate::simulate::model::ClusterModel;
use crate::simulate::suite::Suite;
use crate::simulate::trace::Trace;
use crate::simulate::{chart, simulate, suite};

/// Flags of `operator simulate`.
#[derive(Debug, Args)]
pub struct Simulate {
    /// Stage file; select one of several stages with --stage
    #[arg(long, short, value_name = "FILE", required_unless_present = "suite")]
    pub file: Option<PathBuf>,
    /// Name of the stage
    #[arg(long, value_name = "NAME")]
    pub stage: Option<String>,
    /// CSV with the header `seconds,records_per_second`, or one column per partition; a row applies until the next. With
    /// a last column `worker_rate`, it overrides --worker-rate
    #[arg(long, value_name = "FILE", required_unless_present = "suite")]
    pub trace: Option<PathBuf>,
    /// Run all traces of this TOML file, or of those in this directory, and print one row for each; fails if one exceeds
    /// its limits
    #[arg(long, value_name = "PATH", conflicts_with_all = ["file", "trace"])]
    pub suite: Option<PathBuf>,
    /// Partition count for a single-column trace
    #[arg(long, value_name = "NUMBER", default_value_t = 12)]
    pub partitions: u32,
    /// Assumptions about the cluster
    #[command(flatten)]
    pub cluster: ClusterFlags,
    /// Also write a chart of lag and workers to this SVG file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Flags about the simulated cluster.
#[derive(Debug, Args)]
pub struct ClusterFlags {
    /// Throughput per worker, in records per second
    #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
    pub worker_rate: u32,
    /// Startup time of a worker, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub worker_startup_seconds: u32,
    /// Speed of a worker, by the order in which they start, from 0: `1=0.2` for a fifth; may be repeated
    #[arg(long, value_name = "NUMBER=SPEED", value_parser = parse_speed)]
    pub worker_speed: Vec<(String, f64)>,
    /// Throughput of all workers together during a period, in records per second; may be repeated
    #[arg(long, value_name = "RATE@FROM..UNTIL", value_parser = parse_shared_rate)]
    pub shared_rate: Vec<(u32, u32, f64)>,
    /// Time for which a partition that changes its worker is not read, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    pub rebalance_seconds: u32,
    /// A rebalance pauses every partition, not only those that change their worker
    #[arg(long)]
    pub eager: bool,
    /// Time between two commits of a partition, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    pub commit_seconds: u32,
    /// Partitions that are added to the topic; may be repeated
    #[arg(long, value_name = "COUNT@SECOND", value_parser = parse_added_partitions)]
    pub add_partitions: Vec<(u32, u32)>,
    /// Second at which another operator takes over; may be repeated
    #[arg(long, value_name = "SECOND")]
    pub restart_at: Vec<u32>,
    /// Capacity of a worker that the operator knows at the start, in records per second [default: it measures it]
    #[arg(long, value_name = "NUMBER")]
    pub capacity: Option<u32>,
    /// The operator may not see the members of the consumer group
    #[arg(long)]
    pub hidden_members: bool,
}

impl From<&ClusterFlags> for ClusterModel {
    fn from(flags: &ClusterFlags) -> Self {
        Self {
            worker_rate: Curve::constant(flags.worker_rate.into()),
            startup_seconds: flags.worker_startup_seconds,
            worker_speeds: flags.worker_speed.iter().cloned().collect(),
            shared_rates: flags.shared_rate.clone(),
            rebalance_seconds: flags.rebalance_seconds,
            eager: flags.eager,
            commit_seconds: flags.commit_seconds,
            added_partitions: flags.add_partitions.clone(),
            restarts: flags.restart_at.clone(),
            capacity: flags.capacity.map(f64::from),
            hidden_members: flags.hidden_members,
            ..Self::default()
        }
    }
}

/// Simulates the stage on the trace and prints each decision and a chart of lag and workers, or runs a suite.
///
/// # Errors
/// Fails if a file cannot be read or written, if the stage or the trace is invalid, if the stage is not selected
/// unambiguously, or if a trace of the suite exceeds its limits.
pub fn run(flags: &Simulate) -> anyhow::Result<()> {
    match (&flags.suite, &flags.file, &flags.trace) {
        (Some(suite), _, _) => run_suite(suite),
        (None, Some(file), Some(trace)) => run_trace(flags, file, trace),
        _ => anyhow::bail!("set --file and --trace, or --suite"),
    }
}

fn run_trace(flags: &Simulate, file: &Path, trace_file: &Path) -> anyhow::Result<()> {
    let stages = crds::document::parse(&read(file)?).with_context(|| file.display().to_string())?;
    let stage = select_stage(&stages, flags.stage.as_deref()).with_context(|| file.display().to_string())?;
    let trace: Trace = read(trace_file)?
        .parse()
        .with_context(|| trace_file.display().to_string())?;
    let seconds = trace.duration_seconds();
    let mut settings = ScalingSettings::from(stage);
    // A trace has no date.
    settings.scaling.schedules.clear();
    let outcome = simulate(
        &settings,
        &ClusterModel::from(&flags.cluster),
        &Arrivals::Trace(trace.spread_over(flags.partitions)),
        seconds,
    );
    for decision in &outcome.decisions {
        print_line(format_args!(
            "{:>6} s  {:>3} -> {:<3} {}",
            decision.second, decision.from, decision.to, decision.message
        ))?;
    }
    print_line(format_args!("\n{}", chart::terminal(&outcome.samples)))?;
    print_line(format_args!(
        "{}\n{}",
        suite::header(),
        suite::row(stage.name(), &outcome, &[])
    ))?;
    if let Some(file) = &flags.svg {
        std::fs::write(file, chart::svg(&outcome.samples))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Runs the traces of a file, or of every TOML file in a directory.
fn run_suite(path: &Path) -> anyhow::Result<()> {
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = std::fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
    }
    anyhow::ensure!(!files.is_empty(), "{} contains no TOML file", path.display());
    print_line(suite::header())?;
    let (mut outcomes, mut exceeding) = (Vec::new(), Vec::new());
    for file in files {
        let Suite { traces } = toml::from_str(&read(&file)?).with_context(|| file.display().to_string())?;
        let directory = file.parent().unwrap_or(Path::new("."));
        for trace in traces {
            let arrivals = trace
                .arrivals(|name| std::fs::read_to_string(directory.join(name)))
                .with_context(|| file.display().to_string())?;
            let outcome = trace.run(&arrivals);
            let exceeded = trace.limits.exceeded(&outcome);
            print_line(suite::row(&trace.name, &outcome, &exceeded))?;
            if !exceeded.is_empty() {
                exceeding.push(trace.name);
            }
            outcomes.push(outcome);
        }
    }
    print_line(suite::summary(&outcomes))?;
    anyhow::ensure!(
        exceeding.is_empty(),
        "traces over their limits: {}",
        exceeding.join(", ")
    );
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn parse_speed(text: &str) -> Result<(String, f64), String> {
    let error = || format!("{text:?}: write NUMBER=SPEED, such as 1=0.2");
    let (number, speed) = text.split_once('=').ok_or_else(error)?;
    let number: usize = number.parse().map_err(|_| error())?;
    let speed: f64 = speed.parse().map_err(|_| error())?;
    if speed >= 0.0 {
        Ok((number.to_string(), speed))
    } else {
        Err(error())
    }
}

fn parse_shared_rate(text: &str) -> Result<(u32, u32, f64), String> {
    let parse = || {
        let (rate, period) = text.split_once('@')?;
        let (from, until) = period.split_once("..")?;
        Some((
            from.parse().ok()?,
            until.parse().ok()?,
            rate.parse::<u32>().ok()?.into(),
        ))
    };
    parse().ok_or_else(|| format!("{text:?}: write RATE@FROM..UNTIL, such as 1400@600..1200"))
}

fn parse_added_partitions(text: &str) -> Result<(u32, u32), String> {
    let parse = || {
        let (count, second) = text.split_once('@')?;
        Some((second.parse().ok()?, count.parse().ok()?))
    };
    parse().ok_or_else(|| format!("{text:?}: write COUNT@SECOND, such as 6@1200"))
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
    fn flags_of_the_cluster_are_parsed_or_rejected_with_an_example() {
        assert_eq!(parse_speed("1=0.2"), Ok(("1".to_owned(), 0.2)));
        assert_eq!(parse_shared_rate("1400@600..1200"), Ok((600, 1200, 1400.0)));
        assert_eq!(parse_added_partitions("6@1200"), Ok((1200, 6)));
        for error in [
            parse_speed("1").expect_err("no speed"),
            parse_speed("a=1").expect_err("no number"),
            parse_speed("1=-1").expect_err("a negative speed"),
            parse_shared_rate("1400@600").expect_err("no period"),
            parse_added_partitions("six").expect_err("no second"),
        ] {
            assert!(error.contains("such as"), "{error}");
        }
    }

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
