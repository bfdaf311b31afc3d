//! Why a record cannot be taken: the codes of the dead letters.
//!
//! A rejection is a verdict on the record alone. Trouble of a service is never one (see [`crate::policy`]).

use std::fmt;
use std::str::FromStr;

/// What is wrong with a record; the value of the header `streamstage-error-code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// Not a JSON object in UTF-8.
    ParseError,
    /// The value is null.
    Tombstone,
    /// A field is missing, of another type, empty, or negative where it must not be.
    ContractViolation,
    /// An object holds the same key twice, so its meaning is not defined.
    DuplicateKey,
    /// Nested deeper than [`crate::strict::MAX_DEPTH`].
    TooDeep,
    /// Not an order.
    UnsupportedType,
    /// A string holds U+0000, which PostgreSQL cannot store.
    NulCharacter,
    /// A number that its column cannot hold exactly.
    NumberOutOfRange,
    /// A date that does not exist, or an `update_ts` further ahead than `limits.maxClockSkew`.
    BadTimestamp,
    /// More bytes or items than a message may have.
    TooLarge,
    /// The message made from it is larger than the output topic takes.
    OutputTooLarge,
    /// The dictionary did not learn an id within `dictionary.maxWait`.
    DictionaryMissing,
    /// PostgreSQL refuses the values of this record.
    WarehouseRefused,
}

impl Code {
    /// Every code, in the order of this list.
    pub const ALL: [Self; 13] = [
        Self::ParseError,
        Self::Tombstone,
        Self::ContractViolation,
        Self::DuplicateKey,
        Self::TooDeep,
        Self::UnsupportedType,
        Self::NulCharacter,
        Self::NumberOutOfRange,
        Self::BadTimestamp,
        Self::TooLarge,
        Self::OutputTooLarge,
        Self::DictionaryMissing,
        Self::WarehouseRefused,
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
        let found = Self::ALL.into_iter().find(|code| code.to_string() == text);
        found.ok_or_else(|| {
            format!(
                "no such code; the codes are {}",
                Self::ALL.map(|code| code.to_string()).join(", ")
            )
        })
    }
}

/// The verdict that sends a record to the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The kind of trouble.
    pub code: Code,
    /// Where and what, for the person who repairs it: a byte position or a JSON pointer, and the rule.
    pub detail: String,
}

impl Rejection {
    /// A rejection with its detail.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }

    /// A contract violation at a JSON pointer.
    #[must_use]
    pub fn contract(pointer: impl fmt::Display, rule: &str) -> Self {
        Self::new(Code::ContractViolation, format!("{pointer}: {rule}"))
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.code, self.detail)
    }
}
