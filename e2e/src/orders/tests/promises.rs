//! Guarantees of the generator, tested on its output bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use insta::assert_snapshot;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;

/// Structure of a source message, by the contract of the source topic.
#[derive(Debug, Deserialize)]
struct Event {
    object_id: i64,
    object_type: String,
    sent_dttm: String,
    payload: Payload,
}

#[derive(Debug, Deserialize)]
struct Payload {
    restaurant: Id,
    user: Id,
    date: String,
    order_items: Vec<Item>,
    bonus_payment: Box<RawValue>,
    cost: Box<RawValue>,
    payment: Box<RawValue>,
    bonus_grant: Box<RawValue>,
    statuses: Vec<Status>,
    final_status: String,
    update_ts: String,
}

#[derive(Debug, Deserialize)]
struct Id {
    id: String,
}

#[derive(Debug, Deserialize)]
struct Item {
    id: String,
    name: String,
    price: Box<RawValue>,
    quantity: i64,
}

#[derive(Debug, Deserialize)]
struct Status {
    status: String,
    dttm: String,
}

fn parse_event(message: &Message) -> Event {
    let value = message.value.as_deref().expect("a valid message has a value");
    serde_json::from_slice(value).expect("a valid message conforms to the contract")
}

fn good_events(messages: &[Message]) -> Vec<Event> {
    messages
        .iter()
        .filter(|message| message.expected == Expected::Good)
        .map(parse_event)
        .collect()
}

/// Parses a decimal amount into kopecks.
fn kopecks(amount: &RawValue) -> i64 {
    let (whole, part) = amount.get().split_once('.').unwrap_or((amount.get(), "0"));
    let whole: i64 = whole.parse().expect("digits");
    whole * 100
        + format!("{part:0<2}")
            .parse::<i64>()
            .expect("at most two decimal places")
}

fn assert_timestamp(text: &str) {
    assert!(text.len() == 19 && text.parse::<DateTime>().is_ok(), "{text}");
}

fn assert_conforms(event: &Event, generator: &Generator) {
    let payload = &event.payload;
    assert_eq!(event.object_type, "order");
    assert!((FIRST_ORDER_ID..FIRST_BAD_ORDER_ID).contains(&event.object_id));
    assert!(
        generator
            .catalogue
            .users
            .iter()
            .any(|user| user.id == payload.user.id)
    );
    let mut restaurants = generator.catalogue.restaurants.iter();
    let restaurant = restaurants
        .find(|restaurant| restaurant.id == payload.restaurant.id)
        .expect("a known restaurant");
    let mut cost = 0;
    for item in &payload.order_items {
        let product = restaurant
            .menu
            .iter()
            .find(|product| product.id == item.id)
            .expect("a product of this restaurant");
        assert_eq!(
            (item.name.as_str(), kopecks(&item.price)),
            (product.name, i64::from(product.price.0))
        );
        cost += kopecks(&item.price) * item.quantity;
    }
    assert_eq!(kopecks(&payload.cost), cost, "the cost is the sum of the items");
    assert_eq!(kopecks(&payload.payment) + kopecks(&payload.bonus_payment), cost);
    assert!(kopecks(&payload.bonus_grant) <= cost / 20);
    let last = payload.statuses.last().expect("at least one status");
    assert_eq!(
        (&last.status, &last.dttm),
        (&payload.final_status, &payload.update_ts)
    );
    assert_eq!(payload.statuses[0].dttm, payload.date);
    assert!(payload.statuses.is_sorted_by(|one, other| one.dttm <= other.dttm));
    assert!(payload.update_ts < event.sent_dttm);
    for text in [&event.sent_dttm, &payload.date, &payload.update_ts] {
        assert_timestamp(text);
    }
}

#[test]
fn the_first_messages_of_a_seed_never_change() {
    let mut generator = Generator::new(&Settings {
        users: 3,
        restaurants: 1,
        ..Settings::default()
    });
    let entries: Vec<String> = generator
        .catalogue()
        .entries(0)
        .map(|(id, json)| format!("{id} {json}"))
        .collect();
    let messages: Vec<String> = generator
        .history(3)
        .map(|message| String::from_utf8_lossy(message.value.as_deref().unwrap_or_default()).into_owned())
        .collect();
    assert_snapshot!(format!("{}\n\n{}", entries.join("\n"), messages.join("\n")));
}

