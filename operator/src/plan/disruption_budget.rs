//! Disruption budget: at most one ready worker is evicted at a time, workers that are not ready at any time.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata::metadata;
use crate::owned::selector;
use crate::validate::Valid;

pub(super) fn plan(valid: &Valid<'_>) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(valid),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector(valid.stage)),
                ..LabelSelector::default()
            }),
            // Workers that wait for a dependency must not block the drain of a node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
