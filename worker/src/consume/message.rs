//! Copies a message of the client into a [`Record`], so that the client's buffer is released at once.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers as _, Message as _};
use uuid::Uuid;

use crate::record::{Header, Record};

/// Copies a message of the log `topic_id`.
pub(super) fn copy_record(message: &BorrowedMessage<'_>, topic_id: Uuid) -> Record {
    let (headers, unreadable_headers) = message.headers().map(copy_headers).unwrap_or_default();
    Record {
        topic_id,
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
        unreadable_headers,
    }
}

/// Copies the headers, and counts those without a readable name: the client panics on a name that is not UTF-8.
fn copy_headers(borrowed: &BorrowedHeaders) -> (Vec<Header>, usize) {
    let count = borrowed.count();
    let copy_header = |index| {
        let header = borrowed.try_get(index)?;
        Some(Header {
            name: header.key.to_owned(),
            value: header.value.map(<[u8]>::to_vec),
        })
    };
    let headers = (0..count).filter_map(|index| {
        catch_unwind(AssertUnwindSafe(|| copy_header(index)))
            .ok()
            .flatten()
    });
    let headers: Vec<Header> = headers.collect();
    let unreadable = count - headers.len();
    (headers, unreadable)
}
