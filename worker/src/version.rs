//! Version of an order: a total order on the messages of one order, independent of their arrival.
//!
//! Each message is a version of its order. Because versions are totally ordered, the content of every table depends
//! on the set of messages only. Never reads a clock and never uses the offset of a message.

use sha2::{Digest, Sha256};

/// Length of a version in bytes: 8 for `update_ts`, 1 for the status rank, 32 for the digest.
pub const VERSION_LENGTH: usize = 41;

/// Version of an order, as bytes whose lexicographic order is the order of versions.
///
/// Layout: `update_ts` in microseconds since the Unix epoch (big endian, sign bit flipped so that times
/// before 1970 sort first), the status rank, and the SHA-256 digest of the source record's value.
/// PostgreSQL compares `bytea` in the same way, so `a.version < b.version` means the same in SQL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version([u8; VERSION_LENGTH]);

impl Version {
    /// Creates the version of a message. `update_ts` is in microseconds since the Unix epoch, `digest` is the digest
    /// of the source record's value.
    #[must_use]
    pub fn new(update_ts: i64, status: &str, digest: [u8; 32]) -> Self {
        let mut bytes = [0; VERSION_LENGTH];
        bytes[..8].copy_from_slice(&(update_ts.cast_unsigned() ^ (1 << 63)).to_be_bytes());
        bytes[8] = StatusRank::from_status(status) as u8;
        bytes[9..].copy_from_slice(&digest);
        Self(bytes)
    }

    /// Bytes of the column `version`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Time of the update, in microseconds since the Unix epoch.
    #[must_use]
    pub fn update_ts(&self) -> i64 {
        let mut head = [0; 8];
        head.copy_from_slice(&self.0[..8]);
        (u64::from_be_bytes(head) ^ (1 << 63)).cast_signed()
    }

    /// Returns true if this worker knows the status.
    #[must_use]
    pub fn has_known_status(&self) -> bool {
        self.0[8] != StatusRank::Unknown as u8
    }

    /// Digest of the source record's value.
    #[must_use]
    pub fn digest(&self) -> &[u8] {
        &self.0[9..]
    }
}

impl std::fmt::Debug for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Version({}, rank {}, ", self.update_ts(), self.0[8])?;
        self.digest()[..4]
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        formatter.write_str("…)")
    }
}

/// Returns the SHA-256 digest of a source record's value, which distinguishes messages of the same time and status.
#[must_use]
pub fn digest(value: &[u8]) -> [u8; 32] {
    Sha256::digest(value).into()
}

/// Progress of an order. Of two messages with the same `update_ts`, the higher rank is the later version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatusRank {
    /// A status that this worker does not know. It ranks lowest and never counts as closed.
    Unknown = 0,
    /// Placed by the user.
    Open,
    /// In preparation at the restaurant.
    Cooking,
    /// Handed to the courier.
    Delivering,
    /// Delivered and paid; the only status that the marts count.
    Closed,
    /// Cancelled, possibly after it was closed.
    Cancelled,
}

impl StatusRank {
    /// Returns the rank of a status in the source's spelling, which is upper case.
    #[must_use]
    pub fn from_status(status: &str) -> Self {
        match status {
            "OPEN" => Self::Open,
            "COOKING" => Self::Cooking,
            "DELIVERING" => Self::Delivering,
            "CLOSED" => Self::Closed,
            "CANCELLED" => Self::Cancelled,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATUSES: [&str; 6] = [
        "COURIER LOST",
        "OPEN",
        "COOKING",
        "DELIVERING",
        "CLOSED",
        "CANCELLED",
    ];

    proptest! {
        #[test]
        fn bytes_sort_like_time_rank_and_digest(a: (i64, usize, [u8; 32]), b: (i64, usize, [u8; 32])) {
            let rank = |n: usize| n % STATUSES.len();
            let version = |(at, n, digest): (i64, usize, [u8; 32])| Version::new(at, STATUSES[rank(n)], digest);
            let triple = |(at, n, digest): (i64, usize, [u8; 32])| (at, rank(n), digest);
            prop_assert_eq!(version(a).cmp(&version(b)), triple(a).cmp(&triple(b)));
        }

        #[test]
        fn update_ts_round_trips_through_the_encoding(at: i64) {
            prop_assert_eq!(Version::new(at, "OPEN", [0; 32]).update_ts(), at);
        }
    }

    #[test]
    fn a_cancellation_is_later_than_a_closing_at_the_same_time() {
        assert!(Version::new(5, "CANCELLED", [0; 32]) > Version::new(5, "CLOSED", [255; 32]));
    }
}
