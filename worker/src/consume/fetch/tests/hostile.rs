//! Batches that no broker should send, and records that need more memory than a worker has.

use std::io::{BufReader, Read as _};

use proptest::prelude::*;

use super::super::decompress;
use super::super::record_reader::read_record;
use super::batches::resealed;
use super::*;
use crate::record::Omission;

/// Cause of a record that cannot be decoded.
fn cause(step: &Step) -> String {
    match step {
        Step::Record(Record {
            omission: Some(Omission::Undecodable { cause, .. }),
            ..
        }) => cause.to_string(),
        other => format!("{other:?}"),
    }
}

fn sample(codec: Codec) -> Vec<u8> {
    let records: Vec<Encoded> = (0..10)
        .map(|offset| encoded(offset, Some(vec![7; 100])))
        .collect();
    batch(codec, &records).to_vec()
}

#[test]
fn each_offset_of_a_batch_that_cannot_be_decoded_is_a_record_without_value() {
    let changed = |codec, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sample(codec);
        change(&mut bytes);
        let length = i32::try_from(bytes.len() - 12).expect("a length");
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        resealed(bytes)
    };
    let truncate = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 10);
    for (name, bytes, expected) in [
        (
            "an unknown codec",
            changed(Codec::None, &|bytes| bytes[22] = 7),
            "unknown codec 7",
        ),
        (
            "another codec",
            changed(Codec::None, &|bytes| bytes[22] = 1),
            "gzip",
        ),
        (
            "garbage",
            changed(Codec::Zstd, &|bytes| bytes[61..].fill(0xff)),
            "",
        ),
        (
            "a negative count",
            changed(Codec::None, &|bytes| bytes[57..61].fill(0xff)),
            "-1 records in 10 offsets",
        ),
        (
            "too many records",
            changed(Codec::None, &|bytes| bytes[57..61].copy_from_slice(&[0, 0, 1, 0])),
            "256 records",
        ),
    ] {
        let read = read_from(0, bytes, LIMITS);
        assert_eq!(read.len(), 10, "{name}: {read:?}");
        for (offset, step) in (0..).zip(&read) {
            assert!(
                matches!(step, Step::Record(record) if record.offset == offset),
                "{name}: {step:?}"
            );
            assert!(cause(step).contains(expected), "{name}: {step:?}");
        }
    }
    for codec in CODECS {
        let read = read_from(0, changed(codec, &truncate), LIMITS);
        assert_eq!(read.len(), 10, "{codec:?}");
        assert!(
            matches!(
                &read[9],
                Step::Record(Record {
                    omission: Some(_),
                    ..
                })
            ),
            "{codec:?}"
        );
    }
}

#[test]
fn records_that_the_header_does_not_count_are_not_lost() {
    let mut bytes = sample(Codec::Zstd);
    bytes[57..61].copy_from_slice(&4_i32.to_be_bytes());
    let read = read_from(0, resealed(bytes), LIMITS);
    assert_eq!(read.len(), 10);
    assert!(matches!(&read[3], Step::Record(Record { omission: None, .. })));
    assert!(cause(&read[4]).contains("more records"));
}

#[test]
fn a_checksum_that_does_not_match_marks_the_batch_as_corrupt() {
    let mut bytes = sample(Codec::None);
    bytes[100] ^= 1;
    let bytes = [bytes, batch(Codec::None, &[encoded(10, None)]).to_vec()].concat();
    let set = split(bytes.clone().into(), i64::MAX);
    assert_eq!(
        set.batches
            .iter()
            .map(|batch| batch.is_corrupt)
            .collect::<Vec<_>>(),
        [true, false]
    );
    let read = read_from(0, bytes.into(), LIMITS);
    assert_eq!(read.len(), 11);
    assert!(cause(&read[9]).contains("checksum"));
    assert!(matches!(&read[10], Step::Record(Record { omission: None, .. })));
}

#[test]
fn a_corrupt_batch_ends_before_the_next_one_and_before_the_end_of_the_log() {
    let mut bytes = sample(Codec::None);
    bytes[23..27].copy_from_slice(&i32::MAX.to_be_bytes());
    let alone = split(bytes.clone().into(), 15);
    assert_eq!(alone.batches[0].last_offset, 14);
    let followed = [bytes, batch(Codec::None, &[encoded(12, None)]).to_vec()].concat();
    let followed = split(followed.into(), 15);
    assert_eq!(
        (followed.batches[0].last_offset, followed.batches[1].last_offset),
        (11, 12)
    );
}

#[test]
fn a_batch_of_many_offsets_that_cannot_be_decoded_is_one_record() {
    let mut bytes = sample(Codec::None);
    bytes[22] = 7;
    bytes[23..27].copy_from_slice(&1_000_000_i32.to_be_bytes());
    let read = read_from(3, resealed(bytes), LIMITS);
    assert_eq!(read.len(), 2);
    assert!(matches!(&read[0], Step::Record(record) if record.offset == 3));
    assert_eq!(read[1], Step::SkipTo(1_000_001));
}

