//! A copy of what the client reads: its buffer is given back at once.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rdkafka::message::{BorrowedHeaders, BorrowedMessage, Headers as _, Message as _};

use crate::record::{Header, Record};

/// A copy of a message.
pub(super) fn record(message: &BorrowedMessage<'_>) -> Record {
    let (headers, unreadable_headers) = message.headers().map(headers).unwrap_or_default();
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
        unreadable_headers,
    }
}

/// The headers, and how many of them have no readable name: the client panics at a name that is not UTF-8.
fn headers(borrowed: &BorrowedHeaders) -> (Vec<Header>, usize) {
    let count = borrowed.count();
    let read = |place| {
        let header = borrowed.try_get(place)?;
        Some(Header {
            name: header.key.to_owned(),
            value: header.value.map(<[u8]>::to_vec),
        })
    };
    let headers =
        (0..count).filter_map(|place| catch_unwind(AssertUnwindSafe(|| read(place))).ok().flatten());
    let headers: Vec<Header> = headers.collect();
    let unreadable = count - headers.len();
    (headers, unreadable)
}
