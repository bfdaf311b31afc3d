//! YAML documents with stages or models: the worker reads them from a file, the operator writes them into a `ConfigMap`.
//!
//! Never guesses: unknown fields, other kinds and duplicate stage names are rejected.
//! The caller reads the file and passes its text in. A stage that [`parse`] returns has passed [`validate`], and a model that
//! [`parse_model`] returns has passed [`check`].

mod error;
mod lines;
mod resource;
mod yaml;

use std::collections::BTreeMap;

use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub use self::error::DocumentError;
use self::lines::Lines;
use self::resource::{StrictResource, TypeMeta};
use self::yaml::{Document, split_documents, without_byte_order_marks};
use crate::model::{StreamModel, check};
use crate::stage::{StreamStage, validate};

/// Spec fields that only the operator uses.
const OPERATOR_ONLY_FIELDS: [&str; 3] = ["scaling", "suspend", "worker"];

/// Parses one or several YAML documents, each a `StreamStage`; empty documents are skipped.
///
/// # Errors
/// [`DocumentError`] of the first document that is rejected.
pub fn parse(text: &str) -> Result<Vec<StreamStage>, DocumentError> {
    let text = without_byte_order_marks(text);
    let mut stages = Vec::new();
    let mut names = BTreeMap::new();
    for document in split_documents(&text) {
        let stage = parse_stage(&document)?;
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
        Err(DocumentError::Empty { kind: "StreamStage" })
    } else {
        Ok(stages)
    }
}

fn parse_stage(document: &Document<'_>) -> Result<StreamStage, DocumentError> {
    let StrictResource { metadata, spec, .. } = parse_resource::<StreamStage, _>(document)?;
    let stage = StreamStage {
        metadata,
        spec,
        status: None,
    };
    match validate(&stage) {
        Ok(()) => Ok(stage),
        Err(violations) => Err(DocumentError::Invalid {
            document: document.number,
            name: stage.name().to_owned(),
            violations,
        }),
    }
}

/// Parses a YAML document with one `StreamModel`.
///
/// # Errors
/// [`DocumentError`] if the text is not one valid model.
pub fn parse_model(text: &str) -> Result<StreamModel, DocumentError> {
    let text = without_byte_order_marks(text);
    let documents = split_documents(&text);
    let [document] = documents.as_slice() else {
        return Err(match documents.len() {
            0 => DocumentError::Empty { kind: "StreamModel" },
            count => DocumentError::SeveralModels { count },
        });
    };
    let StrictResource { metadata, spec, .. } = parse_resource::<StreamModel, _>(document)?;
    let model = StreamModel { metadata, spec };
    match check(&model.spec) {
        Ok(()) => Ok(model),
        Err(violations) => {
            let lines = Lines::read(document);
            let located = violations.into_iter();
            Err(DocumentError::InvalidModel {
                document: document.number,
                name: model.name().to_owned(),
                violations: located
                    .map(|violation| (lines.find(&violation.field), violation))
                    .collect(),
            })
        }
    }
}

/// Parses a document of one kind. The kind is checked first; otherwise another resource would be reported as an unknown
/// field.
fn parse_resource<K: Resource<DynamicType = ()>, S: DeserializeOwned>(
    document: &Document<'_>,
) -> Result<StrictResource<S>, DocumentError> {
    let TypeMeta { api_version, kind } = document.deserialize()?;
    let actual = format!("{api_version}/{kind}");
    let expected = format!("{}/{}", K::api_version(&()), K::kind(&()));
    if actual != expected {
        return Err(DocumentError::UnexpectedKind {
            document: document.number,
            actual,
            expected,
        });
    }
    document.deserialize()
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
