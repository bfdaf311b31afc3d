#![expect(
    clippy::disallowed_types,
    reason = "edge: reads the warehouse, and prints the verdict"
)]
//! `worker verify`: verifies that the layers of each warehouse agree. Read-only, also while workers run.
//!
//! All checks of a warehouse read one snapshot. A layer may lack what another one has only while it has records to read:
//! it is behind then. Otherwise the two disagree, which is a finding.

mod finding;
mod gaps;
mod marts;
mod plan;
mod positions;
mod reader;
mod report;
mod staging;
mod vault;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use sqlx::PgConnection;
use telemetry::stdout::print_line;

use self::finding::Findings;
use self::gaps::Missing;
use self::plan::{Check, Group};
use self::reader::Reader;
use self::report::Report;
use super::stage_selection::StageSelection;
use crate::connect::Secrets;
use crate::plan::ORDERS;
use crate::stage;
use crate::warehouse::Warehouse;

/// Time that one statement may take; the checks of a large warehouse take longer than the statements of a batch.
const STATEMENT_TIMEOUT: Duration = Duration::from_hours(1);

/// Settings for queries that join whole tables: in the order in which they are written, never row by row. The server has
/// no statistics of tables that were loaded in the last minute, and its estimates without them lead to joins that do not
/// end.
const JOIN_WHOLE_TABLES: &str = "SET LOCAL join_collapse_limit = 1; SET LOCAL enable_nestloop = off";
/// Settings for queries that read rows by their keys.
const JOIN_ROWS: &str = "SET LOCAL join_collapse_limit = DEFAULT; SET LOCAL enable_nestloop = DEFAULT";

/// Flags of `worker verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Stages whose warehouses are verified.
    #[command(flatten)]
    pub selection: StageSelection,
}

/// Verifies each warehouse of the file, and prints one line per group of checks, one per finding, and the verdict.
///
/// # Errors
/// If a dependency is unavailable, or there is a finding.
pub async fn verify(flags: Verify) -> anyhow::Result<()> {
    let secrets = flags.selection.secrets();
    let mut warehouses: BTreeMap<String, Vec<StreamStage>> = BTreeMap::new();
    for stage in flags.selection.read()? {
        let warehouse = &stage.spec.warehouse;
        let address = format!("{}:{}/{}", warehouse.host, warehouse.port, warehouse.database);
        warehouses.entry(address).or_default().push(stage);
    }
    let mut findings = 0;
    for (address, stages) in warehouses {
        print_line(format_args!("warehouse {address}"))?;
        let verified = Box::pin(verify_warehouse(&stages, &secrets)).await;
        findings += verified.with_context(|| format!("warehouse {address}"))?;
    }
    anyhow::ensure!(
        findings == 0,
        "the warehouse disagrees: {findings} findings, see the lines above"
    );
    Ok(())
}

/// Verifies the warehouse of some stages, and returns the number of findings.
async fn verify_warehouse(stages: &[StreamStage], secrets: &Secrets) -> anyhow::Result<u64> {
    let warehouse = stage::warehouse(&stages[0], secrets)?;
    let mut snapshot = warehouse.begin_snapshot(STATEMENT_TIMEOUT).await?;
    execute(snapshot.connection(), JOIN_WHOLE_TABLES).await?;
    let readers = Reader::read_all(snapshot.connection(), stages, secrets).await?;
    let groups = plan::plan(stages)?;
    let mut report = Report::new(groups.iter().map(|group| group.checks.len()).sum())?;
    report.end("positions are in their logs", &reader::misplaced(&readers))?;
    let mut missing = Vec::new();
    for Group { title, checks } in groups {
        report.begin(title);
        let mut findings = Findings::default();
        for check in checks {
            match check {
                Check::Gap(gap) => missing.push(gap.search(snapshot.connection()).await?),
                other => findings.append(run(snapshot.connection(), other, &mut report).await?),
            }
            report.advance(1);
        }
        report.end(title, &findings)?;
    }
    snapshot.commit().await?;
    for missing in missing {
        settle(missing, &warehouse, &readers, &mut report).await?;
    }
    Ok(report.finish()?)
}

/// Runs one check in the snapshot.
async fn run(snapshot: &mut PgConnection, check: Check, report: &mut Report) -> anyhow::Result<Findings> {
    Ok(match check {
        Check::Query(query) => Findings::query(snapshot, &query).await?,
        Check::Hub(hub) => vault::check_hub(snapshot, hub).await?,
        Check::Link(link) => vault::check_link(snapshot, link, &ORDERS.vault).await?,
        Check::Satellite(satellite) => vault::check_satellite(snapshot, satellite, &ORDERS.vault).await?,
        Check::OrderEvents(settings) => {
            report.extend(staging::count(snapshot).await?);
            execute(snapshot, JOIN_ROWS).await?;
            let compared =
                staging::compare_with_vault(snapshot, &settings, |rows| report.advance(rows)).await?;
            execute(snapshot, JOIN_WHOLE_TABLES).await?;
            report.not_compared(compared.not_accepted)?;
            compared.findings
        }
        Check::Gap(_) => Findings::default(),
    })
}

/// Executes a statement without a result.
async fn execute(snapshot: &mut PgConnection, statement: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(statement).execute(snapshot).await?;
    Ok(())
}

/// Decides whether missing versions are a finding: not if their layer is behind. A layer with records to read gets time
/// to read those of the snapshot, and the versions are searched again.
async fn settle(
    missing: Missing,
    warehouse: &Warehouse,
    readers: &[Reader],
    report: &mut Report,
) -> anyhow::Result<()> {
    let title = missing.gap.title();
    report.begin(&title);
    let lacking = reader::of_layer(readers, missing.gap.lacking);
    let was_behind = missing.count > 0 && lacking.iter().any(|reader| reader.lag() > 0);
    let lag = if was_behind {
        reader::wait_caught_up(warehouse, &lacking).await?
    } else {
        0
    };
    if lag > 0 {
        report.behind(&title, missing.count, lag, missing.gap.lacking)?;
    } else if was_behind {
        let mut snapshot = warehouse.begin_snapshot(STATEMENT_TIMEOUT).await?;
        let keys = missing
            .gap
            .search_again(snapshot.connection(), &missing.keys)
            .await?;
        snapshot.commit().await?;
        report.end(&title, &missing.gap.findings(&keys))?;
    } else {
        report.end(&title, &missing.gap.findings(&missing.keys))?;
    }
    Ok(())
}
