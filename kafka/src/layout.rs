//! Layouts of responses. A response is checked before it is decoded, because the decoder allocates memory for as many
//! elements as an array claims to have: some bytes of a hostile broker would otherwise end the process.
//!
//! Source: the message definitions of Apache Kafka, `clients/src/main/resources/common/message`.

use kafka_protocol::messages::{
    ApiVersionsRequest, DescribeGroupsRequest, FetchRequest, FindCoordinatorRequest, ListOffsetsRequest,
    MetadataRequest, OffsetCommitRequest, OffsetFetchRequest, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use kafka_protocol::protocol::{Request, VersionRange};

use self::Kind::{Bytes, Fixed, FixedArray, String, StringArray, Structs};

/// Maximum number of structures in a response; each one takes up to 200 bytes when it is decoded.
const MAX_STRUCTS: usize = 200_000;
/// Any version.
const ALWAYS: VersionRange = VersionRange {
    min: 0,
    max: i16::MAX,
};

/// A request of this client.
pub trait ClientRequest: Request {
    /// Versions that this client implements.
    const SUPPORTED: VersionRange;
    /// Layout of the response in these versions.
    const RESPONSE: Layout;
}

/// Layout of a message.
#[derive(Clone, Copy)]
pub struct Layout {
    /// First version with compact lengths and tagged fields.
    flexible_since: i16,
    fields: &'static [Field],
}

/// Field of a message or of a structure in it.
struct Field {
    versions: VersionRange,
    kind: Kind,
}

enum Kind {
    /// A number of this many bytes.
    Fixed(usize),
    String,
    Bytes,
    /// Numbers of this many bytes each.
    FixedArray(usize),
    StringArray,
    Structs(&'static [Field]),
}

const fn always(kind: Kind) -> Field {
    let versions = ALWAYS;
    Field { versions, kind }
}

const fn since(min: i16, kind: Kind) -> Field {
    let versions = VersionRange { min, max: i16::MAX };
    Field { versions, kind }
}

const fn until(max: i16, kind: Kind) -> Field {
    let versions = VersionRange { min: 0, max };
    Field { versions, kind }
}

const fn between(min: i16, max: i16, kind: Kind) -> Field {
    let versions = VersionRange { min, max };
    Field { versions, kind }
}

macro_rules! client_request {
    ($request:ty, $min:literal..=$max:literal, flexible since $flexible:literal, $fields:expr) => {
        impl ClientRequest for $request {
            const SUPPORTED: VersionRange = VersionRange {
                min: $min,
                max: $max,
            };
            const RESPONSE: Layout = Layout {
                flexible_since: $flexible,
                fields: $fields,
            };
        }
    };
}

client_request!(ApiVersionsRequest, 0..=0, flexible since 3, &[
    always(Fixed(2)),
    always(Structs(&[always(Fixed(2)), always(Fixed(2)), always(Fixed(2))])),
]);
client_request!(SaslHandshakeRequest, 1..=1, flexible since 2, &[always(Fixed(2)), always(StringArray)]);
client_request!(SaslAuthenticateRequest, 0..=2, flexible since 2, &[
    always(Fixed(2)),
    always(String),
    always(Bytes),
    since(1, Fixed(8)),
]);
// Since version 10 with topic IDs.
client_request!(MetadataRequest, 7..=12, flexible since 9, &[
    always(Fixed(4)),
    always(Structs(&[always(Fixed(4)), always(String), always(Fixed(4)), always(String)])),
    always(String),
    always(Fixed(4)),
    always(Structs(&[
        always(Fixed(2)),
        always(String),
        since(10, Fixed(16)),
        always(Fixed(1)),
        always(Structs(&[
            always(Fixed(2)),
            always(Fixed(4)),
            always(Fixed(4)),
            always(Fixed(4)),
            always(FixedArray(4)),
            always(FixedArray(4)),
            always(FixedArray(4)),
        ])),
        since(8, Fixed(4)),
    ])),
    between(8, 10, Fixed(4)),
]);
// Since version 4 for several groups.
client_request!(FindCoordinatorRequest, 1..=4, flexible since 3, &[
    always(Fixed(4)),
    until(3, Fixed(2)),
    until(3, String),
    until(3, Fixed(4)),
    until(3, String),
    until(3, Fixed(4)),
    since(4, Structs(&[
        always(String),
        always(Fixed(4)),
        always(String),
        always(Fixed(4)),
        always(Fixed(2)),
        always(String),
    ])),
]);

const FETCHED_OFFSETS: &[Field] = &[
    always(String),
    always(Structs(&[
        always(Fixed(4)),
        always(Fixed(8)),
        since(5, Fixed(4)),
        always(String),
        always(Fixed(2)),
    ])),
];
// Since version 8 for several groups.
client_request!(OffsetFetchRequest, 2..=8, flexible since 6, &[
    since(3, Fixed(4)),
    until(7, Structs(FETCHED_OFFSETS)),
    until(7, Fixed(2)),
    since(8, Structs(&[always(String), always(Structs(FETCHED_OFFSETS)), always(Fixed(2))])),
]);
client_request!(OffsetCommitRequest, 2..=8, flexible since 8, &[
    since(3, Fixed(4)),
    always(Structs(&[
        always(String),
        always(Structs(&[always(Fixed(4)), always(Fixed(2))])),
    ])),
]);
// Since version 2 with the isolation level.
client_request!(ListOffsetsRequest, 2..=7, flexible since 6, &[
    always(Fixed(4)),
    always(Structs(&[
        always(String),
        always(Structs(&[
            always(Fixed(4)),
            always(Fixed(2)),
            always(Fixed(8)),
            always(Fixed(8)),
            since(4, Fixed(4)),
        ])),
    ])),
]);
client_request!(DescribeGroupsRequest, 0..=5, flexible since 5, &[
    since(1, Fixed(4)),
    always(Structs(&[
        always(Fixed(2)),
        always(String),
        always(String),
        always(String),
        always(String),
        always(Structs(&[
            always(String),
            since(4, String),
            always(String),
            always(String),
            always(Bytes),
            always(Bytes),
        ])),
        since(3, Fixed(4)),
    ])),
]);
// Since version 11 with the preferred read replica; since version 13 with topic IDs instead of names.
client_request!(FetchRequest, 11..=12, flexible since 12, &[
    always(Fixed(4)),
    always(Fixed(2)),
    always(Fixed(4)),
    always(Structs(&[
        always(String),
        always(Structs(&[
            always(Fixed(4)),
            always(Fixed(2)),
            always(Fixed(8)),
            always(Fixed(8)),
            always(Fixed(8)),
            always(Structs(&[always(Fixed(8)), always(Fixed(8))])),
            always(Fixed(4)),
            always(Bytes),
        ])),
    ])),
]);

/// Layout of the header of a response.
pub(crate) const RESPONSE_HEADER: Layout = Layout {
    flexible_since: 1,
    fields: &[always(Fixed(4))],
};

/// Layout of the assignment of a member of a consumer group, after its version.
pub(crate) const MEMBER_ASSIGNMENT: Layout = Layout {
    flexible_since: i16::MAX,
    fields: &[
        always(Structs(&[always(String), always(FixedArray(4))])),
        always(Bytes),
    ],
};

impl Layout {
    /// Checks that every length in the message is one of bytes that are there, and returns the bytes after the message.
    ///
    /// # Errors
    /// If a part is missing, or if the message has too many structures.
    pub(crate) fn check(self, version: i16, message: &[u8]) -> Result<&[u8], &'static str> {
        let mut reader = Reader {
            rest: message,
            version,
            is_flexible: version >= self.flexible_since,
            structs: 0,
        };
        reader.skip_struct(self.fields)?;
        Ok(reader.rest)
    }
}

struct Reader<'m> {
    rest: &'m [u8],
    version: i16,
    is_flexible: bool,
    structs: usize,
}

