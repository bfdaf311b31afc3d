//! The reader and the typed decoder of orders agree: about every change of one value, and about generated messages.

mod typed;

use crds::contract::{EnrichedOrder, OrderFact};
use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::encode::write_message;
use crate::layer::contract_tests::{TEXTS, pointers};
use crate::plan::ORDERS;
use crate::rejection::Code;

const EVENT: &str = include_str!("../../tests/fuzz/order_event.json");
const ENRICHED: &str = include_str!("../../tests/fuzz/enriched_order.json");

/// JSON texts that are interesting in some field, beside those of [`TEXTS`].
const OTHER_TEXTS: &[&str] = &[
    "{\"a\": 1, \"a\": 2}",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\\u00e9\"",
    "\" \\u0418\\u0306 \"",
    "0.123456",
    "1e400",
    "1e-400",
    "4294967296.0",
    "000",
    "-",
    "\"2024-03-31 02:30:00\"",
];

fn texts() -> Vec<&'static str> {
    [TEXTS, OTHER_TEXTS].concat()
}

fn settings() -> DecodeSettings {
    DecodeSettings {
        timezone: TimeZone::get("Europe/Berlin").expect("a time zone"),
        max_record_bytes: 64 << 20,
        max_clock_skew_micros: i64::MAX,
    }
}

/// Code and location of a rejection.
fn summary(rejection: &Rejection) -> (Code, String) {
    let location = rejection.detail.split(": ").next().unwrap_or_default();
    (rejection.code, location.to_owned())
}

/// Asserts that the reader and the typed decoder agree about a message.
fn assert_agreement(kind: &str, value: &[u8]) {
    let settings = settings();
    let shown = String::from_utf8_lossy(value);
    let (typed, read) = if kind == EVENT {
        let typed = typed::decode_event(&settings, value).map(|slots| (slots, vec![None; 2]));
        let layout = &ORDERS.record;
        (typed, read_row(value, layout, &settings, TimestampForm::Local))
    } else {
        let (typed, plan) = (typed::decode_enriched(&settings, value), &ORDERS.enriched);
        let mut read = read_row(value, &plan.layout, &settings, TimestampForm::AnyOffset);
        if let Ok(row) = &mut read {
            fill_fallbacks(row, &plan.fallbacks);
            assert_same_bytes(row);
        }
        (typed, read)
    };
    match (&typed, &read) {
        (Ok(((record, lines), entry_times)), Ok(row)) => {
            assert_eq!(&row.record, record, "{shown}");
            assert_eq!(&row.arrays[0].values, lines, "{shown}");
            assert_eq!(&row.entry_times, entry_times, "{shown}");
        }
        (Err(typed), Err(read)) => assert_eq!(summary(typed), summary(read), "{shown}: {typed} / {read}"),
        _ => panic!("{shown}: {typed:?} / {read:?}"),
    }
}

/// Asserts that the messages of a row are, byte for byte, as their types are serialized.
fn assert_same_bytes(row: &Row<'_>) {
    let enriched = write_message(&ORDERS.enriched_message, row);
    let typed: EnrichedOrder = serde_json::from_slice(&enriched).expect("an enriched order");
    assert_eq!(enriched, serde_json::to_vec(&typed).expect("JSON"));
    let fact = write_message(&ORDERS.fact_message, row);
    let typed: OrderFact = serde_json::from_slice(&fact).expect("a fact");
    assert_eq!(fact, serde_json::to_vec(&typed).expect("JSON"));
}

fn parsed(message: &str) -> Json {
    serde_json::from_str(message).expect("a message")
}

/// Replaces values by JSON texts.
fn replace(message: &str, changes: &[(String, String)]) -> String {
    let mut message = parsed(message);
    for (number, (pointer, _)) in changes.iter().enumerate() {
        if let Some(value) = message.pointer_mut(pointer) {
            *value = json!(format!("@{number}@"));
        }
    }
    let numbered = changes.iter().enumerate();
    numbered.fold(message.to_string(), |message, (number, (_, text))| {
        message.replacen(&format!("\"@{number}@\""), text, 1)
    })
}

#[test]
fn every_change_of_one_value_is_read_as_by_the_typed_decoder() {
    for message in [EVENT, ENRICHED] {
        assert_agreement(message, message.as_bytes());
        for pointer in pointers(&parsed(message)) {
            for text in texts() {
                let changed = replace(message, &[(pointer.clone(), text.to_owned())]);
                assert_agreement(message, changed.as_bytes());
            }
        }
    }
}

#[test]
fn missing_unknown_and_duplicate_keys_are_read_as_by_the_typed_decoder() {
    for message in [EVENT, ENRICHED] {
        for pointer in pointers(&parsed(message)) {
            let mut changed = parsed(message);
            let (parent, name) = pointer.rsplit_once('/').unwrap_or_default();
            if let Some(Json::Object(fields)) = changed.pointer_mut(parent) {
                let value = fields.remove(name);
                assert_agreement(message, changed.to_string().as_bytes());
                if let Some(value) = value {
                    let key = format!("\"{name}\":{value}");
                    let twice = parsed(message)
                        .to_string()
                        .replacen(&key, &format!("{key},{key}"), 1);
                    assert_agreement(message, twice.as_bytes());
                }
            }
            let mut changed = parsed(message);
            if let Some(Json::Object(fields)) = changed.pointer_mut(&pointer) {
                fields.insert("new".to_owned(), json!([1, {"a": null}]));
                assert_agreement(message, changed.to_string().as_bytes());
            }
        }
    }
}

#[test]
fn a_record_of_another_type_is_reported_as_such_whatever_else_is_wrong() {
    for message in [EVENT, ENRICHED] {
        for text in ["-1", "null"] {
            let changes = [("/object_type", "\"refund\""), ("/object_id", text)];
            let changes = changes.map(|(pointer, text)| (pointer.to_owned(), text.to_owned()));
            assert_agreement(message, replace(message, &changes).as_bytes());
        }
    }
}

#[test]
fn too_many_elements_are_rejected_as_by_the_typed_decoder() {
    for (message, array) in [(EVENT, "/payload/order_items"), (ENRICHED, "/payload/products")] {
        for count in [0, 10_000, 10_001] {
            let mut changed = parsed(message);
            if let Some(Json::Array(items)) = changed.pointer_mut(array) {
                *items = vec![items[0].clone(); count];
            }
            assert_agreement(message, changed.to_string().as_bytes());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn generated_messages_are_read_as_by_the_typed_decoder(
        is_event: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(texts())), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let message = if is_event { EVENT } else { ENRICHED };
        let places = pointers(&parsed(message));
        let changes: Vec<(String, String)> = changes
            .into_iter()
            .map(|(place, text)| (place.get(&places[1..]).clone(), text.to_owned()))
            .collect();
        let text = replace(message, &changes);
        let end = cut.map_or(text.len(), |cut| cut.index(text.len()));
        assert_agreement(message, &text.as_bytes()[..end]);
    }
}
