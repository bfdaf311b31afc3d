//! Version of a satellite row.

use std::cmp::Ordering;

use crate::version::{ENTRY_VERSION_LENGTH, Version, entry_version, update_ts_of};

/// Version of a satellite row: that of the record, or that of the entry that describes the parent. Sorted by their bytes,
/// as PostgreSQL sorts them.
#[derive(Clone, Copy, Debug)]
pub(super) enum RowVersion {
    /// Version of the record.
    Record(Version),
    /// Version of the entry.
    Entry([u8; ENTRY_VERSION_LENGTH]),
}

impl RowVersion {
    /// Creates the version of an entry from its time, in microseconds since the Unix epoch, and a digest of what it states.
    pub(super) fn of_entry(update_ts: i64, digest: [u8; 16]) -> Self {
        Self::Entry(entry_version(update_ts, digest))
    }

    /// Bytes of the column `version`.
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Record(version) => version.as_bytes(),
            Self::Entry(bytes) => bytes,
        }
    }

    /// Time from which the row is valid, in microseconds since the Unix epoch.
    pub(super) fn update_ts(&self) -> i64 {
        update_ts_of(self.as_bytes()).unwrap_or_default()
    }
}

impl PartialEq for RowVersion {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for RowVersion {}

impl PartialOrd for RowVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RowVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}
