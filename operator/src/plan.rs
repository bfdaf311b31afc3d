//! Third step: the objects that a valid stage should have.
//!
//! Must never fail, read a clock or reach the cluster: the same stage gives the same objects.

mod config_map;
mod deployment;
mod disruption_budget;
mod pod;
mod service;
mod service_account;

use std::collections::BTreeMap;
use std::marker::PhantomData;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::defaults::Defaults;
use crate::owned::{PLAN_ANNOTATION, labels, name};
use crate::scale::Wanted;
use crate::validate::Valid;

/// Objects as they should be.
#[derive(Clone, Copy, Debug)]
pub struct Planned;
/// Objects as the API server answered.
#[derive(Clone, Copy, Debug)]
pub struct Applied;

/// The objects of a stage. Status is computed from `Resources<Applied>` alone.
#[derive(Clone, Debug)]
pub struct Resources<State> {
    /// The identity of the workers.
    pub service_account: ServiceAccount,
    /// The worker's document.
    pub config_map: ConfigMap,
    /// Where the figures of the workers are scraped.
    pub service: Service,
    /// How many workers an eviction may take at a time.
    pub disruption_budget: PodDisruptionBudget,
    /// The workers; as planned, without their number.
    pub deployment: Deployment,
    /// The number of workers, and why.
    pub wanted: Wanted,
    /// How far the objects have come.
    pub state: PhantomData<State>,
}

/// Plans the objects of a stage, with as many workers as are wanted.
#[must_use]
pub fn plan(valid: &Valid<'_>, defaults: &Defaults, wanted: Wanted) -> Resources<Planned> {
    Resources {
        service_account: stamped(service_account::plan(valid)),
        config_map: stamped(config_map::plan(valid)),
        service: stamped(service::plan(valid)),
        disruption_budget: stamped(disruption_budget::plan(valid)),
        deployment: stamped(deployment::plan(valid, defaults)),
        wanted,
        state: PhantomData,
    }
}

/// Name, namespace, labels and owner of an object.
fn metadata(valid: &Valid<'_>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name(valid.stage)),
        namespace: Some(valid.stage.namespace().to_owned()),
        labels: Some(labels(valid.stage)),
        owner_references: Some(vec![valid.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// The object with the digest of itself.
fn stamped<K: Resource + Serialize>(mut object: K) -> K {
    // An object of the Kubernetes API always serializes: it has string keys only.
    let text = serde_json::to_vec(&object).unwrap_or_default();
    let digest = short(&Sha256::digest(&text));
    let annotations = object.meta_mut().annotations.get_or_insert_with(BTreeMap::new);
    annotations.insert(PLAN_ANNOTATION.to_owned(), digest);
    object
}

/// The first 64 bits of a digest, in hexadecimal: enough to tell two contents of one object apart.
pub(crate) fn short(digest: &[u8]) -> String {
    let bits = digest
        .iter()
        .take(8)
        .fold(0, |bits, byte| bits << 8 | u64::from(*byte));
    format!("{bits:016x}")
}
