//! A Kafka record: its bytes as received, and its partition, offset and timestamp.
//!
//! Pure data. A record owns its bytes: it outlives the client's buffer, because it may become a dead letter.

use uuid::Uuid;

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

/// Memory of a header besides its name and its value: the struct, and two allocations.
const HEADER_OVERHEAD_BYTES: usize = size_of::<Header>() + 32;

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
            .map(|header| HEADER_OVERHEAD_BYTES + header.name.len() + length(header.value.as_ref()));
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
        assert_eq!(record.size_bytes(), 18 + HEADER_OVERHEAD_BYTES);
    }
}
