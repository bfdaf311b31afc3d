//! Health metrics of the stages, computed at scrape time from [`Health`], so that no copy can become stale.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use crate::health::{Dependency, Health};

/// Gauge by stage and dependency: 1 while the dependency is available, 0 during an outage.
pub const DEPENDENCY_UP: &str = "streamstage_worker_dependency_up";
/// Gauge by stage: partitions that are blocked at a record which fails for an unknown reason.
pub const BLOCKED_PARTITIONS: &str = "streamstage_worker_blocked_partitions";
/// Gauge by stage: 1 while the stage holds its batches, because most of their records would be dead-lettered.
pub const HELD: &str = "streamstage_worker_held";

/// Gauge by stage: dead letters whose copy on the dead letter topic is not produced yet. All workers of a stage report the
/// same dead letters.
pub const PENDING_DEAD_LETTER_COPIES: &str = "streamstage_worker_pending_dead_letter_copies";

/// Collector of the health metrics of these stages.
#[derive(Debug)]
pub struct HealthCollector(pub Vec<Arc<Health>>);

impl Collector for HealthCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stages: Vec<_> = self
            .0
            .iter()
            .map(|health| (health.stage(), health.snapshot()))
            .collect();
        let help = "1 while the dependency is available, 0 during an outage";
        let mut gauge = encoder.encode_descriptor(DEPENDENCY_UP, help, None, MetricType::Gauge)?;
        for (stage, health) in &stages {
            for dependency in Dependency::ALL {
                let labels = [("stage", *stage), ("dependency", dependency.name())];
                let is_up = !health.unavailable.contains_key(&dependency);
                gauge.encode_family(&labels)?.encode_gauge(&u32::from(is_up))?;
            }
        }
        let help = "Partitions blocked at a record that fails for an unknown reason";
        let mut gauge = encoder.encode_descriptor(BLOCKED_PARTITIONS, help, None, MetricType::Gauge)?;
        for (stage, health) in &stages {
            let count = u32::try_from(health.blocked.len()).unwrap_or(u32::MAX);
            gauge.encode_family(&[("stage", *stage)])?.encode_gauge(&count)?;
        }
        let help = "Dead letters whose copy on the dead letter topic is not produced yet";
        let mut gauge =
            encoder.encode_descriptor(PENDING_DEAD_LETTER_COPIES, help, None, MetricType::Gauge)?;
        for (stage, health) in &stages {
            let pending = health
                .dead_letter_copies
                .as_ref()
                .map_or(0, |copies| copies.pending);
            gauge
                .encode_family(&[("stage", *stage)])?
                .encode_gauge(&pending)?;
        }
        let help =
            "1 while the stage holds its batches, because most of their records would be dead-lettered";
        let mut gauge = encoder.encode_descriptor(HELD, help, None, MetricType::Gauge)?;
        for (stage, health) in &stages {
            let is_held = u32::from(health.held.is_some());
            gauge
                .encode_family(&[("stage", *stage)])?
                .encode_gauge(&is_held)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::health::PendingCopies;

    #[test]
    fn dependency_up_is_0_during_an_outage() {
        let health = Arc::new(Health::new("stg"));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(HealthCollector(vec![Arc::clone(&health)])));
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
            text
        };
        let up = |dependency, value| {
            format!("streamstage_worker_dependency_up{{stage=\"stg\",dependency=\"{dependency}\"}} {value}\n")
        };
        assert!(text().contains(&up("warehouse", 1)), "{}", text());
        health.mark_unavailable(Dependency::Warehouse, "connection refused");
        health.block_partition(3, "SQLSTATE P0001 at offset 7".into());
        health.set_pending_copies(PendingCopies {
            pending: 2,
            error: None,
        });
        assert!(text().contains(&up("warehouse", 0)), "{}", text());
        assert!(text().contains(&up("reference_data", 1)), "{}", text());
        assert!(
            text().contains("streamstage_worker_blocked_partitions{stage=\"stg\"} 1\n"),
            "{}",
            text()
        );
        assert!(
            text().contains("streamstage_worker_pending_dead_letter_copies{stage=\"stg\"} 2\n"),
            "{}",
            text()
        );
        health.mark_available(Dependency::Warehouse);
        assert!(text().contains(&up("warehouse", 1)), "{}", text());
    }
}
