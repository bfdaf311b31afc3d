//! Messages: types and JSON Schemas accept the same texts, and serialization preserves every field.

use std::{fs, path::Path};

use crds::contract::{EnrichedOrder, OrderEvent, OrderFact, RestaurantEntry, UserEntry, schemas};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

const ORDER_EVENT: &str = r#"{"object_id": 322519, "object_type": "order", "sent_dttm": "2024-02-24 12:00:05",
 "payload": {
   "restaurant": {"id": "ef8c42c19b7518a9aebec106"}, "user": {"id": "626a81ce9a8cd1920641e264"},
   "date": "2024-02-24 11:58:12",
   "order_items": [{"id": "6276e8cd0cf48b4cded00878", "name": "РОЛЛ С ТОФУ И ВЯЛЕНЫМИ ТОМАТАМИ", "price": 180, "quantity": 2}],
   "bonus_payment": 0, "cost": 360, "payment": 360, "bonus_grant": 18,
   "statuses": [{"status": "OPEN", "dttm": "2024-02-24 11:58:12"}, {"status": "CLOSED", "dttm": "2024-02-24 12:00:00"}],
   "final_status": "CLOSED", "update_ts": "2024-02-24 12:00:00"}}"#;

const ENRICHED_ORDER: &str = r#"{"object_id": 322519, "object_type": "order",
 "payload": {"id": 322519, "date": "2024-02-24 11:58:12", "update_ts": "2024-02-24 12:00:00", "cost": 360, "payment": 360, "status": "CLOSED",
   "restaurant": {"id": "ef8c42c19b7518a9aebec106", "name": "Вкус Индии"}, "user": {"id": "626a81ce9a8cd1920641e264", "name": "Кира Голубева", "login": "kira"},
   "products": [{"id": "6276e8cd0cf48b4cded00878", "name": "РОЛЛ С ТОФУ И ВЯЛЕНЫМИ ТОМАТАМИ", "price": 180, "quantity": 2, "category": "Роллы"}]}}"#;

const ORDER_FACT: &str = r#"{"object_id": 322519, "object_type": "order",
 "payload": {"id": 322519, "update_ts": "2024-02-24 12:00:00", "status": "CLOSED",
   "user": {"id": "0190d6a5-8f6c-8e3a-9b1c-6f2d3e4a5b6c", "name": "Кира Голубева"},
   "products": [{"id": "1190d6a5-8f6c-8e3a-9b1c-6f2d3e4a5b6c", "name": "РОЛЛ С ТОФУ И ВЯЛЕНЫМИ ТОМАТАМИ"}],
   "categories": [{"id": "2190d6a5-8f6c-8e3a-9b1c-6f2d3e4a5b6c", "name": "Роллы"}]}}"#;

const USER: &str = r#"{"name": "Кира Голубева", "login": "kira"}"#;

const RESTAURANT: &str =
    r#"{"name": "Вкус Индии", "menu": [{"_id": "6276e8cd0cf48b4cded00878", "category": "Роллы"}]}"#;

/// Schema name and text of every message.
const MESSAGES: [(&str, &str); 5] = [
    ("order_event", ORDER_EVENT),
    ("enriched_order", ENRICHED_ORDER),
    ("order_fact", ORDER_FACT),
    ("user_entry", USER),
    ("restaurant_entry", RESTAURANT),
];

fn validator(name: &str) -> jsonschema::Validator {
    let (_, schema) = schemas()
        .into_iter()
        .find(|(candidate, _)| *candidate == name)
        .expect(name);
    jsonschema::validator_for(&schema).expect("a JSON Schema")
}

fn parse_json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Deserializes `text` with the type of the message `name`; returns the error as text.
fn deserialize(name: &str, text: &str) -> Result<(), String> {
    fn deserialize_as<T: DeserializeOwned>(text: &str) -> Result<(), String> {
        serde_json::from_str::<T>(text)
            .map(drop)
            .map_err(|error| error.to_string())
    }
    match name {
        "order_event" => deserialize_as::<OrderEvent>(text),
        "enriched_order" => deserialize_as::<EnrichedOrder>(text),
        "order_fact" => deserialize_as::<OrderFact>(text),
        "user_entry" => deserialize_as::<UserEntry>(text),
        "restaurant_entry" => deserialize_as::<RestaurantEntry>(text),
        other => unreachable!("no message {other}"),
    }
}