#[test]
fn the_malformed_messages_of_a_seed_never_change() {
    let mut generator = Generator::new(&Settings {
        users: 3,
        restaurants: 1,
        ..Settings::default()
    });
    let lines = generator.every_bad().into_iter().map(|message| {
        let Expected::Bad(code) = message.expected else {
            panic!("good: {message:?}")
        };
        let value = message.value.map(|value| {
            String::from_utf8_lossy(&value)
                .chars()
                .take(1500)
                .collect::<String>()
        });
        format!("{code}: {}", value.as_deref().unwrap_or("(null)"))
    });
    assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn every_dead_letter_code_that_the_source_can_cause_has_a_form() {
    let codes: BTreeSet<&str> = bad::FORMS.iter().map(|(code, _)| *code).collect();
    let expected = [
        "ContractViolation",
        "DuplicateKey",
        "InvalidTimestamp",
        "NulCharacter",
        "NumberOutOfRange",
        "ParseError",
        "Tombstone",
        "TooDeep",
        "TooLarge",
        "UnsupportedType",
    ];
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn only_parse_errors_and_tombstones_are_not_json_objects() {
    for message in Generator::new(&Settings::default()).every_bad() {
        let is_object = message.value.as_deref().is_some_and(|value| {
            serde_json::from_slice::<&RawValue>(value).is_ok_and(|raw| raw.get().starts_with('{'))
                && serde_json::from_slice::<Value>(value).is_ok_or_out_of_range()
        });
        let Expected::Bad(code) = message.expected else {
            panic!("good: {message:?}")
        };
        let text = String::from_utf8_lossy(message.value.as_deref().unwrap_or_default()).into_owned();
        assert_eq!(
            is_object,
            !["ParseError", "Tombstone"].contains(&code),
            "{code} {text:.300}"
        );
    }
}

/// `serde_json`'s `Value` rejects 1e400 and deep nesting, although both are valid JSON.
trait OrOutOfRange {
    fn is_ok_or_out_of_range(&self) -> bool;
}

impl OrOutOfRange for serde_json::Result<Value> {
    fn is_ok_or_out_of_range(&self) -> bool {
        self.as_ref().err().is_none_or(|error| {
            let cause = error.to_string();
            cause.contains("out of range") || cause.contains("recursion limit")
        })
    }
}

#[test]
fn no_malformed_message_has_the_id_of_a_valid_order() {
    let settings = Settings {
        bad: 0.5,
        ..Settings::default()
    };
    let messages: Vec<Message> = Generator::new(&settings).history(500).collect();
    let orders: Vec<i64> = good_events(&messages)
        .iter()
        .map(|event| event.object_id)
        .collect();
    for message in messages
        .iter()
        .filter(|message| message.expected != Expected::Good)
    {
        let text = String::from_utf8_lossy(message.value.as_deref().unwrap_or_default()).into_owned();
        for order in &orders[..20] {
            assert!(!text.contains(&format!("\"object_id\": {order},")), "{text:.300}");
        }
        let id = text
            .strip_prefix("{\"object_id\": ")
            .and_then(|rest| rest.split(',').next()?.parse::<i64>().ok());
        assert!(id.is_none_or(|id| !orders.contains(&id)), "{text:.300}");
    }
}

#[test]
fn shares_are_close_to_the_settings() {
    let settings = Settings {
        late: 0.1,
        duplicated: 0.05,
        cancelled: 0.2,
        bad: 0.03,
        ..Settings::default()
    };
    let messages: Vec<Message> = Generator::new(&settings).history(10_000).collect();
    let assert_close = |what: &str, share: f64, expected: f64| {
        assert!(
            (share - expected).abs() < expected * 0.15,
            "{what}: {share} instead of {expected}"
        );
    };
    let bad = messages
        .iter()
        .filter(|message| message.expected != Expected::Good)
        .count();
    assert_close("bad", ratio(bad, messages.len()), 0.03);

    let mut values = BTreeSet::new();
    let mut orders: HashMap<i64, Vec<(usize, Event)>> = HashMap::new();
    let mut duplicates = 0;
    for (position, message) in messages
        .iter()
        .enumerate()
        .filter(|(_, message)| message.expected == Expected::Good)
    {
        if values.insert(message.value.clone()) {
            let event = parse_event(message);
            orders.entry(event.object_id).or_default().push((position, event));
        } else {
            duplicates += 1;
        }
    }
    assert_close("duplicated", ratio(duplicates, values.len()), 0.05);
    assert_eq!(orders.len(), 10_000);
    let max_status_count = |versions: &[(usize, Event)]| {
        versions
            .iter()
            .map(|(_, event)| event.payload.statuses.len())
            .max()
    };
    let (mut late, mut superseded, mut cancelled, mut after_closed) = (0, 0, 0, 0);
    for versions in orders.values() {
        assert!((1..=5).contains(&versions.len()));
        let max_statuses = max_status_count(versions);
        let is_latest = |event: &Event| Some(event.payload.statuses.len()) == max_statuses;
        let latest = versions
            .iter()
            .find(|(_, event)| is_latest(event))
            .expect("the latest version");
        superseded += versions.len() - 1;
        late += versions
            .iter()
            .filter(|(position, _)| *position > latest.0)
            .count();
        let mut statuses = latest.1.payload.statuses.iter();
        let is_cancelled = statuses.clone().any(|status| status.status == "CANCELLED");
        cancelled += usize::from(is_cancelled);
        after_closed += usize::from(is_cancelled && statuses.any(|status| status.status == "CLOSED"));
    }
    assert_close("late", ratio(late, superseded), 0.1);
    assert_close("cancelled", ratio(cancelled, orders.len()), 0.2);
    assert_close("cancelled after closed", ratio(after_closed, cancelled), 0.5);
}

#[expect(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[test]
fn a_long_history_has_every_unusual_form_of_order() {
    let messages: Vec<Message> = Generator::new(&Settings::default()).history(5000).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut count_if = |form, applies: bool| *counts.entry(form).or_default() += usize::from(applies);
    let mut latest: HashMap<i64, Event> = HashMap::new();
    for message in messages
        .iter()
        .filter(|message| message.expected == Expected::Good)
    {
        let text = String::from_utf8_lossy(message.value.as_deref().unwrap_or_default()).into_owned();
        let event = parse_event(message);
        let payload = &event.payload;
        let ids: BTreeSet<&str> = payload.order_items.iter().map(|item| item.id.as_str()).collect();
        count_if("empty order", ids.is_empty());
        count_if("one product on two lines", ids.len() < payload.order_items.len());
        count_if(
            "unknown status",
            !["OPEN", "COOKING", "DELIVERING", "CLOSED", "CANCELLED"]
                .contains(&payload.final_status.as_str()),
        );
        count_if("unknown field", text.contains("\"source\":"));
        count_if("unknown field in the payload", text.contains("\"courier\":"));
        count_if("kopecks", payload.cost.get().contains('.'));
        if let Some(other) = latest.get(&event.object_id).map(|event| &event.payload) {
            count_if("another user", other.user.id != payload.user.id);
            count_if(
                "other number of items",
                other.order_items.len() != payload.order_items.len(),
            );
            count_if(
                "two statuses in one second",
                other.update_ts == payload.update_ts && other.final_status != payload.final_status,
            );
        }
        latest.insert(event.object_id, event);
    }
    assert_eq!(counts.len(), 9);
    assert!(counts.values().all(|count| *count >= 10), "{counts:?}");
}

#[test]
fn the_mean_message_size_is_that_of_the_real_source() {
    let mut generator = Generator::new(&Settings::default());
    let sizes = generator
        .history(2000)
        .filter(|message| message.expected == Expected::Good);
    let sizes: Vec<usize> = sizes
        .map(|message| message.value.map_or(0, |value| value.len()))
        .collect();
    let mean = sizes.iter().sum::<usize>() / sizes.len();
    assert!((1000..1600).contains(&mean), "{mean} bytes");
}

#[test]
fn live_orders_continue_the_ids_of_the_history() {
    let mut generator = Generator::new(&Settings {
        bad: 0.2,
        ..Settings::default()
    });
    let last = generator
        .history(100)
        .filter(|message| message.expected == Expected::Good)
        .map(|message| parse_event(&message).object_id)
        .max();
    let live: Vec<Message> = generator.live().take(50).collect();
    let ids: Vec<i64> = good_events(&live).iter().map(|event| event.object_id).collect();
    assert_eq!(ids[0], last.expect("orders") + 1);
    assert!(
        ids.is_sorted_by(|one, other| one + 1 == *other),
        "one message per order: {ids:?}"
    );
    assert!(ids.len() < 50, "some of the messages are malformed");
}

#[test]
fn withheld_users_are_not_in_the_reference_data() {
    let generator = Generator::new(&Settings::default());
    let all: Vec<_> = generator.catalogue().entries(0).collect();
    let some: BTreeMap<_, _> = generator.catalogue().entries(20).collect();
    assert_eq!((all.len(), some.len()), (128, 108));
    let withheld = &generator.catalogue().users[100..];
    assert!(withheld.iter().all(|user| !some.contains_key(user.id.as_str())));
    assert_eq!(
        generator.catalogue().entries(1000).count(),
        8,
        "restaurants are never withheld"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn valid_messages_conform_to_the_contract_and_malformed_ones_have_a_code(
        seed: u64, users in 0_usize..40, restaurants in 0_usize..30, orders in 0_usize..60,
        late in -0.5..1.5, duplicated in 0.0..1.0, cancelled in 0.0..1.0, bad in 0.0..1.0,
    ) {
        let settings = Settings { seed, users, restaurants, late, duplicated, cancelled, bad };
        let mut generator = Generator::new(&settings);
        let messages: Vec<Message> = generator.history(orders).collect();
        let mut ids = BTreeSet::new();
        for message in &messages {
            match message.expected {
                Expected::Good => {
                    let event = parse_event(message);
                    assert_conforms(&event, &generator);
                    ids.insert(event.object_id);
                }
                Expected::Bad(code) => prop_assert!(bad::FORMS.iter().any(|(form_code, _)| *form_code == code)),
            }
        }
        prop_assert_eq!(ids.len(), orders, "every order has a message");
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes(seed: u64) {
        let settings = Settings { seed, bad: 0.1, ..Settings::default() };
        let run = || {
            let mut generator = Generator::new(&settings);
            let mut messages: Vec<Message> = generator.history(40).collect();
            messages.extend(generator.live().take(10));
            messages
        };
        prop_assert_eq!(run(), run());
        let other = Generator::new(&Settings { seed: seed ^ 1, ..settings }).history(40).collect::<Vec<_>>();
        prop_assert_ne!(&run()[..10], &other[..10]);
    }
}
