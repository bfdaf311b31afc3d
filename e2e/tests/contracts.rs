//! What the stages emit keeps the committed contracts, message by message; and the marts are what the vault says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Settings};
use e2e::pipeline::{Pipeline, Record, services};
use serde_json::Value;

const WITHIN: Duration = Duration::from_mins(2);

/// The newest version of each order that is closed, with the guest that this version names: guests are told apart by
/// the version that stands beside their names, because a link holds every guest that an order ever had.
const CLOSED: &str = "\
WITH newest AS (
    SELECT DISTINCT ON (h_order_pk) h_order_pk, version, status FROM dds.s_order_status
    ORDER BY h_order_pk, version DESC
), closed AS (
    SELECT newest.h_order_pk, newest.version, link.h_user_pk
    FROM newest
    JOIN dds.l_order_user AS link USING (h_order_pk)
    JOIN dds.s_user_names AS guest ON guest.h_user_pk = link.h_user_pk AND guest.version = newest.version
    WHERE newest.status = 'CLOSED'
), line AS (
    SELECT closed.h_order_pk, closed.h_user_pk, link.h_product_pk
    FROM closed
    JOIN dds.l_order_product AS link USING (h_order_pk)
    JOIN dds.s_order_item AS item
        ON item.l_order_product_pk = link.l_order_product_pk AND item.version = closed.version
)";
const PRODUCTS: &str = "\
SELECT h_user_pk::text, h_product_pk::text, count(DISTINCT h_order_pk) FROM line GROUP BY 1, 2 ORDER BY 1, 2";
const CATEGORIES: &str = "\
SELECT h_user_pk::text, h_category_pk::text, count(DISTINCT h_order_pk)
FROM line JOIN dds.l_product_category USING (h_product_pk) GROUP BY 1, 2 ORDER BY 1, 2";

/// Guest, dish or category, and in how many orders.
type Counters = Vec<(String, String, i64)>;

#[tokio::test(flavor = "multi_thread")]
async fn every_message_keeps_its_contract_and_the_marts_are_a_recount_of_the_vault() -> Result<()> {
    let services = services().await?;
    let pipeline = Pipeline::create(&services, "contracts", 3).await?;
    let mut generator = Generator::new(&Settings {
        seed: 9,
        bad: 0.02,
        ..Settings::default()
    });
    pipeline.load_dictionary(&generator, 20).await?;
    pipeline.produce(1, generator.history(2000)).await?;
    let _worker = pipeline.worker(&[])?;
    pipeline.read_to_the_end("stg", WITHIN).await?;
    // Orders that waited for the dictionary come out by another way.
    ensure!(
        pipeline
            .query::<i64>("SELECT count(*) FROM stg.pending_enrichment")
            .await?
            > 0
    );
    pipeline.load_dictionary(&generator, 0).await?;
    pipeline.drained(WITHIN).await?;

    let stored: Vec<(i64, String)> = sqlx::query_as(
        "SELECT object_id, encode(substr(version, 10), 'hex') FROM stg.order_events
         UNION ALL SELECT object_id, encode(substr(version, 10), 'hex') FROM stg.order_event_history",
    )
    .fetch_all(pipeline.pool())
    .await?;
    let stored: BTreeSet<(i64, String)> = stored.into_iter().collect();
    for (topic, contract) in [
        (
            pipeline.stg_topic(),
            include_str!("../../crds/schemas/enriched_order.json"),
        ),
        (
            pipeline.dds_topic(),
            include_str!("../../crds/schemas/order_fact.json"),
        ),
    ] {
        let schema: Value = serde_json::from_str(contract)?;
        let schema = jsonschema::validator_for(&schema)?;
        let messages = pipeline.read(topic)?;
        let mut emitted = BTreeMap::new();
        for message in &messages {
            let version = check(&schema, message)?;
            let first = emitted.entry(version).or_insert(&message.value);
            ensure!(
                *first == &message.value,
                "{topic} has a version in two forms: {message:?}"
            );
        }
        let emitted: BTreeSet<(i64, String)> = emitted.into_keys().collect();
        assert_eq!(emitted, stored, "{topic} has other versions than stg");
        eprintln!("contracts: {} messages of {topic} are valid", messages.len());
    }

    for (view, id, counted) in [
        ("user_product_counters", "product_id", PRODUCTS),
        ("user_category_counters", "category_id", CATEGORIES),
    ] {
        let mart = counters(
            &pipeline,
            &format!("SELECT user_id::text, {id}::text, order_cnt::bigint FROM cdm.{view} ORDER BY 1, 2"),
        )
        .await?;
        ensure!(
            mart.iter().any(|(.., orders)| *orders > 1),
            "{view} has nothing to compare"
        );
        assert!(
            mart == counters(&pipeline, &format!("{CLOSED}\n{counted}")).await?,
            "{view}"
        );
        eprintln!("contracts: {} rows of {view} are those of the vault", mart.len());
    }
    Ok(())
}

/// Validates one message; the order and the digest of its version.
fn check(schema: &jsonschema::Validator, message: &Record) -> Result<(i64, String)> {
    let value: Value = serde_json::from_slice(message.value.as_deref().unwrap_or_default())?;
    let broken: Vec<String> = schema
        .iter_errors(&value)
        .map(|error| error.to_string())
        .collect();
    ensure!(broken.is_empty(), "{broken:?} in {value}");
    let order = value["object_id"].as_i64().unwrap_or_default();
    ensure!(
        message.key.as_deref() == Some(order.to_string().as_bytes()),
        "the key of {value} is {:?}",
        message.key
    );
    ensure!(message.headers.len() == 1, "{:?}", message.headers);
    for part in ["/payload/user", "/payload/products", "/payload/status"] {
        let mut broken = value.clone();
        if let Some(part) = broken.pointer_mut(part) {
            *part = Value::Null;
        }
        ensure!(!schema.is_valid(&broken), "the schema takes null for {part}");
    }
    Ok((order, message.header("streamstage-digest")))
}

async fn counters(pipeline: &Pipeline, sql: &str) -> Result<Counters> {
    let rows = sqlx::query_as(sqlx::AssertSqlSafe(sql.to_owned()));
    Ok(rows.fetch_all(pipeline.pool()).await?)
}
