//! Messages that a stage publishes for the next layer, and their serialization. Pure: [`crate::publish`] sends them.

use serde::Serialize;

use crate::rejection::{Code, Rejection};
use crate::version::Version;

/// Message for the output topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Id of the order. It is the key of the message, so that all versions of an order are in one partition.
    pub object_id: i64,
    /// Message as JSON.
    pub payload: Vec<u8>,
    /// Version of the order, for [`crate::version::VERSION_HEADER`].
    pub version: Version,
}

/// Serializes a message. `max_bytes` is the largest value that the output topic accepts.
///
/// # Errors
/// `OutputTooLarge` for a message of more than `max_bytes` bytes.
pub fn serialize_output<T: Serialize>(
    object_id: i64,
    version: Version,
    message: &T,
    max_bytes: usize,
) -> Result<Output, Rejection> {
    let payload = serde_json::to_vec(message).map_err(|error| {
        Rejection::contract_violation("", &format!("the output cannot be serialized as JSON: {error}"))
    })?;
    if payload.len() > max_bytes {
        let detail = format!("{} bytes, the output topic accepts {max_bytes}", payload.len());
        return Err(Rejection::new(Code::OutputTooLarge, detail));
    }
    Ok(Output {
        object_id,
        payload,
        version,
    })
}
