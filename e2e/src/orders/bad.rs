//! All forms of malformed messages, each with its expected dead-letter code. Pure.
//!
//! Each form is a valid message with exactly one defect, so that nothing else can cause the rejection.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::message::{Expected, Message};

/// Index of the large form (0.7 MB), which is drawn rarely: the last of [`FORMS`].
const LARGE_FORM: usize = FORMS.len() - 1;
/// Average number of malformed messages per message of the large form.
const LARGE_FORM_INTERVAL: u32 = 250;

/// Code of the only form without a value.
const TOMBSTONE: &str = "Tombstone";

/// A dead-letter code, and the function that makes a valid message malformed in that way.
type Form = (&'static str, fn(&str) -> Vec<u8>);

/// All forms, with the dead-letter codes of the worker.
pub(super) const FORMS: [Form; 31] = [
    ("ParseError", |good| {
        good.as_bytes()[..good.len() * 2 / 3].to_vec()
    }),
    ("ParseError", not_utf8),
    ("ParseError", |_| Vec::new()),
    ("ParseError", |good| format!("[{good}]").into_bytes()),
    ("ParseError", |_| "322519".into()),
    ("ParseError", |_| "\"order\"".into()),
    ("ParseError", |good| format!("{good}}}").into_bytes()),
    ("ParseError", |good| set(good, "name", r#""\ud800""#)),
    ("ParseError", |good| set(good, "cost", "NaN")),
    (TOMBSTONE, |_| Vec::new()),
    ("ContractViolation", |good| without(good, "update_ts")),
    ("ContractViolation", |good| without(good, "order_items")),
    ("ContractViolation", |good| set(good, "cost", r#""a lot""#)),
    ("ContractViolation", |good| set(good, "payload", "[]")),
    ("ContractViolation", |good| set(good, "quantity", "1.5")),
    ("ContractViolation", |good| set(good, "user", r#"{"id": ""}"#)),
    ("ContractViolation", |good| set(good, "cost", "-360")),
    ("DuplicateKey", |good| add(good, r#""object_id": 1"#)),
    ("DuplicateKey", |good| {
        set(
            good,
            "user",
            r#"{"id": "626a81ce9a8cd1920641e264", "id": "626a81ce9a8cd1920641e265"}"#,
        )
    }),
    ("DuplicateKey", |good| add(good, r#""note": {"a": 1, "a": 1}"#)),
    ("TooDeep", |good| {
        add(
            good,
            &format!(r#""note": {}{}"#, "[".repeat(200), "]".repeat(200)),
        )
    }),
    ("UnsupportedType", |good| set(good, "object_type", r#""courier""#)),
    ("UnsupportedType", |_| {
        r#"{"object_id": 7, "object_type": "user", "sent_dttm": "2024-02-24 12:00:05", "payload": {}}"#.into()
    }),
    ("NulCharacter", |good| set(good, "name", r#""РОЛЛ\u0000""#)),
    ("NulCharacter", |good| add(good, r#""note": "\u0000""#)),
    ("NumberOutOfRange", |good| {
        set(good, "object_id", "9223372036854775808")
    }),
    ("NumberOutOfRange", |good| set(good, "cost", "1e400")),
    ("InvalidTimestamp", |good| {
        set(good, "update_ts", r#""2024-02-30 12:00:00""#)
    }),
    ("InvalidTimestamp", |good| {
        set(good, "date", r#""2024-02-24 25:61:00""#)
    }),
    ("InvalidTimestamp", |good| {
        set(good, "update_ts", r#""2999-01-01 00:00:00""#)
    }),
    ("TooLarge", |good| set(good, "order_items", &items(10_001))),
];

/// Shuffled forms, reshuffled when they are used up, so that a few malformed messages already have many forms.
#[derive(Clone, Debug, Default)]
pub(super) struct FormDeck {
    remaining: Vec<usize>,
}

impl FormDeck {
    /// Draws the index of a form.
    pub(super) fn draw(&mut self, random: &mut impl Rng) -> usize {
        if random.random_ratio(1, LARGE_FORM_INTERVAL) {
            return LARGE_FORM;
        }
        if self.remaining.is_empty() {
            self.remaining = (0..LARGE_FORM).collect();
            self.remaining.shuffle(random);
        }
        self.remaining.pop().unwrap_or(0)
    }
}

/// Makes a malformed message of a form from the text of a valid one.
pub(super) fn malformed_message(form: usize, good: &str) -> Message {
    let (code, make_malformed) = FORMS[form];
    let value = (code != TOMBSTONE).then(|| make_malformed(good));
    Message {
        value,
        expected: Expected::Bad(code),
    }
}

/// Replaces the value of the first field with this name.
fn set(good: &str, field: &str, value: &str) -> Vec<u8> {
    let name = format!("\"{field}\": ");
    let (before, rest) = good.split_once(&name).unwrap_or((good, ""));
    format!("{before}{name}{value}{}", &rest[value_length(rest)..]).into_bytes()
}

/// Length in bytes of the JSON value at the start of the text.
fn value_length(text: &str) -> usize {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let _value = values.next();
    values.byte_offset()
}

/// Inserts a field before the others.
fn add(good: &str, field: &str) -> Vec<u8> {
    good.replacen('{', &format!("{{{field}, "), 1).into_bytes()
}

/// Renames a field, so that the required one is missing.
fn without(good: &str, field: &str) -> Vec<u8> {
    good.replacen(&format!("\"{field}\": "), &format!("\"{field}_\": "), 1)
        .into_bytes()
}

/// Inserts a byte that is invalid in UTF-8 into the first name.
fn not_utf8(good: &str) -> Vec<u8> {
    let (before, after) = good.split_once("\"name\": \"").unwrap_or((good, ""));
    [before.as_bytes(), b"\"name\": \"\xff", after.as_bytes()].concat()
}

/// JSON array with `count` small order lines.
fn items(count: usize) -> String {
    let line = r#"{"id": "6276e8cd0cf48b4cded00878", "name": "X", "price": 1, "quantity": 1}"#;
    format!("[{}]", vec![line; count].join(", "))
}
