//! Every produced message conforms to its JSON schema, and the marts equal a recount of the Data Vault.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Settings};
use e2e::pipeline::{Pipeline, Record, start_services};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_mins(2);

/// Latest version of each closed order, with the user of that version. The link has every user that the order ever had;
/// the effectivity satellite has the one of each version.
const CLOSED: &str = "\
WITH latest AS (
    SELECT DISTINCT ON (h_order_pk) h_order_pk, version, status FROM dds.s_order_status
    ORDER BY h_order_pk, version DESC
), closed AS (
    SELECT latest.h_order_pk, latest.version, h_user_pk
    FROM latest
    JOIN dds.s_order_user_effectivity USING (h_order_pk, version)
    JOIN dds.l_order_user USING (l_order_user_pk, h_order_pk)
    WHERE latest.status = 'CLOSED'
), line AS (
    SELECT closed.h_order_pk, closed.version, closed.h_user_pk, link.h_product_pk, item.category
    FROM closed
    JOIN dds.l_order_product AS link USING (h_order_pk)
    JOIN dds.s_order_item AS item
        ON item.l_order_product_pk = link.l_order_product_pk AND item.version = closed.version
)";
const PRODUCTS: &str = "\
SELECT h_user_pk::text, h_product_pk::text, count(DISTINCT h_order_pk) FROM line GROUP BY 1, 2 ORDER BY 1, 2";
const CATEGORIES: &str = "\
SELECT h_user_pk::text, h_category_pk::text, count(DISTINCT h_order_pk)
FROM line JOIN dds.h_category ON category_name = category GROUP BY 1, 2 ORDER BY 1, 2";

/// User, product or category, and number of orders.
type Counters = Vec<(String, String, i64)>;

#[tokio::test(flavor = "multi_thread")]
async fn every_message_conforms_to_its_contract_and_the_marts_equal_a_recount_of_the_vault() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "contracts", 3).await?;
    let mut generator = Generator::new(&Settings {
        seed: 9,
        bad: 0.02,
        ..Settings::default()
    });
    pipeline.load_reference_data(&generator, 20).await?;
    pipeline.produce(1, generator.history(2000)).await?;
    let _worker = pipeline.start_worker(&[])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    // Pending orders are published by another code path.
    ensure!(
        pipeline
            .query_scalar::<i64>("SELECT count(*) FROM stg.pending_enrichment")
            .await?
            > 0
    );
    pipeline.load_reference_data(&generator, 0).await?;
    pipeline.wait_drained(DEADLINE).await?;

    let stored: Vec<(i64, String)> = sqlx::query_as(
        "SELECT object_id, encode(version, 'hex') FROM stg.order_events
         UNION ALL SELECT object_id, encode(version, 'hex') FROM stg.order_event_history",
    )
    .fetch_all(pipeline.pool())
    .await?;
    let stored: BTreeSet<(i64, String)> = stored.into_iter().collect();
    for (topic, contract) in [
        (
            pipeline.stg_topic(),
            include_str!("../../../crds/schemas/enriched_order.json"),
        ),
        (
            pipeline.dds_topic(),
            include_str!("../../../crds/schemas/order_fact.json"),
        ),
    ] {
        let schema: Value = serde_json::from_str(contract)?;
        let schema = jsonschema::validator_for(&schema)?;
        let messages = pipeline.read_topic(topic)?;
        let mut produced = BTreeMap::new();
        for message in &messages {
            let version = validate(&schema, message)?;
            let first = produced.entry(version).or_insert(&message.value);
            ensure!(
                *first == &message.value,
                "{topic} has one version with two values: {message:?}"
            );
        }
        let produced: BTreeSet<(i64, String)> = produced.into_keys().collect();
        assert_eq!(produced, stored, "{topic} has other versions than stg");
        eprintln!("contracts: {} messages of {topic} are valid", messages.len());
    }

    for (view, id, counted) in [
        ("user_product_counters", "product_id", PRODUCTS),
        ("user_category_counters", "category_id", CATEGORIES),
    ] {
        let mart = query_counters(
            &pipeline,
            &format!("SELECT user_id::text, {id}::text, order_cnt::bigint FROM cdm.{view} ORDER BY 1, 2"),
        )
        .await?;
        ensure!(
            mart.iter().any(|(.., orders)| *orders > 1),
            "{view} has nothing to compare"
        );
        assert!(
            mart == query_counters(&pipeline, &format!("{CLOSED}\n{counted}")).await?,
            "{view}"
        );
        eprintln!("contracts: {} rows of {view} equal the recount", mart.len());
    }
    Ok(())
}

/// Validates one message; returns the order id and the version.
fn validate(schema: &jsonschema::Validator, message: &Record) -> Result<(i64, String)> {
    let value: Value = serde_json::from_slice(message.value.as_deref().unwrap_or_default())?;
    let errors: Vec<String> = schema
        .iter_errors(&value)
        .map(|error| error.to_string())
        .collect();
    ensure!(errors.is_empty(), "{errors:?} in {value}");
    let order = value["object_id"].as_i64().unwrap_or_default();
    ensure!(
        message.key.as_deref() == Some(order.to_string().as_bytes()),
        "the key of {value} is {:?}",
        message.key
    );
    ensure!(message.headers.len() == 1, "{:?}", message.headers);
    for field in ["/payload/user", "/payload/products", "/payload/status"] {
        let mut invalid = value.clone();
        if let Some(field) = invalid.pointer_mut(field) {
            *field = Value::Null;
        }
        ensure!(!schema.is_valid(&invalid), "the schema accepts null for {field}");
    }
    Ok((order, message.header("streamstage-version")))
}

async fn query_counters(pipeline: &Pipeline, sql: &str) -> Result<Counters> {
    let rows = sqlx::query_as(sqlx::AssertSqlSafe(sql.to_owned()));
    Ok(rows.fetch_all(pipeline.pool()).await?)
}
