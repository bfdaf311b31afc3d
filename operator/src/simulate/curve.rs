//! Rates over time, as a description and as a function of the second. Pure.

use std::f64::consts::TAU;

use serde::Deserialize;

/// Seconds of a day.
const DAY_SECONDS: u32 = 86_400;

/// Rate over time: the sum of a table and a wave, with random deviations.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Curve {
    /// Second and rate from then until the next row.
    pub steps: Vec<(u32, f64)>,
    /// Second and rate, with a straight line to the next row.
    pub ramp: Vec<(u32, f64)>,
    /// Seconds after which the table begins again; 0 if it does not.
    pub period: u32,
    /// Wave, such as that of a day.
    pub wave: Option<Wave>,
    /// Relative deviation, evenly distributed: 0.1 for 10 % more or less.
    pub jitter: f64,
    /// Seconds for which a deviation applies.
    pub jitter_seconds: u32,
    /// Seed of the deviations.
    pub seed: u64,
}

/// Sine wave.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// Rate without the wave.
    pub base: f64,
    /// Maximum that the wave adds.
    pub amplitude: f64,
    /// Duration in seconds.
    pub period: f64,
    /// Second at which it rises through its mean.
    #[serde(default)]
    pub phase: f64,
    /// True if only the upper half counts: nights without load.
    #[serde(default)]
    pub upper_half: bool,
    /// Exponent: above 1 for a narrower peak. Needs `upper_half`.
    #[serde(default = "one")]
    pub exponent: f64,
    /// Amplitude on two days of seven.
    pub weekend_amplitude: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl Curve {
    /// A constant rate.
    #[must_use]
    pub fn constant(rate: f64) -> Self {
        Self {
            steps: vec![(0, rate)],
            ..Self::default()
        }
    }

    /// Rate in this second, in records per second.
    #[must_use]
    pub fn rate(&self, second: u32) -> f64 {
        let wave = self.wave.as_ref().map_or(0.0, |wave| wave.rate(second));
        let rate = self.table_rate(second) + wave;
        let interval = second / self.jitter_seconds.max(1);
        let deviation = self.jitter * (2.0 * uniform(self.seed, u64::from(interval)) - 1.0);
        rate * (1.0 + deviation)
    }

    fn table_rate(&self, second: u32) -> f64 {
        let second = second.checked_rem(self.period).unwrap_or(second);
        let step = self.steps.iter().rfind(|(from, _)| *from <= second);
        let step = step.map_or(0.0, |(_, rate)| *rate);
        let next = self.ramp.partition_point(|(from, _)| *from <= second);
        let ramp = match (self.ramp.get(next.wrapping_sub(1)), self.ramp.get(next)) {
            (Some((from, low)), Some((to, high))) => {
                low + (high - low) * f64::from(second - from) / f64::from(to - from)
            }
            (Some((_, rate)), None) => *rate,
            _ => 0.0,
        };
        step + ramp
    }
}

impl Wave {
    fn rate(&self, second: u32) -> f64 {
        let is_weekend = second / DAY_SECONDS % 7 >= 5;
        let amplitude = self
            .weekend_amplitude
            .filter(|_| is_weekend)
            .unwrap_or(self.amplitude);
        let sine = (TAU * (f64::from(second) - self.phase) / self.period).sin();
        let height = if self.upper_half {
            sine.max(0.0).powf(self.exponent)
        } else {
            sine
        };
        self.base + amplitude * height
    }
}

/// Evenly distributed number in 0..1 that depends on its arguments alone (`SplitMix64`).
#[must_use]
pub fn uniform(seed: u64, index: u64) -> f64 {
    let mut bits = seed
        .wrapping_mul(0x2545_F491_4F6C_DD1D)
        .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^= bits >> 31;
    let high = u32::try_from(bits >> 32).unwrap_or(u32::MAX);
    f64::from(high) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_repeats_and_interpolates() {
        let curve: Curve = toml::from_str("ramp = [[0, 0.0], [100, 50.0]]\nperiod = 100").expect("a curve");
        assert_eq!(
            [0, 50, 99, 150].map(|second| curve.rate(second).to_string()),
            ["0", "25", "49.5", "25"]
        );
        let curve: Curve = toml::from_str("steps = [[0, 5.0], [10, 7.0]]").expect("a curve");
        assert_eq!(
            [0, 9, 10, 1000].map(|second| curve.rate(second).to_string()),
            ["5", "5", "7", "7"]
        );
    }

    #[test]
    fn a_jitter_is_bounded_and_reproducible() {
        let curve = Curve {
            jitter: 0.2,
            jitter_seconds: 5,
            ..Curve::constant(1000.0)
        };
        let rates: Vec<f64> = (0..500).map(|second| curve.rate(second)).collect();
        assert!(rates.iter().all(|rate| (800.0..=1200.0).contains(rate)));
        let mean = rates.iter().sum::<f64>() / 500.0;
        assert!((960.0..1040.0).contains(&mean), "{mean}");
        assert!((rates[0] - rates[4]).abs() < f64::EPSILON && (rates[4] - rates[5]).abs() > 1e-3);
    }
}