#[test]
fn old_message_formats_and_garbage_are_not_batches() {
    for (magic, cause) in [
        (0, "message format 0"),
        (1, "message format 1"),
        (9, "not a record batch"),
    ] {
        let mut bytes = sample(Codec::None);
        bytes[16] = magic;
        let set = split([sample(Codec::None), bytes].concat().into(), i64::MAX);
        assert_eq!(set.batches.len(), 1);
        assert!(set.malformed.is_some_and(|malformed| malformed.contains(cause)));
    }
    let mut short = sample(Codec::None);
    short[8..12].copy_from_slice(&10_i32.to_be_bytes());
    assert!(split(short.into(), i64::MAX).malformed.is_some());
    let cut_off = sample(Codec::None)[..80].to_vec();
    let set = split(cut_off.into(), i64::MAX);
    assert!(set.batches.is_empty() && set.malformed.is_none());
}

/// Zeros, after the bytes that begin a record of `length` bytes with one value.
fn huge_record(length: u64) -> BufReader<impl std::io::Read> {
    let varint = |mut number: u64| {
        let mut bytes = Vec::new();
        number <<= 1;
        while number >= 0x80 {
            bytes.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
            number >>= 7;
        }
        bytes.push(u8::try_from(number).expect("seven bits"));
        bytes
    };
    let fields = [vec![0, 0, 0, 1], varint(length), vec![]].concat();
    let total = u64::try_from(fields.len()).expect("a length") + length + 1;
    let bytes = std::io::Cursor::new([varint(total), fields].concat());
    BufReader::new(bytes.chain(std::io::repeat(0).take(length + 1)))
}

#[test]
fn a_record_of_90_mib_is_skipped_and_the_bytes_after_it_are_the_next_record() {
    let mut reader = huge_record(90 << 20);
    let read = read_record(&mut reader, LIMITS).expect("a record");
    assert!(matches!(read.record.omission, Some(Omission::Oversized { bytes }) if bytes > 90 << 20));
    assert_eq!(read.record.size_bytes(), 0);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).expect("the end");
    assert!(rest.is_empty());
}

#[test]
fn a_payload_of_more_than_1_gib_ends_with_an_error() {
    let zeros = std::io::repeat(0).take(decompress::MAX_BATCH_BYTES + 1);
    let bytes = zstd::encode_all(zeros, 1).expect("a frame");
    let mut payload = decompress::open(4, bytes.into()).expect("a payload");
    let error = std::io::copy(&mut payload, &mut std::io::sink()).expect_err("too large");
    assert!(error.to_string().contains("1 GiB"), "{error}");
}

#[test]
fn a_zstd_window_of_more_than_8_mib_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.window_log(24).expect("a window");
    encoder.write_all(&[0; 100]).expect("memory");
    let bytes = encoder.finish().expect("a frame");
    let mut payload = decompress::open(4, bytes.into()).expect("a payload");
    assert!(payload.read_to_end(&mut Vec::new()).is_err());
}

#[test]
fn a_snappy_copy_must_refer_to_the_block() {
    for block in [
        // A copy before the first byte, and one of offset 0.
        vec![8, 0b0000_0101, 1],
        vec![8, 0, b'a', 0b0000_0101, 0],
        // More bytes than the header says, fewer, and a length without an end.
        vec![1, 4, b'a', b'b'],
        vec![3, 0, b'a'],
        vec![0xff; 9],
    ] {
        let mut payload = decompress::open(2, block.clone().into()).expect("a payload");
        assert!(payload.read_to_end(&mut Vec::new()).is_err(), "{block:?}");
    }
    let mut payload = decompress::open(2, vec![6, 0, b'a', 0b0000_0101, 1].into()).expect("a payload");
    let mut text = String::new();
    payload
        .read_to_string(&mut text)
        .expect("a copy of the last byte");
    assert_eq!(text, "aaaaaa");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_within_the_limits(
        noise in proptest::collection::vec(any::<u8>(), 0..300),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        codec in 0..CODECS.len(),
        seal in any::<bool>(),
    ) {
        let mut bytes = sample(CODECS[codec]);
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        let bytes = if seal { resealed(bytes) } else { bytes.into() };
        for bytes in [bytes.clone(), [&bytes[..], &noise].concat().into(), noise.into()] {
            let mut next_offset = 0;
            for step in read_from(0, bytes, LIMITS) {
                let next = match step {
                    Step::Record(record) => {
                        prop_assert!(record.size_bytes() <= LIMITS.value_bytes + LIMITS.metadata_bytes);
                        record.offset + 1
                    }
                    Step::SkipTo(offset) => offset,
                };
                prop_assert!(next > next_offset, "{next} after {next_offset}");
                next_offset = next;
            }
        }
    }

    #[test]
    fn snappy_is_decompressed_as_it_was_compressed(
        pieces in proptest::collection::vec((any::<u8>(), 1_usize..5000), 0..60),
    ) {
        let bytes: Vec<u8> = pieces.iter().flat_map(|&(byte, count)| {
            (0..count).map(move |index| if index % 7 == 0 { byte } else { u8::try_from(index % 251).unwrap_or(0) })
        }).collect();
        for codec in [Codec::RawSnappy, Codec::FramedSnappy] {
            let mut read = Vec::new();
            let mut payload = decompress::open(2, codec.compress(&bytes).into()).expect("a payload");
            payload.read_to_end(&mut read).expect("valid bytes");
            prop_assert!(read == bytes);
        }
    }
}
