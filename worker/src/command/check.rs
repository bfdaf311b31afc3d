//! `worker check`: validates the file and tests every dependency of its stages, so that it reports what `worker run`
//! would meet. Never changes anything.

mod finding;
mod reference_data;
mod size_limits;
mod stage_chain;
mod topic_rules;
mod topics;
mod warehouse;

use clap::Args;
use telemetry::stdout::print_line;

use super::stage_selection::StageSelection;
use finding::{Finding, Severity};

/// Flags of `worker check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Stages to check.
    #[command(flatten)]
    pub selection: StageSelection,
}

/// Prints one line per finding; all findings, not only the first.
///
/// # Errors
/// If the file is invalid, or a check failed. Warnings are not errors.
pub async fn check(flags: Check) -> anyhow::Result<()> {
    let stages = flags.selection.read()?;
    print_line(format_args!(
        "ok      {}: {} stages",
        flags.selection.file.display(),
        stages.len()
    ))?;
    let secrets = flags.selection.secrets();
    let mut failed = print(&stage_chain::check_stages(&stages))?;
    for stage in &stages {
        let next = stage_chain::next_stages(stage, &stages);
        failed += print(&topics::check_topics(stage, &secrets, next).await)?;
        failed += print(&reference_data::check_reference_data(stage, &secrets).await)?;
        failed += print(&warehouse::check_warehouse(stage, &secrets).await)?;
    }
    anyhow::ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

/// Prints the findings, and returns the number of failed checks.
fn print(findings: &[Finding]) -> std::io::Result<usize> {
    findings.iter().try_for_each(print_line)?;
    let failed = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Failed);
    Ok(failed.count())
}
