//! Root of the resource: the spec of a `StreamStage`, its layers, and the rules between its fields.
//!
//! Field groups have modules of their own; this module combines them.

use std::time::Duration;

use kube::{CustomResource, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    addresses::TIME_ZONE_PATTERN,
    processing::{Batch, DeadLetter, Limits, Output, ReferenceData, TagRule},
    rules::{immutable, message, rule, rule_at},
    scaling::Scaling,
    source::Source,
    warehouse::Warehouse,
    worker_pod::WorkerPod,
};
use crate::schema::make_structural;

/// Time that a worker has for its work in progress, after it has closed its last batch.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(25);
/// Namespace of a stage whose document has no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// Desired state of a stage, as users write it.
#[derive(Clone, Debug, PartialEq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "streamstage.dev",
    version = "v1alpha1",
    kind = "StreamStage",
    plural = "streamstages",
    shortname = "stage",
    shortname = "stages",
    category = "all",
    category = "streamstage",
    namespaced,
    derive = "PartialEq",
    status = "crate::status::StreamStageStatus",
    scale(
        spec_replicas_path = ".spec.scaling.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Layer", type_ = "string", json_path = ".spec.layer"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Replicas", type_ = "string", json_path = ".status.workers"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desiredReplicas"),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag.total"),
    printcolumn(name = "Drain", type_ = "string", json_path = ".status.lag.drain"),
    printcolumn(name = "Limited-By", type_ = "string", json_path = ".status.scaling.limitedBy"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Topic", type_ = "string", json_path = ".spec.source.topic", priority = 1),
    printcolumn(name = "Group", type_ = "string", json_path = ".status.consumerGroup", priority = 1),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".status.lag.partitionCount", priority = 1),
    printcolumn(name = "Recommendation", type_ = "integer", json_path = ".status.scaling.recommendation", priority = 1),
    printcolumn(name = "Capacity", type_ = "number", json_path = ".status.scaling.capacityPerReplica.recordsPerSecond", priority = 1),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.scaling.mode", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.image", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, priority = 1),
    doc = "A stage of the pipeline: consumes a topic of orders and writes one layer of the warehouse.",
    validation = rule(
        "size(self.metadata.name) <= 52",
        message::NAME,
    ),
    validation = rule(
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        message::NAME_CHARACTERS,
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = make_structural)]
#[schemars(extend("x-kubernetes-validations" = spec_rules()))]
pub struct StreamStageSpec {
    /// Layer that the stage writes: `stg` (orders as received, enriched for the next stage), `dds` (Data Vault),
    /// `cdm` (counters and tags). Immutable.
    #[schemars(extend("x-kubernetes-validations" = immutable("layer")))]
    pub layer: Layer,

    /// Kafka topic that the stage consumes.
    pub source: Source,

    /// Reference data in Redis: users, restaurants and menus. Required for the layer `stg`, not allowed for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_data: Option<ReferenceData>,

    /// PostgreSQL database that the stage writes to.
    pub warehouse: Warehouse,

    /// Topic that the stage produces to. Required for `stg` and `dds`, not allowed for `cdm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,

    /// Topic for rejected records. Default: the source topic with the suffix `.dlq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,

    /// Rules that assign tags to users. Allowed for the layer `cdm` only; at most 500. Default: `[]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500), extend(
        // The API server rejects two rules for one category and threshold.
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["category", "threshold"],
    ))]
    pub tags: Vec<TagRule>,

    /// Limits of a batch; the first one that is reached closes it. Default: 1000 records, 8Mi or 1s.
    #[serde(default)]
    pub batch: Batch,

    /// Limits per record; a record over a limit is dead-lettered. Default: 1Mi, and 24h in the future.
    #[serde(default)]
    pub limits: Limits,

    /// IANA time zone of timestamps without UTC offset, which the source sends. A time that clocks skip is rejected, and
    /// of a time that occurs twice, the first is meant. Messages between the stages have their UTC offset, so only the
    /// layer `stg` needs this field. A change applies to the records that are processed from then on; stored orders keep
    /// their times. Default: `UTC`.
    #[serde(default = "default_timezone")]
    #[schemars(length(min = 1, max = 64), regex(pattern = TIME_ZONE_PATTERN))]
    pub timezone: String,

    /// Scaling of the workers by consumer lag. Used by the operator only.
    #[serde(default)]
    pub scaling: Scaling,

    /// Suspends the stage: stops its workers and retains its offsets. Default: false. Used by the operator only.
    #[serde(default)]
    pub suspend: bool,

    /// Pod settings of the workers. Used by the operator only.
    #[serde(default)]
    pub worker: WorkerPod,
}

