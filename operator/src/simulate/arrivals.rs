//! Records that arrive in each partition of a simulated topic. Pure.

use serde::Deserialize;

use super::curve::{Curve, uniform};
use super::trace::{Trace, spread};
use crate::scale::load::to_f64;

/// Arrivals of a topic: from a trace, or of a described load.
#[derive(Clone, Debug, PartialEq)]
pub enum Arrivals {
    /// As recorded in a CSV file.
    Trace(Trace),
    /// As described.
    Generated(GeneratedLoad),
}

/// Described load.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratedLoad {
    /// Records per second of all partitions together.
    pub curve: Curve,
    /// Number of partitions.
    #[serde(default = "default_partitions")]
    pub partitions: u32,
    /// Share of each partition; even if empty.
    #[serde(default)]
    pub weights: Vec<f64>,
    /// True if arrivals are random, with the curve as their mean.
    #[serde(default)]
    pub poisson: bool,
}

fn default_partitions() -> u32 {
    12
}

impl Arrivals {
    /// Number of partitions at the start.
    #[must_use]
    pub fn partitions(&self) -> usize {
        match self {
            Self::Trace(trace) => trace.partitions(),
            Self::Generated(load) if load.weights.is_empty() => load.partitions.max(1) as usize,
            Self::Generated(load) => load.weights.len(),
        }
    }

    /// Throughput of a worker in this second, if the trace has one.
    #[must_use]
    pub fn worker_rate(&self, second: u32) -> Option<u64> {
        match self {
            Self::Trace(trace) => trace.worker_rate(second),
            Self::Generated(_) => None,
        }
    }

    /// Records that arrive in this second, by partition of `partitions`.
    #[must_use]
    pub fn arrivals(&self, second: u32, partitions: usize) -> Vec<u64> {
        match self {
            Self::Trace(trace) => {
                let mut arrivals: Vec<u64> = trace.arrivals(second).collect();
                if arrivals.len() < partitions {
                    arrivals = spread(arrivals.iter().sum(), partitions);
                }
                arrivals
            }
            Self::Generated(load) => load.arrivals(second, partitions),
        }
    }
}

impl GeneratedLoad {
    fn arrivals(&self, second: u32, partitions: usize) -> Vec<u64> {
        let rate = self.curve.rate(second).max(0.0);
        if self.poisson {
            let mean = rate / to_f64(partitions as u64);
            return (0..partitions as u64)
                .map(|partition| poisson(mean, self.curve.seed, u64::from(second) * 1000 + partition))
                .collect();
        }
        if self.weights.is_empty() {
            return spread(floor(rate), partitions);
        }
        let total: f64 = self.weights.iter().sum();
        self.weights
            .iter()
            .map(|weight| floor(rate * weight / total))
            .collect()
    }
}

/// Poisson-distributed number that depends on its arguments alone.
fn poisson(mean: f64, seed: u64, index: u64) -> u64 {
    let draw = |number: u64| uniform(seed, index.wrapping_mul(4096).wrapping_add(number));
    if mean > 50.0 {
        // The sum of twelve evenly distributed numbers is about normal.
        let normal = (0..12).map(draw).sum::<f64>() - 6.0;
        return floor((mean + mean.sqrt() * normal + 0.5).max(0.0));
    }
    let (limit, mut product, mut count) = ((-mean).exp(), 1.0, 0);
    loop {
        product *= draw(count);
        if product < limit {
            return count;
        }
        count += 1;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative, and a cast saturates"
)]
pub(super) fn floor(number: f64) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_spread_by_number_by_weight_or_at_random() {
        let load = |text: &str| Arrivals::Generated(toml::from_str(text).expect("a load"));
        let even = load("partitions = 4\ncurve = {steps = [[0, 10.0]]}");
        assert_eq!((even.partitions(), even.arrivals(0, 4)), (4, vec![3, 3, 2, 2]));
        assert_eq!(even.arrivals(0, 5), [2; 5], "of an added partition too");
        let weighted = load("weights = [3.0, 1.0]\ncurve = {steps = [[0, 8.0]]}");
        assert_eq!((weighted.partitions(), weighted.arrivals(0, 2)), (2, vec![6, 2]));
        for rate in [1000.0, 12.0] {
            let random = load(&format!("poisson = true\ncurve = {{steps = [[0, {rate}]]}}"));
            let total: u64 = (0..1000).flat_map(|second| random.arrivals(second, 12)).sum();
            let mean = to_f64(total) / 1000.0;
            assert!((mean / rate - 1.0).abs() < 0.05, "{rate}: {mean}");
        }
    }
}
