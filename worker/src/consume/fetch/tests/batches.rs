//! Batches as brokers and producers make them.

use bytes::BufMut as _;
use proptest::prelude::*;

use super::super::transactions::Aborted;
use super::*;
use crate::record::Omission;

fn records(count: i64) -> Vec<Encoded> {
    let record = |offset| {
        let mut record = encoded(offset, Some(format!("value {offset}").repeat(20).into_bytes()));
        record.key = (offset % 2 == 0).then(|| Bytes::from(format!("key {offset}")));
        record
            .headers
            .insert(name("trace"), Some(Bytes::from_static(b"a")));
        record.headers.insert(name("empty"), None);
        record
    };
    (5..5 + count).map(record).collect()
}

#[test]
fn records_of_every_codec_are_read_as_they_were_sent() {
    for codec in CODECS {
        let records = records(700);
        let read = read_from(5, batch(codec, &records), LIMITS);
        let sent: Vec<Step> = records
            .iter()
            .map(|record| Step::Record(expected(record)))
            .collect();
        assert!(read == sent, "{codec:?}");
    }
}

#[test]
fn a_batch_is_read_from_an_offset_inside_of_it() {
    for codec in CODECS {
        let records = records(10);
        let read = read_from(12, batch(codec, &records), LIMITS);
        let sent = records[7..].iter().map(|record| Step::Record(expected(record)));
        assert_eq!(read, sent.collect::<Vec<_>>(), "{codec:?}");
        assert_eq!(read_from(15, batch(codec, &records), LIMITS), []);
    }
}

#[test]
fn a_record_above_the_limits_has_its_metadata_and_its_neighbors_are_read() {
    for codec in CODECS {
        let mut records = records(5);
        records[1].value = Some(vec![0; 3 << 20].into());
        records[3].key = Some(vec![1; 501].into());
        let read = read_from(5, batch(codec, &records), LIMITS);
        let offsets: Vec<(i64, bool)> = read
            .iter()
            .map(|step| match step {
                Step::Record(record) => (record.offset, record.omission.is_some()),
                Step::SkipTo(_) => (-1, false),
            })
            .collect();
        assert_eq!(
            offsets,
            [(5, false), (6, true), (7, false), (8, true), (9, false)],
            "{codec:?}"
        );
        let Step::Record(oversized) = &read[1] else {
            panic!("a record")
        };
        assert!(matches!(oversized.omission, Some(Omission::Oversized { bytes }) if bytes > 3 << 20));
        assert_eq!((oversized.timestamp, &oversized.value), (Some(1006), &None));
        let Step::Record(oversized) = &read[3] else {
            panic!("a record")
        };
        assert_eq!((&oversized.key, oversized.headers.len()), (&None, 0));
    }
}

#[test]
fn a_small_key_of_a_record_above_the_limits_is_retained() {
    let mut record = encoded(0, Some(vec![0; 1001]));
    record.key = Some(Bytes::from_static(b"key"));
    let read = read_from(0, batch(Codec::Zstd, &[record]), LIMITS);
    let [Step::Record(record)] = &read[..] else {
        panic!("{read:?}")
    };
    assert_eq!((record.key.as_deref(), &record.value), (Some(&b"key"[..]), &None));
}

#[test]
fn many_small_headers_count_with_their_memory() {
    let mut record = encoded(0, Some(b"{}".to_vec()));
    record.headers = (0..20).map(|index| (name(&index.to_string()), None)).collect();
    let read = read_from(0, batch(Codec::None, &[record]), LIMITS);
    assert!(
        matches!(
            &read[..],
            [Step::Record(Record {
                omission: Some(_),
                ..
            })]
        ),
        "{read:?}"
    );
}

#[test]
fn a_header_name_that_is_not_utf_8_is_counted() {
    // A record by hand: one header with a name of one byte.
    let body = [&[0, 0, 0, 1, 4][..], b"{}", &[2, 2, 0xe9, 2, b'v']].concat();
    let mut payload = vec![u8::try_from(body.len() * 2).expect("a short record")];
    payload.extend(body);
    let read = super::super::record_reader::read_record(&mut &payload[..], LIMITS).expect("a record");
    assert_eq!(
        (read.record.unreadable_headers, read.record.headers.len()),
        (1, 0)
    );
    assert_eq!(read.record.value.as_deref(), Some(&b"{}"[..]));
}

#[test]
fn gaps_of_compaction_are_skipped() {
    let mut records = records(6);
    records.drain(1..3);
    let mut bytes = batch(Codec::None, &records).to_vec();
    // The broker retains the last offset of a batch whose last records are compacted away.
    bytes[23..27].copy_from_slice(&9_i32.to_be_bytes());
    let read = read_from(5, resealed(bytes), LIMITS);
    let offsets: Vec<i64> = read
        .iter()
        .map(|step| match step {
            Step::Record(record) => record.offset,
            Step::SkipTo(offset) => *offset,
        })
        .collect();
    assert_eq!(offsets, [5, 8, 9, 10, 15]);
    assert_eq!(read.last(), Some(&Step::SkipTo(15)));
}

