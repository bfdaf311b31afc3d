//! How many workers an eviction may take at a time: one, and any that does no work.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::owned::selector;
use crate::validate::Valid;

pub(super) fn plan(valid: &Valid<'_>) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: super::metadata(valid),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector(valid.stage)),
                ..LabelSelector::default()
            }),
            // Workers that wait for a database must not keep a node from being drained.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
