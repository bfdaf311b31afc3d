//! What is wrong with the stages of this process, told when somebody asks: [`Health`] knows it, nothing is kept twice.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use crate::health::{Health, Service};

/// Whether a service fails, by stage: 1 or 0.
pub const TROUBLE: &str = "streamstage_trouble";
/// Partitions that are held because of a record that fails for no known reason, by stage.
pub const HELD: &str = "streamstage_held_partitions";

/// The figures of these stages.
#[derive(Debug)]
pub struct Troubles(pub Vec<Arc<Health>>);

impl Collector for Troubles {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let conditions: Vec<_> = self
            .0
            .iter()
            .map(|health| (health.stage(), health.condition()))
            .collect();
        let mut gauge =
            encoder.encode_descriptor(TROUBLE, "Whether a service fails", None, MetricType::Gauge)?;
        for (stage, condition) in &conditions {
            for service in Service::ALL {
                let labels = [("stage", *stage), ("service", service.name())];
                let fails = condition.trouble.contains_key(&service);
                gauge.encode_family(&labels)?.encode_gauge(&u32::from(fails))?;
            }
        }
        let help = "Partitions that are held because of a record";
        let mut gauge = encoder.encode_descriptor(HELD, help, None, MetricType::Gauge)?;
        for (stage, condition) in &conditions {
            let count = u32::try_from(condition.held.len()).unwrap_or(u32::MAX);
            gauge.encode_family(&[("stage", *stage)])?.encode_gauge(&count)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn trouble_is_told_while_it_lasts() {
        let health = Arc::new(Health::new("stg"));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Troubles(vec![Arc::clone(&health)])));
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
            text
        };
        let warehouse =
            |fails| format!("streamstage_trouble{{stage=\"stg\",service=\"warehouse\"}} {fails}\n");
        assert!(text().contains(&warehouse(0)), "{}", text());
        health.trouble(Service::Warehouse, "connection refused");
        health.hold(3, "SQLSTATE P0001 at offset 7".into());
        assert!(text().contains(&warehouse(1)), "{}", text());
        assert!(
            text().contains("streamstage_held_partitions{stage=\"stg\"} 1\n"),
            "{}",
            text()
        );
        health.fine(Service::Warehouse);
        assert!(text().contains(&warehouse(0)), "{}", text());
    }
}
