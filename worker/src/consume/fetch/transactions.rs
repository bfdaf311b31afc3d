//! Removes what a consumer of committed records must not see: records of aborted transactions, and markers. Pure.

use std::collections::BTreeSet;

use bytes::Buf as _;

use super::record_batch::RecordBatch;

/// Type of a marker that aborts a transaction.
const ABORT: i16 = 0;

/// An aborted transaction, as the broker reports it: the id of the producer and the first offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Aborted {
    /// First offset of the transaction.
    pub first_offset: i64,
    /// Id of the producer.
    pub producer_id: i64,
}

/// Returns for each batch whether a consumer of committed records reads it.
pub(super) fn visible_batches(batches: &[RecordBatch], mut aborted: Vec<Aborted>) -> Vec<bool> {
    aborted.sort_unstable();
    let mut begun = aborted.into_iter().peekable();
    let mut open = BTreeSet::new();
    let is_visible = |batch: &RecordBatch| {
        while let Some(transaction) = begun.next_if(|aborted| aborted.first_offset <= batch.last_offset) {
            open.insert(transaction.producer_id);
        }
        if batch.is_control() {
            if marker_type(batch) == Some(ABORT) {
                open.remove(&batch.producer_id);
            }
            return false;
        }
        !(batch.is_transactional() && open.contains(&batch.producer_id))
    };
    batches.iter().map(is_visible).collect()
}

/// Type of the marker in a control batch, whose only record is never compressed: length, attributes, timestamp, offset,
/// the length of the key, and then the version and the type.
fn marker_type(batch: &RecordBatch) -> Option<i16> {
    let mut bytes = batch.payload.clone();
    skip_varint(&mut bytes)?;
    bytes.try_get_u8().ok()?;
    for _ in 0..3 {
        skip_varint(&mut bytes)?;
    }
    bytes.try_get_i16().ok()?;
    bytes.try_get_i16().ok()
}

fn skip_varint(bytes: &mut bytes::Bytes) -> Option<()> {
    while bytes.try_get_u8().ok()? & 0x80 != 0 {}
    Some(())
}
