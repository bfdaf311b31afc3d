//! The assignment of a member of a consumer group, as its assignor encodes it.

use bytes::Bytes;
use kafka_protocol::messages::ConsumerProtocolAssignment;
use kafka_protocol::protocol::Decodable as _;

use crate::layout::MEMBER_ASSIGNMENT;

/// Latest version of the assignment that the decoder knows. Later ones begin with the same fields.
const MAX_VERSION: i16 = 3;

/// Partitions of a topic in the assignment of a member; `None` if the bytes are no assignment of the consumer protocol.
#[must_use]
pub fn assigned_partitions(assignment: &[u8], topic: &str) -> Option<Vec<i32>> {
    let (version, rest) = assignment.split_first_chunk()?;
    let version = i16::from_be_bytes(*version).min(MAX_VERSION);
    MEMBER_ASSIGNMENT.check(version, rest).ok()?;
    let mut rest = Bytes::copy_from_slice(rest);
    let assignment = ConsumerProtocolAssignment::decode(&mut rest, version).ok()?;
    let of_topic = assignment
        .assigned_partitions
        .into_iter()
        .filter(|assigned| *assigned.topic == *topic);
    Some(of_topic.flat_map(|assigned| assigned.partitions).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partitions_of_the_topic_are_read_and_other_bytes_are_not_an_assignment() {
        let topic = |name: &[u8], partitions: &[i32]| {
            let mut bytes = [&[0, u8::try_from(name.len()).expect("a length")], name].concat();
            bytes.extend([0, 0, 0, u8::try_from(partitions.len()).expect("a length")]);
            bytes.extend(partitions.iter().flat_map(|partition| partition.to_be_bytes()));
            bytes
        };
        let assignment = |version: u8, count: u8| {
            let topics = [topic(b"orders", &[0, 3]), topic(b"facts", &[1])].concat();
            [&[0, version, 0, 0, 0, count][..], &topics, &[0, 0, 0, 0]].concat()
        };
        assert_eq!(assigned_partitions(&assignment(0, 2), "orders"), Some(vec![0, 3]));
        assert_eq!(assigned_partitions(&assignment(9, 2), "facts"), Some(vec![1]));
        assert_eq!(assigned_partitions(&assignment(1, 2), "others"), Some(Vec::new()));
        assert_eq!(assigned_partitions(&assignment(0, 3), "orders"), None);
        assert_eq!(assigned_partitions(&[0], "orders"), None);
    }
}
