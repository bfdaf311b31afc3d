//! Every way in which a message can be bad, each with the dead-letter code that it must get. Pure.
//!
//! Each form is an ordinary message with one thing spoilt, so that nothing but that thing can be the reason.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

use super::{Expected, Message};

/// The form that is large (0.7 MB), and so comes only once in a while: the last of [`FORMS`].
const LARGE: usize = FORMS.len() - 1;
/// One of so many bad messages is of the large form.
const LARGE_EVERY: u32 = 250;

/// The one form that has no value at all.
const TOMBSTONE: &str = "Tombstone";

/// A code, and how a good message is turned into one that must get it.
type Form = (&'static str, fn(&str) -> Vec<u8>);

/// All forms; the codes are those of the pipeline's table of bad input.
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
    ("BadTimestamp", |good| {
        set(good, "update_ts", r#""2024-02-30 12:00:00""#)
    }),
    ("BadTimestamp", |good| {
        set(good, "date", r#""2024-02-24 25:61:00""#)
    }),
    ("BadTimestamp", |good| {
        set(good, "update_ts", r#""2999-01-01 00:00:00""#)
    }),
    ("TooLarge", |good| set(good, "order_items", &items(10_001))),
];

/// The forms in a shuffled order, again and again, so that even a few bad messages are of many kinds.
#[derive(Clone, Debug, Default)]
pub(super) struct Deck {
    left: Vec<usize>,
}

impl Deck {
    /// The next form.
    pub(super) fn draw(&mut self, random: &mut impl Rng) -> usize {
        if random.random_ratio(1, LARGE_EVERY) {
            return LARGE;
        }
        if self.left.is_empty() {
            self.left = (0..LARGE).collect();
            self.left.shuffle(random);
        }
        self.left.pop().unwrap_or(0)
    }
}

/// The message of a form, made from the text of a good one.
pub(super) fn message(form: usize, good: &str) -> Message {
    let (code, spoil) = FORMS[form];
    let value = (code != TOMBSTONE).then(|| spoil(good));
    Message {
        value,
        expected: Expected::Bad(code),
    }
}

/// Puts another value in place of that of the first field of that name.
fn set(good: &str, field: &str, value: &str) -> Vec<u8> {
    let name = format!("\"{field}\": ");
    let (before, rest) = good.split_once(&name).unwrap_or((good, ""));
    format!("{before}{name}{value}{}", &rest[value_length(rest)..]).into_bytes()
}

/// How long the JSON value is that the text begins with.
fn value_length(text: &str) -> usize {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let _value = values.next();
    values.byte_offset()
}

/// Adds a field in front of the others.
fn add(good: &str, field: &str) -> Vec<u8> {
    good.replacen('{', &format!("{{{field}, "), 1).into_bytes()
}

/// Gives a field a name that nobody looks for, so that it is missing.
fn without(good: &str, field: &str) -> Vec<u8> {
    good.replacen(&format!("\"{field}\": "), &format!("\"{field}_\": "), 1)
        .into_bytes()
}

/// Puts a byte that no UTF-8 text holds into the first name.
fn not_utf8(good: &str) -> Vec<u8> {
    let (before, after) = good.split_once("\"name\": \"").unwrap_or((good, ""));
    [before.as_bytes(), b"\"name\": \"\xff", after.as_bytes()].concat()
}

/// A list of so many small lines.
fn items(count: usize) -> String {
    let line = r#"{"id": "6276e8cd0cf48b4cded00878", "name": "X", "price": 1, "quantity": 1}"#;
    format!("[{}]", vec![line; count].join(", "))
}
