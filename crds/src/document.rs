//! YAML documents with stages: the worker reads them from a file, the operator writes them into a ConfigMap.
//!
//! Never guesses: unknown fields, other kinds and duplicate stage names are rejected.
//! The caller reads the file and passes its text in. A stage that [`parse`] returns has passed [`validate`].

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

use crate::secret::BYTE_ORDER_MARK;
use crate::stage::{StreamStage, StreamStageSpec, Violation, validate};

/// Spec fields that only the operator uses.
const OPERATOR_ONLY_FIELDS: [&str; 3] = ["scaling", "suspend", "worker"];

/// Error for a text that is not a list of valid stages. Documents are numbered from 1, without the empty ones.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// Every document is empty.
    #[error("the text contains no StreamStage: add at least one document with `kind: StreamStage`")]
    Empty,
    /// A document has another kind or API version.
    #[error(
        "document {document} is `{actual}`, expected `{expected}`: move the other resource to another file"
    )]
    UnexpectedKind {
        /// Number of the document.
        document: usize,
        /// `apiVersion/kind` of the document.
        actual: String,
        /// The only `apiVersion/kind` that is accepted.
        expected: String,
    },
    /// Malformed YAML, an unknown or missing field, or a value of the wrong type or form.
    #[error("document {document}, line {line}, {field}: {cause}")]
    Malformed {
        /// Number of the document.
        document: usize,
        /// Line in the whole text, from 1.
        line: u64,
        /// Path of the field; `.` for the document itself.
        field: String,
        /// Description of the error, without its location.
        cause: String,
    },
    /// Two stages have the same name and namespace.
    #[error("document {document} repeats the stage `{name}` of document {first}: rename or remove one")]
    DuplicateName {
        /// Number of the second document.
        document: usize,
        /// Number of the first document.
        first: usize,
        /// `namespace/name` of both.
        name: String,
    },
    /// The stage violates rules of [`validate`].
    #[error("document {document}, stage `{name}`:{}", violation_list(.violations))]
    Invalid {
        /// Number of the document.
        document: usize,
        /// Name of the stage.
        name: String,
        /// All violations, in the order of the fields.
        violations: Vec<Violation>,
    },
}

fn violation_list(violations: &[Violation]) -> String {
    violations
        .iter()
        .fold(String::new(), |list, violation| format!("{list}\n  {violation}"))
}

