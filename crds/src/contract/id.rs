//! Business keys in messages: text that is not blank.
//!
//! Never changes the text: hash keys are computed from it later.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize as _, Deserializer, de};

/// Deserializes a business key and rejects a blank one.
///
/// White space alone is blank, because hash keys are computed from the trimmed text.
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

/// Schema of the texts that [`deserialize`] accepts.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "pattern": "\\S"})
}
