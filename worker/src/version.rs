//! Version of an order: a total order on the messages of one order, independent of their arrival.
//!
//! Each message is a version of its order. Because versions are totally ordered, the content of every table depends
//! on the set of messages only. Never reads a clock and never uses the offset of a message.

use sha2::{Digest, Sha256};

/// Length of a version in bytes: 8 for `update_ts`, 1 for the status rank, 8 for `sent_dttm`, 32 for the digest.
pub const VERSION_LENGTH: usize = 49;

/// Length of the version of a reference data entry in bytes: 8 for its `update_ts`, 16 for a digest of what it states.
pub const ENTRY_VERSION_LENGTH: usize = 24;

/// Header that carries the version from layer to layer, as hexadecimal digits. No layer computes it again.
pub const VERSION_HEADER: &str = "streamstage-version";

/// Header of former versions of the worker: the digest of the source record alone, as 64 hexadecimal digits.
pub const DIGEST_HEADER: &str = "streamstage-digest";

/// Send time that is not known. It sorts before every other.
const UNKNOWN_SENT: i64 = i64::MIN;

/// Version of an order, as bytes whose lexicographic order is the order of versions.
///
/// Layout: `update_ts`, the status rank, `sent_dttm`, and the SHA-256 digest of the source record's value. Times are in
/// microseconds since the Unix epoch (big endian, sign bit flipped so that times before 1970 sort first).
/// PostgreSQL compares `bytea` in the same way, so `a.version < b.version` means the same in SQL.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version([u8; VERSION_LENGTH]);

impl Version {
    /// Creates the version of a message. `update_ts` and `sent` are in microseconds since the Unix epoch; `sent` is
    /// `None` for a message between the layers that does not carry it. `digest` is the digest of the source record's value.
    #[must_use]
    pub fn new(update_ts: i64, status: &str, sent: Option<i64>, digest: [u8; 32]) -> Self {
        let mut bytes = [0; VERSION_LENGTH];
        bytes[..8].copy_from_slice(&encode_time(update_ts));
        bytes[8] = StatusRank::from_status(status) as u8;
        bytes[9..17].copy_from_slice(&encode_time(sent.unwrap_or(UNKNOWN_SENT)));
        bytes[17..].copy_from_slice(&digest);
        Self(bytes)
    }

    /// Reads the column `version`; `None` for bytes of another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Reads the value of [`VERSION_HEADER`].
    #[must_use]
    pub fn from_header(header: &[u8]) -> Option<Self> {
        from_hex(header).map(Self)
    }

    /// Value of [`VERSION_HEADER`].
    #[must_use]
    pub fn to_header(&self) -> String {
        to_hex(&self.0)
    }

    /// Bytes of the column `version`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Time of the update, in microseconds since the Unix epoch.
    #[must_use]
    pub fn update_ts(&self) -> i64 {
        let mut time = [0; 8];
        time.copy_from_slice(&self.0[..8]);
        decode_time(time)
    }

    /// Returns true if the message carried its send time.
    #[must_use]
    pub fn has_sent(&self) -> bool {
        self.0[9..17] != encode_time(UNKNOWN_SENT)
    }

    /// Returns the version with the 8 bytes of another version's send time.
    #[must_use]
    pub fn with_sent_bytes(mut self, sent: [u8; 8]) -> Self {
        self.0[9..17].copy_from_slice(&sent);
        self
    }

    /// Returns true if this worker knows the status.
    #[must_use]
    pub fn has_known_status(&self) -> bool {
        self.0[8] != StatusRank::Unknown as u8
    }

    /// Digest of the source record's value.
    #[must_use]
    pub fn digest(&self) -> &[u8] {
        &self.0[17..]
    }
}

const SIGN_BIT: u64 = 1 << 63;

fn encode_time(micros: i64) -> [u8; 8] {
    (micros.cast_unsigned() ^ SIGN_BIT).to_be_bytes()
}

fn decode_time(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ SIGN_BIT).cast_signed()
}

/// Returns the version of a reference data entry. `update_ts` is its time, in microseconds since the Unix epoch; `digest`
/// distinguishes entries of the same time, so that the later one does not depend on the order of arrival.
///
/// It begins with the time, as [`Version`] does, so that both sort by time.
#[must_use]
pub fn entry_version(update_ts: i64, digest: [u8; 16]) -> [u8; ENTRY_VERSION_LENGTH] {
    let mut bytes = [0; ENTRY_VERSION_LENGTH];
    bytes[..8].copy_from_slice(&encode_time(update_ts));
    bytes[8..].copy_from_slice(&digest);
    bytes
}

