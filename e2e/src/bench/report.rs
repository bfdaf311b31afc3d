//! Results: a table for the terminal, JSON, and a picture of the ratios.

use std::fmt::{self, Write as _};

use anyhow::Result;
use serde::Serialize;

use super::measurement::Measurement;

/// Height of a bar with its distance to the next one, in pixels of the picture.
const BAR_PIXELS: usize = 22;
/// Width of a bar that reaches its goal, in pixels.
const GOAL_PIXELS: f64 = 260.0;

/// Results of a run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    measurements: Vec<(String, Measurement)>,
    rows: Vec<Row>,
    /// Sizes of an installation, as a Markdown table.
    sizing: Option<String>,
    /// Share of the machine that other programs took.
    pub foreign_share: f64,
}

/// A ratio or a quantity, with its goal.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    value: f64,
    #[serde(flatten)]
    goal: Goal,
}

/// Goal of a row, and the floor below which the run fails. Without either, the row is for information.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Goal {
    at_least: Option<f64>,
    at_most: Option<f64>,
    floor: Option<f64>,
}

impl Goal {
    /// The value should be at least `goal`, and must be at least `floor`.
    pub(super) fn at_least(goal: f64, floor: f64) -> Self {
        Self {
            at_least: Some(goal),
            floor: Some(floor),
            ..Self::default()
        }
    }

    /// The value should be at most `goal`.
    pub(super) fn at_most(goal: f64) -> Self {
        Self {
            at_most: Some(goal),
            ..Self::default()
        }
    }

    fn verdict(&self, value: f64) -> &'static str {
        let is_reached = match (self.at_least, self.at_most) {
            (None, None) => return "",
            (Some(least), _) => value >= least,
            (_, Some(most)) => value <= most,
        };
        if is_reached { "reached" } else { "missed" }
    }

    fn is_below_floor(&self, value: f64) -> bool {
        self.floor.is_some_and(|floor| value < floor)
    }

    /// Value as a share of the goal: 1 is reached, more is better.
    fn share(&self, value: f64) -> Option<f64> {
        self.at_least
            .map(|least| value / least)
            .or_else(|| self.at_most.map(|most| most / value))
    }

    fn text(&self) -> String {
        match (self.at_least, self.at_most) {
            (Some(least), _) => format!(">= {least}"),
            (_, Some(most)) => format!("<= {most}"),
            _ => String::new(),
        }
    }
}

impl Report {
    /// Adds the cost of one variant.
    pub(super) fn add_measurement(&mut self, name: &str, measurement: Measurement) {
        self.measurements.push((name.to_owned(), measurement));
    }

    /// Adds a row with its goal.
    pub(super) fn add_row(&mut self, name: &str, value: f64, goal: Goal) {
        self.rows.push(Row {
            name: name.to_owned(),
            value,
            goal,
        });
    }

    /// Sets the sizes of an installation, as a Markdown table.
    pub(super) fn set_sizing(&mut self, table: String) {
        self.sizing = Some(table);
    }

    /// Names of the rows below their floor.
    pub(super) fn missed(&self) -> Vec<&str> {
        let rows = self.rows.iter();
        let missed = rows.filter(|row| row.goal.is_below_floor(row.value));
        missed.map(|row| row.name.as_str()).collect()
    }

    /// The results as JSON.
    ///
    /// # Errors
    /// If a value cannot be represented.
    pub(super) fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Draws each row with a goal as a bar; the line is the goal.
    pub(super) fn to_svg(&self) -> String {
        let rows = self.rows.iter();
        let bars: Vec<(&Row, f64)> = rows
            .filter_map(|row| Some((row, row.goal.share(row.value)?)))
            .collect();
        let height = (bars.len() + 1) * BAR_PIXELS;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" height=\"{height}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n"
        );
        for (index, (row, share)) in bars.into_iter().enumerate() {
            let (top, width) = (index * BAR_PIXELS, share.min(1.6) * GOAL_PIXELS);
            let color = if share >= 1.0 { "#2e7d32" } else { "#c77700" };
            let (name, goal, value) = (
                escape(&row.name),
                escape(&row.goal.text()),
                format_value(row.value),
            );
            let _ = writeln!(
                svg,
                "<text x=\"300\" y=\"{}\" text-anchor=\"end\">{name}</text>\
                 <rect x=\"310\" y=\"{}\" width=\"{width:.0}\" height=\"14\" fill=\"{color}\"/>\
                 <text x=\"{:.0}\" y=\"{}\">{value} ({goal})</text>",
                top + 15,
                top + 4,
                318.0 + width,
                top + 15
            );
        }
        let _ = writeln!(
            svg,
            "<line x1=\"{0:.0}\" y1=\"0\" x2=\"{0:.0}\" y2=\"{height}\" stroke=\"#555\"/>\n</svg>",
            310.0 + GOAL_PIXELS
        );
        svg
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.measurements.is_empty() {
            writeln!(
                formatter,
                "{:<28} {:>10} {:>10} {:>10} {:>9} {:>10} {:>7}",
                "per record", "records/s", "worker us", "server us", "WAL B", "tables B", "MiB"
            )?;
        }
        for (name, measured) in &self.measurements {
            writeln!(
                formatter,
                "{name:<28} {:>10.0} {:>10.1} {:>10.1} {:>9.0} {:>10.0} {:>7.0}",
                measured.rate(),
                measured.worker_micros,
                measured.postgres_micros,
                measured.wal_bytes,
                measured.table_bytes,
                measured.peak_rss_bytes / f64::from(1 << 20)
            )?;
        }
        writeln!(formatter)?;
        for row in &self.rows {
            writeln!(
                formatter,
                "{:<48} {:>10}  {:<10} {}",
                row.name,
                format_value(row.value),
                row.goal.text(),
                row.goal.verdict(row.value)
            )?;
        }
        if let Some(sizing) = &self.sizing {
            write!(formatter, "\n{sizing}")?;
        }
        write!(
            formatter,
            "\nother programs took {:.1} % of the machine",
            self.foreign_share * 100.0
        )
    }
}

fn format_value(value: f64) -> String {
    if value.abs() < 100.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_a_verdict_and_only_a_value_below_its_floor_is_missed() {
        let mut report = Report::default();
        report.add_row("fast", 0.7, Goal::at_least(0.6, 0.3));
        report.add_row("slow", 0.5, Goal::at_least(0.6, 0.3));
        report.add_row("broken", 0.2, Goal::at_least(0.6, 0.3));
        report.add_row("dear", 20.0, Goal::at_most(18.0));
        assert_eq!(report.missed(), ["broken"]);
        let verdicts = report.rows.iter().map(|row| row.goal.verdict(row.value));
        assert!(verdicts.eq(["reached", "missed", "missed", "missed"]));
        let svg = report.to_svg();
        assert_eq!(svg.matches("<rect").count(), 4);
        assert!(svg.contains("&gt;= 0.6") && !svg.contains("(>="), "{svg}");
        assert!(report.to_string().contains("reached"));
    }
}
