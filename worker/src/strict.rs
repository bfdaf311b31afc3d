//! Reads a whole JSON value once and refuses what a typed parse would let through.
//!
//! serde skips the fields that a type does not name without looking at them: a duplicate key, a U+0000 or a
//! lone surrogate in such a field would reach PostgreSQL. Pure; it builds nothing and keeps nothing.
//! First step of decoding, before the typed parse.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::rejection::{Code, Rejection};

/// How deep arrays and objects may nest, the outermost object included.
pub const MAX_DEPTH: usize = 128;

/// From this many keys on, an object's keys are looked up by hash rather than one by one.
const MANY_KEYS: usize = 24;

/// Checks that `value` is one JSON object in UTF-8 that means one thing, and returns it as text.
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
    let verdict = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.disable_recursion_limit();
    let scanned = Scan {
        verdict: &verdict,
        depth: 0,
    }
    .deserialize(&mut deserializer)
    .and_then(|()| deserializer.end());
    match (verdict.take(), scanned) {
        (Some(rejection), _) => Err(rejection),
        (None, Err(error)) => Err(syntax(text, &error)),
        (None, Ok(())) if !text.trim_start().starts_with('{') => Err(Rejection::new(
            Code::ParseError,
            "byte 0: the value is not an object",
        )),
        (None, Ok(())) => Ok(text),
    }
}

/// What `serde_json` says, with its line and column turned into a byte position.
fn syntax(text: &str, error: &serde_json::Error) -> Rejection {
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

/// Visits one value at `depth`; what it finds goes into `verdict`, since serde's errors carry only text.
#[derive(Clone, Copy)]
struct Scan<'v> {
    verdict: &'v RefCell<Option<Rejection>>,
    depth: usize,
}

impl Scan<'_> {
    fn refuse<E: serde::de::Error>(self, code: Code, detail: String) -> E {
        *self.verdict.borrow_mut() = Some(Rejection::new(code, detail));
        E::custom(code)
    }

    fn string<E: serde::de::Error>(self, string: &str) -> Result<(), E> {
        if string.contains('\0') {
            return Err(self.refuse(
                Code::NulCharacter,
                "a string holds U+0000; PostgreSQL cannot store it".into(),
            ));
        }
        Ok(())
    }

    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(self.refuse(Code::TooDeep, format!("nested deeper than {MAX_DEPTH}")));
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
        self.string(string)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut seen = Keys::default();
        while let Some(key) = entries.next_key_seed(Key)? {
            self.string::<A::Error>(&key)?;
            if !seen.insert(key.clone()) {
                return Err(self.refuse(
                    Code::DuplicateKey,
                    format!("the key {key:?} stands twice in one object"),
                ));
            }
            entries.next_value_seed(inner)?;
        }
        Ok(())
    }
}

/// Reads a key, borrowed wherever it needs no unescaping.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
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

/// The keys of one object: a list while they are few, a set when they are many.
#[derive(Default)]
struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    /// Adds a key; `false` when it was there already.
    fn insert(&mut self, key: Cow<'de, str>) -> bool {
        if self.few.len() < MANY_KEYS {
            let new = !self.few.contains(&key);
            self.few.push(key);
            return new;
        }
        !self.few.contains(&key) && self.many.insert(key)
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
        let rejection = check(b"{\n \"a\": ?}").expect_err("a question mark is no value");
        assert_eq!(rejection.detail, "byte 8: expected value");
        let rejection = check(b"{\"a\": \"\xff\"}").expect_err("not UTF-8");
        assert_eq!(rejection.detail, "byte 7: not UTF-8");
    }

    #[test]
    fn a_duplicate_among_many_keys_is_found() {
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
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _verdict = check(&bytes);
        }

        #[test]
        fn what_it_lets_through_is_one_json_object(text in r#"\{("[a-c]":(1|"x"|\[\]|\{\})(,"[a-c]":2)?)?\}"#) {
            if let Ok(text) = check(text.as_bytes()) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(text).is_ok_and(|value| value.is_object()));
            }
        }
    }
}
