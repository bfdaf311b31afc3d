//! JSON in the format of the source system: a space after commas and colons, unescaped letters, decimal amounts.

use std::io;

use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;
use serde_json::value::RawValue;

/// Amount in kopecks, serialized as a decimal without trailing zeros: 180, 180.5, 180.05. Must never be a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(pub u32);

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (roubles, kopecks) = (self.0 / 100, self.0 % 100);
        let text = match kopecks {
            0 => roubles.to_string(),
            tens if tens % 10 == 0 => format!("{roubles}.{}", tens / 10),
            _ => format!("{roubles}.{kopecks:02}"),
        };
        RawValue::from_string(text)
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

/// Serializes a value in that format.
pub(super) fn to_json(value: &impl Serialize) -> String {
    let mut bytes = Vec::with_capacity(2048);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, SpacedFormatter);
    value
        .serialize(&mut serializer)
        .expect("plain data can be written into memory");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

struct SpacedFormatter;

impl Formatter for SpacedFormatter {
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
