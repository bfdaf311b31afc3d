//! Charts of lag and workers over time: bars for the terminal, and an SVG. Pure.

use std::fmt::Write as _;

use super::sample::Sample;

/// Maximum width of the terminal chart, in columns.
const MAX_COLUMNS: usize = 72;
/// Bar characters, from empty to full in eighths.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Formats lag and workers as two lines of bars, each scaled to its own maximum.
#[must_use]
pub fn terminal(samples: &[Sample]) -> String {
    let lags: Vec<u64> = samples.iter().map(|sample| sample.lag).collect();
    let replicas: Vec<u64> = samples.iter().map(|sample| sample.replicas.into()).collect();
    let last = samples.len().saturating_sub(1);
    format!(
        "lag      {} up to {}\nworkers  {} up to {}\n         0 s{:>width$} s\n",
        bars(&lags),
        lags.iter().max().unwrap_or(&0),
        bars(&replicas),
        replicas.iter().max().unwrap_or(&0),
        last,
        width = MAX_COLUMNS.min(samples.len()).saturating_sub(5)
    )
}

/// Formats the maximum of each column as one bar character.
fn bars(values: &[u64]) -> String {
    let max = values.iter().max().copied().unwrap_or(0).max(1);
    let columns = MAX_COLUMNS.min(values.len());
    let bar = |column: usize| {
        let (from, to) = (
            column * values.len() / columns,
            (column + 1) * values.len() / columns,
        );
        let column_max = values[from..to].iter().max().copied().unwrap_or(0);
        let level = usize::try_from((column_max * 8).div_ceil(max)).unwrap_or(8);
        BARS[level.min(8)]
    };
    (0..columns).map(bar).collect()
}

/// Formats an SVG: the lag as an area, the workers as a line, each scaled to its own maximum.
#[must_use]
pub fn svg(samples: &[Sample]) -> String {
    let max_lag = samples.iter().map(|sample| sample.lag).max().unwrap_or(0).max(1);
    let max_workers = samples
        .iter()
        .map(|sample| sample.replicas)
        .max()
        .unwrap_or(0)
        .max(1);
    let last = samples.len().saturating_sub(1).max(1);
    let (mut area, mut line) = ("0,200".to_owned(), String::new());
    for (sample, second) in samples.iter().zip(0_u64..) {
        // In tenths of a unit, which is finer than any screen.
        let x = second * 8000 / last as u64;
        let y = 2000 - sample.lag.saturating_mul(1800) / max_lag;
        let workers = 2000 - u64::from(sample.replicas) * 1800 / u64::from(max_workers);
        // Writing to a String cannot fail.
        let _ = write!(area, " {},{}", format_tenths(x), format_tenths(y));
        let _ = write!(line, " {},{}", format_tenths(x), format_tenths(workers));
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-10 -10 820 240\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <polygon points=\"{area} 800,200\" fill=\"#9ecae1\"/>\n\
         <polyline points=\"{}\" fill=\"none\" stroke=\"#d94801\" stroke-width=\"2\"/>\n\
         <line x1=\"0\" y1=\"200\" x2=\"800\" y2=\"200\" stroke=\"#555\"/>\n\
         <text x=\"0\" y=\"5\" fill=\"#3182bd\">lag, up to {max_lag} records</text>\n\
         <text x=\"800\" y=\"5\" fill=\"#d94801\" text-anchor=\"end\">workers, up to {max_workers}</text>\n\
         <text x=\"800\" y=\"216\" text-anchor=\"end\">{last} s</text>\n</svg>\n",
        line.trim_start()
    )
}

fn format_tenths(tenths: u64) -> String {
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> Vec<Sample> {
        (0..144)
            .map(|second| Sample {
                lag: second * 10,
                replicas: u32::from(second > 72) + 1,
            })
            .collect()
    }

    #[test]
    fn bars_rise_with_the_values() {
        let chart = terminal(&ramp());
        let lag = chart.lines().next().unwrap_or_default();
        assert!(
            lag.contains(" ▁") && lag.contains("▇█") && lag.ends_with("up to 1430"),
            "{chart}"
        );
        let workers = chart.lines().nth(1).unwrap_or_default();
        assert!(workers.contains("▄█") && workers.ends_with("up to 2"), "{chart}");
    }

    #[test]
    fn the_svg_spans_its_whole_view_box() {
        let chart = svg(&ramp());
        assert!(
            chart.contains("0,200 0.0,200.0") && chart.contains("800.0,20.0 800,200"),
            "{chart}"
        );
    }

    #[test]
    fn an_empty_simulation_yields_an_empty_chart() {
        assert!(terminal(&[]).contains("up to 0"));
        assert!(svg(&[]).starts_with("<svg"));
    }
}
