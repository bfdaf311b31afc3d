//! Decompresses the payload of a record batch as a stream, in bounded memory. Pure.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result};

use bytes::{Buf as _, Bytes};
use flate2::bufread::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::snappy::SnappyReader;

/// Maximum decompressed size of a batch: a bound for the time that it takes, not for memory.
pub(super) const MAX_BATCH_BYTES: u64 = 1 << 30;
/// Largest window of zstd, as a power of two: 8 MiB, which RFC 8878 recommends, and which all levels up to 19 need.
const MAX_ZSTD_WINDOW_LOG: u32 = 23;
/// Size of the buffer that records are read from.
const BUFFER_BYTES: usize = 32 << 10;

/// Decompressed records.
pub(super) type Payload = BufReader<Bounded<Box<dyn Read + Send>>>;

/// Opens a payload that the codec has compressed.
///
/// # Errors
/// If the codec is unknown, or the decoder refuses the stream.
pub(super) fn open(codec: i16, payload: Bytes) -> Result<Payload> {
    let reader: Box<dyn Read + Send> = match codec {
        0 => Box::new(payload.reader()),
        1 => Box::new(MultiGzDecoder::new(payload.reader())),
        2 => Box::new(SnappyReader::new(payload)),
        3 => Box::new(FrameDecoder::new(payload.reader())),
        4 => Box::new(open_zstd(payload.reader())?),
        unknown => {
            return Err(Error::new(
                ErrorKind::InvalidData,
                format!("unknown codec {unknown}"),
            ));
        }
    };
    let bounded = Bounded {
        reader,
        remaining: MAX_BATCH_BYTES,
    };
    Ok(BufReader::with_capacity(BUFFER_BYTES, bounded))
}

fn open_zstd<R: BufRead>(payload: R) -> Result<ZstdDecoder<'static, R>> {
    let mut decoder = ZstdDecoder::with_buffer(payload)?;
    decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}

/// Ends a stream with an error after a number of bytes.
pub(super) struct Bounded<R> {
    reader: R,
    remaining: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.reader.read(buffer)?;
        let remaining = self
            .remaining
            .checked_sub(u64::try_from(count).unwrap_or(u64::MAX));
        let too_large = || {
            Error::new(
                ErrorKind::InvalidData,
                "it has more than 1 GiB after decompression",
            )
        };
        self.remaining = remaining.ok_or_else(too_large)?;
        Ok(count)
    }
}
