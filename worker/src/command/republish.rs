#![expect(
    clippy::disallowed_methods,
    reason = "edge: produces stored versions again, and measures their rate"
)]
//! `worker republish`: produces stored versions to the output topic again.
//!
//! A stage skips records that it has stored, so it never produces them again by itself. Without `--execute` the command
//! is a dry run: it builds every message and produces none. It is safe while workers run: versions order the messages,
//! so the next stage recognizes a duplicate.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{ArgGroup, Args};
use crds::StreamStage;
use crds::stage::Layer;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use telemetry::stdout::print_line;

use super::stage_selection::StageSelection;
use crate::connect::{self, Secrets};
use crate::layer::dds::stored::StoredFacts;
use crate::layer::stg::ReferenceDataStore;
use crate::layer::stg::stored::StoredOrders;
use crate::layer::stored::{RebuildOutcome, Rebuilt, StoredVersions, VersionFilter, VersionKey, split_page};
use crate::metrics::Metrics;
use crate::output::Output;
use crate::publish::Publisher;
use crate::stage;
use crate::warehouse::Warehouse;

/// Maximum number of keys per page.
const PAGE_ROWS: i64 = 2_000;
/// Maximum number of versions per chunk, which is produced at once.
const CHUNK_ROWS: usize = 500;
/// Maximum bytes of the stored versions of a chunk, unless it is a single version.
const CHUNK_BYTES: usize = 4 << 20;
/// Time that the selection of a page may take: it reads the whole table if few versions are selected.
const SELECT_TIMEOUT: Duration = Duration::from_mins(30);
/// Maximum number of printed versions that cannot be produced.
const MAX_PRINTED: usize = 20;

/// Flags of `worker republish`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("versions").args(["all", "since", "until", "ids"]).multiple(true).required(true)))]
pub struct Republish {
    /// Stages whose stored versions are produced again.
    #[command(flatten)]
    pub selection: StageSelection,
    /// All stored versions
    #[arg(long, conflicts_with_all = ["since", "until", "ids"])]
    pub all: bool,
    /// Only versions that were stored at or after this time, such as 2024-02-24T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub since: Option<Timestamp>,
    /// Only versions that were stored before this time
    #[arg(long, value_name = "TIME")]
    pub until: Option<Timestamp>,
    /// Only versions of these orders
    #[arg(long = "id", value_name = "ORDER", value_delimiter = ',')]
    pub ids: Vec<i64>,
    /// Maximum number of messages per second
    #[arg(long, value_name = "NUMBER")]
    pub rate: Option<NonZeroU32>,
    /// Produce the messages; without it, only count them (dry run)
    #[arg(long)]
    pub execute: bool,
}

/// Produces the selected versions of every selected stage, or counts them.
///
/// # Errors
/// If a dependency is unavailable, or some versions cannot be produced. The command can be repeated: messages that were
/// produced before change nothing.
pub async fn republish(flags: Republish) -> anyhow::Result<()> {
    let secrets = flags.selection.secrets();
    let mut failed = 0;
    for stage in flags.selection.read()? {
        let result = Box::pin(republish_stage(&stage, &secrets, &flags)).await;
        failed += result.with_context(|| format!("stage {}", stage.name()))?;
    }
    if !flags.execute {
        print_line("dry run: add --execute to apply")?;
        return Ok(());
    }
    anyhow::ensure!(
        failed == 0,
        "{failed} versions were not produced; see their lines, repair the cause, and run the command again"
    );
    Ok(())
}

/// Returns the number of versions that cannot be produced.
async fn republish_stage(stage: &StreamStage, secrets: &Secrets, flags: &Republish) -> anyhow::Result<u64> {
    let Some(output) = &stage.spec.output else {
        print_line(format_args!("{}: has no output topic", stage.name()))?;
        return Ok(0);
    };
    let publisher = stage::publisher(stage, secrets)?;
    publisher.refresh_limit().await;
    let run = Run {
        stage: stage.name(),
        output: &output.topic,
        source: stage::origin(stage).record_source(),
        warehouse: stage::warehouse(stage, secrets)?,
        filter: flags.filter(),
        pace: flags.execute.then(|| Pace {
            rate: flags.rate,
            started: Instant::now(),
        }),
        publisher: &publisher,
    };
    match stage.spec.layer {
        Layer::Stg => run.all_pages(&stored_orders(stage, secrets)?).await,
        Layer::Dds => {
            let record_source = run.source.clone();
            run.all_pages(&StoredFacts { record_source }).await
        }
        // Rejected by the rules of the document: it has no output.
        Layer::Cdm => Ok(0),
    }
}

