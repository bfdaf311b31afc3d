//! Business keys in messages: text that holds more than white space.
//!
//! Must never change the text: hash keys are made from it elsewhere.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize as _, Deserializer, de};

/// Reads a business key; an empty one is refused.
///
/// A key of white space alone counts as empty, since hash keys are made from the trimmed text.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.trim().is_empty() {
        return Err(de::Error::invalid_value(
            de::Unexpected::Str(&text),
            &"an id that is not empty",
        ));
    }
    Ok(text)
}

/// The schema of what [`deserialize`] accepts.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "pattern": "\\S"})
}
