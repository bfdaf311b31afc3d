//! Names and menus have a version of their own: a row for each change of the entry, in any order of arrival.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::pipeline::{Pipeline, Record, start_services};
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_mins(1);
const USER: &str = "626a81ce9a8cd1920641e264";
const RESTAURANT: &str = "ef8c42c19b7518a9aebec106";
const PRODUCT: &str = "6276e8cd0cf48b4cded00878";

/// Closed order with one line, as the source sends it.
fn order_event(id: i64, minute: i64) -> Record {
    let time = format!("2024-03-01 12:{minute:02}:00");
    let value = json!({"object_id": id, "object_type": "order", "sent_dttm": time, "payload": {
        "restaurant": {"id": RESTAURANT}, "user": {"id": USER}, "date": time, "cost": 1, "payment": 1,
        "order_items": [{"id": PRODUCT, "name": "ROLL", "price": 1, "quantity": 1}],
        "final_status": "CLOSED", "update_ts": time}});
    Record {
        value: Some(value.to_string().into_bytes()),
        ..Record::default()
    }
}

/// Stores the entries, and processes one order with them. A worker that starts has no cached entry.
async fn process(pipeline: &Pipeline, order: i64, user: Value, restaurant: Value) -> Result<()> {
    let entries = [(USER, user.to_string()), (RESTAURANT, restaurant.to_string())];
    pipeline.load_entries(entries.into_iter()).await?;
    pipeline
        .send(pipeline.source_topic(), &[order_event(order, order)])
        .await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

fn user(name: &str, update_ts: &Value) -> Value {
    json!({"name": name, "login": "l", "update_ts": update_ts})
}

fn restaurant(dish: &str, category: &str, update_ts: &Value) -> Value {
    let menu = json!([{"_id": PRODUCT, "name": dish, "category": category}]);
    json!({"name": "R", "menu": menu, "update_ts": update_ts})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_an_entry_is_one_row_and_an_order_keeps_its_category() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "entries", 1).await?;
    let (first, second) = (json!("2024-02-01 00:00:00"), json!("2024-02-02T03:00:00+03:00"));
    process(
        &pipeline,
        1,
        user("Ann", &first),
        restaurant("ROLL", "Rolls", &first),
    )
    .await?;
    process(
        &pipeline,
        2,
        user("Ann", &first),
        restaurant("ROLL", "Rolls", &first),
    )
    .await?;
    process(
        &pipeline,
        3,
        user("Bea", &second),
        restaurant("ROLL XL", "Specials", &second),
    )
    .await?;
    // A time of the far future, and no time: the order's time applies, and the entry does not stay current forever.
    process(
        &pipeline,
        4,
        user("Cat", &json!("9999-01-01 00:00:00")),
        restaurant("ROLL", "Rolls", &json!(7)),
    )
    .await?;
    process(
        &pipeline,
        5,
        user("Dee", &json!("soon")),
        restaurant("ROLL S", "Rolls", &Value::Null),
    )
    .await?;

    let rows = async |query: &str| -> Result<String> { pipeline.query_scalar(query).await };
    let names = "SELECT string_agg(format('%s %s', username, to_char(update_ts AT TIME ZONE 'UTC', 'MM-DD HH24:MI')), ', '
        ORDER BY version) FROM dds.s_user_names";
    assert_eq!(
        rows(names).await?,
        "Ann 02-01 00:00, Bea 02-02 00:00, Cat 03-01 12:04, Dee 03-01 12:05"
    );
    let dishes = "SELECT string_agg(concat_ws(' ', name, category_name), ', ' ORDER BY names.version)
        FROM dds.s_product_names AS names
        JOIN dds.s_product_category_effectivity USING (h_product_pk, version)
        JOIN dds.l_product_category USING (l_product_category_pk, h_product_pk)
        JOIN dds.h_category USING (h_category_pk)";
    assert_eq!(
        rows(dishes).await?,
        "ROLL Rolls, ROLL XL Specials, ROLL Rolls, ROLL S Rolls"
    );
    let lines = "SELECT string_agg(concat_ws(' ', order_id, name, category), ', ' ORDER BY order_id)
        FROM dds.v_s_order_item_current JOIN dds.l_order_product USING (l_order_product_pk)
        JOIN dds.h_order USING (h_order_pk)";
    assert_eq!(
        rows(lines).await?,
        "1 ROLL Rolls, 2 ROLL Rolls, 3 ROLL Specials, 4 ROLL Rolls, 5 ROLL Rolls"
    );
    let counters = "SELECT string_agg(concat_ws(' ', category_name, order_cnt), ', ' ORDER BY category_name)
        FROM cdm.user_category_counters";
    assert_eq!(rows(counters).await?, "Rolls 4, Specials 1");
    pipeline.run_command("verify", &[], &[])?;

    // Facts that are produced again state the category of their order, not the present one.
    let before = pipeline.row_digests().await?;
    pipeline.run_command("republish", &["dds"], &["--all", "--execute"])?;
    let worker = pipeline.start_worker(&["cdm"])?;
    pipeline.wait_caught_up("cdm", DEADLINE).await?;
    worker.stop().await?;
    assert_eq!(pipeline.row_digests().await?, before, "after the republish");
    Ok(())
}

