//! Report: prints one line per group of checks, and the progress on a terminal.

use std::io;

use crds::stage::Layer;
use indicatif::{ProgressBar, ProgressStyle};
use telemetry::stdout::print_line;

use super::finding::Findings;
use super::gaps::layer_name;

/// Results so far.
pub(super) struct Report {
    bar: ProgressBar,
    findings: u64,
    is_behind: bool,
}

impl Report {
    /// Creates a report with a progress bar for a number of checks; without a terminal, the bar is hidden.
    ///
    /// # Errors
    /// If the template of the bar is invalid.
    pub(super) fn new(checks: usize) -> anyhow::Result<Self> {
        let bar = ProgressBar::new(checks as u64);
        bar.set_style(ProgressStyle::with_template(
            "{bar:32} {percent:>3} %   {elapsed}   {msg}",
        )?);
        Ok(Self {
            bar,
            findings: 0,
            is_behind: false,
        })
    }

    /// Shows the check that runs now.
    pub(super) fn begin(&self, title: &str) {
        self.bar.set_message(title.to_owned());
    }

    /// Adds to the number of steps.
    pub(super) fn extend(&self, steps: u64) {
        self.bar.inc_length(steps);
    }

    /// Advances the bar.
    pub(super) fn advance(&self, steps: u64) {
        self.bar.inc(steps);
    }

    /// Prints the result of a group of checks.
    pub(super) fn end(&mut self, title: &str, findings: &Findings) -> io::Result<()> {
        self.findings += findings.count();
        if findings.count() == 0 {
            return self.print(&format!("ok         {title}"));
        }
        self.print(&format!("DISAGREES  {title}: {} findings", findings.count()))?;
        for finding in findings.listed() {
            self.print(&format!("           {finding}"))?;
        }
        let others = findings.count() - findings.listed().len() as u64;
        if others > 0 {
            self.print(&format!("           and {others} others"))?;
        }
        Ok(())
    }

    /// Prints that a layer has not read everything.
    pub(super) fn behind(&mut self, title: &str, versions: u64, lag: i64, layer: Layer) -> io::Result<()> {
        self.is_behind = true;
        let layer = layer_name(layer);
        self.print(&format!(
            "behind     {title}: {versions} versions are missing, and {layer} has {lag} records to read"
        ))
    }

    /// Prints the number of order events that cannot be compared with the vault.
    pub(super) fn not_compared(&self, order_events: usize) -> io::Result<()> {
        if order_events > 0 {
            self.print(&format!(
                "unknown    {order_events} order events violate the present contract, so their rows in the vault are not \
                 compared"
            ))?;
        }
        Ok(())
    }

    /// Prints the verdict, and returns the number of findings.
    pub(super) fn finish(self) -> io::Result<u64> {
        self.bar.finish_and_clear();
        print_line(
            "unknown    which offsets were duplicates: a duplicate leaves no row, so only their number is accounted for",
        )?;
        match (self.findings, self.is_behind) {
            (0, false) => print_line("verdict    agrees")?,
            (0, true) => print_line("verdict    agrees, as far as the layers have read")?,
            (findings, _) => print_line(format_args!("verdict    disagrees: {findings} findings"))?,
        }
        Ok(self.findings)
    }

    fn print(&self, line: &str) -> io::Result<()> {
        self.bar.suspend(|| print_line(line))
    }
}
