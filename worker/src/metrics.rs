//! The figures that a worker exports, under names that dashboards and alerts may rely on.
//!
//! Every name is a constant here. No I/O: [`crate::serve`] writes them out.

pub mod trouble;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::batch::Published;

/// Records by stage and outcome: each record that was read is counted once, when its batch is committed.
pub const RECORDS: &str = "streamstage_records";
/// Messages published to the next topic, by stage.
pub const PUBLISHED: &str = "streamstage_published";
/// Dead letters by stage and code.
pub const DEAD_LETTERS: &str = "streamstage_dead_letters";
/// Stored orders whose status the worker does not know, by stage.
pub const UNKNOWN_STATUS: &str = "streamstage_unknown_status";
/// Batches committed, by stage.
pub const BATCHES: &str = "streamstage_batches";
/// Seconds from the claim of a batch to its commit, by stage.
pub const BATCH_SECONDS: &str = "streamstage_batch_seconds";
/// Attempts of a batch that failed and were tried again, by stage.
pub const RETRIES: &str = "streamstage_retries";
/// Position after the last committed record, by stage and partition.
pub const POSITION: &str = "streamstage_position";
/// Kafka timestamp of the newest record that was committed, in seconds since the Unix epoch, by stage.
pub const NEWEST_RECORD: &str = "streamstage_newest_record_seconds";

/// Labels of most figures.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Stage {
    stage: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    stage: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Code {
    stage: String,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Partition {
    stage: String,
    partition: i32,
}

/// All figures of a process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    records: Family<Outcome, Counter>,
    published: Family<Stage, Counter>,
    dead_letters: Family<Code, Counter>,
    unknown_status: Family<Stage, Counter>,
    batches: Family<Stage, Counter>,
    batch_seconds: Family<Stage, Histogram, fn() -> Histogram>,
    retries: Family<Stage, Counter>,
    position: Family<Partition, Gauge>,
    newest_record: Family<Stage, Gauge>,
}

impl Metrics {
    /// Registers every figure.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let metrics = Self {
            records: Family::default(),
            published: Family::default(),
            dead_letters: Family::default(),
            unknown_status: Family::default(),
            batches: Family::default(),
            batch_seconds: Family::new_with_constructor(histogram),
            retries: Family::default(),
            position: Family::default(),
            newest_record: Family::default(),
        };
        let help = "Records by outcome: stored, duplicate, pending or dead_lettered";
        registry.register(RECORDS, help, metrics.records.clone());
        registry.register(
            PUBLISHED,
            "Messages published to the next topic",
            metrics.published.clone(),
        );
        registry.register(DEAD_LETTERS, "Dead letters by code", metrics.dead_letters.clone());
        let help = "Stored orders whose status the worker does not know";
        registry.register(UNKNOWN_STATUS, help, metrics.unknown_status.clone());
        registry.register(BATCHES, "Batches committed", metrics.batches.clone());
        registry.register(
            BATCH_SECONDS,
            "Seconds from claim to commit of a batch",
            metrics.batch_seconds.clone(),
        );
        registry.register(
            RETRIES,
            "Attempts of a batch that failed and were tried again",
            metrics.retries.clone(),
        );
        registry.register(
            POSITION,
            "Position after the last committed record",
            metrics.position.clone(),
        );
        let help = "Timestamp of the newest record that was committed";
        registry.register(NEWEST_RECORD, help, metrics.newest_record.clone());
        metrics
    }

    /// Counts a batch that is committed; `seconds` since its claim.
    pub fn committed(&self, stage: &str, published: &Published, seconds: f64) {
        let labels = Stage {
            stage: stage.to_owned(),
        };
        let effects = &published.effects;
        for (outcome, count) in [
            ("stored", effects.stored),
            ("duplicate", effects.duplicate),
            ("pending", effects.pending),
            ("dead_lettered", published.dead.len()),
        ] {
            self.records
                .get_or_create(&Outcome {
                    stage: stage.to_owned(),
                    outcome,
                })
                .inc_by(count as u64);
        }
        self.published
            .get_or_create(&labels)
            .inc_by(effects.publish.len() as u64);
        self.unknown_status
            .get_or_create(&labels)
            .inc_by(effects.unknown_status as u64);
        for code in &published.dead {
            self.dead_letters
                .get_or_create(&Code {
                    stage: stage.to_owned(),
                    code: code.to_string(),
                })
                .inc();
        }
        self.batches.get_or_create(&labels).inc();
        self.batch_seconds.get_or_create(&labels).observe(seconds);
        for (&partition, &offset) in &published.moves.positions {
            self.position
                .get_or_create(&Partition {
                    stage: stage.to_owned(),
                    partition,
                })
                .set(offset);
        }
        if let Some(newest) = published.newest {
            let gauge = self.newest_record.get_or_create(&labels);
            gauge.set(gauge.get().max(newest / 1000));
        }
    }

    /// Counts an attempt that failed.
    pub fn retried(&self, stage: &str) {
        self.retries
            .get_or_create(&Stage {
                stage: stage.to_owned(),
            })
            .inc();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rejection::Code as Rejected;

    #[test]
    fn every_figure_is_documented_and_no_other() {
        let page = include_str!("../../docs/worker.md");
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let mut published = Published {
            dead: vec![Rejected::ParseError],
            newest: Some(1),
            ..Published::default()
        };
        published.moves.positions.insert(0, 7);
        metrics.committed("stg", &published, 0.1);
        metrics.retried("stg");
        let health = std::sync::Arc::new(crate::health::Health::new("stg"));
        registry.register_collector(Box::new(trouble::Troubles(vec![health])));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let rows = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `streamstage_")?.split('`').next());
        let documented: BTreeSet<String> = rows.map(|row| format!("streamstage_{row}")).collect();
        // A counter is written out, and looked at, with this ending.
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
}
