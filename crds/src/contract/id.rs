//! Business keys in messages: text that is not blank.
//!
//! Never changes the text: hash keys are computed from it later.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize as _, Deserializer, de};

/// Pattern of a text with a character that is neither white space nor U+0000, which is nowhere in the text.
///
/// White space as Unicode and [`str::trim`] define it, in numbers, because `\s` differs between regex engines.
const NOT_BLANK_PATTERN: &str = "^[^\\u0000]*[^\\u0000\\u0009-\\u000D\\u0020\\u0085\\u00A0\\u1680\\u2000-\\u200A\\u2028\\u2029\\u202F\\u205F\\u3000][^\\u0000]*$";

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
    json_schema!({"type": "string", "pattern": NOT_BLANK_PATTERN})
}

/// Schema of a hash key: a UUID with hyphens.
pub(super) fn hash_key_schema(_: &mut SchemaGenerator) -> Schema {
    let pattern = "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$";
    json_schema!({"type": "string", "pattern": pattern})
}
