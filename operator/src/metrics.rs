//! The figures that the operator exports, under names that dashboards and alerts may rely on.
//!
//! Every name is a constant here. No I/O: [`crate::serve`] writes them out.

pub mod lag;

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Seconds of a reconcile.
pub const RECONCILE_SECONDS: &str = "streamstage_operator_reconcile_seconds";
/// Reconciles by result: `done`, `refused` or `failed`.
pub const RECONCILES: &str = "streamstage_operator_reconciles";
/// Writes to the API server by kind of object.
pub const WRITES: &str = "streamstage_operator_writes";
/// Whether this process holds the lease.
pub const LEADER: &str = "streamstage_operator_leader";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// All figures of a process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconcile_seconds: Histogram,
    reconciles: Family<Outcome, Counter>,
    writes: Family<Kind, Counter>,
    leader: Gauge,
    lag: lag::LagMetrics,
}

impl Metrics {
    /// Registers every figure.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconcile_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            reconciles: Family::default(),
            writes: Family::default(),
            leader: Gauge::default(),
            lag: lag::LagMetrics::register(registry),
        };
        registry.register(
            RECONCILE_SECONDS,
            "Seconds of a reconcile",
            metrics.reconcile_seconds.clone(),
        );
        registry.register(RECONCILES, "Reconciles by result", metrics.reconciles.clone());
        registry.register(WRITES, "Writes to the API server by kind", metrics.writes.clone());
        registry.register(
            LEADER,
            "Whether this process holds the lease",
            metrics.leader.clone(),
        );
        metrics
    }

    /// Counts a reconcile that took `seconds`.
    pub fn reconciled(&self, result: &'static str, took: Duration) {
        self.reconcile_seconds.observe(took.as_secs_f64());
        self.reconciles.get_or_create(&Outcome { result }).inc();
    }

    /// Counts a write of an object of this kind.
    pub fn wrote(&self, kind: &str) {
        self.writes
            .get_or_create(&Kind {
                kind: kind.to_owned(),
            })
            .inc();
    }

    /// Says whether this process holds the lease.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_figure_is_documented_and_no_other() {
        let page = include_str!("../../docs/operator.md");
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.reconciled("done", Duration::from_millis(3));
        metrics.wrote("Deployment");
        lag::tests::fill(&metrics);
        let lags = std::sync::Arc::<crate::poll::Lags>::default();
        crate::poll::lags::tests::read(&lags);
        registry.register_collector(Box::new(lag::StageFigures(lags)));
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
