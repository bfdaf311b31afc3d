//! Reference data: a malformed entry behaves like a missing one and is named, and ids are normalized before every use.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Expected, Generator, Message, Settings};
use e2e::pipeline::{Pipeline, start_services};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_mins(2);

/// Restaurant whose menu has usable and malformed products.
const MENU: &str = r#"{"_id": 7, "name": "R", "update_ts": null, "menu": [
    {"_id": "ordinary", "name": "X", "price": 1, "category": "C"},
    {"_id": "price-null", "price": null, "category": "C"},
    {"_id": "price-text", "price": "100.00", "category": "C"},
    {"_id": "price-missing", "category": "C"},
    {"_id": "nul", "category": "C\u0000"},
    {"_id": "no-category"},
    {"_id": 17, "category": "C"}]}"#;

/// Key and value of an entry, and the text that names its defect.
type MalformedEntry = (&'static str, &'static [u8], &'static str);

const MALFORMED_USERS: [MalformedEntry; 11] = [
    (
        "u-nul",
        br#"{"name": "A\u0000", "login": "a"}"#,
        "/name: contains U+0000",
    ),
    ("u-surrogate", br#"{"name": "A", "login": "\ud800"}"#, "/login: "),
    (
        "u-null",
        br#"{"name": null, "login": "a"}"#,
        "/name: invalid type: null",
    ),
    (
        "u-number",
        br#"{"name": "A", "login": 7}"#,
        "/login: invalid type: integer",
    ),
    ("u-missing", br#"{"name": "A"}"#, "missing field `login`"),
    (
        "u-duplicate",
        br#"{"name": "A", "name": "B", "login": "a"}"#,
        "duplicate key \"name\"",
    ),
    (
        "u-utf8",
        b"{\"name\": \"\xff\", \"login\": \"a\"}",
        "byte 10: not UTF-8",
    ),
    (
        "u-bom",
        b"\xef\xbb\xbf{\"name\": \"A\", \"login\": \"a\"}",
        "byte 0: ",
    ),
    (
        "u-trailing",
        br#"{"name": "A", "login": "a"} {}"#,
        "trailing characters",
    ),
    ("u-array", b"[]", ""),
    ("u-empty", b"", "byte 0: "),
];

fn new_generator() -> Generator {
    Generator::new(&Settings {
        seed: 16,
        bad: 0.0,
        ..Settings::default()
    })
}

/// A closed order of a user at a restaurant, with one line per product; returns its id and the message.
fn next_order(
    generator: &mut Generator,
    user: &str,
    restaurant: &str,
    products: &[&str],
) -> Result<(i64, Message)> {
    let ordinary = generator.live().next().and_then(|message| message.value);
    let mut order: Value = serde_json::from_slice(&ordinary.context("no value")?)?;
    let lines = products
        .iter()
        .map(|id| json!({"id": id, "name": "X", "price": 1, "quantity": 1}));
    order["payload"]["order_items"] = lines.collect();
    order["payload"]["user"]["id"] = json!(user);
    order["payload"]["restaurant"]["id"] = json!(restaurant);
    order["payload"]["final_status"] = json!("CLOSED");
    let id = order["object_id"].as_i64().context("no object_id")?;
    let message = Message {
        value: Some(order.to_string().into_bytes()),
        expected: Expected::Good,
    };
    Ok((id, message))
}

/// Writes the entries; the user `good` and the restaurant `r` are usable.
async fn load_malformed_entries(pipeline: &Pipeline) -> Result<()> {
    let set = async |key: &str, value: &[u8]| pipeline.run_redis("SET", &[key.as_bytes(), value]).await;
    set("good", br#"{"name": "G", "login": "g"}"#).await?;
    set("r", MENU.as_bytes()).await?;
    set("r-nul", br#"{"name": "\u0000", "menu": []}"#).await?;
    for (key, value, _) in MALFORMED_USERS {
        set(key, value).await?;
    }
    pipeline
        .run_redis("HSET", &[b"u-hash", b"name", b"A", b"login", b"a"])
        .await?;
    pipeline.run_redis("RPUSH", &[b"r-list", b"R"]).await
}

/// Orders that need a malformed or a missing entry: id, the texts that their missing entries contain, and the code.
type UnresolvedOrders = BTreeMap<i64, (Vec<String>, &'static str)>;

fn unresolved_orders(generator: &mut Generator) -> Result<(Vec<Message>, UnresolvedOrders)> {
    let (malformed, missing) = ("ReferenceDataMalformed", "ReferenceDataMissing");
    let (mut messages, mut expected) = (Vec::new(), UnresolvedOrders::new());
    let mut add = |user: &str, restaurant: &str, product: &str, texts: Vec<String>, code| -> Result<()> {
        let (id, message) = next_order(generator, user, restaurant, &["ordinary", product])?;
        messages.push(message);
        expected.insert(id, (texts, code));
        Ok(())
    };
    for (key, _, defect) in MALFORMED_USERS {
        let texts = vec![format!("user {key} (malformed, "), defect.to_owned()];
        add(key, "r", "ordinary", texts, malformed)?;
    }
    for (user, restaurant, product, text, code) in [
        (
            "u-hash",
            "r",
            "ordinary",
            "user u-hash (malformed, a Redis hash, not a string)",
            malformed,
        ),
        (
            "good",
            "r-list",
            "ordinary",
            "restaurant r-list (malformed, a Redis list, not a string)",
            malformed,
        ),
        (
            "good",
            "r-nul",
            "ordinary",
            "restaurant r-nul (malformed, /name: contains U+0000",
            malformed,
        ),
        (
            "good",
            "r",
            "nul",
            "product nul in the menu of restaurant r (malformed, /menu/4/category: ",
            malformed,
        ),
        (
            "good",
            "r",
            "no-category",
            "(malformed, /menu/5: missing field `category`)",
            malformed,
        ),
        (
            "good",
            "r",
            "17",
            "(malformed, /menu/6/_id: invalid type: integer",
            malformed,
        ),
        ("u-unknown", "r", "ordinary", "user u-unknown", missing),
        ("good", "r-unknown", "ordinary", "restaurant r-unknown", missing),
    ] {
        add(user, restaurant, product, vec![text.to_owned()], code)?;
    }
    Ok((messages, expected))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_entry_behaves_like_a_missing_one_and_is_named() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "malformed", 1).await?;
    load_malformed_entries(&pipeline).await?;
    let mut generator = new_generator();
    let (messages, expected) = unresolved_orders(&mut generator)?;
    let products = ["ordinary", "price-null", "price-text", "price-missing"];
    let (usable, message) = next_order(&mut generator, "good", "r", &products)?;
    pipeline.produce(1, messages.into_iter().chain([message])).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;

    let pending: Vec<(i64, Vec<String>)> =
        sqlx::query_as("SELECT object_id, missing_entries FROM stg.pending_enrichment ORDER BY object_id")
            .fetch_all(pipeline.pool())
            .await?;
    assert!(
        pending.iter().map(|(id, _)| id).eq(expected.keys()),
        "{pending:?}"
    );
    for (id, missing) in &pending {
        let missing = missing.join(", ");
        for text in &expected[id].0 {
            ensure!(missing.contains(text), "{id}: no {text:?} in {missing:?}");
        }
    }
    assert_eq!(pipeline.read_topic(pipeline.stg_topic())?.len(), 1);
    worker.wait_for_log("\"key\":\"u-nul\"").await?;
    let (_, metrics) = worker.http_get("/metrics").await?;
    for kind in ["user", "restaurant", "product"] {
        let name = format!("streamstage_worker_malformed_entries_total{{stage=\"stg\",kind=\"{kind}\"}}");
        ensure!(metrics.contains(&name), "no {name} in {metrics}");
    }
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");

    pipeline.edit("  referenceData:\n", "  referenceData:\n    maxWait: 0s\n")?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    let dead_letters: Vec<(String, String)> =
        sqlx::query_as("SELECT code, detail FROM streamstage.dead_letter")
            .fetch_all(pipeline.pool())
            .await?;
    assert_eq!(dead_letters.len(), expected.len());
    for (texts, code) in expected.values() {
        let matches = |(other, detail): &(String, String)| {
            other == code && texts.iter().all(|text| detail.contains(text))
        };
        ensure!(
            dead_letters.iter().any(matches),
            "no {code} with {texts:?} in {dead_letters:?}"
        );
    }
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    repair_and_redrive(&pipeline, usable, &expected).await
}

/// Corrects every entry and redrives; then every order is in the vault, and no layer has a dead letter.
async fn repair_and_redrive(pipeline: &Pipeline, usable: i64, expected: &UnresolvedOrders) -> Result<()> {
    let users = MALFORMED_USERS
        .map(|(key, ..)| key)
        .into_iter()
        .chain(["u-hash", "u-unknown"]);
    let users = users.map(|key| (key, r#"{"name": "A", "login": "a"}"#.to_owned()));
    let product = |id: &str| json!({"_id": id, "category": "C"});
    let menu: Vec<Value> = ["ordinary", "nul", "no-category", "17"].map(product).to_vec();
    let restaurant = json!({"name": "R", "menu": menu}).to_string();
    let restaurants = ["r", "r-list", "r-nul", "r-unknown"].map(|key| (key, restaurant.clone()));
    pipeline.load_entries(users.chain(restaurants)).await?;
    let output = pipeline.run_command("dead-letters redrive", &["stg"], &["--execute"])?;
    ensure!(
        output.contains(&format!("{} dead letters", expected.len())),
        "{output}"
    );
    let _worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    let orders: Vec<i64> =
        sqlx::query_scalar("SELECT order_id FROM dds.h_order WHERE order_id > 0 ORDER BY 1")
            .fetch_all(pipeline.pool())
            .await?;
    let all: Vec<i64> = expected.keys().copied().chain([usable]).collect();
    assert_eq!(orders, all);
    let dead_letters = "SELECT count(*) FROM streamstage.dead_letter WHERE redriven_at IS NULL";
    assert_eq!(pipeline.query_scalar::<i64>(dead_letters).await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_normalized_before_every_use() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "normalized", 1).await?;
    // A key of Redis is a normalized id; the ids within an entry are normalized like those of an order.
    let menu =
        json!({"name": "R", "menu": [{"_id": " п\u{438}\u{306} ", "category": "C\u{a0}"}]}).to_string();
    let user = r#"{"name": "A", "login": "a"}"#.to_owned();
    pipeline
        .load_entries([("u-й", user), ("r-1", menu)].into_iter())
        .await?;
    let mut generator = new_generator();
    let forms = [
        ("u-й", "r-1", "пй"),
        ("u-й ", "\tr-1", "пй\n"),
        (" u-\u{438}\u{306}", "r-1\u{a0}", "п\u{438}\u{306}"),
    ];
    let orders =
        forms.map(|(user, restaurant, product)| next_order(&mut generator, user, restaurant, &[product]));
    let messages: Vec<Message> = orders
        .into_iter()
        .map(|order| Ok(order?.1))
        .collect::<Result<_>>()?;
    pipeline.produce(1, messages.into_iter()).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;

    let published = pipeline.read_topic(pipeline.stg_topic())?;
    assert_eq!(published.len(), forms.len());
    for record in published {
        let value: Value = serde_json::from_slice(record.value.as_deref().context("a tombstone")?)?;
        let payload = &value["payload"];
        let ids = [
            &payload["user"]["id"],
            &payload["restaurant"]["id"],
            &payload["products"][0]["id"],
        ];
        assert_eq!(ids, ["u-й", "r-1", "пй"]);
    }
    for (table, key) in [
        ("h_user", "user_id"),
        ("h_restaurant", "restaurant_id"),
        ("h_product", "product_id"),
    ] {
        let count = format!("SELECT count(*) FROM dds.{table} WHERE {key} <> ''");
        assert_eq!(pipeline.query_scalar::<i64>(&count).await?, 1, "{table}");
    }
    let counters = "SELECT coalesce(json_agg(order_cnt)::text, '') FROM cdm.user_product_counters";
    assert_eq!(pipeline.query_scalar::<String>(counters).await?, "[3]");
    // Three orders of one user, restaurant and product: the cache is by the normalized id, too.
    ensure!(!worker.log().contains("malformed"), "{}", worker.log());
    Ok(())
}
