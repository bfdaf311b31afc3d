//! Tests of the decoder with batches that another implementation encodes.

mod answers;
mod batches;
mod hostile;

use std::io::Write as _;

use bytes::{Bytes, BytesMut};
use kafka::protocol::indexmap::IndexMap;
use kafka::protocol::protocol::StrBytes;
use kafka::protocol::records::{
    Compression, Record as Encoded, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use super::batch_reader::{BatchReader, Step};
use super::record_batch::split;
use super::record_reader::RecordLimits;
use super::transactions::visible_batches;
use crate::record::{Header, Record};

/// A codec, and the framing of Snappy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    None,
    Gzip,
    RawSnappy,
    FramedSnappy,
    Lz4,
    Zstd,
}

const CODECS: [Codec; 6] = [
    Codec::None,
    Codec::Gzip,
    Codec::RawSnappy,
    Codec::FramedSnappy,
    Codec::Lz4,
    Codec::Zstd,
];

const LIMITS: RecordLimits = RecordLimits {
    value_bytes: 1000,
    metadata_bytes: 500,
};

impl Codec {
    fn number(self) -> Compression {
        match self {
            Self::None => Compression::None,
            Self::Gzip => Compression::Gzip,
            Self::RawSnappy | Self::FramedSnappy => Compression::Snappy,
            Self::Lz4 => Compression::Lz4,
            Self::Zstd => Compression::Zstd,
        }
    }

    fn compress(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::None => bytes.to_vec(),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(bytes).expect("memory");
                encoder.finish().expect("memory")
            }
            Self::RawSnappy => raw_snappy(bytes),
            Self::FramedSnappy => {
                let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
                for block in bytes.chunks(32 << 10) {
                    let block = raw_snappy(block);
                    framed.extend(u32::try_from(block.len()).expect("a length").to_be_bytes());
                    framed.extend(block);
                }
                framed
            }
            Self::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(bytes).expect("memory");
                encoder.finish().expect("a frame")
            }
            Self::Zstd => zstd::encode_all(bytes, 3).expect("memory"),
        }
    }
}

fn raw_snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).expect("a block")
}

/// A record to encode at an offset.
fn encoded(offset: i64, value: Option<Vec<u8>>) -> Encoded {
    Encoded {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 0,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: i32::try_from(offset).expect("a small offset"),
        timestamp: 1000 + offset,
        key: None,
        value: value.map(Bytes::from),
        headers: IndexMap::new(),
    }
}

/// Encodes records as one batch.
fn batch(codec: Codec, records: &[Encoded]) -> Bytes {
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions {
        version: 2,
        compression: codec.number(),
    };
    let compress = |records: &mut BytesMut, target: &mut BytesMut, _: Compression| {
        target.extend_from_slice(&codec.compress(records));
        Ok(())
    };
    RecordBatchEncoder::encode_with_custom_compression(&mut bytes, records, &options, Some(compress))
        .expect("a batch");
    bytes.freeze()
}

/// Reads all batches from an offset.
fn read_from(offset: i64, bytes: Bytes, limits: RecordLimits) -> Vec<Step> {
    let set = split(bytes, i64::MAX);
    let visible = visible_batches(&set.batches, Vec::new());
    let batches = set.batches.into_iter().zip(visible);
    let mut reader = BatchReader::new(7, offset, batches, limits);
    std::iter::from_fn(|| reader.next()).collect()
}

/// Record that an encoded record must be read as.
fn expected(encoded: &Encoded) -> Record {
    let headers = encoded.headers.iter().map(|(name, value)| Header {
        name: name.to_string(),
        value: value.as_ref().map(|value| value.to_vec()),
    });
    Record {
        partition: 7,
        offset: encoded.offset,
        timestamp: Some(encoded.timestamp),
        key: encoded.key.as_ref().map(|key| key.to_vec()),
        value: encoded.value.as_ref().map(|value| value.to_vec()),
        headers: headers.collect(),
        ..Record::default()
    }
}

fn name(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