/// Parses one or several YAML documents, each a `StreamStage`; empty documents are skipped.
///
/// # Errors
/// [`DocumentError`] of the first document that is rejected.
pub fn parse(text: &str) -> Result<Vec<StreamStage>, DocumentError> {
    let text = without_byte_order_marks(text);
    let mut stages = Vec::new();
    let mut names = BTreeMap::new();
    for document in split_documents(&text) {
        let stage = document.parse_stage()?;
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

/// Renders the document for a worker: name, namespace, and the spec without its operator-only fields.
///
/// A change of scaling, suspension or pod settings does not change the text, so that it restarts no worker.
///
/// # Errors
/// If the stage cannot be serialized as YAML; a stage from [`parse`] always can.
pub fn render_worker_document(stage: &StreamStage) -> Result<String, serde_saphyr::ser::Error> {
    let mut spec = json!(stage.spec);
    if let Value::Object(fields) = &mut spec {
        fields.retain(|field, _| !OPERATOR_ONLY_FIELDS.contains(&field.as_str()));
    }
    serde_saphyr::to_string(&json!({
        "apiVersion": StreamStage::api_version(&()),
        "kind": StreamStage::kind(&()),
        "metadata": {"name": stage.name(), "namespace": stage.namespace()},
        "spec": spec,
    }))
}

/// One YAML document of a text.
struct Document<'a> {
    /// Number from 1, without the empty documents.
    number: usize,
    /// Lines of the text before the document.
    lines_before: u64,
    text: &'a str,
}

/// Removes the byte order marks that editors write at the start of a file. After the first line there is one if files
/// were concatenated: YAML permits it before every document.
fn without_byte_order_marks(text: &str) -> Cow<'_, str> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let marked_line = format!("\n{BYTE_ORDER_MARK}");
    if text.contains(&marked_line) {
        Cow::Owned(text.replace(&marked_line, "\n"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Splits a text at its document markers and drops the empty documents. YAML reserves `---` at the start of a line
/// for this, even inside a block scalar.
fn split_documents(text: &str) -> Vec<Document<'_>> {
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
        .zip(pieces.filter(|(_, text)| !is_blank(text)))
        .map(|(number, (lines_before, text))| Document {
            number,
            lines_before,
            text,
        })
        .collect()
}

/// Returns true for a document that contains only comments, markers and white space.
fn is_blank(document: &str) -> bool {
    document.lines().all(|line| {
        let content = line.strip_prefix("---").unwrap_or(line).trim();
        content.is_empty() || content.starts_with('#') || content == "..."
    })
}

impl Document<'_> {
    fn parse_stage(&self) -> Result<StreamStage, DocumentError> {
        // The kind is checked first; otherwise another resource would be reported as an unknown field.
        let TypeMeta { api_version, kind } = self.deserialize()?;
        let actual = format!("{api_version}/{kind}");
        let expected = format!("{}/{}", StreamStage::api_version(&()), StreamStage::kind(&()));
        if actual != expected {
            return Err(DocumentError::UnexpectedKind {
                document: self.number,
                actual,
                expected,
            });
        }
        let StrictStage { metadata, spec, .. } = self.deserialize()?;
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

    fn deserialize<T: DeserializeOwned>(&self) -> Result<T, DocumentError> {
        let mut field = ".".to_owned();
        let result = serde_saphyr::with_deserializer_from_str_with_options(
            self.text,
            serde_saphyr::options! { with_snippet: false },
            |deserializer| {
                serde_path_to_error::deserialize(deserializer).map_err(|error| {
                    field = error.path().to_string();
                    error.into_inner()
                })
            },
        );
        result.map_err(|error| DocumentError::Malformed {
            document: self.number,
            line: self.lines_before + error.location().map_or(1, |location| location.line()),
            // serde_path_to_error reports `?` for a key that was not deserialized.
            field: field.trim_end_matches(".?").to_owned(),
            cause: parse_error_message(&error),
        })
    }
}

/// Describes a parse error in YAML terms. It leaves out the location, which is relative to the document, not to the
/// text.
fn parse_error_message(error: &serde_saphyr::Error) -> String {
    match error.without_snippet() {
        serde_saphyr::Error::InvalidScalar { ty: "bool", .. } => "is neither `true` nor `false`".to_owned(),
        serde_saphyr::Error::InvalidScalar { .. } => "is not a whole number in the allowed range".to_owned(),
        serde_saphyr::Error::SerdeMissingField { field, .. } => format!("`{field}` is missing: add it"),
        other => other.render_with_formatter(&UserMessageFormatter.with_localizer(&WithoutLocation)),
    }
}

/// Removes the location from a message of the parser.
struct WithoutLocation;

impl Localizer for WithoutLocation {
    fn attach_location<'a>(&self, message: Cow<'a, str>, _: Location) -> Cow<'a, str> {
        message
    }
}

/// `apiVersion` and `kind` of any resource; empty if missing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypeMeta {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
}

/// Resource that rejects unknown fields. It accepts and ignores the status of a resource copied from a cluster.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "unread fields are declared so that they are not unknown")]
struct StrictStage {
    api_version: IgnoredAny,
    kind: IgnoredAny,
    #[serde(deserialize_with = "strict_metadata")]
    metadata: ObjectMeta,
    spec: StreamStageSpec,
    status: Option<IgnoredAny>,
}

/// Deserializes the metadata strictly, because the Kubernetes type itself ignores misspelled fields.
fn strict_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    const METADATA_FIELDS: &[&str] = &[
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
    if let Some(unknown) = fields
        .keys()
        .find(|field| !METADATA_FIELDS.contains(&field.as_str()))
    {
        return Err(D::Error::unknown_field(unknown, METADATA_FIELDS));
    }
    serde_json::from_value(Value::Object(fields)).map_err(D::Error::custom)
}
