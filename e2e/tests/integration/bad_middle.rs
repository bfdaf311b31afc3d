//! Malformed messages between the layers, as another producer may send them to the same topics: the consuming stage
//! dead-letters each with its code, and processes the valid ones.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::pipeline::{Pipeline, Record, start_services};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_mins(2);
/// Hub keys: different in every hub, because the name of the hub is hashed too.
const USER: &str = "8c3f8a8e-0f3a-8d55-9a58-0c6c2f0f6a11";
const PRODUCT: &str = "8c3f8a8e-0f3a-8d55-9a58-0c6c2f0f6a12";
const CATEGORY: &str = "8c3f8a8e-0f3a-8d55-9a58-0c6c2f0f6a13";

/// JSON pointer into a valid message (empty for the whole), the replacement, and the expected code.
type Case = (&'static str, fn() -> Value, &'static str);

const ENRICHED_CASES: [Case; 13] = [
    ("/object_type", || json!("bill"), "UnsupportedType"),
    ("/object_id", || json!("1"), "ContractViolation"),
    ("/object_id", || json!(-1), "ContractViolation"),
    ("/payload", || json!(null), "ContractViolation"),
    ("/payload/user/id", || json!(7), "ContractViolation"),
    ("/payload/cost", || json!(-1), "ContractViolation"),
    ("/payload/cost", || json!(0.000_001), "NumberOutOfRange"),
    ("/payload/products/0/quantity", || json!(-1), "ContractViolation"),
    (
        "/payload/products/0/quantity",
        || json!(3_000_000_000_u32),
        "NumberOutOfRange",
    ),
    (
        "/payload/date",
        || json!("2024-02-24 12:00:05+03:00"),
        "InvalidTimestamp",
    ),
    ("/payload/update_ts", || json!("2024-02-24"), "InvalidTimestamp"),
    (
        "/payload/update_ts",
        || json!("9000-01-01 00:00:00"),
        "InvalidTimestamp",
    ),
    ("", || json!([1]), "ParseError"),
];

const FACT_CASES: [Case; 9] = [
    ("/object_type", || json!("bill"), "UnsupportedType"),
    ("/object_id", || json!(1.5), "ContractViolation"),
    ("/payload/user/id", || json!("user"), "ContractViolation"),
    ("/payload/products/0/id", || json!("product"), "ContractViolation"),
    ("/payload/categories/0/id", || json!(""), "ContractViolation"),
    ("/payload/categories", || json!(null), "ContractViolation"),
    (
        "/payload/update_ts",
        || json!("2024-02-24 12:00:60"),
        "InvalidTimestamp",
    ),
    (
        "/payload/update_ts",
        || json!("9000-01-01 00:00:00"),
        "InvalidTimestamp",
    ),
    ("", || json!("order"), "ParseError"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_malformed_message_between_the_layers_is_dead_lettered_with_its_code() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "bad_middle", 1).await?;
    let (enriched, fact) = (enriched_order(), order_fact());
    send_cases(&pipeline, pipeline.stg_topic(), &enriched, &ENRICHED_CASES).await?;
    send_cases(&pipeline, pipeline.dds_topic(), &fact, &FACT_CASES).await?;
    let _worker = pipeline.start_worker(&["dds", "cdm"])?;
    pipeline.wait_stages_drained(&["dds", "cdm"], DEADLINE).await?;

    // The fact that dds produces for the valid message has a later offset than those of the test.
    let rows: Vec<(String, i64, String, String)> = sqlx::query_as(
        "SELECT stage, \"offset\", code, detail FROM streamstage.dead_letter ORDER BY stage DESC, \"offset\"",
    )
    .fetch_all(pipeline.pool())
    .await?;
    let dead_letters: BTreeMap<(&str, i64), &str> = rows
        .iter()
        .map(|(stage, offset, code, _)| ((stage.as_str(), *offset), code.as_str()))
        .collect();
    let stages = [("dds", &ENRICHED_CASES[..]), ("cdm", &FACT_CASES[..])];
    let expected: BTreeMap<(&str, i64), &str> = stages
        .into_iter()
        .flat_map(|(stage, cases)| {
            (1..)
                .zip(cases)
                .map(move |(offset, case)| ((stage, offset), case.2))
        })
        .chain([
            (("dds", 14), "Tombstone"),
            (("dds", 15), "DuplicateKey"),
            (("cdm", 10), "Tombstone"),
            (("cdm", 11), "DuplicateKey"),
        ])
        .collect();
    assert_eq!(dead_letters, expected, "{rows:#?}");
    let counted: i64 = pipeline
        .query_scalar(
            "SELECT order_cnt::bigint FROM cdm.user_product_counters WHERE product_name = 'of the fact'",
        )
        .await?;
    assert_eq!(counted, 1, "the valid fact is counted");
    let stored: i64 = pipeline
        .query_scalar("SELECT count(*) FROM dds.h_order WHERE order_id > 0")
        .await?;
    assert_eq!(stored, 1, "the valid order is stored");
    Ok(())
}

/// Sends the valid message, each case, a tombstone, and a message with a duplicate key.
async fn send_cases(pipeline: &Pipeline, topic: &str, good: &Value, cases: &[Case]) -> Result<()> {
    let mut values = vec![Some(good.to_string())];
    for (pointer, value, _) in cases {
        let mut message = good.clone();
        *message.pointer_mut(pointer).context("no such field")? = value();
        values.push(Some(message.to_string()));
    }
    values.push(None);
    values.push(Some(good.to_string().replacen('{', "{\"object_id\": 1, ", 1)));
    let records = values.into_iter().map(|value| Record {
        value: value.map(String::into_bytes),
        ..Record::default()
    });
    pipeline.send(topic, &records.collect::<Vec<_>>()).await
}

fn enriched_order() -> Value {
    json!({"object_id": 1, "object_type": "order", "payload": {
        "id": 1, "date": "2024-02-24 11:58:12", "update_ts": "2024-02-24 12:00:00", "cost": 360, "payment": 360,
        "status": "CLOSED", "restaurant": {"id": "r", "name": "R"}, "user": {"id": "u", "name": "U", "login": "u"},
        "products": [{"id": "p", "name": "of the order", "price": 180, "quantity": 2, "category": "C"}]
    }})
}

fn order_fact() -> Value {
    json!({"object_id": 2, "object_type": "order", "payload": {
        "id": 2, "update_ts": "2024-02-24 12:00:00", "status": "CLOSED", "user": {"id": USER, "name": "U"},
        "products": [{"id": PRODUCT, "name": "of the fact"}], "categories": [{"id": CATEGORY, "name": "C"}]
    }})
}
