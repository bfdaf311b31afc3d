//! Types of the vault's columns, in PostgreSQL and as parameters of the statement.

/// Number of decimal places of an amount of money in the vault.
pub const MONEY_SCALE: u32 = 5;

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Hash key or hash diff.
    Uuid,
    /// Version.
    Bytes,
    /// Text of any length.
    Text,
    /// 64-bit integer.
    BigInt,
    /// 32-bit integer.
    Integer,
    /// Amount of money, with five decimal places.
    Numeric,
    /// Point in time, with microseconds.
    Timestamp,
}

impl Kind {
    /// Type of the column in PostgreSQL.
    #[must_use]
    pub const fn column_type(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::Bytes => "bytea",
            Self::Text => "text",
            Self::BigInt => "bigint",
            Self::Integer => "integer",
            Self::Numeric => "numeric(19,5)",
            Self::Timestamp => "timestamptz",
        }
    }

    /// Type of the parameter for the column. A time is passed as microseconds since the Unix epoch.
    #[must_use]
    pub const fn parameter_type(self) -> &'static str {
        match self {
            Self::Uuid => "uuid[]",
            Self::Bytes => "bytea[]",
            Self::Text => "text[]",
            Self::BigInt | Self::Timestamp => "bigint[]",
            Self::Integer => "integer[]",
            Self::Numeric => "numeric[]",
        }
    }
}
