//! Errors of documents: the document, the line, the field, the cause and the remedy.

use thiserror::Error;

use crate::stage::Violation;

/// Error for a text that is not a list of valid resources. Documents are numbered from 1, without the empty ones.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// Every document is empty.
    #[error("the text contains no {kind}: add at least one document with `kind: {kind}`")]
    Empty {
        /// The expected kind.
        kind: &'static str,
    },
    /// There are several documents, where one model is expected.
    #[error("the text contains {count} documents: move each model to a file of its own")]
    SeveralModels {
        /// Number of the documents.
        count: usize,
    },
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
    /// The stage violates rules of [`validate`](crate::stage::validate()).
    #[error("document {document}, stage `{name}`:{}", violation_list(.violations))]
    Invalid {
        /// Number of the document.
        document: usize,
        /// Name of the stage.
        name: String,
        /// All violations, in the order of the fields.
        violations: Vec<Violation>,
    },
    /// The model violates rules of [`check`](crate::model::check()).
    #[error("document {document}, model `{name}`:{}", located_list(.violations))]
    InvalidModel {
        /// Number of the document.
        document: usize,
        /// Name of the model.
        name: String,
        /// All violations, each with its line in the whole text, from 1.
        violations: Vec<(u64, Violation)>,
    },
}

fn violation_list(violations: &[Violation]) -> String {
    violations
        .iter()
        .fold(String::new(), |list, violation| format!("{list}\n  {violation}"))
}

fn located_list(violations: &[(u64, Violation)]) -> String {
    violations.iter().fold(String::new(), |list, (line, violation)| {
        format!("{list}\n  line {line}, {violation}")
    })
}
