//! Arrival traces: how many records per second arrive over time. Pure.

use std::str::FromStr;

/// Header of the last column, if it is the throughput of a worker.
const WORKER_RATE_COLUMN: &str = ",worker_rate";

/// Arrival rates over time, as read from a CSV file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Second, and the records per second of each partition from then until the next row.
    rows: Vec<(u32, Vec<u64>)>,
    /// Throughput of a worker in each row, in records per second; empty without such a column.
    worker_rates: Vec<u64>,
}

/// Parse error of a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// The header line is missing or invalid.
    #[error(
        "line 1: invalid header; write `seconds,records_per_second`, or `seconds,0,1,2` with one column per partition, \
         and `worker_rate` as the last column if the throughput of a worker changes"
    )]
    Header,
    /// A row is invalid.
    #[error("line {line}: {cause}")]
    Row {
        /// Line number, from 1.
        line: usize,
        /// Violated rule.
        cause: String,
    },
}

impl Trace {
    /// Duration of the trace: the second of its last row.
    #[must_use]
    pub fn duration_seconds(&self) -> u32 {
        self.rows.last().map_or(0, |(second, _)| *second)
    }

    /// Number of partitions: one per column.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.rows.first().map_or(1, |(_, arrivals)| arrivals.len())
    }

    /// Spreads a single-column trace evenly over `partitions`. A trace with several columns is returned unchanged.
    #[must_use]
    pub fn spread_over(mut self, partitions: u32) -> Self {
        if self.partitions() == 1 {
            for (_, arrivals) in &mut self.rows {
                *arrivals = spread(arrivals.iter().sum(), partitions.max(1) as usize);
            }
        }
        self
    }

    /// Records that arrive in this second, by partition.
    pub fn arrivals(&self, second: u32) -> impl Iterator<Item = u64> + '_ {
        let row = self.row(second).and_then(|row| self.rows.get(row));
        row.into_iter().flat_map(|(_, arrivals)| arrivals.iter().copied())
    }

    /// Throughput of a worker in this second; `None` without such a column.
    #[must_use]
    pub fn worker_rate(&self, second: u32) -> Option<u64> {
        self.worker_rates.get(self.row(second)?).copied()
    }

    fn row(&self, second: u32) -> Option<usize> {
        self.rows
            .partition_point(|(from, _)| *from <= second)
            .checked_sub(1)
    }
}

impl FromStr for Trace {
    type Err = TraceError;

    fn from_str(csv: &str) -> Result<Self, TraceError> {
        // Spreadsheets write a byte order mark.
        let csv = csv.strip_prefix('\u{feff}').unwrap_or(csv);
        let mut lines = csv.lines().zip(1..).filter(|(text, _)| !text.trim().is_empty());
        let header = lines
            .next()
            .and_then(|(header, _)| header.trim().strip_prefix("seconds,"))
            .ok_or(TraceError::Header)?;
        let columns = header.split(',').count();
        let has_worker_rate = header.ends_with(WORKER_RATE_COLUMN);
        let mut rows: Vec<(u32, Vec<u64>)> = Vec::new();
        for (text, line) in lines {
            let previous = rows.last().map(|(second, _)| *second);
            let row = parse_row(text, columns, previous).map_err(|cause| TraceError::Row { line, cause })?;
            rows.push(row);
        }
        if rows.is_empty() {
            return Err(TraceError::Row {
                line: 2,
                cause: "missing; a trace needs at least one row".to_owned(),
            });
        }
        let worker_rates = if has_worker_rate {
            rows.iter_mut().filter_map(|(_, values)| values.pop()).collect()
        } else {
            Vec::new()
        };
        if rows.iter().any(|(_, arrivals)| arrivals.is_empty()) {
            return Err(TraceError::Header);
        }
        Ok(Self { rows, worker_rates })
    }
}

/// Spreads `total` evenly; the first partitions get the rest.
#[must_use]
pub fn spread(total: u64, partitions: usize) -> Vec<u64> {
    let count = partitions.max(1) as u64;
    (0..count)
        .map(|partition| total / count + u64::from(partition < total % count))
        .collect()
}

/// Parses a row of `columns` rates whose second is later than `previous`. An error is the violated rule.
fn parse_row(text: &str, columns: usize, previous: Option<u32>) -> Result<(u32, Vec<u64>), String> {
    let (second, arrivals) = text
        .split_once(',')
        .ok_or_else(|| "a row needs a second and at least one rate".to_owned())?;
    let second: u32 = second
        .trim()
        .parse()
        .map_err(|_| format!("{second:?} is not a whole number of seconds"))?;
    let arrivals = arrivals
        .split(',')
        .map(|value| {
            let value = value.trim();
            value
                .parse()
                .map_err(|_| format!("{value:?} is not a whole number of records"))
        })
        .collect::<Result<Vec<u64>, _>>()?;
    if arrivals.len() != columns {
        return Err(format!(
            "{} rates, but the header has {columns} columns",
            arrivals.len()
        ));
    }
    if previous.is_some_and(|previous| previous >= second) {
        return Err(format!("second {second} is not after that of the previous row"));
    }
    Ok((second, arrivals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_column_trace_is_spread_over_partitions() {
        let single: Trace = "seconds,records_per_second\n0,10\n5,0\n"
            .parse()
            .expect("a valid trace");
        let spread = single.spread_over(4);
        assert_eq!(spread.arrivals(4).collect::<Vec<_>>(), [3, 3, 2, 2]);
        assert_eq!(spread.arrivals(5).collect::<Vec<_>>(), [0; 4]);
        let several: Trace = "seconds,0,1\n0,10,0\n".parse().expect("a valid trace");
        assert_eq!(several.spread_over(4).arrivals(9).collect::<Vec<_>>(), [10, 0]);
    }

    #[test]
    fn the_last_column_may_be_the_throughput_of_a_worker() {
        let trace: Trace = "seconds,0,1,worker_rate\n0,10,20,1000\n5,0,0,300\n"
            .parse()
            .expect("a valid trace");
        assert_eq!((trace.partitions(), trace.arrivals(4).sum::<u64>()), (2, 30));
        assert_eq!(
            [4, 5].map(|second| trace.worker_rate(second)),
            [Some(1000), Some(300)]
        );
        let without: Trace = "seconds,0\n0,10\n".parse().expect("a valid trace");
        assert_eq!(without.worker_rate(0), None);
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_header() {
        let csv = "seconds,records_per_second\n0,5\n";
        let [plain, marked] = [csv.to_owned(), format!("\u{feff}{csv}")]
            .map(|csv| csv.parse::<Trace>().expect("a trace").spread_over(1));
        assert_eq!(format!("{marked:?}"), format!("{plain:?}"));
    }

    #[test]
    fn an_invalid_row_is_reported_with_its_line_number() {
        for (csv, cause) in [
            ("", "line 1"),
            ("time,x\n", "line 1"),
            ("seconds,x\n", "line 2: missing"),
            ("seconds,x\n0,1\n0,2\n", "line 3: second 0 is not after"),
            (
                "seconds,x\n0,1,2\n",
                "line 2: 2 rates, but the header has 1 columns",
            ),
            ("seconds,x\n0,many\n", "line 2: \"many\" is not a whole number"),
        ] {
            let error = csv.parse::<Trace>().expect_err(csv).to_string();
            assert!(error.starts_with(cause), "{csv:?}: {error}");
        }
    }
}
