//! Condition `Reconciling`: the progress of a rollout or of a scaling step.

use crds::status::Reason;

use super::conditions::ConditionState;
use crate::owned::rollout::RolloutProgress;

/// Condition `Reconciling`: true while pods are replaced, added or removed. `is_spec_changed` distinguishes a rollout
/// from a scaling step before the Deployment controller has observed either.
pub(super) fn reconciling_condition(progress: &RolloutProgress, is_spec_changed: bool) -> ConditionState {
    let RolloutProgress {
        desired,
        replicas,
        updated,
        ready,
        is_observed,
    } = *progress;
    let desired = desired.unwrap_or_default();
    if !is_observed {
        let reason = if is_spec_changed {
            Reason::RollingOut
        } else {
            Reason::Scaling
        };
        let message = "Waiting for the Deployment controller to observe the last change";
        ConditionState::new(true, reason, message)
    } else if progress.has_outdated_workers() {
        let message = format!("{updated} of {desired} workers have the current pod template");
        ConditionState::new(true, Reason::RollingOut, message)
    } else if replicas != desired || ready < desired {
        let message = format!("{replicas} workers exist, {ready} are ready, {desired} are desired");
        ConditionState::new(true, Reason::Scaling, message)
    } else {
        ConditionState::new(false, Reason::Converged, "Up to date with the spec")
    }
}
