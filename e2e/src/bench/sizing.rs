//! Sizes of an installation, from the measurements of its stages.

use std::fmt::Write as _;

use super::measurement::Measurement;

/// Orders per second: five a minute, and rates for which people ask.
const ORDERS_PER_SECOND: [(&str, f64); 4] = [
    ("5 a minute", 5.0 / 60.0),
    ("100", 100.0),
    ("10,000", 10_000.0),
    ("100,000", 100_000.0),
];
/// Capacity divided by the expected load.
const HEADROOM: f64 = 5.0;
/// Batches that a worker commits at the same time, each with partitions and a connection of its own.
const LANES: f64 = 2.0;

/// Returns a Markdown table with a row for each rate. `stages` are those of `stg`, `dds` and `cdm`.
pub(super) fn table(stages: [Measurement; 3], messages_per_order: f64) -> String {
    let mut table =
        "| orders a second | workers stg, dds, cdm | partitions | connections | PostgreSQL cores |\n\
                     | --- | --- | --- | --- | --- |\n"
            .to_owned();
    let server_micros: f64 = stages.iter().map(|stage| stage.postgres_micros).sum();
    for (name, orders) in ORDERS_PER_SECOND {
        let messages = orders * messages_per_order * HEADROOM;
        let workers = stages.map(|stage| (messages / stage.rate()).ceil().max(1.0));
        let [stg, dds, cdm] = workers;
        let connections = workers.iter().sum::<f64>() * LANES;
        let cores = (messages * server_micros / 1e6).ceil();
        let partitions = workers.into_iter().fold(1.0, f64::max) * LANES;
        let _ = writeln!(
            table,
            "| {name} | {stg:.0}, {dds:.0}, {cdm:.0} | {partitions:.0} | {connections:.0} | {cores:.0} |"
        );
    }
    let bytes: f64 = stages.iter().map(|stage| stage.table_bytes).sum();
    let _ = writeln!(
        table,
        "\n{messages_per_order:.1} messages per order; {:.1} GB of tables and indexes, and {:.1} GB of WAL, per million orders",
        bytes * messages_per_order / 1e3,
        stages.iter().map(|stage| stage.wal_bytes).sum::<f64>() * messages_per_order / 1e3
    );
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_the_headroom_and_at_least_one_worker() {
        let stage = |rate: f64| Measurement {
            records: rate,
            seconds: 1.0,
            worker_micros: 10.0,
            postgres_micros: 50.0,
            wal_bytes: 1000.0,
            table_bytes: 2000.0,
            peak_rss_bytes: 0.0,
        };
        let table = table([stage(20_000.0), stage(10_000.0), stage(40_000.0)], 4.0);
        assert!(table.contains("| 5 a minute | 1, 1, 1 | 2 | 6 | 1 |"), "{table}");
        // 200,000 messages a second with the headroom, and 150 us of PostgreSQL for each.
        assert!(table.contains("| 10,000 | 10, 20, 5 | 40 | 70 | 30 |"), "{table}");
        assert!(
            table.contains("24.0 GB of tables and indexes, and 12.0 GB of WAL"),
            "{table}"
        );
    }
}
