//! The version of an order: what makes the order of arrival irrelevant.
//!
//! Each message is a version of its order, and versions are totally ordered, so that every table is a
//! function of the set of messages. Pure: it never reads a clock, and never learns where a message came from.

use sha2::{Digest, Sha256};

/// Length of a version in bytes: 8 of `update_ts`, 1 of the status rank, 32 of the digest.
pub const VERSION_LENGTH: usize = 41;

/// One version of an order, as bytes whose lexicographic order is the order of versions.
///
/// Layout: `update_ts` in microseconds since the Unix epoch (big endian, sign bit flipped so that times
/// before 1970 sort first), the status rank, and the SHA-256 digest of the source record's value.
/// PostgreSQL compares `bytea` in the same way, so `a.version < b.version` means the same in SQL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version([u8; VERSION_LENGTH]);

impl Version {
    /// Builds the version of a message from its `update_ts` (microseconds since the Unix epoch), its status
    /// and the digest of the source record's value.
    #[must_use]
    pub fn new(update_ts: i64, status: &str, digest: [u8; 32]) -> Self {
        let mut bytes = [0; VERSION_LENGTH];
        bytes[..8].copy_from_slice(&(update_ts.cast_unsigned() ^ (1 << 63)).to_be_bytes());
        bytes[8] = StatusRank::of(status) as u8;
        bytes[9..].copy_from_slice(&digest);
        Self(bytes)
    }

    /// The bytes as they are stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// `update_ts`, in microseconds since the Unix epoch.
    #[must_use]
    pub fn update_ts(&self) -> i64 {
        let mut head = [0; 8];
        head.copy_from_slice(&self.0[..8]);
        (u64::from_be_bytes(head) ^ (1 << 63)).cast_signed()
    }

    /// Whether the status is one that this worker knows.
    #[must_use]
    pub fn has_known_status(&self) -> bool {
        self.0[8] != StatusRank::Unknown as u8
    }

    /// The digest of the source record's value.
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

/// The digest of a source record's value: its identity among messages of the same time and status.
#[must_use]
pub fn digest(value: &[u8]) -> [u8; 32] {
    Sha256::digest(value).into()
}

/// How far an order has come. Of two messages with one `update_ts`, the higher rank is the newer version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatusRank {
    /// A status that this version of the worker does not know: the lowest, and never counted as closed.
    Unknown = 0,
    /// The guest has placed the order.
    Open,
    /// The kitchen has it.
    Cooking,
    /// On its way.
    Delivering,
    /// Delivered and paid: the only status that the marts count.
    Closed,
    /// Taken back, also after it was closed.
    Cancelled,
}

impl StatusRank {
    /// The rank of a status as the source spells it.
    #[must_use]
    pub fn of(status: &str) -> Self {
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
        fn bytes_order_as_the_triple_does(a: (i64, usize, [u8; 32]), b: (i64, usize, [u8; 32])) {
            let rank = |n: usize| n % STATUSES.len();
            let version = |(at, n, digest): (i64, usize, [u8; 32])| Version::new(at, STATUSES[rank(n)], digest);
            let triple = |(at, n, digest): (i64, usize, [u8; 32])| (at, rank(n), digest);
            prop_assert_eq!(version(a).cmp(&version(b)), triple(a).cmp(&triple(b)));
        }

        #[test]
        fn update_ts_survives_the_encoding(at: i64) {
            prop_assert_eq!(Version::new(at, "OPEN", [0; 32]).update_ts(), at);
        }
    }

    #[test]
    fn a_cancelled_order_is_newer_than_the_closed_one_of_the_same_second() {
        assert!(Version::new(5, "CANCELLED", [0; 32]) > Version::new(5, "CLOSED", [255; 32]));
    }
}
