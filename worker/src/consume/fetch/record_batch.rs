//! Splits the bytes of a partition into record batches (message format 2), and checks their headers. Pure.
//!
//! Nothing is decompressed here: the header of a batch shows its offsets, its checksum and its producer.

use bytes::{Buf as _, Bytes};

/// Size of a batch header.
const HEADER_BYTES: usize = 61;
/// Bytes of a batch before those that its length counts.
const LENGTH_END: usize = 12;
/// Position of the magic, and of the first byte that the checksum covers.
const MAGIC: usize = 16;
const CHECKED_FROM: usize = 21;

/// A record batch whose records are not decoded yet.
#[derive(Clone, Debug)]
pub(super) struct RecordBatch {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Last offset that the batch occupies; a compacted batch may not have a record there.
    pub last_offset: i64,
    /// Number of records.
    pub count: i32,
    /// Codec, timestamp type, transaction and control flags.
    pub attributes: i16,
    /// Timestamp that those of the records are relative to, in milliseconds since the Unix epoch.
    pub base_timestamp: i64,
    /// Newest timestamp of the batch.
    pub max_timestamp: i64,
    /// Id of the producer; -1 without idempotence.
    pub producer_id: i64,
    /// Cause for which the batch cannot be decoded, if its header shows one.
    pub fault: Option<String>,
    /// The bytes are not those that the producer has sent; another attempt may receive them.
    pub is_corrupt: bool,
    /// Records, compressed by the codec.
    pub payload: Bytes,
}

impl RecordBatch {
    /// Number of the codec.
    pub(super) fn codec(&self) -> i16 {
        self.attributes & 0x07
    }

    /// Returns true if the broker has set the timestamps: then all records have the newest one.
    pub(super) fn has_broker_time(&self) -> bool {
        self.attributes & 0x08 != 0
    }

    /// Returns true if the batch belongs to a transaction.
    pub(super) fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    fn mark_corrupt(&mut self, cause: String) {
        self.fault.get_or_insert(cause);
        self.is_corrupt = true;
    }

    /// Returns true if the batch has no record but a marker of the brokers.
    pub(super) fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }
}

/// Batches of a partition, and the reason for which the bytes after them are not split.
#[derive(Debug, Default)]
pub(super) struct RecordSet {
    /// Batches in the order of their offsets.
    pub batches: Vec<RecordBatch>,
    /// Cause for which the next bytes are not a batch; `None` if they are the beginning of one.
    pub malformed: Option<String>,
}

/// Splits the bytes of a partition whose log ends before `end`. The broker may cut the last batch off.
pub(super) fn split(mut bytes: Bytes, end: i64) -> RecordSet {
    let mut set = RecordSet::default();
    while bytes.len() > MAGIC {
        let size = match batch_size(&bytes) {
            Ok(size) if size <= bytes.len() => size,
            Ok(_) => break,
            Err(cause) => {
                set.malformed = Some(cause);
                break;
            }
        };
        let batch = read_batch(&bytes.split_to(size));
        end_before(&mut set.batches, batch.base_offset);
        set.batches.push(batch);
    }
    let mut next_offset = 0;
    for batch in &mut set.batches {
        if batch.base_offset < next_offset || batch.last_offset >= end {
            let offsets = (batch.base_offset, batch.last_offset);
            batch.mark_corrupt(format!(
                "its offsets are {offsets:?} in a log of {next_offset} to {end}"
            ));
            batch.last_offset = batch.last_offset.min(end - 1).max(batch.base_offset);
        }
        next_offset = batch.last_offset.saturating_add(1);
    }
    set
}

/// Size of the batch at the start of the bytes.
fn batch_size(bytes: &[u8]) -> Result<usize, String> {
    let magic = bytes[MAGIC].cast_signed();
    if (0..2).contains(&magic) {
        return Err(format!(
            "message format {magic} of Kafka before 0.11, which is not supported; copy the records to a new topic, or \
             reset the offsets of the consumer group to a later one"
        ));
    }
    let length = (&bytes[LENGTH_END - 4..LENGTH_END]).get_i32();
    let size = usize::try_from(length).map_or(0, |length| length.saturating_add(LENGTH_END));
    if magic != 2 || size < HEADER_BYTES {
        return Err(format!(
            "not a record batch: format {magic}, {length} bytes; check the log of the broker with kafka-dump-log"
        ));
    }
    Ok(size)
}

/// Reads the header of one batch, whose size is checked.
fn read_batch(bytes: &Bytes) -> RecordBatch {
    let mut header = bytes.slice(..HEADER_BYTES);
    let base_offset = header.get_i64();
    // Length, leader epoch, magic.
    header.advance(9);
    let checksum = header.get_u32();
    let attributes = header.get_i16();
    let last_delta = header.get_i32();
    let base_timestamp = header.get_i64();
    let max_timestamp = header.get_i64();
    let producer_id = header.get_i64();
    // Producer epoch, base sequence.
    header.advance(6);
    let count = header.get_i32();
    let is_intact = crc32c::crc32c(&bytes[CHECKED_FROM..]) == checksum;
    let fault = if !is_intact {
        Some("its checksum does not match".to_owned())
    } else if last_delta < 0 || count < 0 || i64::from(count) > i64::from(last_delta) + 1 {
        Some(format!(
            "its header has {count} records in {} offsets",
            i64::from(last_delta) + 1
        ))
    } else {
        None
    };
    RecordBatch {
        base_offset,
        last_offset: base_offset.saturating_add(i64::from(last_delta.max(0))),
        count,
        attributes,
        base_timestamp,
        max_timestamp,
        producer_id,
        fault,
        is_corrupt: !is_intact,
        payload: bytes.slice(HEADER_BYTES..),
    }
}

/// Ends a batch that cannot be decoded before the next batch, because its own end may be wrong.
fn end_before(batches: &mut [RecordBatch], next_offset: i64) {
    if let Some(last) = batches.last_mut()
        && last.fault.is_some()
    {
        last.last_offset = last
            .last_offset
            .min(next_offset.saturating_sub(1))
            .max(last.base_offset);
    }
}
