//! Scans a whole JSON value and rejects defects that a typed parse would accept.
//!
//! serde skips the fields that a type does not declare and does not validate them. A duplicate key, a U+0000 or a
//! lone surrogate in such a field would reach PostgreSQL. The scan never builds a value; it only checks.
//! First step of decoding, before the typed parse.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::rejection::{Code, Rejection};

/// Maximum nesting depth of arrays and objects, including the outermost object.
pub const MAX_DEPTH: usize = 128;

/// Number of keys from which on the keys of an object are compared by hash instead of one by one.
const HASHED_KEYS_MIN_COUNT: usize = 24;

/// Checks that `value` is one unambiguous JSON object in UTF-8, and returns it as text.
///
/// # Errors
/// `ParseError` with the byte position, `DuplicateKey`, `TooDeep`, `NulCharacter` or `NumberOutOfRange`.
pub fn check(value: &[u8]) -> Result<&str, Rejection> {
    let text = std::str::from_utf8(value).map_err(|error| {
        Rejection::new(
            Code::ParseError,
            format!("byte {}: not UTF-8", error.valid_up_to()),
        )
    })?;
    let rejection = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.disable_recursion_limit();
    let result = Scan {
        rejection: &rejection,
        depth: 0,
    }
    .deserialize(&mut deserializer)
    .and_then(|()| deserializer.end());
    match (rejection.take(), result) {
        (Some(rejection), _) => Err(rejection),
        (None, Err(error)) => Err(syntax_rejection(text, &error)),
        (None, Ok(())) if !text.trim_start().starts_with('{') => Err(Rejection::new(
            Code::ParseError,
            "byte 0: the value is not an object",
        )),
        (None, Ok(())) => Ok(text),
    }
}

/// Converts an error of `serde_json` into a rejection with a byte position instead of line and column.
fn syntax_rejection(text: &str, error: &serde_json::Error) -> Rejection {
    let before: usize = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let position = before + error.column().saturating_sub(1);
    let message = error.to_string();
    let cause = message.split(" at line ").next().unwrap_or(&message);
    let code = if cause == "number out of range" {
        Code::NumberOutOfRange
    } else {
        Code::ParseError
    };
    Rejection::new(code, format!("byte {position}: {cause}"))
}

/// Visitor of one value at `depth`. It returns a rejection through the cell, because serde's errors carry only text.
#[derive(Clone, Copy)]
pub(crate) struct Scan<'v> {
    rejection: &'v RefCell<Option<Rejection>>,
    depth: usize,
}

impl<'v> Scan<'v> {
    /// Creates a scan of a value within `depth` arrays and objects.
    pub(crate) fn at_depth(depth: usize, rejection: &'v RefCell<Option<Rejection>>) -> Self {
        Self { rejection, depth }
    }

    fn reject<E: serde::de::Error>(self, code: Code, detail: String) -> E {
        *self.rejection.borrow_mut() = Some(Rejection::new(code, detail));
        E::custom(code)
    }

    fn check_string<E: serde::de::Error>(self, string: &str) -> Result<(), E> {
        if string.contains('\0') {
            return Err(self.reject(
                Code::NulCharacter,
                "a string contains U+0000, which PostgreSQL cannot store".into(),
            ));
        }
        Ok(())
    }

    fn nested<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(self.reject(Code::TooDeep, format!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, string: &str) -> Result<(), E> {
        self.check_string(string)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.nested()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inner = self.nested()?;
        let mut keys = ObjectKeys::default();
        while let Some(key) = entries.next_key_seed(KeySeed)? {
            self.check_string::<A::Error>(&key)?;
            if !keys.insert(key.clone()) {
                return Err(self.reject(Code::DuplicateKey, format!("duplicate key {key:?} in one object")));
            }
            entries.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// Deserializer of a key, which is borrowed unless it contains an escape sequence.
pub(crate) struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// Keys of one object: a list up to [`HASHED_KEYS_MIN_COUNT`], a set for the rest.
#[derive(Default)]
pub(crate) struct ObjectKeys<'de> {
    listed: Vec<Cow<'de, str>>,
    hashed: HashSet<Cow<'de, str>>,
}

impl<'de> ObjectKeys<'de> {
    /// Adds a key; returns false if the object already has it.
    pub(crate) fn insert(&mut self, key: Cow<'de, str>) -> bool {
        if self.listed.len() < HASHED_KEYS_MIN_COUNT {
            let is_new = !self.listed.contains(&key);
            self.listed.push(key);
            return is_new;
        }
        !self.listed.contains(&key) && self.hashed.insert(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(value: &[u8]) -> Option<Code> {
        check(value).err().map(|rejection| rejection.code)
    }

    #[test]
    fn each_malformed_value_gets_its_code() {
        let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        let (deepest, too_deep) = (deep(MAX_DEPTH), deep(MAX_DEPTH + 1));
        let cases: [(&[u8], Option<Code>); 18] = [
            (br#"{"a": {"b": [1, -2.5, null, true]}}"#, None),
            ("{\"ключ\": \"значение\"}".as_bytes(), None),
            (deepest.as_bytes(), None),
            (too_deep.as_bytes(), Some(Code::TooDeep)),
            (b"", Some(Code::ParseError)),
            (b"{", Some(Code::ParseError)),
            (b"{} {}", Some(Code::ParseError)),
            (b"[1]", Some(Code::ParseError)),
            (b"17", Some(Code::ParseError)),
            (b"{\"a\": NaN}", Some(Code::ParseError)),
            (b"{\"a\": \"\xff\"}", Some(Code::ParseError)),
            (br#"{"a": "\ud800"}"#, Some(Code::ParseError)),
            (br#"{"a": 1, "a": 1}"#, Some(Code::DuplicateKey)),
            (br#"{"x": {"a": 1, "\u0061": 2}}"#, Some(Code::DuplicateKey)),
            (br#"{"a": "x\u0000y"}"#, Some(Code::NulCharacter)),
            (br#"{"x\u0000y": 1}"#, Some(Code::NulCharacter)),
            (br#"{"a": "\\u0000"}"#, None),
            (br#"{"a": 1e400}"#, Some(Code::NumberOutOfRange)),
        ];
        for (value, expected) in cases {
            assert_eq!(code(value), expected, "{}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn a_parse_error_names_the_byte() {
        let rejection = check(b"{\n \"a\": ?}").expect_err("a question mark is not a value");
        assert_eq!(rejection.detail, "byte 8: expected value");
        let rejection = check(b"{\"a\": \"\xff\"}").expect_err("not UTF-8");
        assert_eq!(rejection.detail, "byte 7: not UTF-8");
    }

    #[test]
    fn a_duplicate_among_many_keys_is_detected() {
        let keys = |last: usize| {
            let keys: Vec<String> = (0..100).chain([last]).map(|n| format!("\"k{n}\":0")).collect();
            format!("{{{}}}", keys.join(","))
        };
        assert_eq!(code(keys(100).as_bytes()), None);
        assert_eq!(code(keys(3).as_bytes()), Some(Code::DuplicateKey));
        assert_eq!(code(keys(99).as_bytes()), Some(Code::DuplicateKey));
    }

    proptest! {
        #[test]
        fn no_input_causes_a_panic(bytes: Vec<u8>) {
            let _result = check(&bytes);
        }

        #[test]
        fn accepted_text_is_one_json_object(text in r#"\{("[a-c]":(1|"x"|\[\]|\{\})(,"[a-c]":2)?)?\}"#) {
            if let Ok(text) = check(text.as_bytes()) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(text).is_ok_and(|value| value.is_object()));
            }
        }
    }
}