/// Deserializes and serializes `text`; the result has no white space.
fn reserialize<T: DeserializeOwned + Serialize>(text: &str) -> String {
    serde_json::to_string(&serde_json::from_str::<T>(text).expect("a message")).expect("JSON")
}

/// Removes the insignificant white space of a JSON text.
fn compact(text: &str) -> String {
    let (mut quoted, mut compact) = (false, String::new());
    for character in text.chars() {
        quoted ^= character == '"';
        if quoted || !character.is_whitespace() {
            compact.push(character);
        }
    }
    compact
}

#[test]
fn committed_schemas_match_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    #[expect(
        clippy::disallowed_methods,
        reason = "the variable makes this test update the schemas"
    )]
    let update = std::env::var("UPDATE_SCHEMAS").is_ok();
    for (name, schema) in schemas() {
        let path = folder.join(format!("{name}.json"));
        let expected = format!("{}\n", serde_json::to_string_pretty(&schema).expect("JSON"));
        if update {
            fs::write(&path, &expected).expect("a writable folder");
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == expected,
            "schemas/{name}.json is out of date: run `UPDATE_SCHEMAS=1 cargo test -p streamstage-crds` and commit it"
        );
    }
}

#[test]
fn published_messages_match_their_schema_and_type() {
    for (name, message) in MESSAGES {
        let errors: Vec<_> = validator(name)
            .iter_errors(&parse_json(message))
            .map(|error| error.to_string())
            .collect();
        assert_eq!(errors, [""; 0], "{name}");
        assert_eq!(deserialize(name, message), Ok(()), "{name}");
    }
}

#[test]
fn serialized_messages_have_the_published_field_order() {
    assert_eq!(reserialize::<OrderEvent>(ORDER_EVENT), compact(ORDER_EVENT));
    assert_eq!(
        reserialize::<EnrichedOrder>(ENRICHED_ORDER),
        compact(ENRICHED_ORDER)
    );
    assert_eq!(reserialize::<OrderFact>(ORDER_FACT), compact(ORDER_FACT));
    assert_eq!(reserialize::<UserEntry>(USER), compact(USER));
    assert_eq!(reserialize::<RestaurantEntry>(RESTAURANT), compact(RESTAURANT));
}

#[test]
fn schema_and_type_reject_the_same_violations() {
    for (name, pointer, bad) in [
        ("order_event", "/object_id", json!("322519")),
        ("order_event", "/object_id", json!(1.5)),
        ("order_event", "/payload/user/id", json!("")),
        ("order_event", "/payload/user/id", json!(" ")),
        ("order_event", "/payload/restaurant", json!(null)),
        ("order_event", "/payload/order_items", json!(null)),
        ("order_event", "/payload/order_items/0/id", json!("")),
        ("order_event", "/payload/order_items/0/price", json!("180")),
        ("order_event", "/payload/order_items/0/quantity", json!(1.5)),
        ("order_event", "/payload/cost", json!(-1)),
        ("order_event", "/payload/final_status", json!(7)),
        ("enriched_order", "/payload/products/0/category", json!("")),
        ("enriched_order", "/payload/user/login", json!(null)),
        ("order_fact", "/payload/user/id", json!("")),
        ("order_fact", "/payload/categories", json!({})),
        ("user_entry", "/login", json!(null)),
        ("restaurant_entry", "/menu/0/_id", json!(17)),
        ("restaurant_entry", "/menu/0/category", json!(" ")),
    ] {
        let (_, message) = MESSAGES
            .into_iter()
            .find(|(candidate, _)| *candidate == name)
            .expect(name);
        let mut message = parse_json(message);
        *message.pointer_mut(pointer).expect(pointer) = bad.clone();
        assert!(
            !validator(name).is_valid(&message),
            "schema {name}: {pointer} = {bad}"
        );
        assert!(
            deserialize(name, &message.to_string()).is_err(),
            "type {name}: {pointer} = {bad}"
        );
    }
}

