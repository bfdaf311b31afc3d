//! Record of the source topic: its fields, its key, and what orders its versions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::{Field, FieldScope, MAX_NAME_LENGTH, MAX_POINTER_LENGTH, NAME_PATTERN, POINTER_PATTERN};

/// Record of the source topic: a JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordModel {
    /// Texts that decide which records of the topic are processed. Default: all records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub accept: Vec<Accept>,

    /// Field that identifies what the record describes. Records with one key are versions of one thing.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    pub key: String,

    /// Fields that order the versions of one key, the most significant first. The first one is a timestamp: a version is
    /// valid from then on. If all of them are equal, the digest of the record decides.
    #[schemars(length(min = 1, max = 5))]
    pub version: Vec<VersionPart>,

    /// Fields with one value per record.
    #[schemars(length(min = 1, max = 200))]
    pub fields: Vec<Field>,

    /// Arrays of objects. Default: `[]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub arrays: Vec<Array>,
}

impl RecordModel {
    /// Returns the scope of a field of the record or of its arrays; that of the record for an unknown name.
    #[must_use]
    pub fn scope_of(&self, name: &str) -> FieldScope {
        let has_field = |array: &Array| array.fields.iter().any(|field| field.name == name);
        let array = self.arrays.iter().position(has_field);
        array.map_or(FieldScope::Record, FieldScope::Element)
    }
}

/// Text that decides whether a record is processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Accept {
    /// JSON pointer of the text within the record.
    #[schemars(length(min = 1, max = MAX_POINTER_LENGTH), regex(pattern = POINTER_PATTERN))]
    pub pointer: String,

    /// Texts of the records that are processed. Any other record becomes a dead letter.
    #[serde(rename = "in")]
    #[schemars(length(min = 1, max = 50), inner(length(min = 1, max = 200)))]
    pub texts: Vec<String>,
}

/// One of the values that order the versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VersionPart {
    /// Field of the record.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    pub field: String,

    /// Values of a text, the earliest first. Any other text is before them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 250), inner(length(min = 1, max = 200)))]
    pub rank: Vec<String>,
}

/// Array of objects in the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Array {
    /// Name in this model.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH), regex(pattern = NAME_PATTERN))]
    pub name: String,

    /// JSON pointer within the record.
    #[schemars(length(min = 1, max = MAX_POINTER_LENGTH), regex(pattern = POINTER_PATTERN))]
    pub pointer: String,

    /// Maximum number of elements. A record with more becomes a dead letter. 1 to 10000. Default: 10000.
    #[serde(default = "default_max_items")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_items: u32,

    /// Fields with one value per element; their pointers begin at the element.
    #[schemars(length(min = 1, max = 100))]
    pub fields: Vec<Field>,
}

fn default_max_items() -> u32 {
    10_000
}
