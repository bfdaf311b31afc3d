//! Reads the records of a decompressed batch one by one. Holds one record, within [`RecordLimits`]. Pure.

use std::io::{BufRead, Error, ErrorKind, Result};

use crate::record::{Header, Omission, Record};

/// Maximum size of a key that is retained of a record that is too large.
const MAX_RETAINED_KEY_BYTES: usize = 1 << 10;
/// Maximum memory of key and headers of a record.
const MAX_METADATA_BYTES: usize = 4 << 20;
/// Largest value that every worker holds. Kafka's default of `max.message.bytes` permits no larger one.
const MIN_VALUE_BYTES: usize = 1 << 20;

/// Limits of the records that are held.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordLimits {
    /// Maximum size of a value, in bytes.
    pub value_bytes: usize,
    /// Maximum memory of key and headers, in bytes.
    pub metadata_bytes: usize,
}

impl RecordLimits {
    /// Limits of a stage that accepts values of this size.
    pub(super) fn new(max_record_bytes: usize) -> Self {
        Self {
            value_bytes: max_record_bytes.max(MIN_VALUE_BYTES),
            metadata_bytes: MAX_METADATA_BYTES,
        }
    }
}

/// A record with its differences to the header of its batch.
#[derive(Debug)]
pub(super) struct RelativeRecord {
    /// The record; its offset and timestamp are not set.
    pub record: Record,
    /// Offset after the first one of the batch.
    pub offset_delta: i64,
    /// Milliseconds after the timestamp of the batch.
    pub timestamp_delta: i64,
}

/// Reads the next record. If it is larger than the limits, its bytes are skipped, and it has an [`Omission`].
///
/// # Errors
/// If the bytes are not a record, or cannot be decompressed.
pub(super) fn read_record<R: BufRead>(reader: &mut R, limits: RecordLimits) -> Result<RelativeRecord> {
    let bytes = u64::try_from(varint(reader)?).map_err(|_| invalid("a negative length"))?;
    let mut body = Body {
        reader,
        remaining: bytes,
    };
    body.byte()?;
    let timestamp_delta = body.varint()?;
    let offset_delta = body.varint()?;
    let mut record = Record::default();
    if !body.read_content(&mut record, limits)? {
        record.value = None;
        record.headers = Vec::new();
        record.unreadable_headers = 0;
        record.key = record.key.filter(|key| key.len() <= MAX_RETAINED_KEY_BYTES);
        record.omission = Some(Omission::Oversized { bytes });
    }
    body.skip(body.remaining)?;
    Ok(RelativeRecord {
        record,
        offset_delta,
        timestamp_delta,
    })
}

/// The bytes of one record.
struct Body<'r, R> {
    reader: &'r mut R,
    /// Bytes up to the end of the record.
    remaining: u64,
}

impl<R: BufRead> Body<'_, R> {
    /// Reads key, value and headers; false as soon as one exceeds its limit.
    fn read_content(&mut self, record: &mut Record, limits: RecordLimits) -> Result<bool> {
        let mut metadata = limits.metadata_bytes;
        let Some(key) = self.nullable_bytes(&mut metadata)? else {
            return Ok(false);
        };
        record.key = key;
        let mut value = limits.value_bytes;
        let Some(value) = self.nullable_bytes(&mut value)? else {
            return Ok(false);
        };
        record.value = value;
        let count = u64::try_from(self.varint()?).map_err(|_| invalid("a negative number of headers"))?;
        for _ in 0..count {
            let Some(name) = self.nullable_bytes(&mut metadata)? else {
                return Ok(false);
            };
            let Some(value) = self.nullable_bytes(&mut metadata)? else {
                return Ok(false);
            };
            let name = name.ok_or_else(|| invalid("a header without a name"))?;
            let Some(rest) = metadata.checked_sub(Header::OVERHEAD_BYTES) else {
                return Ok(false);
            };
            metadata = rest;
            match String::from_utf8(name) {
                Ok(name) => record.headers.push(Header { name, value }),
                Err(_) => record.unreadable_headers += 1,
            }
        }
        if self.remaining > 0 {
            return Err(invalid("bytes after the headers"));
        }
        Ok(true)
    }

    /// Reads bytes with their length, which is negative for null. `None` if they exceed `limit`, which is reduced.
    #[expect(clippy::option_option, reason = "too large, null, or bytes")]
    fn nullable_bytes(&mut self, limit: &mut usize) -> Result<Option<Option<Vec<u8>>>> {
        let Ok(length) = u64::try_from(self.varint()?) else {
            return Ok(Some(None));
        };
        if length > self.remaining {
            return Err(invalid("a field longer than its record"));
        }
        let bounded = usize::try_from(length).ok();
        let Some((length, rest)) = bounded.and_then(|length| Some((length, limit.checked_sub(length)?)))
        else {
            return Ok(None);
        };
        *limit = rest;
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes)?;
        self.remaining -= u64::try_from(length).unwrap_or(self.remaining);
        Ok(Some(Some(bytes)))
    }

    fn varint(&mut self) -> Result<i64> {
        let mut bytes = 0;
        let number = decode_varint(|| {
            bytes += 1;
            byte(self.reader)
        })?;
        self.remaining = self.remaining.checked_sub(bytes).ok_or_else(too_short)?;
        Ok(number)
    }

    fn byte(&mut self) -> Result<u8> {
        self.remaining = self.remaining.checked_sub(1).ok_or_else(too_short)?;
        byte(self.reader)
    }

    /// Skips bytes without holding them.
    fn skip(&mut self, mut bytes: u64) -> Result<()> {
        while bytes > 0 {
            let available = self.reader.fill_buf()?.len();
            if available == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let count = usize::try_from(bytes).map_or(available, |bytes| bytes.min(available));
            self.reader.consume(count);
            bytes -= u64::try_from(count).unwrap_or(bytes);
        }
        Ok(())
    }
}

/// Reads a zigzag varint.
pub(super) fn varint<R: BufRead>(reader: &mut R) -> Result<i64> {
    decode_varint(|| byte(reader))
}

fn decode_varint(mut next: impl FnMut() -> Result<u8>) -> Result<i64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = next()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed());
        }
    }
    Err(invalid("a number that is too long"))
}

fn byte<R: BufRead>(reader: &mut R) -> Result<u8> {
    let first = reader.fill_buf()?.first().copied();
    let byte = first.ok_or(ErrorKind::UnexpectedEof)?;
    reader.consume(1);
    Ok(byte)
}

fn invalid(cause: &str) -> Error {
    Error::new(ErrorKind::InvalidData, cause)
}

fn too_short() -> Error {
    invalid("a record shorter than its fields")
}