#[test]
fn records_have_the_time_of_the_broker_if_it_sets_it_and_none_without_one() {
    let mut bytes = batch(Codec::None, &records(2)).to_vec();
    bytes[22] |= 0x08;
    for step in read_from(5, resealed(bytes), LIMITS) {
        assert!(matches!(step, Step::Record(record) if record.timestamp == Some(1006)));
    }
    let mut record = encoded(0, None);
    record.timestamp = -1;
    let read = read_from(0, batch(Codec::None, &[record]), LIMITS);
    assert!(matches!(
        &read[..],
        [Step::Record(Record { timestamp: None, .. })]
    ));
}

/// Replaces the checksum of a changed batch.
pub(super) fn resealed(mut bytes: Vec<u8>) -> Bytes {
    let checksum = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
    bytes.into()
}

/// A marker that ends a transaction.
fn marker(offset: i64, producer_id: i64, commits: bool) -> Bytes {
    let mut key = BytesMut::new();
    key.put_i16(0);
    key.put_i16(i16::from(commits));
    let mut record = encoded(offset, Some(vec![0; 6]));
    record.key = Some(key.freeze());
    (record.control, record.transactional, record.producer_id) = (true, true, producer_id);
    batch(Codec::None, &[record])
}

fn transactional(offset: i64, producer_id: i64) -> Bytes {
    let mut record = encoded(offset, Some(b"{}".to_vec()));
    (record.transactional, record.producer_id) = (true, producer_id);
    batch(Codec::Lz4, &[record])
}

#[test]
fn only_records_of_committed_transactions_are_visible() {
    let log = [
        transactional(0, 1),
        transactional(1, 2),
        marker(2, 1, false),
        transactional(3, 1),
        marker(4, 2, true),
        batch(Codec::None, &[encoded(5, None)]),
        marker(6, 1, true),
        transactional(7, 2),
        marker(8, 2, false),
    ];
    let set = split(log.concat().into(), i64::MAX);
    let aborted = |first_offset, producer_id| Aborted {
        first_offset,
        producer_id,
    };
    let visible = visible_batches(&set.batches, vec![aborted(7, 2), aborted(0, 1)]);
    assert_eq!(
        visible,
        [false, true, false, true, false, true, false, false, false]
    );
    let mut reader = BatchReader::new(7, 0, set.batches.into_iter().zip(visible), LIMITS);
    let offsets: Vec<i64> = std::iter::from_fn(|| reader.next())
        .map(|step| match step {
            Step::Record(record) => record.offset,
            Step::SkipTo(offset) => -offset,
        })
        .collect();
    assert_eq!(offsets, [-1, 1, -3, 3, -5, 5, -7, -8, -9]);
}

prop_compose! {
    fn any_record()(
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..600)),
        value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..1500)),
        header_values in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)), 0..8),
        timestamp in 0..i64::MAX / 4,
    ) -> Encoded {
        let mut record = encoded(0, value);
        record.key = key.map(Bytes::from);
        record.timestamp = timestamp;
        let headers = header_values.into_iter().enumerate();
        record.headers = headers.map(|(index, value)| (name(&format!("h{index}")), value.map(Bytes::from))).collect();
        record
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_batch_is_read_as_it_was_encoded(
        mut records in proptest::collection::vec(any_record(), 1..30),
        codec in 0..CODECS.len(),
        start in 0_i64..30,
        value_bytes in 0_usize..1500,
        metadata_bytes in 0_usize..1500,
    ) {
        for (offset, record) in (0..).zip(&mut records) {
            (record.offset, record.sequence) = (offset, i32::try_from(offset).expect("a small offset"));
        }
        let limits = RecordLimits { value_bytes, metadata_bytes };
        let read = read_from(start, batch(CODECS[codec], &records), limits);
        let sent: Vec<&Encoded> = records.iter().filter(|record| record.offset >= start).collect();
        prop_assert_eq!(read.len(), sent.len());
        for (step, sent) in read.iter().zip(sent) {
            let Step::Record(record) = step else { panic!("{step:?}") };
            let expected = expected(sent);
            let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
            let metadata = expected.size_bytes() - length(&expected.value);
            if length(&expected.value) > value_bytes || metadata > metadata_bytes {
                let is_oversized = matches!(record.omission, Some(Omission::Oversized { .. }));
                prop_assert!(is_oversized);
                prop_assert_eq!((record.offset, record.timestamp), (expected.offset, expected.timestamp));
            } else {
                prop_assert_eq!(record, &expected);
            }
        }
    }
}
