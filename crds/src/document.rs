//! Stages as YAML text: what the worker reads from a file and what the operator writes into a ConfigMap.
//!
//! Must never guess: an unknown field, another kind or a second stage of the same name is refused.
//! Whoever reads the file passes its text in; a stage that comes out of [`parse`] has passed [`validate`].

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _, IgnoredAny},
};
use serde_json::{Value, json};
use serde_saphyr::{Localizer, Location, UserMessageFormatter};
use thiserror::Error;

use crate::stage::{StreamStage, StreamStageSpec, Violation, validate};

/// The parts of the resource that the operator alone uses.
const OPERATOR_FIELDS: [&str; 3] = ["scaling", "suspend", "worker"];

/// The text is no list of stages. Documents are counted from 1; empty ones do not count.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// Every document is empty.
    #[error("there is no StreamStage in the text: write at least one document with `kind: StreamStage`")]
    Empty,
    /// A document of another kind.
    #[error(
        "document {document} is `{found}`: only `{expected}` is read here; move the other resource to another file"
    )]
    NotAStage {
        /// Number of the document.
        document: usize,
        /// Its `apiVersion/kind`.
        found: String,
        /// The `apiVersion/kind` that is read.
        expected: String,
    },
    /// Broken YAML, an unknown or missing field, or a value of the wrong form.
    #[error("document {document}, line {line}, {field}: {cause}")]
    Unreadable {
        /// Number of the document.
        document: usize,
        /// Line in the whole text, from 1.
        line: u64,
        /// Path of the field; `.` for the document itself.
        field: String,
        /// What is wrong there.
        cause: String,
    },
    /// Two stages of one name in one namespace.
    #[error("document {document} repeats the stage `{name}` of document {first}: rename or remove one")]
    DuplicateName {
        /// Number of the second document.
        document: usize,
        /// Number of the first.
        first: usize,
        /// `namespace/name` of both.
        name: String,
    },
    /// The stage breaks rules that its fields alone do not show.
    #[error("document {document}, stage `{name}`:{}", listed(.violations))]
    Invalid {
        /// Number of the document.
        document: usize,
        /// Name of the stage.
        name: String,
        /// All rules that it breaks.
        violations: Vec<Violation>,
    },
}

fn listed(violations: &[Violation]) -> String {
    violations
        .iter()
        .fold(String::new(), |list, violation| format!("{list}\n  {violation}"))
}

/// Reads one or several YAML documents, each a `StreamStage`; empty documents are skipped.
///
/// # Errors
/// The first document that is refused, as a [`DocumentError`].
pub fn parse(text: &str) -> Result<Vec<StreamStage>, DocumentError> {
    let mut stages = Vec::new();
    let mut names = BTreeMap::new();
    for document in documents(text) {
        let stage = document.stage()?;
        let name = format!("{}/{}", stage.namespace(), stage.name());
        if let Some(first) = names.insert(name.clone(), document.number) {
            return Err(DocumentError::DuplicateName {
                document: document.number,
                first,
                name,
            });
        }
        stages.push(stage);
    }
    if stages.is_empty() {
        Err(DocumentError::Empty)
    } else {
        Ok(stages)
    }
}

/// The document that a worker reads: name, namespace and everything of the spec that a worker uses.
///
/// It is the same text for every change of scaling, suspension and pod settings, so that such a change restarts
/// no worker.
///
/// # Errors
/// If the stage cannot be written as YAML, which a stage that was read before always can.
pub fn worker_document(stage: &StreamStage) -> Result<String, serde_saphyr::ser::Error> {
    let mut spec = json!(stage.spec);
    if let Value::Object(fields) = &mut spec {
        fields.retain(|field, _| !OPERATOR_FIELDS.contains(&field.as_str()));
    }
    serde_saphyr::to_string(&json!({
        "apiVersion": StreamStage::api_version(&()),
        "kind": StreamStage::kind(&()),
        "metadata": {"name": stage.name(), "namespace": stage.namespace()},
        "spec": spec,
    }))
}

/// One document of a text.
struct Document<'a> {
    number: usize,
    /// Lines of the text before the document.
    lines_before: u64,
    text: &'a str,
}

