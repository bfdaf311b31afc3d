//! Metrics of the operator, under names that dashboards and alerts may rely on.
//!
//! Every name is a constant, here or in a submodule. The encoder adds `_total` to counters. No I/O: [`crate::http`]
//! serves the metrics.

pub mod stages;

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use self::stages::StageMetrics;

/// Histogram: seconds per reconcile.
pub const RECONCILE_DURATION_SECONDS: &str = "streamstage_operator_reconcile_duration_seconds";
/// Counter by result: reconciles that ended with `success`, `stalled` or `error`.
pub const RECONCILES: &str = "streamstage_operator_reconciles";
/// Counter by kind of object: writes to the API server.
pub const API_WRITES: &str = "streamstage_operator_api_writes";
/// Gauge: 1 while this process holds the lease, else 0.
pub const LEADER: &str = "streamstage_operator_leader";
/// Gauge by version: always 1.
pub const BUILD_INFO: &str = "streamstage_operator_build_info";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// Metrics of a process. Cheap to clone: the clones share their values.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Metrics by stage, and of the lag polls.
    pub stages: StageMetrics,
    reconcile_duration: Histogram,
    reconciles: Family<ResultLabels, Counter>,
    api_writes: Family<KindLabels, Counter>,
    leader: Gauge,
}

impl Metrics {
    /// Creates the metrics and registers each of them, except for
    /// [`StageMetricsCollector`](stages::StageMetricsCollector).
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            stages: StageMetrics::register(registry),
            reconcile_duration: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            reconciles: Family::default(),
            api_writes: Family::default(),
            leader: Gauge::default(),
        };
        registry.register(
            RECONCILE_DURATION_SECONDS,
            "Seconds per reconcile",
            metrics.reconcile_duration.clone(),
        );
        let help = "Reconciles by result: success, stalled or error";
        registry.register(RECONCILES, help, metrics.reconciles.clone());
        let help = "Writes to the API server by kind of object";
        registry.register(API_WRITES, help, metrics.api_writes.clone());
        let help = "1 while this process holds the lease, else 0";
        registry.register(LEADER, help, metrics.leader.clone());
        register_build_info(registry);
        #[cfg(target_os = "linux")]
        registry.register_collector(Box::new(telemetry::process::ProcessCollector));
        metrics
    }

    /// Counts a reconcile; `result` is `success`, `stalled` or `error`.
    pub fn record_reconcile(&self, result: &'static str, duration: Duration) {
        self.reconcile_duration.observe(duration.as_secs_f64());
        self.reconciles.get_or_create(&ResultLabels { result }).inc();
    }

    /// Counts a write to the API server.
    pub fn record_api_write(&self, kind: &str) {
        self.api_writes
            .get_or_create(&KindLabels {
                kind: kind.to_owned(),
            })
            .inc();
    }

    /// Sets the leader gauge.
    pub fn set_leader(&self, is_leader: bool) {
        self.leader.set(i64::from(is_leader));
    }
}

fn register_build_info(registry: &mut Registry) {
    let build_info = Family::<BuildLabels, Gauge>::default();
    build_info
        .get_or_create(&BuildLabels {
            version: env!("CARGO_PKG_VERSION"),
        })
        .set(1);
    registry.register(BUILD_INFO, "Version of the operator; always 1", build_info);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::stages::StageMetricsCollector;
    use super::*;
    use crate::lag::store::{self, LagStore};

    #[test]
    fn every_exported_metric_is_documented_and_vice_versa() {
        let page = include_str!("../../docs/metrics.md");
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.record_reconcile("success", Duration::from_millis(3));
        metrics.record_api_write("Deployment");
        stages::tests::record_all(&metrics.stages);
        let lag_store = Arc::<LagStore>::default();
        store::tests::record_two_snapshots(&lag_store);
        registry.register_collector(Box::new(StageMetricsCollector(lag_store)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let documented: BTreeSet<String> = names
            .filter(|name| name.starts_with("streamstage_operator_") || name.starts_with("process_"))
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
}