impl<'m> Reader<'m> {
    fn skip_struct(&mut self, fields: &[Field]) -> Result<(), &'static str> {
        for field in fields {
            if (field.versions.min..=field.versions.max).contains(&self.version) {
                self.skip(&field.kind)?;
            }
        }
        if self.is_flexible {
            let tagged_fields = self.varint()?;
            for _ in 0..self.counted(tagged_fields)? {
                self.varint()?;
                let size = self.varint()?;
                self.read_bytes(size)?;
            }
        }
        Ok(())
    }

    fn skip(&mut self, kind: &Kind) -> Result<(), &'static str> {
        match kind {
            Fixed(size) => self.read_bytes(*size).map(drop),
            String => self.skip_string(),
            Bytes => {
                let size = self.length(4)?;
                self.read_bytes(size).map(drop)
            }
            FixedArray(size) => {
                let size = self.length(4)?.saturating_mul(*size);
                self.read_bytes(size).map(drop)
            }
            StringArray => {
                let count = self.length(4)?;
                for _ in 0..self.counted(count)? {
                    self.skip_string()?;
                }
                Ok(())
            }
            Structs(fields) => {
                let count = self.length(4)?;
                for _ in 0..self.counted(count)? {
                    self.skip_struct(fields)?;
                }
                Ok(())
            }
        }
    }

    fn skip_string(&mut self) -> Result<(), &'static str> {
        let size = self.length(2)?;
        self.read_bytes(size).map(drop)
    }

    /// Counts structures, and returns their number.
    fn counted(&mut self, count: usize) -> Result<usize, &'static str> {
        self.structs = self.structs.saturating_add(count);
        if self.structs > MAX_STRUCTS {
            return Err("more structures than a response may have");
        }
        Ok(count)
    }

    /// Length in `size` bytes, or compact; 0 for null.
    fn length(&mut self, size: usize) -> Result<usize, &'static str> {
        if self.is_flexible {
            return Ok(self.varint()?.saturating_sub(1));
        }
        let bytes = self.read_bytes(size)?;
        let is_null = bytes.iter().all(|byte| *byte == 0xff);
        let length = bytes
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        Ok(if is_null { 0 } else { length })
    }

    fn varint(&mut self) -> Result<usize, &'static str> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = usize::from(self.read_bytes(1)?[0]);
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a length of more than five bytes")
    }

    fn read_bytes(&mut self, size: usize) -> Result<&'m [u8], &'static str> {
        let (taken, rest) = self
            .rest
            .split_at_checked(size)
            .ok_or("shorter than its own lengths")?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests;
