#![expect(clippy::disallowed_types, reason = "edge: reads /proc of this process")]
//! Process metrics, under the names that all Prometheus client libraries use.
//!
//! Linux only. A value that cannot be read is absent; a scrape never fails because of it.

use std::fmt;

use procfs::process::Process;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Gauge: resident memory.
pub const RESIDENT_MEMORY_BYTES: &str = "process_resident_memory_bytes";
/// Counter: user and system CPU time.
pub const CPU_SECONDS: &str = "process_cpu_seconds";
/// Gauge: start time, in seconds since the Unix epoch.
pub const START_TIME_SECONDS: &str = "process_start_time_seconds";
/// Gauge: open file descriptors.
pub const OPEN_FDS: &str = "process_open_fds";

/// Reads `/proc/self` at each scrape.
#[derive(Debug)]
pub struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(process) = Process::myself() else {
            return Ok(());
        };
        if let Ok(stat) = process.stat() {
            let resident_bytes = stat.rss.saturating_mul(procfs::page_size());
            encode_gauge(
                &mut encoder,
                RESIDENT_MEMORY_BYTES,
                "Resident memory",
                resident_bytes,
            )?;
            let cpu_seconds = ConstCounter::new(seconds(stat.utime) + seconds(stat.stime));
            let help = "User and system CPU time";
            cpu_seconds.encode(encoder.encode_descriptor(CPU_SECONDS, help, None, MetricType::Counter)?)?;
            if let Ok(boot_time) = procfs::boot_time_secs() {
                let start_time = to_f64(boot_time) + seconds(stat.starttime);
                let help = "Start time, in seconds since the Unix epoch";
                encode_gauge(&mut encoder, START_TIME_SECONDS, help, start_time)?;
            }
        }
        match process.fd_count() {
            Ok(count) => encode_gauge(&mut encoder, OPEN_FDS, "Open file descriptors", count),
            Err(_) => Ok(()),
        }
    }
}

fn encode_gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: impl EncodeGaugeValue,
) -> fmt::Result {
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

/// Converts clock ticks to seconds.
fn seconds(ticks: u64) -> f64 {
    to_f64(ticks) / to_f64(procfs::ticks_per_second())
}

#[expect(clippy::cast_precision_loss, reason = "ticks and seconds, far below 2^53")]
fn to_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_running_process_has_memory_cpu_time_start_time_and_descriptors() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        let value = |name: &str| -> f64 {
            let sample = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            sample.and_then(|sample| sample.parse().ok()).expect("a sample")
        };
        assert!(value(RESIDENT_MEMORY_BYTES) > 1e6, "{text}");
        assert!(value("process_cpu_seconds_total") >= 0.0, "{text}");
        assert!(value(START_TIME_SECONDS) > 1.7e9, "{text}");
        assert!(value(OPEN_FDS) > 2.0, "{text}");
    }
}
