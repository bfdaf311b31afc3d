//! Rejections: the reasons for which a record becomes a dead letter, by code.
//!
//! A rejection depends on the record alone. An unavailable dependency never causes one (see
//! [`crate::error_policy`]).

use std::fmt;
use std::str::FromStr;

/// Maximum length of a detail. It quotes keys and values of the record, and must not make the dead letter larger than
/// its topic accepts.
const MAX_DETAIL_BYTES: usize = 1024;

/// Error code of a rejected record; the value of the header `streamstage-error-code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// Not a JSON object in UTF-8.
    ParseError,
    /// The value is null.
    Tombstone,
    /// A field is missing, has another type, is empty, or is negative where it must not be.
    ContractViolation,
    /// An object contains the same key twice, so its meaning is undefined.
    DuplicateKey,
    /// Nested deeper than [`crate::strict::MAX_DEPTH`].
    TooDeep,
    /// Not an order.
    UnsupportedType,
    /// A string contains U+0000, which PostgreSQL cannot store.
    NulCharacter,
    /// A number that its column cannot store exactly.
    NumberOutOfRange,
    /// A date that does not exist, or an `update_ts` further ahead than `limits.maxClockSkew`.
    InvalidTimestamp,
    /// More bytes or items than a message may have.
    TooLarge,
    /// The record batch cannot be decompressed or parsed, so nothing of the record is known but its offset.
    Undecodable,
    /// The output message exceeds the output topic's `max.message.bytes`.
    OutputTooLarge,
    /// A reference data entry was still missing after `referenceData.maxWait`.
    ReferenceDataMissing,
    /// A reference data entry was still malformed after `referenceData.maxWait`.
    ReferenceDataMalformed,
    /// PostgreSQL rejected the values of this record.
    WarehouseRejected,
    /// The worker panicked while it processed this record, which is a bug.
    WorkerPanic,
}

impl Code {
    /// Every code, in the order of declaration.
    pub const ALL: [Self; 16] = [
        Self::ParseError,
        Self::Tombstone,
        Self::ContractViolation,
        Self::DuplicateKey,
        Self::TooDeep,
        Self::UnsupportedType,
        Self::NulCharacter,
        Self::NumberOutOfRange,
        Self::InvalidTimestamp,
        Self::TooLarge,
        Self::Undecodable,
        Self::OutputTooLarge,
        Self::ReferenceDataMissing,
        Self::ReferenceDataMalformed,
        Self::WarehouseRejected,
        Self::WorkerPanic,
    ];
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let code = Self::ALL.into_iter().find(|code| code.to_string() == text);
        code.ok_or_else(|| {
            format!(
                "unknown code; use one of {}",
                Self::ALL.map(|code| code.to_string()).join(", ")
            )
        })
    }
}

/// Reason for which a record becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Error code, for alerts and for `worker dead-letters --code`.
    pub code: Code,
    /// Location and cause, as text: a byte position or a JSON pointer, and the violated rule.
    pub detail: String,
}

impl Rejection {
    /// Creates a rejection; for a contract violation use [`Self::contract_violation`]. A long detail is shortened.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if detail.len() > MAX_DETAIL_BYTES {
            detail.truncate(detail.floor_char_boundary(MAX_DETAIL_BYTES));
            detail.push('…');
            detail.shrink_to_fit();
        }
        Self { code, detail }
    }

    /// Creates a rejection with the code `ContractViolation` at a JSON pointer.
    #[must_use]
    pub fn contract_violation(pointer: impl fmt::Display, rule: &str) -> Self {
        Self::new(Code::ContractViolation, format!("{pointer}: {rule}"))
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_detail_is_shortened_between_two_characters() {
        let detail = |text: String| Rejection::new(Code::DuplicateKey, text).detail;
        assert_eq!(detail("a".repeat(MAX_DETAIL_BYTES)), "a".repeat(MAX_DETAIL_BYTES));
        let long = detail(format!("a{}", "й".repeat(1 << 20)));
        assert_eq!(long, format!("a{}…", "й".repeat((MAX_DETAIL_BYTES - 1) / 2)));
    }
}
