//! Fields of a model: the values that columns are filled from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Pattern of the name of a field, an array, a lookup or a column.
pub(super) const NAME_PATTERN: &str = "^[a-z][a-z0-9_]*$";
/// Maximum length of such a name. PostgreSQL cuts off an identifier of more than 63 bytes.
pub(super) const MAX_NAME_LENGTH: usize = 50;
/// Pattern of a JSON pointer (RFC 6901) that is not empty.
pub(super) const POINTER_PATTERN: &str = "^(/([^~/]|~0|~1)*)+$";
/// Maximum length of a JSON pointer.
pub(super) const MAX_POINTER_LENGTH: usize = 256;

/// Value of a record, of an element of its array, or of a looked-up entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Field {
    /// Name in this model, unique in the whole model.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH), regex(pattern = NAME_PATTERN))]
    pub name: String,

    /// JSON pointer (RFC 6901) within the record, the element or the entry, such as `/payload/id`.
    #[schemars(length(min = 1, max = MAX_POINTER_LENGTH), regex(pattern = POINTER_PATTERN))]
    pub pointer: String,

    /// Type of the value.
    #[serde(rename = "type")]
    pub type_: FieldType,

    /// Smallest value, for the types `bigint` and `integer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,

    /// Meaning of the field, for the reader of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub doc: Option<String>,
}

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum FieldType {
    /// Text that is not blank: composed (NFC) and trimmed.
    Key,
    /// Text without U+0000.
    Text,
    /// 64-bit integer.
    Bigint,
    /// 32-bit integer.
    Integer,
    /// Amount of money that is not negative, with at most 14 digits before the point and 5 after it.
    Money,
    /// Date and time.
    Timestamp,
}

impl FieldType {
    /// Returns true for the types that identify a business entity.
    #[must_use]
    pub const fn is_business_key(self) -> bool {
        matches!(self, Self::Key | Self::Bigint | Self::Integer)
    }
}

/// Number of values that a record has for a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FieldScope {
    /// One per record.
    Record,
    /// One per element of the array with this index.
    Element(usize),
}

/// Origin of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldOrigin {
    /// The record, or an element of its array.
    Record,
    /// The lookup with this index, or an item of its index.
    Lookup(usize),
}

/// Field with its place in the model.
#[derive(Clone, Debug)]
pub struct ModelField<'m> {
    /// The field.
    pub field: &'m Field,
    /// Number of values per record.
    pub scope: FieldScope,
    /// Origin of the value.
    pub origin: FieldOrigin,
    /// Path in the document, such as `spec.record.fields[0]`.
    pub path: String,
}
