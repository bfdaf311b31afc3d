//! Reads the records of fetched batches, one at a time, and accounts for every offset. Pure.
//!
//! An offset is a record, a record without value (too large, or not decodable), or skipped: markers, aborted records, and
//! gaps of compaction.

use std::collections::VecDeque;
use std::io::{BufRead as _, Error, ErrorKind};
use std::sync::Arc;

use super::decompress::{self, Payload};
use super::record_batch::RecordBatch;
use super::record_reader::{RecordLimits, RelativeRecord, read_record};
use crate::record::{Omission, Record};

/// Maximum number of dead letters for one batch that cannot be decoded. If it has more offsets, it is one dead letter.
const MAX_UNDECODABLE: i64 = 10_000;

/// Timestamp of a record without one.
const NO_TIMESTAMP: i64 = -1;

/// Next offsets of a partition.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A record. Its topic ID is not set.
    Record(Record),
    /// No record is before this offset.
    SkipTo(i64),
}

/// Reads the visible batches of a partition.
pub(super) struct BatchReader {
    partition: i32,
    limits: RecordLimits,
    /// Batches, and whether they are visible.
    batches: VecDeque<(RecordBatch, bool)>,
    current: Option<Current>,
    next_offset: i64,
}

/// A batch that is being read.
struct Current {
    batch: RecordBatch,
    /// Number of records that are not read yet.
    remaining: i32,
    /// Offset of the last record that was read.
    previous: i64,
    state: State,
}

enum State {
    Reading(Payload),
    /// The rest cannot be decoded.
    Faulty(Arc<str>),
    Finished,
}

impl BatchReader {
    /// Reads from an offset, which may be inside of the first batch.
    pub(super) fn new(
        partition: i32,
        next_offset: i64,
        batches: impl IntoIterator<Item = (RecordBatch, bool)>,
        limits: RecordLimits,
    ) -> Self {
        Self {
            partition,
            limits,
            batches: batches.into_iter().collect(),
            current: None,
            next_offset,
        }
    }

    /// Partition of the batches.
    pub(super) fn partition(&self) -> i32 {
        self.partition
    }

    /// Next record or skipped offsets; `None` at the end of the batches.
    pub(super) fn next(&mut self) -> Option<Step> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some(mut record) = current.next_record(self.next_offset, self.limits) {
                    record.partition = self.partition;
                    self.next_offset = record.offset + 1;
                    return Some(Step::Record(record));
                }
                let end = current.batch.last_offset.saturating_add(1);
                self.current = None;
                if end > self.next_offset {
                    self.next_offset = end;
                    return Some(Step::SkipTo(end));
                }
            }
            let (batch, is_visible) = self.batches.pop_front()?;
            if batch.last_offset >= self.next_offset {
                self.current = Some(Current::open(batch, is_visible));
            }
        }
    }
}

impl Current {
    fn open(mut batch: RecordBatch, is_visible: bool) -> Self {
        let payload = std::mem::take(&mut batch.payload);
        let state = match batch.fault.take() {
            _ if !is_visible => State::Finished,
            Some(fault) => State::Faulty(fault.into()),
            None => match decompress::open(batch.codec(), payload) {
                Ok(payload) => State::Reading(payload),
                Err(error) => State::Faulty(error.to_string().into()),
            },
        };
        Self {
            remaining: batch.count,
            previous: batch.base_offset.saturating_sub(1),
            batch,
            state,
        }
    }

    /// Next record at or after `next_offset`; `None` at the end of the batch.
    fn next_record(&mut self, next_offset: i64, limits: RecordLimits) -> Option<Record> {
        loop {
            match &mut self.state {
                State::Finished => return None,
                State::Faulty(fault) => {
                    let (letter, is_last) = undecodable(&self.batch, next_offset, fault)?;
                    if is_last {
                        self.state = State::Finished;
                    }
                    return Some(letter);
                }
                State::Reading(payload) if self.remaining == 0 => {
                    let has_more = payload.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
                    self.state = if has_more {
                        State::Faulty("it has more records than its header says".into())
                    } else {
                        State::Finished
                    };
                }
                State::Reading(payload) => match read_next(&self.batch, payload, self.previous, limits) {
                    Ok(record) => {
                        self.remaining -= 1;
                        self.previous = record.offset;
                        if record.offset >= next_offset {
                            return Some(record);
                        }
                    }
                    Err(error) => self.state = State::Faulty(error.to_string().into()),
                },
            }
        }
    }
}

/// Reads the next record of a batch, which is after the offset `previous`.
fn read_next(
    batch: &RecordBatch,
    payload: &mut Payload,
    previous: i64,
    limits: RecordLimits,
) -> Result<Record, Error> {
    let RelativeRecord {
        mut record,
        offset_delta,
        timestamp_delta,
    } = read_record(payload, limits)?;
    record.offset = batch.base_offset.saturating_add(offset_delta);
    if record.offset <= previous || record.offset > batch.last_offset {
        let cause = format!("a record has the offset {}, after {previous}", record.offset);
        return Err(Error::new(ErrorKind::InvalidData, cause));
    }
    let timestamp = if batch.has_broker_time() {
        batch.max_timestamp
    } else {
        // The producer has subtracted in the same way: a timestamp may be any 64-bit number.
        batch.base_timestamp.wrapping_add(timestamp_delta)
    };
    record.timestamp = Some(timestamp).filter(|&timestamp| timestamp != NO_TIMESTAMP);
    Ok(record)
}

/// The record at `offset` of a batch that cannot be decoded, and whether it stands for the rest of the batch; `None` after
/// the batch.
fn undecodable(batch: &RecordBatch, offset: i64, fault: &Arc<str>) -> Option<(Record, bool)> {
    let offset = offset.max(batch.base_offset);
    if offset > batch.last_offset {
        return None;
    }
    let omission = Omission::Undecodable {
        first_offset: batch.base_offset,
        last_offset: batch.last_offset,
        cause: Arc::clone(fault),
    };
    let record = Record {
        offset,
        timestamp: Some(batch.max_timestamp).filter(|&timestamp| timestamp != NO_TIMESTAMP),
        omission: Some(omission),
        ..Record::default()
    };
    Some((record, batch.last_offset - offset >= MAX_UNDECODABLE))
}
