//! Scaling settings: the bounds on the number of workers, and the target that the lag is compared with.
//!
//! Never reaches the worker, so that a change of these settings restarts no pod.
//! The operator decides on replicas from these settings and the measured lag.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    duration::Duration,
    max_step::MaxStep,
    rules::{duration_between, message, rule, rule_at},
    schedule::Schedule,
};

/// Scaling of the workers by consumer lag.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule_at(
        ".minReplicas",
        "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
        message::MIN_REPLICAS,
    ),
    rule_at(
        ".schedules",
        "!has(self.schedules) || self.schedules.all(schedule, \
         (has(schedule.minReplicas) ? schedule.minReplicas : self.minReplicas) \
         <= (has(schedule.maxReplicas) ? schedule.maxReplicas : has(self.maxReplicas) ? self.maxReplicas : 1000))",
        message::SCHEDULE_MIN,
    ),
]))]
pub struct Scaling {
    /// Scaling mode: `Auto` (the operator scales by lag), `Recommend` (the operator reports the recommendation in the
    /// status and does not scale), `Manual` (`replicas`), `External` (`replicas`, written by another controller).
    /// Default: `Auto`.
    pub mode: ScalingMode,

    /// Number of workers in the modes `Manual` and `External`, which `kubectl scale` and autoscalers set; 0 to 1000.
    /// Ignored in the other modes. Default: `minReplicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000))]
    pub replicas: Option<u32>,

    /// Minimum number of workers; 0 allows scale to zero. 0 to 1000. Default: 1.
    #[schemars(range(max = 1000))]
    pub min_replicas: u32,

    /// Maximum number of workers; 1 to 1000. Default: the partition count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: Option<u32>,

    /// Windows of time in which other bounds apply; at most 16. If several are open, the highest `minReplicas` applies,
    /// and the lowest `maxReplicas` that is not below it. Used in the modes `Auto` and `Recommend`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub schedules: Vec<Schedule>,

    /// Scaling target: at most one of `drainSeconds` and `lagPerReplica`. Without one of them, `drainSeconds` is 60.
    pub target: Target,

    /// Lag, in records, above which the first worker starts if `minReplicas` is 0. Default: 0.
    #[schemars(range(max = 1_000_000_000_000_u64))]
    pub activation_lag: u64,

    /// Interval between lag polls; 1s to 10m. Default: 5s.
    #[schemars(extend("x-kubernetes-validations" = duration_between("1s", "10m")))]
    pub poll_interval: Duration,

    /// Stabilization window and cooldown of scale-ups.
    pub scale_up: ScaleUp,

    /// Stabilization window, cooldown and maximum step of scale-downs.
    pub scale_down: ScaleDown,

    /// Behavior while the lag is unknown: `Hold` leaves the replicas unchanged, `Min` scales down to `minReplicas`.
    /// Default: `Hold`.
    pub on_lag_unknown: OnLagUnknown,

    /// Time without progress after which a partition with lag is stuck and no longer counts for scaling;
    /// 1m to 24h. Default: 10m.
    #[schemars(extend("x-kubernetes-validations" = duration_between("1m", "24h")))]
    pub stuck_after: Duration,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            mode: ScalingMode::default(),
            replicas: None,
            min_replicas: 1,
            max_replicas: None,
            schedules: Vec::new(),
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

/// Source of the number of workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ScalingMode {
    /// The operator scales by lag.
    #[default]
    Auto,
    /// The operator reports its recommendation and does not scale.
    Recommend,
    /// The user sets `replicas`.
    Manual,
    /// Another controller sets `replicas` through the scale subresource.
    External,
}

/// Time that `drainSeconds` has if a target has neither of its fields, in seconds. It is not a default of the schema: the
/// API server would store it, and reject a later `lagPerReplica` beside it.
const DEFAULT_DRAIN_SECONDS: u32 = 60;

/// Scaling target: at most one of `drainSeconds` and `lagPerReplica`. Without one of them, `drainSeconds` is 60.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "!has(self.drainSeconds) || !has(self.lagPerReplica)",
    message::TARGET,
)]))]
pub struct Target {
    /// Target drain time, in seconds; 1 to 86400.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub drain_seconds: Option<u32>,

    /// Target lag per worker, in records; 1 to 1000000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub lag_per_replica: Option<u32>,

    /// Deprecated: the operator measures the capacity of a worker within 25 s. Assumed capacity of a worker until it has
    /// been measured, in records per second. Applies to `drainSeconds`; 1 to 1000000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub initial_rate: Option<u32>,
}

impl Target {
    /// Target drain time, in seconds.
    #[must_use]
    pub fn effective_drain_seconds(&self) -> u32 {
        self.drain_seconds.unwrap_or(DEFAULT_DRAIN_SECONDS)
    }
}

/// Stabilization window and cooldown of scale-ups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ScaleUp {
    /// The lowest recommendation in this window is used; 0s to 1h. Default: 0s.
    #[schemars(extend("x-kubernetes-validations" = duration_between("0s", "1h")))]
    pub stabilization_window: Duration,

    /// Minimum time between a scaling step and the next scale-up; 0s to 1h. Default: 15s.
    #[schemars(extend("x-kubernetes-validations" = duration_between("0s", "1h")))]
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

/// Stabilization window, cooldown and maximum step of scale-downs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ScaleDown {
    /// The highest recommendation in this window is used; 0s to 1h. Default: 2m.
    #[schemars(extend("x-kubernetes-validations" = duration_between("0s", "1h")))]
    pub stabilization_window: Duration,

    /// Minimum time between a scaling step and the next scale-down; 0s to 1h. Default: 1m.
    #[schemars(extend("x-kubernetes-validations" = duration_between("0s", "1h")))]
    pub cooldown: Duration,

    /// Maximum number of workers that a scaling step removes: 1 to 1000, or a percentage of the present workers such as
    /// `25%`, rounded up. Default: no maximum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_step: Option<MaxStep>,
}

impl Default for ScaleDown {
    fn default() -> Self {
        Self {
            stabilization_window: Duration::from_secs(120),
            cooldown: Duration::from_secs(60),
            max_step: None,
        }
    }
}

/// Behavior while the lag is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OnLagUnknown {
    /// Leaves the replicas unchanged.
    #[default]
    Hold,
    /// Scales down to `minReplicas`.
    Min,
}
