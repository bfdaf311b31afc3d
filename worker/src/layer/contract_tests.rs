//! The published schemas and the layers accept the same messages: generated ones, with a defect or another spelling in
//! one place.
//!
//! Only what a schema cannot express is left out: duplicate keys, depth, size, U+0000 and lone surrogates in fields that
//! are not used, more than 5 decimal places, times that clocks skip, and the clock skew.

use std::sync::LazyLock;

use crds::contract::schemas;
use jiff::tz::TimeZone;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::stg::entry::{Restaurant, User};
use super::{cdm, dds, stg};
use crate::decode::DecodeSettings;
use crate::record::Record;
use crate::rejection::{Code, Rejection};

const ORDER_EVENT: &str = include_str!("../../tests/fuzz/order_event.json");
const ENRICHED_ORDER: &str = include_str!("../../tests/fuzz/enriched_order.json");
const ORDER_FACT: &str = include_str!("../../tests/fuzz/order_fact.json");
const USER_ENTRY: &str = include_str!("../../tests/fuzz/user_entry.json");
const RESTAURANT_ENTRY: &str = include_str!("../../tests/fuzz/restaurant_entry.json");

/// JSON texts that are interesting in some field: other spellings of a number, other types, limits, white space.
pub(crate) const TEXTS: &[&str] = &[
    "null",
    "true",
    "[]",
    "{}",
    "[[]]",
    "[null]",
    "[\"x\"]",
    "[{}]",
    "{\"id\": \"x\"}",
    "{\"id\": 7}",
    "\"\"",
    "\" \"",
    "\"x\"",
    "\"order\"",
    "\"ORDER\"",
    "\"\\u00a0\\u3000\\t\\n\"",
    "\"\\ufeff\"",
    "\"\\u0085\"",
    "\"\\u180e\"",
    "\"\\u200b\"",
    "\"\\u0085x\"",
    "\"\u{10ffff}\"",
    "\"a\\nb\"",
    "\"2\"",
    "\"2.0\"",
    "0",
    "-0",
    "-0.0",
    "0.0",
    "1",
    "2.0",
    "1e2",
    "1E+2",
    "20e-1",
    "1.5",
    "1e-1",
    "-1",
    "-1.0",
    "-1e0",
    "-0.5",
    "0.12345",
    "0.123450",
    "1e-5",
    "12345.67891",
    "99999999999999",
    "99999999999999.0",
    "100000000000000",
    "1e14",
    "1e15",
    "1e28",
    "1e40",
    "2147483647",
    "2147483648",
    "2147483647.0",
    "2147483648.0",
    "-2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "1e19",
    "9007199254740993.0",
    "0e400",
    "0e-400",
    "\"2024-02-29 23:59:59\"",
    "\"2023-02-29 23:59:59\"",
    "\"2024-02-24 12:00:60\"",
    "\"2024-02-24 24:00:00\"",
    "\"2024-02-24T12:00:05.123456\"",
    "\"2024-02-24 12:00:05.1234560\"",
    "\"2024-02-24 12:00:05.1234567\"",
    "\"2024-02-24T12:00:05Z\"",
    "\"2024-02-24T12:00:05+03:00\"",
    "\"2024-02-24 12:00:05+03:00\"",
    "\"2024-02-24t12:00:05z\"",
    "\"2024-02-24T12:00:05+24:00\"",
    "\"0001-01-01 00:00:00\"",
    "\"0000-01-01 00:00:00\"",
    "\"9999-12-31 23:59:59\"",
    "\"0190d6a5-8f6c-8e3a-9b1c-6f2d3e4a5b6c\"",
    "\"0190D6A5-8F6C-8E3A-9B1C-6F2D3E4A5B6C\"",
    "\"0190d6a58f6c8e3a9b1c6f2d3e4a5b6c\"",
    "\"{0190d6a5-8f6c-8e3a-9b1c-6f2d3e4a5b6c}\"",
    "\" 0190d6a5-8f6c-8e3a-9b1c-6f2d3e4a5b6c\"",
    "\"urn:uuid:0190d6a5-8f6c-8e3a-9b1c-6f2d3e4a5b6c\"",
];

