//! `worker dead-letters discard`: marks dead letters that will never be processed. Without `--execute` it is a preview.

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use telemetry::stdout::print_line;

use super::filter_flags::{FilterFlags, print_counts};
use crate::connect::Secrets;
use crate::dead_letter::selection;
use crate::record_columns::replace_nul;
use crate::stage;

/// Flags of `worker dead-letters discard`.
#[derive(Debug, Args)]
pub struct Discard {
    /// Dead letters to discard.
    #[command(flatten)]
    pub filter: FilterFlags,
    /// Reason, which is stored with each dead letter
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub reason: String,
    /// Maximum number of dead letters per stage [default: all]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    pub limit: Option<i64>,
    /// Discard them; without it, only print their number by code
    #[arg(long)]
    pub execute: bool,
}

/// Prints the number of selected dead letters by code, and discards them with `--execute`.
///
/// # Errors
/// If PostgreSQL fails, or standard output cannot be written.
pub async fn discard(flags: Discard) -> anyhow::Result<()> {
    let secrets = flags.filter.selection.secrets();
    for stage in flags.filter.selection.read()? {
        let discarded = discard_stage(&stage, &secrets, &flags).await;
        discarded.with_context(|| format!("stage {}", stage.name()))?;
    }
    if !flags.execute {
        print_line("preview: add --execute to discard")?;
    }
    Ok(())
}

async fn discard_stage(stage: &StreamStage, secrets: &Secrets, flags: &Discard) -> anyhow::Result<()> {
    let (origin, filter) = (stage::origin(stage), flags.filter.filter(false));
    let warehouse = stage::warehouse(stage, secrets)?;
    print_counts(&warehouse, &origin, &filter).await?;
    if flags.execute {
        let limit = flags.limit.unwrap_or(i64::MAX);
        let reason = replace_nul(&flags.reason);
        let discarded = warehouse.transact(async |connection| {
            selection::discard(connection, &origin, &filter, limit, &reason).await
        });
        let discarded = discarded.await?;
        print_line(format_args!(
            "{}: {discarded} dead letters discarded",
            stage.name()
        ))?;
    }
    Ok(())
}
