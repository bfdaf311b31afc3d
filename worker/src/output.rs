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

impl Output {
    /// Rejection of the record whose message is larger than the output topic accepts; `None` if it is not.
    #[must_use]
    pub fn find_rejection(&self, max_bytes: usize) -> Option<Rejection> {
        let bytes = self.payload.len();
        let detail = || format!("{bytes} bytes, but the output topic accepts {max_bytes}");
        (bytes > max_bytes).then(|| Rejection::new(Code::OutputTooLarge, detail()))
    }
}

/// Serializes a message.
///
/// # Errors
/// If the message cannot be represented as JSON.
pub fn serialize_output<T: Serialize>(
    object_id: i64,
    version: Version,
    message: &T,
) -> Result<Output, Rejection> {
    let payload = serde_json::to_vec(message).map_err(|error| {
        Rejection::contract_violation("", &format!("the output cannot be serialized as JSON: {error}"))
    })?;
    Ok(Output {
        object_id,
        payload,
        version,
    })
}
