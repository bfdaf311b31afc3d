//! A Kafka record: its bytes as received, and its partition, offset and timestamp.
//!
//! Pure data. A record owns its bytes: it outlives the client's buffer, because it may become a dead letter.

use std::sync::Arc;

use uuid::Uuid;

use crate::rejection::{Code, Rejection};

/// One record of a source topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Kafka's ID of the source topic; zero if it is unknown. A recreated topic has another one.
    pub topic_id: Uuid,
    /// Partition of the source topic.
    pub partition: i32,
    /// Offset within the partition.
    pub offset: i64,
    /// Timestamp of the record in milliseconds since the Unix epoch; `None` if it is absent.
    pub timestamp: Option<i64>,
    /// Key as received.
    pub key: Option<Vec<u8>>,
    /// Value as received; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers as received, in order, with duplicates.
    pub headers: Vec<Header>,
    /// Number of headers that are left out because their names are not UTF-8.
    pub unreadable_headers: usize,
    /// Cause for which the value is left out, although the record has one.
    pub omission: Option<Omission>,
}

/// Cause for which the consumer leaves out the value of a record, and its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Omission {
    /// The record is larger than a worker may hold.
    Oversized {
        /// Size of the record after decompression.
        bytes: u64,
    },
    /// The record batch cannot be decompressed or parsed.
    Undecodable {
        /// First offset of the batch.
        first_offset: i64,
        /// Last offset of the batch.
        last_offset: i64,
        /// Cause.
        cause: Arc<str>,
    },
}

impl Omission {
    /// The rejection of the record.
    #[must_use]
    pub fn rejection(&self) -> Rejection {
        match self {
            Self::Oversized { bytes } => Rejection::new(
                Code::TooLarge,
                format!(
                    "{bytes} bytes, more than a worker may hold; the value is not part of this dead letter"
                ),
            ),
            Self::Undecodable {
                first_offset,
                last_offset,
                cause,
            } => Rejection::new(
                Code::Undecodable,
                format!(
                    "the record batch of the offsets {first_offset} to {last_offset}: {cause}; the record is not part of \
                     this dead letter"
                ),
            ),
        }
    }
}

/// One header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Name; Kafka allows several headers of one name.
    pub name: String,
    /// Value as received; Kafka distinguishes null from empty.
    pub value: Option<Vec<u8>>,
}

impl Header {
    /// Memory of a header besides its name and its value: the struct, and two allocations.
    pub const OVERHEAD_BYTES: usize = size_of::<Self>() + 32;

    /// Creates a header with a UTF-8 value.
    #[must_use]
    pub fn text(name: &str, value: &str) -> Self {
        Self {
            name: name.to_owned(),
            value: Some(value.as_bytes().to_vec()),
        }
    }
}

/// Identity of a record: topic ID, partition and offset.
pub type RecordId = (Uuid, i32, i64);

impl Record {
    /// Identity of the record among all records of its topic's name.
    #[must_use]
    pub fn id(&self) -> RecordId {
        (self.topic_id, self.partition, self.offset)
    }

    /// Bytes of key, value and headers, as `batch.maxBytes` counts them. A header counts with its overhead, which is
    /// most of the memory of a record with many headers.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let headers = self
            .headers
            .iter()
            .map(|header| Header::OVERHEAD_BYTES + header.name.len() + length(header.value.as_ref()));
        length(self.key.as_ref()) + length(self.value.as_ref()) + headers.sum::<usize>()
    }

    /// Value of the last header of that name; by Kafka's convention the last one counts.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .rev()
            .find(|header| header.name == name)?
            .value
            .as_deref()
    }
}

fn length(bytes: Option<&Vec<u8>>) -> usize {
    bytes.map_or(0, Vec::len)
}

/// A record with its decoded or enriched value.
#[derive(Clone, Debug)]
pub struct Item<T> {
    /// The record as received.
    pub record: Record,
    /// Decoded or enriched value.
    pub value: T,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_header_of_a_name_counts() {
        let headers = vec![
            Header::text("a", "1"),
            Header::text("b", "2"),
            Header::text("a", "3"),
        ];
        let record = Record {
            headers,
            ..Record::default()
        };
        assert_eq!(record.header("a"), Some(&b"3"[..]));
        assert_eq!(record.header("c"), None);
    }

    #[test]
    fn size_counts_key_value_and_headers() {
        let record = Record {
            key: Some(vec![0; 3]),
            value: Some(vec![0; 10]),
            headers: vec![Header::text("ab", "cde")],
            ..Record::default()
        };
        assert_eq!(record.size_bytes(), 18 + Header::OVERHEAD_BYTES);
    }
}