fn stored_orders(stage: &StreamStage, secrets: &Secrets) -> anyhow::Result<StoredOrders> {
    let reference_data = stage.spec.reference_data.as_ref();
    let reference_data = reference_data.context("spec.referenceData: required for the layer stg")?;
    let redis = connect::redis_connection(reference_data, secrets)?;
    // Nothing serves them.
    let metrics = Metrics::register(&mut Registry::default());
    Ok(StoredOrders {
        settings: stage::decode_settings(stage)?,
        reference_data: ReferenceDataStore::new(redis, stage.name(), metrics),
        origin: stage::origin(stage),
    })
}

impl Republish {
    fn filter(&self) -> VersionFilter {
        VersionFilter {
            orders: self.ids.clone(),
            since: self.since.map(Timestamp::as_microsecond),
            until: self.until.map(Timestamp::as_microsecond),
        }
    }
}

/// Republish of one stage.
struct Run<'r> {
    stage: &'r str,
    output: &'r str,
    /// Record source of the stage's versions.
    source: String,
    warehouse: Warehouse,
    filter: VersionFilter,
    /// `None` for a dry run.
    pace: Option<Pace>,
    publisher: &'r Publisher,
}

impl Run<'_> {
    /// Reads, builds and produces page by page; returns the number of versions that cannot be produced.
    async fn all_pages<S: StoredVersions>(&self, layer: &S) -> anyhow::Result<u64> {
        let bar = self.progress_bar(layer).await?;
        let mut report = Report::default();
        let mut after: Option<VersionKey<S::OrderKey>> = None;
        loop {
            let mut snapshot = self.warehouse.begin_snapshot(SELECT_TIMEOUT).await?;
            let page = layer.page(snapshot.connection(), &self.filter, after.as_ref(), PAGE_ROWS);
            let page = page.await?;
            snapshot.commit().await?;
            for chunk in split_page(&page, self.chunk_rows(), CHUNK_BYTES) {
                let keys: Vec<_> = chunk.iter().filter(|key| !key.is_pending).collect();
                report.pending += chunk.len() - keys.len();
                let rebuilt = self
                    .warehouse
                    .transact(async |connection| layer.rebuild(connection, &keys).await);
                let outputs = report.add(self.stage, rebuilt.await?, self.publisher.limit().bytes())?;
                if let Some(pace) = &self.pace {
                    self.publisher.publish_again(&outputs).await?;
                    pace.wait(report.ready).await;
                }
                bar.inc(chunk.len() as u64);
            }
            match page.into_iter().last() {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        bar.finish_and_clear();
        self.print(&report)?;
        Ok(report.failed())
    }

    /// Counts the versions, and prints those of other topics, which are left out.
    async fn progress_bar<S: StoredVersions>(&self, layer: &S) -> anyhow::Result<ProgressBar> {
        let mut snapshot = self.warehouse.begin_snapshot(SELECT_TIMEOUT).await?;
        let counts = layer.count(snapshot.connection(), &self.filter).await?;
        snapshot.commit().await?;
        let mut total = 0;
        for (source, count) in counts {
            if source == self.source {
                total = count;
            } else {
                print_line(format_args!(
                    "{}: {count} versions from {source} are left out; set spec.source.topic to their topic to include them",
                    self.stage
                ))?;
            }
        }
        let bar = ProgressBar::new(total.unsigned_abs());
        bar.set_style(ProgressStyle::with_template(
            "{prefix:<10} {bar:32} {human_pos}/{human_len}   {per_sec}   {eta}",
        )?);
        bar.set_prefix(self.stage.to_owned());
        Ok(bar)
    }

    /// A chunk takes at most a second at the requested rate.
    fn chunk_rows(&self) -> usize {
        let rate = self.pace.as_ref().and_then(|pace| pace.rate);
        rate.map_or(CHUNK_ROWS, |rate| {
            CHUNK_ROWS.min(usize::try_from(rate.get()).unwrap_or(CHUNK_ROWS))
        })
    }

    fn print(&self, report: &Report) -> std::io::Result<()> {
        let action = if self.pace.is_some() {
            "produced to"
        } else {
            "to produce to"
        };
        print_line(format_args!(
            "{}: {} versions {action} {}",
            self.stage, report.ready, self.output
        ))?;
        for (count, reason) in [
            (report.pending, "pending, left to the retry of pending orders"),
            (report.dead_lettered, "dead-lettered, left to redrive"),
            (report.missing, "not produced: reference data missing"),
            (report.rejected, "not produced: rejected"),
        ] {
            if count > 0 {
                print_line(format_args!("{}: {count} versions {reason}", self.stage))?;
            }
        }
        Ok(())
    }
}

/// Rate limit of the produced messages.
struct Pace {
    rate: Option<NonZeroU32>,
    started: Instant,
}

impl Pace {
    /// Waits until `produced` messages since the start are within the rate.
    async fn wait(&self, produced: usize) {
        if let Some(rate) = self.rate {
            let due = self.started + time_for(produced, rate);
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

/// Shortest time for a number of messages at a rate per second.
fn time_for(messages: usize, rate: NonZeroU32) -> Duration {
    let nanos = messages as u128 * 1_000_000_000 / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Numbers of versions by outcome.
#[derive(Debug, Default)]
struct Report {
    ready: usize,
    pending: usize,
    dead_lettered: usize,
    missing: usize,
    rejected: usize,
}

impl Report {
    /// Counts the outcomes of a chunk, prints the first versions that cannot be produced, and returns the messages.
    fn add(&mut self, stage: &str, rebuilt: Vec<Rebuilt>, max_bytes: usize) -> std::io::Result<Vec<Output>> {
        let mut outputs = Vec::with_capacity(rebuilt.len());
        for Rebuilt { order_id, outcome } in rebuilt {
            let cause = match outcome {
                RebuildOutcome::Ready(output) => {
                    let Some(rejection) = output.find_rejection(max_bytes) else {
                        self.ready += 1;
                        outputs.push(output);
                        continue;
                    };
                    self.rejected += 1;
                    rejection.to_string()
                }
                RebuildOutcome::DeadLettered => {
                    self.dead_lettered += 1;
                    continue;
                }
                RebuildOutcome::Missing(entries) => {
                    self.missing += 1;
                    format!("{} missing in the reference data", entries.join(", "))
                }
                RebuildOutcome::Rejected(rejection) => {
                    self.rejected += 1;
                    rejection.to_string()
                }
            };
            if self.missing + self.rejected <= MAX_PRINTED {
                print_line(format_args!("{stage}: order {order_id}: {cause}"))?;
            }
        }
        Ok(outputs)
    }

    fn failed(&self) -> u64 {
        (self.missing + self.rejected) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_take_their_share_of_a_second_at_the_rate() {
        let rate = |rate| NonZeroU32::new(rate).unwrap();
        assert_eq!(time_for(500, rate(1000)), Duration::from_millis(500));
        assert_eq!(time_for(3, rate(1)), Duration::from_secs(3));
        assert_eq!(time_for(0, rate(7)), Duration::ZERO);
    }

    #[test]
    fn the_versions_to_produce_must_be_chosen() {
        use clap::Parser as _;
        let parse = |flags: &[&str]| {
            let command = ["worker", "republish", "--file", "stage.yaml"];
            crate::command::Cli::try_parse_from(command.iter().chain(flags)).is_ok()
        };
        assert!(!parse(&[]) && !parse(&["--all", "--id", "7"]) && !parse(&["--all", "--rate", "0"]));
        for flags in [
            &["--all"][..],
            &["--id", "7,8", "--since", "2024-02-24T00:00:00Z"],
            &["--until", "2024-02-24T00:00:00+03:00", "--rate", "5", "--execute"],
        ] {
            assert!(parse(flags), "{flags:?}");
        }
    }
}
