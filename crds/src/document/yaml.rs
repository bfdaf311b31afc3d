//! YAML text of several documents: splits it, and parses one document.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_saphyr::{Localizer, Location, UserMessageFormatter};

use super::error::DocumentError;
use crate::secret::BYTE_ORDER_MARK;

/// One YAML document of a text.
pub(super) struct Document<'a> {
    /// Number from 1, without the empty documents.
    pub(super) number: usize,
    /// Lines of the text before the document.
    pub(super) lines_before: u64,
    pub(super) text: &'a str,
}

/// Removes the byte order marks that editors write at the start of a file. After the first line there is one if files
/// were concatenated: YAML permits it before every document.
pub(super) fn without_byte_order_marks(text: &str) -> Cow<'_, str> {
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
pub(super) fn split_documents(text: &str) -> Vec<Document<'_>> {
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
    /// Parses the document.
    ///
    /// # Errors
    /// [`DocumentError::Malformed`].
    pub(super) fn deserialize<T: DeserializeOwned>(&self) -> Result<T, DocumentError> {
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