/// Layer of the warehouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Layer {
    /// Staging: every message as received.
    Stg,
    /// Raw Data Vault: hubs, links and satellites.
    Dds,
    /// Information marts: counters per user, and tags.
    Cdm,
}

impl Layer {
    /// Lower-case name in the resource, in SQL schemas and in metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stg => "stg",
            Self::Dds => "dds",
            Self::Cdm => "cdm",
        }
    }
}

impl StreamStage {
    /// Name of the stage; non-empty once [`super::validate()`] has accepted the stage.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// Namespace of the stage; `default` if the document has no namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }

    /// Consumer group: `spec.source.consumerGroup`, or `<namespace>.<name>`.
    #[must_use]
    pub fn consumer_group(&self) -> String {
        let explicit = self.spec.source.consumer_group.clone();
        explicit.unwrap_or_else(|| format!("{}.{}", self.namespace(), self.name()))
    }

    /// Dead letter topic: `spec.deadLetter.topic`, or `<source topic>.dlq`.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        let explicit = self
            .spec
            .dead_letter
            .as_ref()
            .map(|dead_letter| dead_letter.topic.clone());
        explicit.unwrap_or_else(|| format!("{}.dlq", self.spec.source.topic))
    }

    /// Time that a worker has to finish its work in progress after SIGTERM. It exits then, whatever does not answer.
    /// The termination grace period of its pod is longer.
    #[must_use]
    pub fn shutdown_timeout(&self) -> Duration {
        self.spec.batch.max_wait.as_std() + SHUTDOWN_TIMEOUT
    }

    /// Secrets that the stage references, as pairs of field path and Secret name.
    #[must_use]
    pub fn referenced_secrets(&self) -> Vec<(&'static str, &str)> {
        let reference_data = self.spec.reference_data.as_ref();
        let references = [
            (
                "spec.source.authSecretName",
                self.spec.source.auth_secret_name.as_deref(),
            ),
            (
                "spec.referenceData.authSecretName",
                reference_data.and_then(|reference_data| reference_data.auth_secret_name.as_deref()),
            ),
            (
                "spec.warehouse.authSecretName",
                self.spec.warehouse.auth_secret_name.as_deref(),
            ),
        ];
        references
            .into_iter()
            .filter_map(|(field, name)| Some((field, name?)))
            .collect()
    }

    /// Returns true if `spec.timezone` is a name of the database that is compiled in, with its upper and lower case.
    #[must_use]
    pub fn has_time_zone(&self) -> bool {
        let zones = jiff::tz::TimeZoneDatabase::bundled();
        let mut names = zones.available();
        names.any(|name| name.as_str() == self.spec.timezone)
    }

    /// Time zone of the source's timestamps, from the database that is compiled in.
    ///
    /// # Errors
    /// If the database has no zone with this name.
    pub fn time_zone(&self) -> Result<jiff::tz::TimeZone, jiff::Error> {
        jiff::tz::TimeZoneDatabase::bundled().get(&self.spec.timezone)
    }
}

fn default_timezone() -> String {
    "UTC".to_owned()
}

/// CEL rules between the fields of a spec.
fn spec_rules() -> [Rule; 5] {
    let dead_letter = "(has(self.deadLetter) ? self.deadLetter.topic : self.source.topic + '.dlq')";
    [
        rule_at(
            ".output",
            "(self.layer in ['stg', 'dds']) == has(self.output)",
            message::OUTPUT,
        ),
        rule_at(
            ".referenceData",
            "(self.layer == 'stg') == has(self.referenceData)",
            message::REFERENCE_DATA,
        ),
        rule_at(
            ".tags",
            "self.layer == 'cdm' || !has(self.tags) || size(self.tags) == 0",
            message::TAGS,
        ),
        rule_at(
            ".output.topic",
            "!has(self.output) || self.output.topic != self.source.topic",
            message::OUTPUT_TOPIC,
        ),
        rule_at(
            ".deadLetter",
            &format!(
                "{dead_letter} != self.source.topic && (!has(self.output) || {dead_letter} != self.output.topic)"
            ),
            message::DEAD_LETTER,
        ),
    ]
}
