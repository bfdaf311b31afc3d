//! What the generator promises, tested on the bytes that it makes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use insta::assert_snapshot;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::*;

/// The structure of the messages of the source, as the pipeline's first contract has it.
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

fn event(message: &Message) -> Event {
    let value = message.value.as_deref().expect("a good message has a value");
    serde_json::from_slice(value).expect("a good message fits the contract")
}

fn good(messages: &[Message]) -> Vec<Event> {
    messages
        .iter()
        .filter(|message| message.expected == Expected::Good)
        .map(event)
        .collect()
}

/// Kopecks of a decimal as the source writes it.
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

fn assert_fits(event: &Event, generator: &Generator) {
    let payload = &event.payload;
    assert_eq!(event.object_type, "order");
    assert!((FIRST_ORDER..FIRST_BAD_ORDER).contains(&event.object_id));
    assert!(
        generator
            .catalogue
            .guests
            .iter()
            .any(|guest| guest.id == payload.user.id)
    );
    let mut restaurants = generator.catalogue.restaurants.iter();
    let restaurant = restaurants
        .find(|restaurant| restaurant.id == payload.restaurant.id)
        .expect("a known restaurant");
    let mut cost = 0;
    for item in &payload.order_items {
        let dish = restaurant
            .menu
            .iter()
            .find(|dish| dish.id == item.id)
            .expect("a dish of this restaurant");
        assert_eq!(
            (item.name.as_str(), kopecks(&item.price)),
            (dish.name, i64::from(dish.price.0))
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
fn the_first_messages_are_these() {
    let mut generator = Generator::new(&Settings {
        guests: 3,
        restaurants: 1,
        ..Settings::default()
    });
    let dictionary: Vec<String> = generator
        .catalogue()
        .entries(0)
        .map(|(id, json)| format!("{id} {json}"))
        .collect();
    let messages: Vec<String> = generator
        .history(3)
        .map(|message| String::from_utf8_lossy(message.value.as_deref().unwrap_or_default()).into_owned())
        .collect();
    assert_snapshot!(format!("{}\n\n{}", dictionary.join("\n"), messages.join("\n")));
}

#[test]
fn every_form_of_bad_message_is_this() {
    let mut generator = Generator::new(&Settings {
        guests: 3,
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
fn every_code_that_a_source_can_cause_has_a_form() {
    let codes: BTreeSet<&str> = bad::FORMS.iter().map(|(code, _)| *code).collect();
    let expected = [
        "BadTimestamp",
        "ContractViolation",
        "DuplicateKey",
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
fn a_parse_error_is_no_json_object_and_the_others_are_json() {
    for message in Generator::new(&Settings::default()).every_bad() {
        let object = message.value.as_deref().is_some_and(|value| {
            serde_json::from_slice::<&RawValue>(value).is_ok_and(|raw| raw.get().starts_with('{'))
                && serde_json::from_slice::<Value>(value).is_ok_or_out_of_range()
        });
        let Expected::Bad(code) = message.expected else {
            panic!("good: {message:?}")
        };
        let text = String::from_utf8_lossy(message.value.as_deref().unwrap_or_default()).into_owned();
        assert_eq!(
            object,
            !["ParseError", "Tombstone"].contains(&code),
            "{code} {text:.300}"
        );
    }
}

/// `serde_json`'s `Value` refuses 1e400 and deep nesting, which are JSON all the same.
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
fn no_bad_message_names_a_good_order() {
    let settings = Settings {
        bad: 0.5,
        ..Settings::default()
    };
    let messages: Vec<Message> = Generator::new(&settings).history(500).collect();
    let orders: Vec<i64> = good(&messages).iter().map(|event| event.object_id).collect();
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
fn shares_are_near_what_was_asked() {
    let settings = Settings {
        late: 0.1,
        duplicated: 0.05,
        cancelled: 0.2,
        bad: 0.03,
        ..Settings::default()
    };
    let messages: Vec<Message> = Generator::new(&settings).history(10_000).collect();
    let near = |what: &str, share: f64, asked: f64| {
        assert!(
            (share - asked).abs() < asked * 0.15,
            "{what}: {share} instead of {asked}"
        );
    };
    let bad = messages
        .iter()
        .filter(|message| message.expected != Expected::Good)
        .count();
    near("bad", ratio(bad, messages.len()), 0.03);

    let mut values = BTreeSet::new();
    let mut orders: HashMap<i64, Vec<(usize, Event)>> = HashMap::new();
    let mut repeated = 0;
    for (position, message) in messages
        .iter()
        .enumerate()
        .filter(|(_, message)| message.expected == Expected::Good)
    {
        if values.insert(message.value.clone()) {
            let event = event(message);
            orders.entry(event.object_id).or_default().push((position, event));
        } else {
            repeated += 1;
        }
    }
    near("duplicated", ratio(repeated, values.len()), 0.05);
    assert_eq!(orders.len(), 10_000);
    let newest = |versions: &[(usize, Event)]| {
        versions
            .iter()
            .map(|(_, event)| event.payload.statuses.len())
            .max()
    };
    let (mut late, mut superseded, mut cancelled, mut after_closed) = (0, 0, 0, 0);
    for versions in orders.values() {
        assert!((1..=5).contains(&versions.len()));
        let newest = newest(versions);
        let is_newest = |event: &Event| Some(event.payload.statuses.len()) == newest;
        let end = versions
            .iter()
            .find(|(_, event)| is_newest(event))
            .expect("the newest version");
        superseded += versions.len() - 1;
        late += versions.iter().filter(|(position, _)| *position > end.0).count();
        let status = |name: &str| end.1.payload.statuses.iter().any(|status| status.status == name);
        cancelled += usize::from(status("CANCELLED"));
        after_closed += usize::from(status("CANCELLED") && status("CLOSED"));
    }
    near("late", ratio(late, superseded), 0.1);
    near("cancelled", ratio(cancelled, orders.len()), 0.2);
    near("cancelled after closed", ratio(after_closed, cancelled), 0.5);
}

#[expect(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[test]
fn unusual_orders_are_among_many() {
    let messages: Vec<Message> = Generator::new(&Settings::default()).history(5000).collect();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut see = |what, holds: bool| *seen.entry(what).or_default() += usize::from(holds);
    let mut latest: HashMap<i64, Event> = HashMap::new();
    for message in messages
        .iter()
        .filter(|message| message.expected == Expected::Good)
    {
        let text = String::from_utf8_lossy(message.value.as_deref().unwrap_or_default()).into_owned();
        let event = event(message);
        let payload = &event.payload;
        let ids: BTreeSet<&str> = payload.order_items.iter().map(|item| item.id.as_str()).collect();
        see("empty order", ids.is_empty());
        see("one product on two lines", ids.len() < payload.order_items.len());
        see(
            "unknown status",
            !["OPEN", "COOKING", "DELIVERING", "CLOSED", "CANCELLED"]
                .contains(&payload.final_status.as_str()),
        );
        see("unknown field", text.contains("\"source\":"));
        see("unknown field in the payload", text.contains("\"courier\":"));
        see("kopecks", payload.cost.get().contains('.'));
        if let Some(other) = latest.get(&event.object_id).map(|event| &event.payload) {
            see("another user", other.user.id != payload.user.id);
            see(
                "an item less",
                other.order_items.len() != payload.order_items.len(),
            );
            see(
                "one moment",
                other.update_ts == payload.update_ts && other.final_status != payload.final_status,
            );
        }
        latest.insert(event.object_id, event);
    }
    assert_eq!(seen.len(), 9);
    assert!(seen.values().all(|count| *count >= 10), "{seen:?}");
}

#[test]
fn a_message_is_about_as_long_as_those_of_the_source() {
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
fn live_orders_go_on_where_the_history_ended() {
    let mut generator = Generator::new(&Settings {
        bad: 0.2,
        ..Settings::default()
    });
    let last = generator
        .history(100)
        .filter(|message| message.expected == Expected::Good)
        .map(|message| event(&message).object_id)
        .max();
    let live: Vec<Message> = generator.live().take(50).collect();
    let ids: Vec<i64> = good(&live).iter().map(|event| event.object_id).collect();
    assert_eq!(ids[0], last.expect("orders") + 1);
    assert!(
        ids.is_sorted_by(|one, other| one + 1 == *other),
        "one message for each order: {ids:?}"
    );
    assert!(ids.len() < 50, "bad ones are among them");
}

#[test]
fn the_dictionary_withholds_the_guests_it_is_told_to() {
    let generator = Generator::new(&Settings::default());
    let all: Vec<_> = generator.catalogue().entries(0).collect();
    let some: BTreeMap<_, _> = generator.catalogue().entries(20).collect();
    assert_eq!((all.len(), some.len()), (128, 108));
    let withheld = &generator.catalogue().guests[100..];
    assert!(withheld.iter().all(|guest| !some.contains_key(guest.id.as_str())));
    assert_eq!(
        generator.catalogue().entries(1000).count(),
        8,
        "restaurants are never withheld"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn good_messages_fit_the_contract_and_bad_ones_carry_a_code(
        seed: u64, guests in 0_usize..40, restaurants in 0_usize..30, orders in 0_usize..60,
        late in -0.5..1.5, duplicated in 0.0..1.0, cancelled in 0.0..1.0, bad in 0.0..1.0,
    ) {
        let settings = Settings { seed, guests, restaurants, late, duplicated, cancelled, bad };
        let mut generator = Generator::new(&settings);
        let messages: Vec<Message> = generator.history(orders).collect();
        let mut ids = BTreeSet::new();
        for message in &messages {
            match message.expected {
                Expected::Good => {
                    let event = event(message);
                    assert_fits(&event, &generator);
                    ids.insert(event.object_id);
                }
                Expected::Bad(code) => prop_assert!(bad::FORMS.iter().any(|(known, _)| *known == code)),
            }
        }
        prop_assert_eq!(ids.len(), orders, "every order is there");
    }

    #[test]
    fn one_seed_gives_one_sequence_of_bytes(seed: u64) {
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