/// Cuts a text at the lines that YAML reserves for this, and leaves empty documents out: `---` at the start of a
/// line is a document's start even inside a block of text.
fn documents(text: &str) -> Vec<Document<'_>> {
    let mut starts = vec![(0, 0)];
    let mut offset = 0;
    for (lines_before, line) in (0..).zip(text.split_inclusive('\n')) {
        let rest = line.strip_prefix("---");
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)) {
            starts.push((offset, lines_before));
        }
        offset += line.len();
    }
    let ends = starts
        .iter()
        .skip(1)
        .map(|(offset, _)| *offset)
        .chain([text.len()]);
    let pieces = starts
        .iter()
        .zip(ends)
        .map(|((start, lines_before), end)| (*lines_before, &text[*start..end]));
    (1..)
        .zip(pieces.filter(|(_, text)| !is_empty(text)))
        .map(|(number, (lines_before, text))| Document {
            number,
            lines_before,
            text,
        })
        .collect()
}

/// Whether a document holds nothing but comments.
fn is_empty(document: &str) -> bool {
    document.lines().all(|line| {
        let content = line.strip_prefix("---").unwrap_or(line).trim();
        content.is_empty() || content.starts_with('#') || content == "..."
    })
}

impl Document<'_> {
    fn stage(&self) -> Result<StreamStage, DocumentError> {
        // The kind comes first: a resource of another kind would fail at some unknown field.
        let Heading { api_version, kind } = self.read()?;
        let found = format!("{api_version}/{kind}");
        let expected = format!("{}/{}", StreamStage::api_version(&()), StreamStage::kind(&()));
        if found != expected {
            return Err(DocumentError::NotAStage {
                document: self.number,
                found,
                expected,
            });
        }
        let Strict { metadata, spec, .. } = self.read()?;
        let stage = StreamStage {
            metadata,
            spec,
            status: None,
        };
        match validate(&stage) {
            Ok(()) => Ok(stage),
            Err(violations) => {
                let name = stage.name().to_owned();
                Err(DocumentError::Invalid {
                    document: self.number,
                    name,
                    violations,
                })
            }
        }
    }

    fn read<T: DeserializeOwned>(&self) -> Result<T, DocumentError> {
        let mut field = ".".to_owned();
        let read = serde_saphyr::with_deserializer_from_str_with_options(
            self.text,
            serde_saphyr::options! { with_snippet: false },
            |deserializer| {
                serde_path_to_error::deserialize(deserializer).map_err(|error| {
                    field = error.path().to_string();
                    error.into_inner()
                })
            },
        );
        read.map_err(|error| DocumentError::Unreadable {
            document: self.number,
            line: self.lines_before + error.location().map_or(1, |location| location.line()),
            // The parser writes `?` for a key that it could not read.
            field: field.trim_end_matches(".?").to_owned(),
            cause: cause(&error),
        })
    }
}

/// What is wrong, in the words of someone who writes YAML, and without the place: that is counted in the document.
fn cause(error: &serde_saphyr::Error) -> String {
    match error.without_snippet() {
        serde_saphyr::Error::InvalidScalar { ty: "bool", .. } => "is neither `true` nor `false`".to_owned(),
        serde_saphyr::Error::InvalidScalar { .. } => "is no whole number of the expected size".to_owned(),
        serde_saphyr::Error::SerdeMissingField { field, .. } => format!("`{field}` is missing: add it"),
        other => other.render_with_formatter(&UserMessageFormatter.with_localizer(&WithoutPlace)),
    }
}

/// Leaves the place out of a message.
struct WithoutPlace;

impl Localizer for WithoutPlace {
    fn attach_location<'a>(&self, message: Cow<'a, str>, _: Location) -> Cow<'a, str> {
        message
    }
}

/// What every Kubernetes resource begins with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Heading {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

/// The resource with no room for an unknown field. The status of a resource copied from a cluster is skipped.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "the fields stand here to be known")]
struct Strict {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    #[serde(deserialize_with = "strict_metadata")]
    metadata: ObjectMeta,
    spec: StreamStageSpec,
    status: Option<IgnoredAny>,
}

/// Reads the metadata; the Kubernetes type itself would pass over a misspelled field.
fn strict_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    const KNOWN: &[&str] = &[
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ];
    let fields = serde_json::Map::deserialize(deserializer)?;
    if let Some(unknown) = fields.keys().find(|field| !KNOWN.contains(&field.as_str())) {
        return Err(D::Error::unknown_field(unknown, KNOWN));
    }
    serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)
}
