//! Draws lag and workers over time: in the terminal, and as an SVG. Pure.

use std::fmt::Write as _;

use super::Second;

/// Columns of the drawing in the terminal.
const WIDTH: usize = 72;
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Two lines of bars, each up to its own maximum.
#[must_use]
pub fn terminal(seconds: &[Second]) -> String {
    let lags: Vec<u64> = seconds.iter().map(|second| second.lag).collect();
    let replicas: Vec<u64> = seconds.iter().map(|second| second.replicas.into()).collect();
    let last = seconds.len().saturating_sub(1);
    format!(
        "lag      {} up to {}\nworkers  {} up to {}\n         0 s{:>width$} s\n",
        bars(&lags),
        lags.iter().max().unwrap_or(&0),
        bars(&replicas),
        replicas.iter().max().unwrap_or(&0),
        last,
        width = WIDTH.min(seconds.len()).saturating_sub(5)
    )
}

/// The highest value of each column, as a bar.
fn bars(values: &[u64]) -> String {
    let most = values.iter().max().copied().unwrap_or(0).max(1);
    let columns = WIDTH.min(values.len());
    let column = |number: usize| {
        let (from, to) = (
            number * values.len() / columns,
            (number + 1) * values.len() / columns,
        );
        let highest = values[from..to].iter().max().copied().unwrap_or(0);
        let level = usize::try_from((highest * 8).div_ceil(most)).unwrap_or(8);
        BARS[level.min(8)]
    };
    (0..columns).map(column).collect()
}

/// The lag as an area, the workers as a line, each up to its own maximum.
#[must_use]
pub fn svg(seconds: &[Second]) -> String {
    let most_lag = seconds.iter().map(|second| second.lag).max().unwrap_or(0).max(1);
    let most_workers = seconds
        .iter()
        .map(|second| second.replicas)
        .max()
        .unwrap_or(0)
        .max(1);
    let last = seconds.len().saturating_sub(1).max(1);
    let (mut area, mut line) = ("0,200".to_owned(), String::new());
    for (second, number) in seconds.iter().zip(0_u64..) {
        // Tenths of a unit are finer than any screen.
        let x = number * 8000 / last as u64;
        let y = 2000 - second.lag.saturating_mul(1800) / most_lag;
        let workers = 2000 - u64::from(second.replicas) * 1800 / u64::from(most_workers);
        // Writing to a String cannot fail.
        let _ = write!(area, " {},{}", tenth(x), tenth(y));
        let _ = write!(line, " {},{}", tenth(x), tenth(workers));
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-10 -10 820 240\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <polygon points=\"{area} 800,200\" fill=\"#9ecae1\"/>\n\
         <polyline points=\"{}\" fill=\"none\" stroke=\"#d94801\" stroke-width=\"2\"/>\n\
         <line x1=\"0\" y1=\"200\" x2=\"800\" y2=\"200\" stroke=\"#555\"/>\n\
         <text x=\"0\" y=\"5\" fill=\"#3182bd\">lag, up to {most_lag} records</text>\n\
         <text x=\"800\" y=\"5\" fill=\"#d94801\" text-anchor=\"end\">workers, up to {most_workers}</text>\n\
         <text x=\"800\" y=\"216\" text-anchor=\"end\">{last} s</text>\n</svg>\n",
        line.trim_start()
    )
}

fn tenth(tenths: u64) -> String {
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> Vec<Second> {
        (0..144)
            .map(|number| Second {
                lag: number * 10,
                replicas: u32::from(number > 72) + 1,
            })
            .collect()
    }

    #[test]
    fn bars_rise_with_the_values() {
        let drawn = terminal(&ramp());
        let lag = drawn.lines().next().unwrap_or_default();
        assert!(
            lag.contains(" ▁") && lag.contains("▇█") && lag.ends_with("up to 1430"),
            "{drawn}"
        );
        let workers = drawn.lines().nth(1).unwrap_or_default();
        assert!(workers.contains("▄█") && workers.ends_with("up to 2"), "{drawn}");
    }

    #[test]
    fn the_picture_reaches_from_corner_to_corner() {
        let picture = svg(&ramp());
        assert!(
            picture.contains("0,200 0.0,200.0") && picture.contains("800.0,20.0 800,200"),
            "{picture}"
        );
    }

    #[test]
    fn nothing_to_draw_is_drawn() {
        assert!(terminal(&[]).contains("up to 0"));
        assert!(svg(&[]).starts_with("<svg"));
    }
}