/// Text that stands for the changed value until the message is a text.
const PLACEHOLDER: &str = "\"@changed@\"";

fn decode(name: &str, text: &str) -> Result<(), Rejection> {
    let settings = DecodeSettings {
        timezone: TimeZone::UTC,
        max_record_bytes: 64 << 20,
        // The schema does not know the clock.
        max_clock_skew_micros: i64::MAX,
    };
    let record = Record {
        value: Some(text.as_bytes().to_vec()),
        ..Record::default()
    };
    match name {
        "order_event" => stg::decode::decode_order(&settings, &record, i64::MAX).map(drop),
        "enriched_order" => dds::decode::decode_order(&settings, &record, i64::MAX).map(drop),
        "order_fact" => cdm::decode::decode_fact(&settings, &record, i64::MAX).map(drop),
        "user_entry" => User::parse(text.as_bytes()).map(drop).map_err(malformed),
        _ => Restaurant::parse(text.as_bytes())
            .and_then(|restaurant| {
                let defects = restaurant.products.into_values().filter_map(Result::err);
                defects.chain(restaurant.unidentified).next().map_or(Ok(()), Err)
            })
            .map_err(malformed),
    }
}

fn malformed(defect: String) -> Rejection {
    Rejection::new(Code::ReferenceDataMissing, defect)
}

/// A message type: its name, a valid message, and its schema.
struct Contract {
    name: &'static str,
    message: Value,
    schema: jsonschema::Validator,
}

static CONTRACTS: LazyLock<[Contract; 5]> = LazyLock::new(|| {
    [
        ("order_event", ORDER_EVENT),
        ("enriched_order", ENRICHED_ORDER),
        ("order_fact", ORDER_FACT),
        ("user_entry", USER_ENTRY),
        ("restaurant_entry", RESTAURANT_ENTRY),
    ]
    .map(|(name, message)| {
        let schemas = schemas();
        let (_, schema) = schemas.iter().find(|(other, _)| *other == name).expect(name);
        Contract {
            name,
            message: serde_json::from_str(message).expect(name),
            schema: jsonschema::validator_for(schema).expect(name),
        }
    })
});

/// JSON pointers of all values in a message, including the message itself.
pub(crate) fn pointers(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => (0..).map(|index: usize| index.to_string()).zip(items).collect(),
        _ => Vec::new(),
    };
    let inner = children.into_iter().flat_map(|(name, child)| {
        pointers(child)
            .into_iter()
            .map(move |rest| format!("/{name}{rest}"))
    });
    [String::new()].into_iter().chain(inner).collect()
}

/// Replaces the value at a pointer by a JSON text.
fn replace(message: &Value, pointer: &str, text: &str) -> String {
    let mut message = message.clone();
    *message.pointer_mut(pointer).expect(pointer) = json!("@changed@");
    message.to_string().replacen(PLACEHOLDER, text, 1)
}

/// Asserts that schema and layer agree about a message.
fn assert_agreement(contract: &Contract, text: &str) {
    let value: Value = serde_json::from_str(text).expect(text);
    let errors: Vec<String> = contract
        .schema
        .iter_errors(&value)
        .map(|error| error.to_string())
        .collect();
    match decode(contract.name, text) {
        Ok(()) => assert!(errors.is_empty(), "{} accepts {text}: {errors:?}", contract.name),
        Err(rejection) => assert!(
            !errors.is_empty(),
            "{} rejects {text}: {rejection}",
            contract.name
        ),
    }
}

#[test]
fn schema_and_layer_agree_about_every_change_of_one_value() {
    for contract in &*CONTRACTS {
        assert_eq!(decode(contract.name, &contract.message.to_string()), Ok(()));
        for pointer in pointers(&contract.message) {
            for text in TEXTS {
                assert_agreement(contract, &replace(&contract.message, &pointer, text));
            }
        }
    }
}