/// Enriched orders whose entries collide in every way: equal times with other content, and no time.
fn draw_messages(count: i64) -> Vec<Record> {
    let random = &mut ChaCha8Rng::seed_from_u64(9);
    (0..count)
        .map(|number| {
            let pick = |random: &mut ChaCha8Rng, texts: [&str; 2]| (*texts.choose(random).expect("a text")).to_owned();
            let time = |random: &mut ChaCha8Rng| match random.random_range(0..4) {
                0 => Value::Null,
                day => json!(format!("2024-02-0{day}T00:00:00Z")),
            };
            let line = json!({"id": pick(random, ["p", "q"]), "name": "N", "menu_name": pick(random, ["A", "B"]),
                "category": pick(random, ["rolls", "soups"]), "price": 1, "quantity": 1});
            let value = json!({"object_id": number % 20, "object_type": "order", "payload": {
                "id": number % 20, "date": "2024-02-24 11:58:12", "cost": 1, "payment": 1, "status": "OPEN",
                "update_ts": format!("2024-02-24 12:00:{:02}", number % 60),
                "restaurant": {"id": pick(random, ["east", "west"]), "name": "R", "update_ts": time(random)},
                "user": {"id": pick(random, ["ann", "bob"]), "name": pick(random, ["A", "B"]), "login": "l",
                    "update_ts": time(random)},
                "products": [line]}});
            Record {
                value: Some(value.to_string().into_bytes()),
                ..Record::default()
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_arrival_changes_no_row_of_an_entry() -> Result<()> {
    let services = start_services().await?;
    let mut messages = draw_messages(300);
    let mut digests = Vec::new();
    for (seed, partitions) in [(1, 1), (2, 3)] {
        let pipeline = Pipeline::create(&services, "entry_order", partitions).await?;
        messages.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        for (record, partition) in messages.iter_mut().zip((0..partitions).cycle()) {
            record.partition = partition;
        }
        pipeline.send(pipeline.stg_topic(), &messages).await?;
        let worker = pipeline.start_worker(&["dds"])?;
        pipeline.wait_stages_drained(&["dds"], DEADLINE).await?;
        worker.stop().await?;
        let mut rows = pipeline.row_digests().await?;
        rows.retain(|table, _| table.starts_with("dds."));
        digests.push(rows);
    }
    let [first, second] = &digests[..] else {
        unreachable!()
    };
    assert_eq!(first, second);
    // Every table of the vault is compared.
    ensure!(first.len() > 15, "{first:?}");
    Ok(())
}
