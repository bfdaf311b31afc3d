//! Business keys in messages: text that is not blank, in its normalized form.
//!
//! The only place that normalizes a business key that a stage reads. Every later use is by the normalized key: a lookup
//! in the reference data, a key of a map, a hash key. Therefore no two of them can disagree about which keys are equal.

use std::borrow::Cow;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize as _, Deserializer, de};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Pattern of a text with a character that is neither white space nor U+0000, which is nowhere in the text.
///
/// White space as Unicode and [`str::trim`] define it, in numbers, because `\s` differs between regex engines.
const NOT_BLANK_PATTERN: &str = "^[^\\u0000]*[^\\u0000\\u0009-\\u000D\\u0020\\u0085\\u00A0\\u1680\\u2000-\\u200A\\u2028\\u2029\\u202F\\u205F\\u3000][^\\u0000]*$";

/// Normalizes a business key: composes Unicode characters (NFC) and trims white space, so that different encodings of
/// the same text are the same key. Case is significant, because ids are case-sensitive.
#[must_use]
pub fn normalize(key: &str) -> Cow<'_, str> {
    if is_nfc_quick(key.chars()) == IsNormalized::Yes {
        return Cow::Borrowed(key.trim());
    }
    let composed: String = key.nfc().collect();
    Cow::Owned(composed.trim().to_owned())
}

/// Deserializes and normalizes a business key.
///
/// # Errors
/// If the value is not a string, or is blank.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let key = normalize(&text);
    if key.is_empty() {
        return Err(de::Error::invalid_value(
            de::Unexpected::Str(&text),
            &"an id that is not empty",
        ));
    }
    if key.len() == text.len() && key == text {
        return Ok(text);
    }
    Ok(key.into_owned())
}

/// Schema of the texts that [`deserialize`] accepts.
pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": NOT_BLANK_PATTERN})
}

/// Deserializes a hash key: a UUID with hyphens. It is not normalized, because no person writes it.
pub(super) fn deserialize_hash_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    const SHAPE: &[u8; 36] = b"00000000-0000-0000-0000-000000000000";
    let text = String::deserialize(deserializer)?;
    let has_shape = text.len() == SHAPE.len()
        && text.bytes().zip(SHAPE).all(|(byte, shape)| match shape {
            b'-' => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if has_shape {
        return Ok(text);
    }
    Err(de::Error::invalid_value(
        de::Unexpected::Str(&text),
        &"a UUID with hyphens",
    ))
}

/// Schema of the texts that [`deserialize_hash_key`] accepts.
pub(super) fn hash_key_schema(_: &mut SchemaGenerator) -> Schema {
    let pattern = "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}$";
    json_schema!({"type": "string", "pattern": pattern})
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_business_key_is_deserialized_in_its_normalized_form() {
        let read = |text: &str| {
            deserialize(&mut serde_json::Deserializer::from_str(text)).map_err(|error| error.to_string())
        };
        assert_eq!(read(r#""626a""#), Ok("626a".to_owned()));
        assert_eq!(read(r#"" 626a\t\n""#), Ok("626a".to_owned()));
        assert_eq!(read(r#""\u0418\u0306огурт\u00a0""#), Ok("Йогурт".to_owned()));
        for blank in [r#""""#, r#"" ""#, r#""\u2003""#] {
            assert!(read(blank).is_err(), "{blank}");
        }
    }

    proptest! {
        #[test]
        fn normalization_is_idempotent(key in r"\PC{0,20}|[ \tИи\u{306}\u{a0}\u{301}\u{2000}a]{0,8}") {
            let once = normalize(&key).into_owned();
            prop_assert_eq!(normalize(&once), once.as_str());
        }
    }
}
