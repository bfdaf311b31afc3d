//! The words of the conditions: their types and their reasons.
//!
//! Must never be renamed: scripts and alerts wait for these words.

use std::fmt;

use serde::Deserialize;

/// The type of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// Every worker that should run is a member of its group.
    Ready,
    /// The operator works towards what the resource says (kstatus).
    Reconciling,
    /// The operator cannot go on without a change by a person (kstatus).
    Stalled,
    /// Kafka answers, and the topic and the group are there.
    SourceReachable,
    /// The lag is known.
    LagObserved,
    /// The number of workers follows the lag.
    ScalingActive,
    /// The lag asks for more or fewer workers than there may be.
    ScalingLimited,
    /// Partitions with lag make no progress.
    PartitionsStuck,
    /// A person paused the stage.
    Suspended,
}

/// The reason of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub enum Reason {
    /// Ready: every worker is.
    AllReady,
    /// Ready: some workers are not yet.
    NotAllReady,
    /// Ready, Suspended, `ScalingActive`: `spec.suspend` is set.
    Suspended,
    /// Suspended: `spec.suspend` is not set.
    NotSuspended,
    /// Ready: the image of the workers cannot be pulled.
    ImagePull,
    /// Ready: a worker ends again and again.
    CrashLoop,
    /// Ready: no node takes a worker.
    Unschedulable,
    /// Ready: the cluster refuses to create pods: a quota, or a Pod Security Standard.
    ReplicaFailure,
    /// Reconciling: pods of an older template are being replaced.
    RollingOut,
    /// Reconciling: pods are being added or taken away.
    Scaling,
    /// Reconciling: the API server failed, and is tried again.
    Retrying,
    /// Reconciling: nothing is left to do.
    Converged,
    /// Stalled: nothing stands in the way.
    NotStalled,
    /// Stalled: the resource breaks a rule.
    ConfigInvalid,
    /// Stalled: a Secret that the stage names, or a key of it, is missing.
    SecretNotFound,
    /// Stalled: an older stage reads the same topic with the same consumer group.
    Conflict,
    /// Stalled: an object of the stage's name is not the stage's own.
    NameTaken,
    /// Stalled: the operator lacks a permission.
    Forbidden,
    /// Stalled: the API server refuses an object of the stage.
    Refused,
    /// `ScalingActive`: the lag has not been read yet.
    LagPending,
    /// `ScalingActive`: `spec.scaling.replicas` says how many, written by a person.
    Manual,
    /// `ScalingActive`: another controller says how many.
    External,
    /// `ScalingActive`: what the lag asks for is only shown.
    Recommend,
    /// `ScalingActive`: the number of workers follows the lag.
    FollowsLag,
    /// `ScalingActive`: the lag is not known, and the number of workers is held.
    LagUnknown,
    /// `SourceReachable`: Kafka answers, and the topic is there.
    Reachable,
    /// `SourceReachable`, `LagObserved`: no broker answers.
    Unreachable,
    /// `SourceReachable`, `LagObserved`: Kafka refuses the credentials.
    AuthenticationFailed,
    /// `SourceReachable`, `LagObserved`: Kafka refuses to describe the topic or the group.
    KafkaForbidden,
    /// `SourceReachable`, `LagObserved`: there is no such topic.
    UnknownTopic,
    /// `LagObserved`: every partition was read.
    Observed,
    /// `LagObserved`: some partitions were not read, so the lag is not known.
    PartlyRead,
    /// `LagObserved`: a committed offset is beyond the end of its partition: the topic was made anew.
    OffsetOutOfRange,
    /// `PartitionsStuck`: some partitions make no progress.
    Stuck,
    /// `PartitionsStuck`: every partition with lag makes progress.
    NoneStuck,
    /// `ScalingLimited`: a bound keeps the workers from what the lag asks for.
    Limited,
    /// `ScalingLimited`: nothing does.
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
    fn words_are_what_scripts_wait_for() {
        assert_eq!(ConditionType::SourceReachable.to_string(), "SourceReachable");
        assert_eq!(Reason::SecretNotFound.to_string(), "SecretNotFound");
    }
}
