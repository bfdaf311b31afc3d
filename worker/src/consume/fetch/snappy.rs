//! Decompresses Snappy as a stream: raw blocks, and the framing of the Java clients. Pure.
//!
//! The decoders of the ecosystem decompress a whole block at once, and its header alone decides how large that is. This one
//! holds the last 64 KiB, which is as far as the compressors refer back.

use std::io::{Error, ErrorKind, Read, Result};

use bytes::{Buf as _, Bytes};

/// Distance that a copy may refer back; all known compressors compress blocks of this size.
const HISTORY_BYTES: usize = 1 << 16;
/// Bytes that are decompressed before the next ones are read.
const CHUNK_BYTES: usize = 1 << 16;
/// Begins the framing of the Java clients, before two version numbers and the blocks.
const FRAMING: &[u8] = b"\x82SNAPPY\0";
const FRAMING_HEADER_BYTES: usize = 16;

/// Reads the decompressed bytes.
pub(super) struct SnappyReader {
    input: Bytes,
    is_framed: bool,
    block: Bytes,
    /// Bytes that the block still has to produce by its header.
    expected: u64,
    /// Bytes of the current literal that are not copied yet.
    literal: usize,
    /// Bytes of the window that belong to the block, so that a copy may refer to them.
    produced: usize,
    window: Vec<u8>,
    read: usize,
}

impl SnappyReader {
    /// A reader of a compressed payload.
    pub(super) fn new(mut input: Bytes) -> Self {
        let is_framed = input.starts_with(FRAMING) && input.len() >= FRAMING_HEADER_BYTES;
        if is_framed {
            input.advance(FRAMING_HEADER_BYTES);
        }
        Self {
            input,
            is_framed,
            block: Bytes::new(),
            expected: 0,
            literal: 0,
            produced: 0,
            window: Vec::new(),
            read: 0,
        }
    }

    /// Decompresses the next bytes, and drops those that no copy can refer to.
    fn fill(&mut self) -> Result<()> {
        let surplus = self.window.len().saturating_sub(HISTORY_BYTES);
        self.window.drain(..surplus);
        self.read = self.window.len();
        while self.window.len() - self.read < CHUNK_BYTES && self.begin_block()? {
            self.element()?;
        }
        Ok(())
    }

    /// Makes a block current that is not finished; false at the end of the input.
    fn begin_block(&mut self) -> Result<bool> {
        while self.expected == 0 {
            if !self.block.is_empty() {
                return Err(invalid("the block is longer than its header says"));
            }
            if self.input.is_empty() {
                return Ok(false);
            }
            let length = if self.is_framed {
                let length = self.input.try_get_u32().map_err(|_| truncated())?;
                usize::try_from(length).unwrap_or(usize::MAX)
            } else {
                self.input.len()
            };
            if length > self.input.len() {
                return Err(truncated());
            }
            self.block = self.input.split_to(length);
            self.expected = self.uncompressed_length()?;
            self.produced = 0;
        }
        Ok(true)
    }

    /// Header of a block: a varint.
    fn uncompressed_length(&mut self) -> Result<u64> {
        let mut length = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            length |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(length);
            }
        }
        Err(invalid("the length of a block is too long"))
    }

    /// Decompresses one element: a part of a literal, or a copy of at most 64 bytes.
    fn element(&mut self) -> Result<()> {
        if self.literal > 0 {
            return self.copy_literal();
        }
        let tag = self.byte()?;
        let length = usize::from(tag >> 2);
        let (length, offset) = match tag & 3 {
            0 => {
                self.literal = 1 + match length {
                    0..60 => length,
                    _ => self.little_endian(length - 59)?,
                };
                return self.copy_literal();
            }
            1 => {
                let low = usize::from(self.byte()?);
                (4 + (length & 7), (usize::from(tag >> 5) << 8) | low)
            }
            2 => (length + 1, self.little_endian(2)?),
            _ => (length + 1, self.little_endian(4)?),
        };
        if offset == 0 || offset > self.produced.min(HISTORY_BYTES) {
            return Err(invalid(
                "a copy refers to bytes that are not there, or more than 64 KiB back",
            ));
        }
        self.expect(length)?;
        for _ in 0..length {
            self.window.push(self.window[self.window.len() - offset]);
        }
        Ok(())
    }

    /// Copies a part of the current literal, so that the window stays short.
    fn copy_literal(&mut self) -> Result<()> {
        let length = self.literal.min(CHUNK_BYTES);
        if length > self.block.len() {
            return Err(truncated());
        }
        self.expect(length)?;
        self.window.extend_from_slice(&self.block[..length]);
        self.block.advance(length);
        self.literal -= length;
        Ok(())
    }

    /// Counts bytes that the block produces.
    fn expect(&mut self, length: usize) -> Result<()> {
        let remaining = u64::try_from(length)
            .ok()
            .and_then(|length| self.expected.checked_sub(length));
        self.expected = remaining.ok_or_else(|| invalid("the block is longer than its header says"))?;
        self.produced = self.produced.saturating_add(length);
        Ok(())
    }

    fn byte(&mut self) -> Result<u8> {
        self.block.try_get_u8().map_err(|_| truncated())
    }

    fn little_endian(&mut self, bytes: usize) -> Result<usize> {
        let number = self.block.try_get_uint_le(bytes).map_err(|_| truncated())?;
        usize::try_from(number).map_err(|_| truncated())
    }
}

impl Read for SnappyReader {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.read == self.window.len() {
            self.fill()?;
        }
        let bytes = &self.window[self.read..];
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.read += count;
        Ok(count)
    }
}

fn invalid(cause: &str) -> Error {
    Error::new(ErrorKind::InvalidData, cause)
}

fn truncated() -> Error {
    Error::new(ErrorKind::UnexpectedEof, "the block is truncated")
}
