//! Bad messages between the layers, as another producer of the same topics may send them: each gets its code, at the
//! stage that reads it, and the good ones get through.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::pipeline::{Pipeline, Record, services};
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_mins(2);
/// Keys of hubs: no two hubs share one, since the name of the hub is hashed too.
const GUEST: &str = "8c3f8a8e-0f3a-8d55-9a58-0c6c2f0f6a11";
const DISH: &str = "8c3f8a8e-0f3a-8d55-9a58-0c6c2f0f6a12";
const CATEGORY: &str = "8c3f8a8e-0f3a-8d55-9a58-0c6c2f0f6a13";

/// Where a good message is changed (the whole of it when that is empty), to what, and the code that it gets then.
type Case = (&'static str, fn() -> Value, &'static str);

const ENRICHED: [Case; 13] = [
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
        "BadTimestamp",
    ),
    ("/payload/update_ts", || json!("2024-02-24"), "BadTimestamp"),
    (
        "/payload/update_ts",
        || json!("9000-01-01 00:00:00"),
        "BadTimestamp",
    ),
    ("", || json!([1]), "ParseError"),
];

const FACT: [Case; 9] = [
    ("/object_type", || json!("bill"), "UnsupportedType"),
    ("/object_id", || json!(1.5), "ContractViolation"),
    ("/payload/user/id", || json!("guest"), "ContractViolation"),
    ("/payload/products/0/id", || json!("dish"), "ContractViolation"),
    ("/payload/categories/0/id", || json!(""), "ContractViolation"),
    ("/payload/categories", || json!(null), "ContractViolation"),
    (
        "/payload/update_ts",
        || json!("2024-02-24 12:00:60"),
        "BadTimestamp",
    ),
    (
        "/payload/update_ts",
        || json!("9000-01-01 00:00:00"),
        "BadTimestamp",
    ),
    ("", || json!("order"), "ParseError"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_message_between_the_layers_gets_its_code() -> Result<()> {
    let services = services().await?;
    let pipeline = Pipeline::create(&services, "bad_middle", 1).await?;
    let (enriched, fact) = (enriched(), fact());
    send(&pipeline, pipeline.stg_topic(), &enriched, &ENRICHED).await?;
    send(&pipeline, pipeline.dds_topic(), &fact, &FACT).await?;
    let _worker = pipeline.worker(&["dds", "cdm"])?;
    pipeline.stages_drained(&["dds", "cdm"], WITHIN).await?;

    // The facts that dds makes of good messages come behind those that were sent.
    let rows: Vec<(String, i64, String, String)> = sqlx::query_as(
        "SELECT stage, \"offset\", code, detail FROM streamstage.dead_letter ORDER BY stage DESC, \"offset\"",
    )
    .fetch_all(pipeline.pool())
    .await?;
    let found: BTreeMap<(&str, i64), &str> = rows
        .iter()
        .map(|(stage, offset, code, _)| ((stage.as_str(), *offset), code.as_str()))
        .collect();
    let stages = [("dds", &ENRICHED[..]), ("cdm", &FACT[..])];
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
    assert_eq!(found, expected, "{rows:#?}");
    let counted: i64 = pipeline
        .query("SELECT order_cnt::bigint FROM cdm.user_product_counters WHERE product_name = 'of the fact'")
        .await?;
    assert_eq!(counted, 1, "the good fact is counted");
    let stored: i64 = pipeline
        .query("SELECT count(*) FROM dds.h_order WHERE order_id > 0")
        .await?;
    assert_eq!(stored, 1, "the good order is stored");
    Ok(())
}

/// Sends the good message, each case of it, a tombstone, and a key twice.
async fn send(pipeline: &Pipeline, topic: &str, good: &Value, cases: &[Case]) -> Result<()> {
    let mut values = vec![Some(good.to_string())];
    for (pointer, value, _) in cases {
        let mut message = good.clone();
        *message.pointer_mut(pointer).context("no such place")? = value();
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

fn enriched() -> Value {
    json!({"object_id": 1, "object_type": "order", "payload": {
        "id": 1, "date": "2024-02-24 11:58:12", "update_ts": "2024-02-24 12:00:00", "cost": 360, "payment": 360,
        "status": "CLOSED", "restaurant": {"id": "r", "name": "R"}, "user": {"id": "u", "name": "U", "login": "u"},
        "products": [{"id": "p", "name": "of the order", "price": 180, "quantity": 2, "category": "C"}]
    }})
}

fn fact() -> Value {
    json!({"object_id": 2, "object_type": "order", "payload": {
        "id": 2, "update_ts": "2024-02-24 12:00:00", "status": "CLOSED", "user": {"id": GUEST, "name": "U"},
        "products": [{"id": DISH, "name": "of the fact"}], "categories": [{"id": CATEGORY, "name": "C"}]
    }})
}
