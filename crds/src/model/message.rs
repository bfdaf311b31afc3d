//! Messages between the stages: where the values of a record are in them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::{MAX_NAME_LENGTH, MAX_POINTER_LENGTH, POINTER_PATTERN};
use super::vault::MAX_TABLE_NAME_LENGTH;

/// Messages between the stages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Messages {
    /// Message from STG to DDS, in the order in which its values are written.
    #[schemars(length(min = 1, max = 300))]
    pub enriched: Vec<MessagePart>,

    /// Message from DDS to CDM, in the order in which its values are written.
    #[schemars(length(min = 1, max = 300))]
    pub fact: Vec<MessagePart>,
}

/// Value or array of a message. Exactly one of `field`, `constant`, `versionOf`, `hub` and `array` is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MessagePart {
    /// JSON pointer within the message, or within the element of its array.
    #[schemars(length(min = 1, max = MAX_POINTER_LENGTH), regex(pattern = POINTER_PATTERN))]
    pub pointer: String,

    /// Field whose value is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    pub field: Option<String>,

    /// Text that is written. A message with another one is rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub constant: Option<String>,

    /// Lookup whose time of the last change is written; omitted if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    pub version_of: Option<String>,

    /// Hub whose hash key is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = MAX_TABLE_NAME_LENGTH))]
    pub hub: Option<String>,

    /// Array whose elements are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    pub array: Option<String>,

    /// Values of an element. Required with `array`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub items: Vec<ItemPart>,

    /// Hub of the elements of which one is written for each key: the first one. Default: every element is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = MAX_TABLE_NAME_LENGTH))]
    pub distinct: Option<String>,

    /// Field that takes the place of `field` in a message without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    pub fallback: Option<String>,
}

/// Value of an element. Either `field` or `hub` is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ItemPart {
    /// JSON pointer within the element.
    #[schemars(length(min = 1, max = MAX_POINTER_LENGTH), regex(pattern = POINTER_PATTERN))]
    pub pointer: String,

    /// Field whose value is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    pub field: Option<String>,

    /// Hub whose hash key is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = MAX_TABLE_NAME_LENGTH))]
    pub hub: Option<String>,

    /// Field that takes the place of `field` in an element without it. An equal value is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH))]
    pub unless_equal_to: Option<String>,
}
