//! How many workers a stage may have, and what moves their number.
//!
//! Must never reach the worker: a change of scaling restarts no pod.
//! The operator's replica decision is a function of this and the measured lag.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Duration,
    rules::{lasts, message, rule, rule_at},
};

/// How the number of workers follows the lag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(
        ".minReplicas",
        "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
        message::MIN_REPLICAS,
    ),
    rule_at(
        ".replicas",
        "!has(self.replicas) || self.mode in ['Manual', 'External']",
        message::REPLICAS,
    ),
]))]
pub struct Scaling {
    /// Who sets the number of workers: `Auto` (the operator, by lag), `Recommend` (as Auto, but only shown in the
    /// status), `Manual` (`replicas`), `External` (`replicas`, written by another controller). Default: `Auto`.
    pub mode: ScalingMode,

    /// The number of workers in the modes Manual and External; 0 to 1000. Default: `minReplicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub replicas: Option<u32>,

    /// The fewest workers; 0 lets an idle stage have none. 0 to 1000. Default: 1.
    #[schemars(range(max = 1000))]
    pub min_replicas: u32,

    /// The most workers; 1 to 1000. Default: the number of the topic's partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: Option<u32>,

    /// What the number of workers aims at. Default: `{drainSeconds: 60}`.
    pub target: Target,

    /// With `minReplicas: 0`: the lag, in records, above which the first worker starts. Default: 0.
    #[schemars(range(max = 1_000_000_000_000_u64))]
    pub activation_lag: u64,

    /// Time between two readings of the lag; 1s to 10m. Default: 5s.
    #[schemars(extend("x-kubernetes-validations" = lasts("1s", "10m")))]
    pub poll_interval: Duration,

    /// How soon workers are added.
    pub scale_up: ScaleUp,

    /// How soon workers are taken away.
    pub scale_down: ScaleDown,

    /// The number of workers while the lag cannot be read: `Hold` (as it is) or `Min` (`minReplicas`).
    /// Default: `Hold`.
    pub on_lag_unknown: OnLagUnknown,

    /// A partition with lag and without progress for this long counts as stuck, and asks for no workers;
    /// 1m to 24h. Default: 10m.
    #[schemars(extend("x-kubernetes-validations" = lasts("1m", "24h")))]
    pub stuck_after: Duration,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            mode: ScalingMode::default(),
            replicas: None,
            min_replicas: 1,
            max_replicas: None,
            target: Target::default(),
            activation_lag: 0,
            poll_interval: Duration::from_secs(5),
            scale_up: ScaleUp::default(),
            scale_down: ScaleDown::default(),
            on_lag_unknown: OnLagUnknown::default(),
            stuck_after: Duration::from_secs(600),
        }
    }
}

/// Who sets the number of workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ScalingMode {
    /// The operator, by lag.
    #[default]
    Auto,
    /// Nobody: the operator shows what it would do.
    Recommend,
    /// A person, in `replicas`.
    Manual,
    /// Another controller, through the scale subresource.
    External,
}

/// What the number of workers aims at: exactly one of `drainSeconds` and `lagPerReplica`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "has(self.drainSeconds) != has(self.lagPerReplica)",
    message::TARGET,
)]))]
pub struct Target {
    /// The lag is drained within this many seconds; 1 to 86400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub drain_seconds: Option<u32>,

    /// Records of lag that one worker is kept for; 1 to 1000000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub lag_per_replica: Option<u32>,

    /// With `drainSeconds`: records per second that one worker is taken to commit until this has been measured;
    /// 1 to 1000000. Default: 1000.
    #[serde(default = "default_initial_rate")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub initial_rate: u32,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            drain_seconds: Some(60),
            lag_per_replica: None,
            initial_rate: default_initial_rate(),
        }
    }
}

/// How soon workers are added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ScaleUp {
    /// The lowest wish of this window counts; 0s to 1h. Default: 0s.
    #[schemars(extend("x-kubernetes-validations" = lasts("0s", "1h")))]
    pub stabilization_window: Duration,

    /// Rest after a move before workers are added; 0s to 1h. Default: 15s.
    #[schemars(extend("x-kubernetes-validations" = lasts("0s", "1h")))]
    pub cooldown: Duration,
}

impl Default for ScaleUp {
    fn default() -> Self {
        Self {
            stabilization_window: Duration::from_secs(0),
            cooldown: Duration::from_secs(15),
        }
    }
}

/// How soon workers are taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ScaleDown {
    /// The highest wish of this window counts; 0s to 1h. Default: 2m.
    #[schemars(extend("x-kubernetes-validations" = lasts("0s", "1h")))]
    pub stabilization_window: Duration,

    /// Rest after a move before workers are taken away; 0s to 1h. Default: 1m.
    #[schemars(extend("x-kubernetes-validations" = lasts("0s", "1h")))]
    pub cooldown: Duration,
}

impl Default for ScaleDown {
    fn default() -> Self {
        Self {
            stabilization_window: Duration::from_secs(120),
            cooldown: Duration::from_secs(60),
        }
    }
}

/// The number of workers while the lag cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OnLagUnknown {
    /// Stays as it is.
    #[default]
    Hold,
    /// Goes to `minReplicas`.
    Min,
}

fn default_initial_rate() -> u32 {
    1000
}
