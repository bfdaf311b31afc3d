//! A Kafka record as the worker holds it: plain bytes and where they came from.
//!
//! Pure data, owned: a record outlives the client's buffer, because it may end in the dead letters untouched.

/// One record of a source topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Partition that it was read from.
    pub partition: i32,
    /// Offset within the partition.
    pub offset: i64,
    /// Timestamp of the record in milliseconds since the Unix epoch, when the broker knows one.
    pub timestamp: Option<i64>,
    /// Key as it came.
    pub key: Option<Vec<u8>>,
    /// Value as it came; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers as they came, in order, duplicates included.
    pub headers: Vec<Header>,
    /// Headers that are left out, because their names are not UTF-8.
    pub unreadable_headers: usize,
}

/// One header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Name; Kafka allows a name to stand more than once.
    pub name: String,
    /// Value as it came.
    pub value: Option<Vec<u8>>,
}

impl Header {
    /// A header with a textual value.
    #[must_use]
    pub fn text(name: &str, value: &str) -> Self {
        Self {
            name: name.to_owned(),
            value: Some(value.as_bytes().to_vec()),
        }
    }
}

impl Record {
    /// Bytes that the record holds: what `batch.maxBytes` counts.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers = self
            .headers
            .iter()
            .map(|header| header.name.len() + length(header.value.as_ref()));
        length(self.key.as_ref()) + length(self.value.as_ref()) + headers.sum::<usize>()
    }

    /// The value of the last header of that name, which is the one that counts in Kafka's convention.
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

/// A record together with what the worker made of its value.
#[derive(Clone, Debug)]
pub struct Item<T> {
    /// The record as it came.
    pub record: Record,
    /// What was decoded, or enriched, from it.
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
        assert_eq!(record.size(), 18);
    }
}
