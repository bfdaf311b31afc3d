//! Lookups: entries of the reference data in Redis, by key.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::{Field, MAX_NAME_LENGTH, MAX_POINTER_LENGTH, NAME_PATTERN, POINTER_PATTERN};

/// Entry of the reference data: a JSON object in Redis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lookup {
    /// Name in this model.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH), regex(pattern = NAME_PATTERN))]
    pub name: String,

    /// Field of the record that is the key in Redis.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    pub key: String,

    /// Time of the last change of the entry, which orders the entries of one key. If it is absent, here or in an entry, the
    /// version of the record orders them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<LookupVersion>,

    /// Fields of the entry. Default: `[]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub fields: Vec<Field>,

    /// Array of the entry whose items are found by their own key, such as the dishes of a menu.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<LookupIndex>,
}

/// Time of the last change of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LookupVersion {
    /// JSON pointer within the entry.
    #[schemars(length(min = 1, max = MAX_POINTER_LENGTH), regex(pattern = POINTER_PATTERN))]
    pub pointer: String,
}

/// Array of an entry, whose items are found by their own key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LookupIndex {
    /// JSON pointer of the array within the entry.
    #[schemars(length(min = 1, max = MAX_POINTER_LENGTH), regex(pattern = POINTER_PATTERN))]
    pub pointer: String,

    /// JSON pointer of the key within an item.
    #[schemars(length(min = 1, max = MAX_POINTER_LENGTH), regex(pattern = POINTER_PATTERN))]
    pub by: String,

    /// Field of the record, or of one of its arrays, whose value is the key of the item.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    pub key: String,

    /// Fields of the item.
    #[schemars(length(min = 1, max = 100))]
    pub fields: Vec<Field>,
}
