//! JSON Schema adjustments that the API server needs, shared by spec and status.
//!
//! Never contains a rule of the resource: those belong to [`crate::stage`].

use schemars::{Schema, SchemaGenerator, json_schema, transform::transform_subschemas};
use serde_json::Value;

/// Makes a schema structural: without `null` and without formats that only Rust knows.
///
/// Otherwise the API server would warn about the formats, and CEL's `has()` would be true for a `null`.
pub(crate) fn make_structural(schema: &mut Schema) {
    transform_subschemas(&mut make_structural, schema);
    if schema
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|format| format.starts_with("uint"))
    {
        schema.remove("format");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = &mut types[..] {
            let only = only.take();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = schema.remove("anyOf") {
        // An optional object is a choice of the object and `null`. The field's own description takes precedence.
        let objects = choices.into_iter().filter(|choice| choice["type"] != "null");
        for (keyword, value) in objects.filter_map(|choice| choice.as_object().cloned()).flatten() {
            schema.ensure_object().entry(keyword).or_insert(value);
        }
    }
}

/// Schema of an RFC 3339 timestamp.
pub(crate) fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}
