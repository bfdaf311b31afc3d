//! Metrics of the worker, under names that dashboards and alerts may rely on.
//!
//! Every name is a constant, here or in a submodule. The encoder adds `_total` to counters. No I/O: [`crate::http`]
//! serves the metrics.

pub mod health;

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::batch::Published;

/// Counter by stage and outcome: records, each counted once, when its batch is committed.
pub const RECORDS: &str = "streamstage_worker_records";
/// Counter by stage: messages published to the output topic.
pub const OUTPUT_RECORDS: &str = "streamstage_worker_output_records";
/// Counter by stage and code: dead letters.
pub const DEAD_LETTERS: &str = "streamstage_worker_dead_letters";
/// Counter by stage: stored order versions with a status that the worker does not know.
pub const UNKNOWN_ORDER_STATUS: &str = "streamstage_worker_unknown_order_status";
/// Counter by stage and kind (`user`, `restaurant` or `product`): lookups that found a malformed reference data entry.
pub const MALFORMED_ENTRIES: &str = "streamstage_worker_malformed_entries";
/// Counter by stage: committed batches.
pub const BATCHES: &str = "streamstage_worker_batches";
/// Histogram by stage: seconds from the position check of a batch to its commit.
pub const BATCH_DURATION_SECONDS: &str = "streamstage_worker_batch_duration_seconds";
/// Counter by stage: failed attempts to commit a batch, each followed by a retry.
pub const BATCH_RETRIES: &str = "streamstage_worker_batch_retries";
/// Counter by stage: failed attempts to produce a copy of a dead letter, each followed by another one.
pub const DEAD_LETTER_COPY_FAILURES: &str = "streamstage_worker_dead_letter_copy_failures";
/// Gauge by stage and partition: stored position, which is the next offset to read.
pub const POSITION: &str = "streamstage_worker_position";
/// Gauge by stage: Kafka timestamp of the newest committed record, in seconds since the Unix epoch.
pub const NEWEST_RECORD_TIMESTAMP_SECONDS: &str = "streamstage_worker_newest_record_timestamp_seconds";
/// Gauge by stage: orders that wait for reference data, as the last query counted them.
pub const PENDING_ORDERS: &str = "streamstage_worker_pending_orders";
/// Gauge by stage: seconds since the oldest pending order became pending; 0 without pending orders.
pub const OLDEST_PENDING_ORDER_AGE_SECONDS: &str = "streamstage_worker_oldest_pending_order_age_seconds";
/// Gauge by version: always 1.
pub const BUILD_INFO: &str = "streamstage_worker_build_info";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabels {
    stage: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    stage: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabels {
    stage: String,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EntryLabels {
    stage: String,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartitionLabels {
    stage: String,
    partition: i32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// Number and age of the pending orders of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PendingStatistics {
    /// Number of pending orders.
    pub count: i64,
    /// Time since the oldest of them became pending, in seconds; 0 if no order is pending.
    pub oldest_age_seconds: f64,
}

/// Metrics of all stages of a process. Cheap to clone: the clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    records: Family<OutcomeLabels, Counter>,
    output_records: Family<StageLabels, Counter>,
    dead_letters: Family<CodeLabels, Counter>,
    unknown_order_status: Family<StageLabels, Counter>,
    malformed_entries: Family<EntryLabels, Counter>,
    batches: Family<StageLabels, Counter>,
    batch_duration_seconds: Family<StageLabels, Histogram, fn() -> Histogram>,
    batch_retries: Family<StageLabels, Counter>,
    copy_failures: Family<StageLabels, Counter>,
    position: Family<PartitionLabels, Gauge>,
    newest_record_timestamp_seconds: Family<StageLabels, Gauge>,
    pending_orders: Family<StageLabels, Gauge>,
    oldest_pending_order_age_seconds: Family<StageLabels, Gauge<f64, AtomicU64>>,
}

impl Metrics {
    /// Creates the metrics and registers each of them.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let metrics = Self {
            records: Family::default(),
            output_records: Family::default(),
            dead_letters: Family::default(),
            unknown_order_status: Family::default(),
            malformed_entries: Family::default(),
            batches: Family::default(),
            batch_duration_seconds: Family::new_with_constructor(histogram),
            batch_retries: Family::default(),
            copy_failures: Family::default(),
            position: Family::default(),
            newest_record_timestamp_seconds: Family::default(),
            pending_orders: Family::default(),
            oldest_pending_order_age_seconds: Family::default(),
        };
        let help = "Records by outcome: stored, duplicate, pending or dead_lettered";
        registry.register(RECORDS, help, metrics.records.clone());
        let help = "Messages published to the output topic";
        registry.register(OUTPUT_RECORDS, help, metrics.output_records.clone());
        registry.register(DEAD_LETTERS, "Dead letters by code", metrics.dead_letters.clone());
        let help = "Stored order versions with a status that the worker does not know";
        registry.register(UNKNOWN_ORDER_STATUS, help, metrics.unknown_order_status.clone());
        let help = "Lookups that found a malformed reference data entry, by kind";
        registry.register(MALFORMED_ENTRIES, help, metrics.malformed_entries.clone());
        registry.register(BATCHES, "Committed batches", metrics.batches.clone());
        let help = "Seconds from the position check of a batch to its commit";
        registry.register(
            BATCH_DURATION_SECONDS,
            help,
            metrics.batch_duration_seconds.clone(),
        );
        let help = "Failed attempts to commit a batch, each followed by a retry";
        registry.register(BATCH_RETRIES, help, metrics.batch_retries.clone());
        let help = "Failed attempts to produce a copy of a dead letter to the dead letter topic";
        registry.register(DEAD_LETTER_COPY_FAILURES, help, metrics.copy_failures.clone());
        let help = "Stored position: the next offset to read";
        registry.register(POSITION, help, metrics.position.clone());
        registry.register(
            NEWEST_RECORD_TIMESTAMP_SECONDS,
            "Kafka timestamp of the newest committed record, in seconds since the Unix epoch",
            metrics.newest_record_timestamp_seconds.clone(),
        );
        let help = "Orders that wait for reference data";
        registry.register(PENDING_ORDERS, help, metrics.pending_orders.clone());
        let help = "Seconds since the oldest pending order became pending; 0 without pending orders";
        let gauge = metrics.oldest_pending_order_age_seconds.clone();
        registry.register(OLDEST_PENDING_ORDER_AGE_SECONDS, help, gauge);
        register_build_info(registry);
        #[cfg(target_os = "linux")]
        registry.register_collector(Box::new(telemetry::process::ProcessCollector));
        metrics
    }

    /// Counts a committed batch. `seconds` is the time since its position check.
    pub fn record_batch(&self, stage: &str, published: &Published, seconds: f64) {
        let labels = StageLabels {
            stage: stage.to_owned(),
        };
        let effects = &published.effects;
        for (outcome, count) in [
            ("stored", effects.stored),
            ("duplicate", effects.duplicate),
            ("pending", effects.pending),
            ("dead_lettered", published.dead_letters.len()),
        ] {
            self.records
                .get_or_create(&OutcomeLabels {
                    stage: stage.to_owned(),
                    outcome,
                })
                .inc_by(count as u64);
        }
        self.output_records
            .get_or_create(&labels)
            .inc_by(effects.publish.len() as u64);
        self.unknown_order_status
            .get_or_create(&labels)
            .inc_by(effects.unknown_status as u64);
        for code in &published.dead_letters {
            self.dead_letters
                .get_or_create(&CodeLabels {
                    stage: stage.to_owned(),
                    code: code.to_string(),
                })
                .inc();
        }
        self.batches.get_or_create(&labels).inc();
        self.batch_duration_seconds
            .get_or_create(&labels)
            .observe(seconds);
        for (&partition, &offset) in &published.offset_updates.positions {
            self.position
                .get_or_create(&PartitionLabels {
                    stage: stage.to_owned(),
                    partition,
                })
                .set(offset);
        }
        if let Some(milliseconds) = published.newest_timestamp {
            let gauge = self.newest_record_timestamp_seconds.get_or_create(&labels);
            gauge.set(gauge.get().max(milliseconds / 1000));
        }
    }

    /// Exports the counters of malformed entries as 0, so that the first one is an increase.
    pub fn start_malformed_entries(&self, stage: &str) {
        for kind in ["user", "restaurant", "product"] {
            self.add_malformed_entries(stage, kind, 0);
        }
    }

    /// Counts a lookup that found a malformed entry. `kind` is `user`, `restaurant` or `product`.
    pub fn record_malformed_entry(&self, stage: &str, kind: &'static str) {
        self.add_malformed_entries(stage, kind, 1);
    }

    fn add_malformed_entries(&self, stage: &str, kind: &'static str, count: u64) {
        let stage = stage.to_owned();
        let counter = self.malformed_entries.get_or_create(&EntryLabels { stage, kind });
        counter.inc_by(count);
    }

    /// Sets the number and the age of the pending orders.
    pub fn set_pending(&self, stage: &str, statistics: PendingStatistics) {
        let labels = StageLabels {
            stage: stage.to_owned(),
        };
        self.pending_orders.get_or_create(&labels).set(statistics.count);
        self.oldest_pending_order_age_seconds
            .get_or_create(&labels)
            .set(statistics.oldest_age_seconds);
    }

    /// Counts a failed attempt to commit a batch.
    pub fn record_retry(&self, stage: &str) {
        self.batch_retries
            .get_or_create(&StageLabels {
                stage: stage.to_owned(),
            })
            .inc();
    }

    /// Counts failed attempts to produce a copy of a dead letter.
    pub fn record_copy_failures(&self, stage: &str, count: usize) {
        self.copy_failures
            .get_or_create(&StageLabels {
                stage: stage.to_owned(),
            })
            .inc_by(count as u64);
    }
}

