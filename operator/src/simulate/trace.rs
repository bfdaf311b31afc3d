//! A trace: how many records arrive per second, from when on. Pure.

use std::str::FromStr;

/// Arrivals over time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// From this second on, so many records per second arrive in each partition.
    lines: Vec<(u32, Vec<u64>)>,
}

/// Why a text is no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// The first line is missing.
    #[error(
        "line 1: write `seconds,records_per_second`, or `seconds,0,1,2` with a column for each partition"
    )]
    Heading,
    /// A line cannot be read.
    #[error("line {line}: {cause}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        cause: String,
    },
}

impl Trace {
    /// The last second.
    #[must_use]
    pub fn seconds(&self) -> u32 {
        self.lines.last().map_or(0, |(second, _)| *second)
    }

    /// Partitions that the trace has columns for.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.lines.first().map_or(1, |(_, arrivals)| arrivals.len())
    }

    /// A trace of one column, spread evenly over so many partitions; any other stays.
    #[must_use]
    pub fn over(mut self, partitions: u32) -> Self {
        let count = u64::from(partitions.max(1));
        if self.partitions() == 1 {
            for (_, arrivals) in &mut self.lines {
                let total = arrivals.iter().sum::<u64>();
                *arrivals = (0..count)
                    .map(|number| total / count + u64::from(number < total % count))
                    .collect();
            }
        }
        self
    }

    /// Records that arrive in each partition in a second.
    pub fn arrivals(&self, second: u32) -> impl Iterator<Item = u64> + '_ {
        let line = self.lines.iter().rfind(|(from, _)| *from <= second);
        line.into_iter()
            .flat_map(|(_, arrivals)| arrivals.iter().copied())
    }
}

impl FromStr for Trace {
    type Err = TraceError;

    fn from_str(text: &str) -> Result<Self, TraceError> {
        let mut texts = text.lines().zip(1..).filter(|(text, _)| !text.trim().is_empty());
        let columns = texts
            .next()
            .and_then(|(heading, _)| heading.trim().strip_prefix("seconds,"))
            .map(|columns| columns.split(',').count())
            .ok_or(TraceError::Heading)?;
        let mut lines: Vec<(u32, Vec<u64>)> = Vec::new();
        for (text, line) in texts {
            let wrong = |cause: String| TraceError::Line { line, cause };
            let (second, arrivals) = text
                .split_once(',')
                .ok_or_else(|| wrong("one value only".to_owned()))?;
            let second = second
                .trim()
                .parse()
                .map_err(|_| wrong(format!("{second:?} is no second")))?;
            let arrivals: Vec<u64> = arrivals
                .split(',')
                .map(|value| {
                    value
                        .trim()
                        .parse()
                        .map_err(|_| wrong(format!("{value:?} is no number of records")))
                })
                .collect::<Result<_, _>>()?;
            if arrivals.len() != columns {
                return Err(wrong(format!(
                    "{} values under {columns} columns",
                    arrivals.len()
                )));
            }
            if lines.last().is_some_and(|(before, _)| *before >= second) {
                return Err(wrong(format!("second {second} is not after the line before")));
            }
            lines.push((second, arrivals));
        }
        if lines.is_empty() {
            return Err(TraceError::Line {
                line: 2,
                cause: "nothing follows".to_owned(),
            });
        }
        Ok(Self { lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_column_is_spread_and_several_stay() {
        let one: Trace = "seconds,records_per_second\n0,10\n5,0\n"
            .parse()
            .expect("a trace");
        let spread = one.over(4);
        assert_eq!(spread.arrivals(4).collect::<Vec<_>>(), [3, 3, 2, 2]);
        assert_eq!(spread.arrivals(5).collect::<Vec<_>>(), [0; 4]);
        let two: Trace = "seconds,0,1\n0,10,0\n".parse().expect("a trace");
        assert_eq!(two.over(4).arrivals(9).collect::<Vec<_>>(), [10, 0]);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for (text, cause) in [
            ("", "line 1"),
            ("time,x\n", "line 1"),
            ("seconds,x\n", "line 2: nothing follows"),
            ("seconds,x\n0,1\n0,2\n", "line 3: second 0 is not after"),
            ("seconds,x\n0,1,2\n", "line 2: 2 values under 1 columns"),
            ("seconds,x\n0,many\n", "line 2: \"many\" is no number"),
        ] {
            let error = text.parse::<Trace>().expect_err(text).to_string();
            assert!(error.starts_with(cause), "{text:?}: {error}");
        }
    }
}
