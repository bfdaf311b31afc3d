//! Fields that the pipeline does not use, or can do without: any value is accepted.
//!
//! A producer may change such a field at any time. A value of another type is read as if it were absent; `stg` stores
//! the message as received.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Deserializer};
use serde_json::value::RawValue;

/// Deserializes a field, or reads it as absent.
pub(super) fn deserialize<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let text = <&'de RawValue>::deserialize(deserializer)?.get();
    Ok(serde_json::from_str(text).ok())
}

/// Schema of any value.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({})
}