fn register_build_info(registry: &mut Registry) {
    let build_info = Family::<BuildLabels, Gauge>::default();
    build_info
        .get_or_create(&BuildLabels {
            version: env!("CARGO_PKG_VERSION"),
        })
        .set(1);
    registry.register(BUILD_INFO, "Version of the worker; always 1", build_info);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::health::HealthCollector;
    use super::*;
    use crate::health::Health;
    use crate::rejection::Code;

    #[test]
    fn every_exported_metric_is_documented_and_vice_versa() {
        let page = include_str!("../../docs/metrics.md");
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let mut published = Published {
            dead_letters: vec![Code::ParseError],
            newest_timestamp: Some(1),
            ..Published::default()
        };
        published.offset_updates.positions.insert(0, 7);
        metrics.record_batch("stg", &published, 0.1);
        metrics.record_retry("stg");
        metrics.record_copy_failures("stg", 1);
        metrics.record_malformed_entry("stg", "user");
        metrics.set_pending("stg", PendingStatistics::default());
        let health = Arc::new(Health::new("stg"));
        registry.register_collector(Box::new(HealthCollector(vec![health])));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let documented: BTreeSet<String> = names
            .filter(|name| name.starts_with("streamstage_worker_") || name.starts_with("process_"))
            .map(ToOwned::to_owned)
            .collect();
        // The encoder adds this suffix to a counter, so queries and the page have it.
        let exported: BTreeSet<String> = types
            .map(|line| {
                line.strip_suffix(" counter").map_or_else(
                    || line.split(' ').next().unwrap_or_default().to_owned(),
                    |counter| format!("{counter}_total"),
                )
            })
            .collect();
        assert_eq!(exported, documented, "{text}");
    }
    #[test]
    fn malformed_entries_are_exported_before_the_first_one() {
        let mut registry = Registry::default();
        Metrics::register(&mut registry).start_malformed_entries("stg");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        for kind in ["user", "restaurant", "product"] {
            let series = format!("{MALFORMED_ENTRIES}_total{{stage=\"stg\",kind=\"{kind}\"}} 0\n");
            assert!(text.contains(&series), "{text}");
        }
    }
}
