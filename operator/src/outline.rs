//! A stage in outline: all that the operator keeps of it from one reconcile to the next.
//!
//! Must never grow without need: there are thousands of them in memory. A reconcile reads its whole stage anew.

use std::borrow::Cow;

use crds::StreamStage;
use crds::stage::StartFrom;
use kube::Resource;
use kube::core::error_boundary::DeserializeGuard;
use kube::core::{NamespaceResourceScope, ObjectMeta};
use kube::runtime::reflector::Store;
use serde::Deserialize;

use crate::connection::servers;
use crate::lag::Question;
use crate::scale::Rules;
use crate::status::Shown;

/// A stage in outline; one that cannot be read is known by its metadata.
pub type Guarded = DeserializeGuard<Outline>;
/// The stages that the operator knows.
pub type Stages = Store<Guarded>;

/// What a reading is judged by, and what tells which stages a change concerns.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "StreamStage")]
pub struct Outline {
    metadata: ObjectMeta,
    /// Its brokers, as they are reached from every namespace.
    pub servers: Vec<String>,
    /// Its group and its topic.
    pub question: Question,
    /// Where its group begins.
    pub start_from: StartFrom,
    /// The Secrets that it names.
    pub secrets: Vec<String>,
    /// What it says of the number of workers.
    pub rules: Rules,
    /// What its status shows.
    pub shown: Shown,
}

impl Outline {
    /// The name of the stage.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Whether both would read the same partitions as members of one group.
    #[must_use]
    pub fn shares_group(&self, other: &Self) -> bool {
        self.question == other.question && self.servers.iter().any(|server| other.servers.contains(server))
    }
}

impl From<StreamStage> for Outline {
    fn from(stage: StreamStage) -> Self {
        Self {
            servers: servers(&stage),
            question: Question::from(&stage),
            start_from: stage.spec.source.start_from,
            secrets: stage
                .secrets()
                .into_iter()
                .map(|(_, name)| name.to_owned())
                .collect(),
            rules: Rules::from(&stage),
            metadata: ObjectMeta {
                namespace: stage.metadata.namespace,
                name: stage.metadata.name,
                uid: stage.metadata.uid,
                generation: stage.metadata.generation,
                // The watch goes on from it.
                resource_version: stage.metadata.resource_version,
                creation_timestamp: stage.metadata.creation_timestamp,
                deletion_timestamp: stage.metadata.deletion_timestamp,
                ..ObjectMeta::default()
            },
            shown: stage.status.map(Shown::from).unwrap_or_default(),
        }
    }
}

impl Resource for Outline {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_short_name_in_two_namespaces_is_two_clusters() {
        let stage = |namespace: &str, server: &str| -> Outline {
            serde_saphyr::from_str(&format!(
                "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, \
                 metadata: {{name: cdm, namespace: {namespace}}}, spec: {{layer: cdm, \
                 source: {{bootstrapServers: ['{server}'], topic: facts, consumerGroup: one}}, \
                 warehouse: {{host: postgres, database: orders}}}}}}"
            ))
            .expect("a stage")
        };
        let short = stage("one", "kafka:9092");
        assert!(short.shares_group(&stage("one", "kafka:9092")));
        assert!(!short.shares_group(&stage("two", "kafka:9092")));
        assert!(short.shares_group(&stage("two", "kafka.one.svc:9092")));
    }
}