/// Returns the time of a version of an order or of a reference data entry, in microseconds since the Unix epoch; `None` for
/// bytes of another length.
#[must_use]
pub fn update_ts_of(version: &[u8]) -> Option<i64> {
    let (&time, _) = version.split_first_chunk()?;
    [VERSION_LENGTH, ENTRY_VERSION_LENGTH]
        .contains(&version.len())
        .then(|| decode_time(time))
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

/// Formats bytes as lower-case hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// Reads exactly `N` bytes as hexadecimal digits in either case.
pub(crate) fn from_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let nibble = |byte: u8| {
        let digit = char::from(byte).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    let (pairs, []) = text.as_chunks::<2>() else {
        return None;
    };
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?))
        .collect();
    bytes?.try_into().ok()
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

    type Fields = (i64, usize, Option<i64>, [u8; 32]);

    fn version((at, status, sent, digest): Fields) -> Version {
        Version::new(at, STATUSES[status % STATUSES.len()], sent, digest)
    }

    proptest! {
        #[test]
        fn bytes_sort_like_time_rank_send_time_and_digest(a: Fields, b: Fields) {
            let fields = |(at, status, sent, digest): Fields| (at, status % STATUSES.len(), sent, digest);
            prop_assert_eq!(version(a).cmp(&version(b)), fields(a).cmp(&fields(b)));
            // The same time and status, and often the same send time.
            let b = (a.0, a.1, if b.1 % 2 == 0 { a.2 } else { b.2 }, b.3);
            prop_assert_eq!(version(a).cmp(&version(b)), fields(a).cmp(&fields(b)));
        }

        #[test]
        fn every_part_round_trips_through_the_encoding(fields: Fields, sent: i64) {
            let version = version(fields);
            prop_assert_eq!(version.update_ts(), fields.0);
            prop_assert_eq!(update_ts_of(version.as_bytes()), Some(fields.0));
            prop_assert_eq!(version.digest(), fields.3);
            prop_assert_eq!(version.has_sent(), fields.2.is_some_and(|sent| sent != i64::MIN));
            prop_assert_eq!(Version::from_bytes(version.as_bytes()), Some(version));
            prop_assert_eq!(Version::from_header(version.to_header().as_bytes()), Some(version));
            prop_assert_eq!(Version::from_header(version.to_header().to_uppercase().as_bytes()), Some(version));
            let expected = Version::new(fields.0, STATUSES[fields.1 % STATUSES.len()], Some(sent), fields.3);
            prop_assert_eq!(version.with_sent_bytes(encode_time(sent)), expected);
        }
    }

    proptest! {
        #[test]
        fn versions_of_entries_sort_like_time_and_digest(a: (i64, [u8; 16]), b: (i64, [u8; 16]), is_same_time: bool) {
            let b = if is_same_time { (a.0, b.1) } else { b };
            prop_assert_eq!(entry_version(a.0, a.1).cmp(&entry_version(b.0, b.1)), a.cmp(&b));
            prop_assert_eq!(update_ts_of(&entry_version(a.0, a.1)), Some(a.0));
            prop_assert_eq!(update_ts_of(&entry_version(a.0, a.1)[1..]), None);
        }
    }

    #[test]
    fn each_status_has_its_rank() {
        let ranks = STATUSES.map(|status| Version::new(5, status, Some(7), [0; 32]).as_bytes()[8]);
        assert_eq!(ranks, [0, 1, 2, 3, 4, 5]);
        let known = STATUSES.map(|status| Version::new(5, status, None, [0; 32]).has_known_status());
        assert_eq!(known, [false, true, true, true, true, true]);
    }

    #[test]
    fn a_cancellation_is_later_than_a_closing_at_the_same_time() {
        let closed = Version::new(5, "CLOSED", Some(8), [255; 32]);
        assert!(Version::new(5, "CANCELLED", Some(7), [0; 32]) > closed);
    }

    #[test]
    fn an_edit_that_is_sent_later_is_later_than_one_with_a_higher_digest() {
        let first = Version::new(5, "CLOSED", Some(7), [255; 32]);
        assert!(Version::new(5, "CLOSED", Some(8), [0; 32]) > first);
        assert!(Version::new(5, "CLOSED", None, [255; 32]) < Version::new(5, "CLOSED", Some(-8), [0; 32]));
    }

    #[test]
    fn another_length_or_digit_is_not_a_version() {
        let header = Version::new(5, "CLOSED", Some(7), [1; 32]).to_header();
        assert_eq!(header.len(), 2 * VERSION_LENGTH);
        for text in [
            "",
            "7",
            &header[2..],
            &header[1..],
            &format!("{header}00"),
            &header.replacen('8', "g", 1),
            &"й".repeat(VERSION_LENGTH),
        ] {
            assert_eq!(Version::from_header(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Version::from_bytes(&[0; 41]), None);
    }
}
