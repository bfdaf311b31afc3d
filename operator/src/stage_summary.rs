//! The part of a StreamStage that the operator caches between reconciles.
//!
//! It holds what is needed to evaluate a lag poll and to map a watch event to stages. Thousands are in memory: add a
//! field only if one of the two needs it. A reconcile reads the whole resource from the API server.

pub mod reported_status;

use std::borrow::{Borrow, Cow};
use std::sync::Arc;

use crds::StreamStage;
use crds::stage::StartFrom;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::core::error_boundary::DeserializeGuard;
use kube::core::{NamespaceResourceScope, ObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use serde::Deserialize;

use self::reported_status::ReportedStatus;
use crate::connection::bootstrap_servers;
use crate::hosts::warehouse_key;
use crate::lag::offsets::GroupTopic;
use crate::scale::ScalingSettings;

/// Cached stage; an error with the metadata if the stage has fields that this operator does not know.
pub type CachedStage = DeserializeGuard<StageSummary>;
/// Stage reference: namespace and name.
pub type StageRef = ObjectRef<CachedStage>;

/// Stages that this version can read.
pub fn readable<C: Borrow<CachedStage>>(stages: &[C]) -> impl Iterator<Item = &StageSummary> + Clone {
    stages.iter().filter_map(|cached| cached.borrow().0.as_ref().ok())
}

/// All stages in the watched namespaces: one store for all namespaces, or one for each.
#[derive(Clone, Debug)]
pub struct StageStore(Vec<Store<CachedStage>>);

impl StageStore {
    /// Returns the cached stage.
    #[must_use]
    pub fn get(&self, stage: &StageRef) -> Option<Arc<CachedStage>> {
        self.0.iter().find_map(|store| store.get(stage))
    }

    /// Returns every cached stage.
    #[must_use]
    pub fn state(&self) -> Vec<Arc<CachedStage>> {
        self.0.iter().flat_map(Store::state).collect()
    }
}

impl FromIterator<Store<CachedStage>> for StageStore {
    fn from_iter<I: IntoIterator<Item = Store<CachedStage>>>(stores: I) -> Self {
        Self(stores.into_iter().collect())
    }
}

/// Cached part of a stage.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "StreamStage")]
pub struct StageSummary {
    metadata: ObjectMeta,
    /// Bootstrap servers, with names that resolve from every namespace.
    pub bootstrap_servers: Vec<String>,
    /// Consumer group and source topic.
    pub group_topic: GroupTopic,
    /// Start offset of a group without committed offsets.
    pub start_from: StartFrom,
    /// Names of the referenced Secrets, in the namespace of the stage.
    pub secrets: Vec<String>,
    /// Server and database of the warehouse.
    pub warehouse: String,
    /// Scaling settings of the spec.
    pub scaling_settings: ScalingSettings,
    /// Part of the status that lag polls are compared with.
    pub reported: ReportedStatus,
}

impl StageSummary {
    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Orders stages from the oldest to the newest: creation time, namespace and name.
    #[must_use]
    pub fn age(&self) -> (Option<Timestamp>, &str, &str) {
        let created = self.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        (created, namespace, self.name())
    }

    /// Namespace and name.
    #[must_use]
    pub fn reference(&self) -> StageRef {
        StageRef::new(self.name()).within(self.metadata.namespace.as_deref().unwrap_or_default())
    }

    /// Returns true if the stage is being deleted.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Returns true if another stage had the consumer group at the last reconcile, and the spec has not changed since.
    #[must_use]
    pub fn has_lost_group(&self) -> bool {
        self.reported.lost_group_at.is_some() && self.reported.lost_group_at == self.metadata.generation
    }
}

impl From<StreamStage> for StageSummary {
    fn from(stage: StreamStage) -> Self {
        let mut summary = Self {
            bootstrap_servers: bootstrap_servers(&stage),
            group_topic: GroupTopic::from(&stage),
            start_from: stage.spec.source.start_from,
            secrets: stage
                .referenced_secrets()
                .into_iter()
                .map(|(_, name)| name.to_owned())
                .collect(),
            warehouse: warehouse_key(&stage),
            scaling_settings: ScalingSettings::from(&stage),
            metadata: ObjectMeta {
                namespace: stage.metadata.namespace,
                name: stage.metadata.name,
                uid: stage.metadata.uid,
                generation: stage.metadata.generation,
                // The watch resumes from it.
                resource_version: stage.metadata.resource_version,
                creation_timestamp: stage.metadata.creation_timestamp,
                deletion_timestamp: stage.metadata.deletion_timestamp,
                ..ObjectMeta::default()
            },
            reported: stage.status.map(ReportedStatus::from).unwrap_or_default(),
        };
        // Until the next reconcile, a poll must not ask for workers.
        summary.scaling_settings.is_group_taken = summary.has_lost_group();
        summary
    }
}

impl Resource for StageSummary {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        StreamStage::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        StreamStage::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        StreamStage::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        StreamStage::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
