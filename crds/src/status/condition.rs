//! Condition types and reasons.
//!
//! The names are API: never rename one after a release, because scripts and alerts match them.

use std::fmt;

use serde::Deserialize;

/// Type of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// All desired workers are ready.
    Ready,
    /// The operator is changing the cluster to match the spec (kstatus).
    Reconciling,
    /// The stage needs manual intervention (kstatus).
    Stalled,
    /// Kafka is reachable and the source topic exists.
    SourceReachable,
    /// The lag has been polled completely.
    LagObserved,
    /// The operator scales the workers by lag.
    ScalingActive,
    /// A bound limits the replicas below or above the recommendation.
    ScalingLimited,
    /// Some partitions with lag make no progress.
    PartitionsStuck,
    /// The stage is suspended.
    Suspended,
}

/// Reason of a condition. Each doc names the condition types that use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum Reason {
    /// Ready: all desired workers are ready.
    AllReady,
    /// Ready: some workers are not ready yet.
    NotAllReady,
    /// Ready, Suspended, `ScalingActive`: `spec.suspend` is set.
    Suspended,
    /// Suspended: `spec.suspend` is not set.
    NotSuspended,
    /// Ready: the worker image cannot be pulled.
    ImagePullFailed,
    /// Ready: a worker container crashes repeatedly.
    CrashLoop,
    /// Ready: a worker pod fits on no node.
    Unschedulable,
    /// Ready: the cluster rejects new pods, because of a quota or a Pod Security Standard.
    ReplicaFailure,
    /// Reconciling: a rollout of the pod template is in progress.
    RollingOut,
    /// Reconciling: pods are being created or deleted for a scaling step.
    Scaling,
    /// Reconciling: a transient error is retried with backoff.
    Retrying,
    /// Reconciling: the cluster matches the spec.
    Converged,
    /// Stalled: no blocking error.
    NotStalled,
    /// Stalled: the spec violates a rule.
    ConfigInvalid,
    /// Stalled: a referenced Secret, or a key of it, is missing.
    SecretNotFound,
    /// Stalled: the owner of a referenced Secret does not allow this use of it.
    SecretNotAllowed,
    /// Stalled: the owner of the `ServiceAccount` of the pod template does not allow stages to use it.
    ServiceAccountNotAllowed,
    /// Stalled: the operator's allow-list does not contain a host of the stage.
    HostNotAllowed,
    /// Stalled: an older stage of the namespace consumes the same topic with the same consumer group, or the group has
    /// the prefix of another namespace.
    ConsumerGroupConflict,
    /// Stalled: an object with the required name exists and belongs to another owner.
    ResourceExists,
    /// Stalled: the operator lacks a permission.
    Forbidden,
    /// Stalled: the API server rejects an object of the stage.
    ObjectRejected,
    /// `ScalingActive`: the lag has not been polled yet.
    LagPending,
    /// `ScalingActive`: the user sets `spec.scaling.replicas`.
    Manual,
    /// `ScalingActive`: another controller sets `spec.scaling.replicas`.
    External,
    /// `ScalingActive`: the recommendation is reported but not applied.
    Recommend,
    /// `ScalingActive`: the annotation `streamstage.dev/pause-scaling` of the stage is `true`.
    Paused,
    /// `ScalingActive`: the operator scales the workers by lag.
    FollowsLag,
    /// `ScalingActive`: the lag is unknown; `spec.scaling.onLagUnknown` applies.
    LagUnknown,
    /// `SourceReachable`: Kafka is reachable and the source topic exists.
    Reachable,
    /// `SourceReachable`, `LagObserved`: Kafka is unreachable.
    Unreachable,
    /// `SourceReachable`, `LagObserved`: Kafka rejects the credentials.
    AuthenticationFailed,
    /// `SourceReachable`, `LagObserved`: the ACLs do not allow the operator to describe the topic or the group.
    AuthorizationFailed,
    /// `SourceReachable`, `LagObserved`: the source topic does not exist.
    UnknownTopic,
    /// `LagObserved`: the offsets of all partitions are known.
    Observed,
    /// `LagObserved`: the offsets of some partitions are missing, so the lag is unknown.
    PartialOffsets,
    /// Ready: the workers stopped, because a stored position is not in the log.
    /// `LagObserved`: a committed offset is beyond the end offset, because the topic was recreated.
    OffsetOutOfRange,
    /// Ready: the workers stopped, because the source topic was deleted and created again.
    TopicRecreated,
    /// `PartitionsStuck`: some partitions make no progress.
    Stuck,
    /// `PartitionsStuck`: every partition with lag makes progress.
    NotStuck,
    /// `ScalingLimited`: a bound limits the replicas.
    Limited,
    /// `ScalingLimited`: the replicas equal the recommendation.
    NotLimited,
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_displayed_unchanged() {
        assert_eq!(ConditionType::SourceReachable.to_string(), "SourceReachable");
        assert_eq!(Reason::SecretNotFound.to_string(), "SecretNotFound");
    }
}