#[test]
fn exactly_the_fields_that_the_pipeline_uses_are_required() {
    for (name, message) in MESSAGES {
        let message = parse_json(message);
        for parent in [
            "",
            "/payload",
            "/payload/user",
            "/payload/order_items/0",
            "/payload/products/0",
            "/menu/0",
        ] {
            let Some(Value::Object(fields)) = message.pointer(parent) else {
                continue;
            };
            for field in fields.keys() {
                let mut without = message.clone();
                without
                    .pointer_mut(parent)
                    .and_then(Value::as_object_mut)
                    .expect("an object")
                    .remove(field);
                let required = validator(name).is_valid(&without);
                assert_eq!(
                    deserialize(name, &without.to_string()).is_ok(),
                    required,
                    "{name}: {parent}/{field}"
                );
                let optional = ["bonus_payment", "bonus_grant", "statuses"].contains(&field.as_str())
                    || (field == "update_ts" && name == "enriched_order");
                assert_eq!(required, optional, "{name}: {parent}/{field}");
            }
        }
    }
}

#[test]
fn unknown_fields_are_accepted() {
    for (name, message) in MESSAGES {
        let mut message = parse_json(message);
        message["new"] = json!({"deep": [1, null]});
        if message["payload"].is_object() {
            message["payload"]["new"] = json!(1);
        }
        assert!(validator(name).is_valid(&message), "schema {name}");
        assert_eq!(deserialize(name, &message.to_string()), Ok(()), "type {name}");
    }
}

#[test]
fn a_field_of_an_entry_that_no_stage_uses_may_have_any_value() {
    for value in [json!(null), json!("100.00"), json!(-1), json!([])] {
        let mut user = parse_json(USER);
        user["_id"] = value.clone();
        user["update_ts"] = value.clone();
        let mut restaurant = parse_json(RESTAURANT);
        restaurant["_id"] = value.clone();
        restaurant["menu"][0]["name"] = value.clone();
        restaurant["menu"][0]["price"] = value.clone();
        for (name, entry) in [("user_entry", user), ("restaurant_entry", restaurant)] {
            assert!(validator(name).is_valid(&entry), "schema {name}: {value}");
            assert_eq!(deserialize(name, &entry.to_string()), Ok(()), "{name}: {value}");
        }
    }
}

#[test]
fn empty_orders_and_repeated_products_are_accepted() {
    let mut message = parse_json(ORDER_EVENT);
    message["payload"]["order_items"] = json!([]);
    assert_eq!(deserialize("order_event", &message.to_string()), Ok(()));
    let mut message = parse_json(ENRICHED_ORDER);
    let line = message["payload"]["products"][0].clone();
    message["payload"]["products"] = json!([line, line]);
    assert_eq!(deserialize("enriched_order", &message.to_string()), Ok(()));
}

#[test]
fn a_missing_update_ts_stays_missing() {
    let mut message = parse_json(ENRICHED_ORDER);
    message["payload"]
        .as_object_mut()
        .expect("an object")
        .remove("update_ts");
    let text = message.to_string();
    assert!(!reserialize::<EnrichedOrder>(&text).contains("update_ts"));
}

#[test]
fn escaped_text_is_unescaped() {
    let user: UserEntry = serde_json::from_str(r#"{"name": "\"К\"", "login": "6\u0032"}"#).expect("a user");
    assert_eq!((user.name.as_str(), user.login.as_str()), ("\"К\"", "62"));
}

#[test]
fn an_error_has_the_path_of_its_field() {
    let mut message = parse_json(ORDER_EVENT);
    message["payload"]["order_items"][0]["price"] = json!(-5);
    let text = message.to_string();
    let error =
        serde_path_to_error::deserialize::<_, OrderEvent>(&mut serde_json::Deserializer::from_str(&text))
            .expect_err("a negative price");
    assert_eq!(error.path().to_string(), "payload.order_items[0].price");
    assert!(error.to_string().contains("negative"), "{error}");
}
