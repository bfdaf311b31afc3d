//! Text in messages: names, logins and statuses. U+0000 is rejected, because PostgreSQL cannot store it.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Schema of any text that PostgreSQL can store.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^[^\\u0000]*$"})
}

/// Schema of an absent text, or one that PostgreSQL can store.
pub(super) fn optional_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "null"], "pattern": "^[^\\u0000]*$"})
}
