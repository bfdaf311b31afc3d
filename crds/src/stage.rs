//! The custom resource `StreamStage` (`streamstage.dev/v1alpha1`): everything that a user says about a stage.
//!
//! Must never contact a cluster: this is the type, its bounds, its CEL rules and its defaults.
//! The operator watches it, the worker reads the same document from a file.

mod bytes;
mod duration;
mod processing;
mod rules;
mod scaling;
mod source;
mod validate;
mod warehouse;
mod worker_pod;

use kube::{CustomResource, core::Rule};
use schemars::{JsonSchema, Schema, transform::transform_subschemas};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::rules::{immutable, message, rule, rule_at};
pub use self::{
    bytes::{Bytes, BytesError},
    duration::{Duration, DurationError},
    processing::{Batch, DeadLetter, Dictionary, Limits, Output, TagRule},
    scaling::{OnLagUnknown, ScaleDown, ScaleUp, Scaling, ScalingMode, Target},
    source::{Source, StartFrom, StartFromError},
    validate::{Violation, validate},
    warehouse::{SslMode, Warehouse},
    worker_pod::WorkerPod,
};

/// The namespace of a stage whose document names none.
const DEFAULT_NAMESPACE: &str = "default";

/// One stage of the pipeline: a topic that is read, a layer of the warehouse that is written.
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
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag.total"),
    printcolumn(name = "Drain", type_ = "string", json_path = ".status.lag.drain"),
    printcolumn(name = "Limited-By", type_ = "string", json_path = ".status.scaling.limitedBy"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Topic", type_ = "string", json_path = ".spec.source.topic", priority = 1),
    printcolumn(name = "Group", type_ = "string", json_path = ".status.consumerGroup", priority = 1),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".status.lag.partitions", priority = 1),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.scaling.mode", priority = 1),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.image", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, priority = 1),
    doc = "A stage of the pipeline: reads a topic of orders and keeps one layer of the warehouse.",
    validation = rule(
        "size(self.metadata.name) <= 52",
        message::NAME,
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = structural)]
#[schemars(extend("x-kubernetes-validations" = spec_rules()))]
pub struct StreamStageSpec {
    /// The layer that the stage keeps: `stg` (orders as they came, enriched for the next stage), `dds` (Data Vault),
    /// `cdm` (counters and tags). Immutable.
    #[schemars(extend("x-kubernetes-validations" = immutable("layer")))]
    pub layer: Layer,

    /// The Kafka topic that the stage reads.
    pub source: Source,

    /// The Redis database with users, restaurants and menus. For the layer `stg`, which needs it, and for no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dictionary: Option<Dictionary>,

    /// The PostgreSQL database that the stage writes.
    pub warehouse: Warehouse,

    /// The topic that the stage publishes to. For the layers `stg` and `dds`, which need it, and for no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,

    /// The topic for records that cannot be processed. Default: the source topic with `.dlq`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,

    /// Which guests earn which tag. For the layer `cdm` only; at most 500 rules. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub tags: Vec<TagRule>,

    /// When a batch closes. Default: 1000 records, 8Mi or 1s, whichever is first.
    #[serde(default)]
    pub batch: Batch,

    /// What a single record may be. Default: 1Mi, and 24h in the future.
    #[serde(default)]
    pub limits: Limits,

    /// The IANA time zone of the source's timestamps, which carry none. Default: `UTC`.
    #[serde(default = "default_timezone")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9/_+-]+$"))]
    pub timezone: String,

    /// How the number of workers follows the lag. The worker itself ignores it.
    #[serde(default)]
    pub scaling: Scaling,

    /// Whether the stage is paused: no workers, offsets kept. Default: false. The worker itself ignores it.
    #[serde(default)]
    pub suspend: bool,

    /// What the pods of the stage look like. The worker itself ignores it.
    #[serde(default)]
    pub worker: WorkerPod,
}

/// A layer of the warehouse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Layer {
    /// Staging: every message as it came.
    Stg,
    /// The Data Vault: hubs, links and satellites.
    Dds,
    /// The marts: counters per guest, and tags.
    Cdm,
}

impl Layer {
    /// The layer as the resource, the schemas and the metrics write it.
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
    /// The name of the stage; empty only before [`validate`].
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// The namespace of the stage; `default` when the document names none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }

    /// The consumer group: the one that the resource names, or `<namespace>.<name>`.
    #[must_use]
    pub fn consumer_group(&self) -> String {
        let named = self.spec.source.consumer_group.clone();
        named.unwrap_or_else(|| format!("{}.{}", self.namespace(), self.name()))
    }

    /// The dead letter topic: the one that the resource names, or `<source topic>.dlq`.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        let named = self
            .spec
            .dead_letter
            .as_ref()
            .map(|dead_letter| dead_letter.topic.clone());
        named.unwrap_or_else(|| format!("{}.dlq", self.spec.source.topic))
    }

    /// The Secrets that the stage names, each with the field that names it.
    #[must_use]
    pub fn secrets(&self) -> Vec<(&'static str, &str)> {
        let dictionary = self.spec.dictionary.as_ref();
        let named = [
            ("spec.source.authSecret", self.spec.source.auth_secret.as_deref()),
            (
                "spec.dictionary.authSecret",
                dictionary.and_then(|dictionary| dictionary.auth_secret.as_deref()),
            ),
            (
                "spec.warehouse.authSecret",
                self.spec.warehouse.auth_secret.as_deref(),
            ),
        ];
        named
            .into_iter()
            .filter_map(|(field, name)| Some((field, name?)))
            .collect()
    }

    /// The time zone of the source's timestamps, from the database built into the program.
    ///
    /// # Errors
    /// If the database has no zone of that name.
    pub fn time_zone(&self) -> Result<jiff::tz::TimeZone, jiff::Error> {
        jiff::tz::TimeZoneDatabase::bundled().get(&self.spec.timezone)
    }
}

fn default_timezone() -> String {
    "UTC".to_owned()
}

/// What must hold between the fields of a spec.
fn spec_rules() -> [Rule; 5] {
    let dead_letter = "(has(self.deadLetter) ? self.deadLetter.topic : self.source.topic + '.dlq')";
    [
        rule_at(
            ".output",
            "(self.layer in ['stg', 'dds']) == has(self.output)",
            message::OUTPUT,
        ),
        rule_at(
            ".dictionary",
            "(self.layer == 'stg') == has(self.dictionary)",
            message::DICTIONARY,
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

/// Brings a schema into the form that an API server takes without a warning: no `null`, so that an optional field
/// is left out and CEL's `has()` means what it says, and no format that only Rust knows.
pub(crate) fn structural(schema: &mut Schema) {
    transform_subschemas(&mut structural, schema);
    if schema
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|format| format.starts_with("uint"))
    {
        schema.remove("format");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = &mut types[..] {
            let only = only.take();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = schema.remove("anyOf") {
        // An optional object is the choice of the object and `null`; the field's own description goes first.
        let objects = choices.into_iter().filter(|choice| choice["type"] != "null");
        for (keyword, value) in objects.filter_map(|choice| choice.as_object().cloned()).flatten() {
            schema.ensure_object().entry(keyword).or_insert(value);
        }
    }
}
