//! `worker dead-letters list`: counts dead letters by code and lists them, without their content.

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use telemetry::stdout::print_line;

use super::filter_flags::{FilterFlags, print_counts};
use super::readable::readable_line;
use crate::connect::Secrets;
use crate::dead_letter::selection::{self, DeadLetter};
use crate::stage;

/// Flags of `worker dead-letters list`.
#[derive(Debug, Args)]
pub struct List {
    /// Dead letters to list.
    #[command(flatten)]
    pub filter: FilterFlags,
    /// Maximum number of dead letters per stage to list; all of them are counted
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(i64).range(0..))]
    pub limit: i64,
    /// Include redriven and discarded dead letters
    #[arg(long)]
    pub all: bool,
}

/// Prints the counts and the dead letters of every stage.
///
/// # Errors
/// If PostgreSQL fails, or standard output cannot be written.
pub async fn list(flags: List) -> anyhow::Result<()> {
    let secrets = flags.filter.selection.secrets();
    for stage in flags.filter.selection.read()? {
        let listed = list_stage(&stage, &secrets, &flags).await;
        listed.with_context(|| format!("stage {}", stage.name()))?;
    }
    Ok(())
}

async fn list_stage(stage: &StreamStage, secrets: &Secrets, flags: &List) -> anyhow::Result<()> {
    let (origin, filter) = (stage::origin(stage), flags.filter.filter(flags.all));
    let warehouse = stage::warehouse(stage, secrets)?;
    let total = print_counts(&warehouse, &origin, &filter).await?;
    let letters = warehouse
        .transact(async |connection| selection::list(connection, &origin, &filter, flags.limit).await);
    let letters = letters.await?;
    if !letters.is_empty() {
        print_line(format_args!(
            "  {:>9} {:>12} {:<20} {:<9} {:>8} {:<6} {:<22} DETAIL",
            "PARTITION", "OFFSET", "TIME", "STATE", "ATTEMPTS", "COPIED", "CODE"
        ))?;
    }
    letters
        .iter()
        .try_for_each(|letter| print_line(format_letter(letter)))?;
    let remaining = total - i64::try_from(letters.len())?;
    if remaining > 0 {
        print_line(format_args!(
            "  {remaining} more; list them with --limit, or narrow the filter"
        ))?;
    }
    Ok(())
}

fn format_letter(letter: &DeadLetter) -> String {
    let (_, partition, offset) = letter.id;
    let error = &letter.error;
    format!(
        "  {partition:>9} {offset:>12} {:<20} {:<9} {:>8} {:<6} {:<22} {}",
        letter.dead_lettered_at,
        letter.state,
        error.attempts,
        if letter.is_copied { "yes" } else { "no" },
        error.code,
        readable_line(&error.detail)
    )
}