#[test]
fn schema_and_layer_reject_the_zero_character_in_every_field_that_is_used() {
    let unused = ["bonus_payment", "bonus_grant", "statuses"];
    for contract in &*CONTRACTS {
        for pointer in pointers(&contract.message) {
            if !unused.iter().any(|field| pointer.contains(field)) {
                for text in [r#""\u0000""#, r#""x\u0000""#, r#""\u0000x""#] {
                    assert_agreement(contract, &replace(&contract.message, &pointer, text));
                }
            }
        }
    }
}

#[test]
fn schema_and_layer_agree_about_missing_unknown_and_many_values() {
    for contract in &*CONTRACTS {
        for pointer in pointers(&contract.message) {
            let mut changed = contract.message.clone();
            let (parent, name) = pointer.rsplit_once('/').unwrap_or_default();
            match changed.pointer_mut(parent) {
                Some(Value::Object(fields)) if !pointer.is_empty() => drop(fields.remove(name)),
                Some(Value::Array(items)) => items.clear(),
                _ => continue,
            }
            assert_agreement(contract, &changed.to_string());
        }
        for pointer in pointers(&contract.message) {
            let mut changed = contract.message.clone();
            match changed.pointer_mut(&pointer) {
                Some(Value::Object(fields)) => drop(fields.insert("new".to_owned(), json!([1, {"a": null}]))),
                Some(Value::Array(items)) => {
                    *items = vec![items[0].clone(); 10_000];
                    assert_agreement(contract, &changed.to_string());
                    if let Some(Value::Array(items)) = changed.pointer_mut(&pointer) {
                        items.push(items[0].clone());
                    }
                }
                _ => continue,
            }
            assert_agreement(contract, &changed.to_string());
        }
    }
}

/// A JSON value of any type, without what no schema can express.
fn any_text() -> impl Strategy<Value = String> {
    let string =
        "[ -~\u{85}\u{a0}\u{400}-\u{44f}\u{feff}\u{1f363}]{0,4}".prop_map(|text| json!(text).to_string());
    // The validator reads a fraction as a float, so a fraction has at most 15 digits here.
    let decimal = (-999_999_999..1_000_000_000_i64, 0..100_000_u32)
        .prop_map(|(whole, fraction)| format!("{whole}.{fraction:05}"));
    let scientific =
        (-99_999..99_999_i32, 0..12_i32).prop_map(|(number, exponent)| format!("{number}e{exponent}"));
    let scalar = prop_oneof![
        prop::sample::select(TEXTS).prop_map(ToOwned::to_owned),
        string,
        any::<i64>().prop_map(|number| number.to_string()),
        (0..200_000_i64).prop_map(|number| number.to_string()),
        decimal,
        scientific,
        "\"(19|20)[0-9]{2}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{1,9})?(Z|[+-]0[0-9]:30)?\"",
    ];
    scalar.prop_recursive(2, 8, 3, |inner| {
        let name =
            prop::sample::select(&["id", "name", "login", "price", "quantity", "category", "status"][..]);
        let fields = prop::collection::btree_map(name, inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            fields.prop_map(|fields| {
                let fields = fields
                    .into_iter()
                    .map(|(name, value)| format!("\"{name}\": {value}"));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(" ,\n\t"))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn schema_and_layer_agree_about_generated_messages(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_text()), 1..3)
    ) {
        for contract in &*CONTRACTS {
            let mut message = contract.message.clone();
            let mut texts = Vec::new();
            for (place, text) in &changes {
                let places = pointers(&message);
                let pointer = place.get(&places[1..]);
                let placeholder = format!("@{}@", texts.len());
                *message.pointer_mut(pointer).expect(pointer) = json!(placeholder);
                texts.push((placeholder, text));
            }
            let text = texts.into_iter().fold(message.to_string(), |message, (placeholder, text)| {
                message.replacen(&format!("\"{placeholder}\""), text, 1)
            });
            assert_agreement(contract, &text);
        }
    }
}
