//! Order of the versions: an edit that is sent later is later, and a warehouse of the former layout is carried over.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Generator, Message, Settings, edit, send};
use e2e::pipeline::{Pipeline, Record, STAGES, start_services};
use e2e::recount::{read_marts, recount};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_mins(1);
const ORDERS: usize = 300;

/// Version of the migration that extends stored versions.
const MIGRATION: i64 = 11;

/// Tables with versions, as the migration finds them.
const TABLES: [&str; 11] = [
    "stg.order_events",
    "stg.order_event_history",
    "stg.pending_enrichment",
    "dds.s_user_names",
    "dds.s_product_names",
    "dds.s_restaurant_names",
    "dds.s_order_cost",
    "dds.s_order_status",
    "dds.s_order_item",
    "cdm.order_contribution",
    "cdm.entity_name",
];

/// Exchanges the latest version and the one before it, if the former order, by digest, was the other way round.
const EXCHANGE_LATEST: &str = "\
WITH later AS (
    SELECT DISTINCT ON (object_id) history.* FROM stg.order_event_history AS history
    JOIN stg.order_events AS event USING (object_id)
    WHERE history.version > event.version
    ORDER BY object_id, history.version DESC
), superseded AS (
    INSERT INTO stg.order_event_history
    SELECT event.object_id, event.object_type, event.sent_dttm, event.payload, event.update_ts, event.version,
        event.load_dt, event.load_src
    FROM stg.order_events AS event JOIN later USING (object_id)
), removed AS (
    DELETE FROM stg.order_event_history AS history USING later
    WHERE history.object_id = later.object_id AND history.version = later.version
)
UPDATE stg.order_events AS event
SET sent_dttm = later.sent_dttm, payload = later.payload, update_ts = later.update_ts, version = later.version
FROM later WHERE event.object_id = later.object_id";

fn generator() -> Generator {
    Generator::new(&Settings {
        bad: 0.0,
        ..Settings::default()
    })
}

/// Messages of some orders with edits, in any order.
fn shuffled_edits(generator: &mut Generator, seed: u64) -> Vec<Message> {
    let mut messages: Vec<Message> = edit::with_edits(generator.history(ORDERS)).collect();
    messages.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_edits_with_the_same_time_and_status_the_one_that_is_sent_later_counts() -> Result<()> {
    let services = start_services().await?;
    let mut pipeline = Pipeline::create(&services, "edits", 2).await?;
    pipeline.set_batch_settings("{maxRecords: 50}")?;
    let mut generator = generator();
    pipeline.load_reference_data(&generator, 0).await?;
    let messages = shuffled_edits(&mut generator, 5);
    let file = pipeline.folder().join("orders.ndjson");
    let mut lines = Vec::new();
    messages
        .iter()
        .try_for_each(|message| send::write_line(&mut lines, message))?;
    std::fs::write(&file, lines)?;
    pipeline.produce(1, messages.into_iter()).await?;
    let _worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;

    let (reference_data, tags) = pipeline.write_recount_inputs(&generator)?;
    assert_eq!(
        read_marts(pipeline.pool()).await?,
        recount(&file, &reference_data, &tags)?
    );
    // The digest alone would choose another version of some orders.
    let earlier: i64 = pipeline
        .query_scalar(
            "SELECT count(*) FROM stg.order_events AS event JOIN stg.order_event_history AS history USING (object_id)
             WHERE substring(event.version FOR 9) = substring(history.version FOR 9)
                 AND substring(event.version FROM 18) < substring(history.version FROM 18)
                 AND event.sent_dttm > history.sent_dttm",
        )
        .await?;
    ensure!(earlier > 5, "no edit whose digest is lower");
    for (table, latest) in [
        (
            "cdm.order_contribution",
            "SELECT order_id, version FROM cdm.order_contribution",
        ),
        (
            "dds.v_s_order_status_current",
            "SELECT order_id, max(encode(version, 'hex'))::text FROM dds.s_order_status
             JOIN dds.h_order USING (h_order_pk) GROUP BY 1",
        ),
    ] {
        let version = if table.starts_with("dds") {
            "decode(latest.version, 'hex')"
        } else {
            "latest.version"
        };
        let different: i64 = pipeline
            .query_scalar(&format!(
                "SELECT count(*) FROM stg.order_events AS event
                 FULL JOIN ({latest}) AS latest (order_id, version) ON latest.order_id = event.object_id
                 WHERE event.version IS DISTINCT FROM {version}"
            ))
            .await?;
        assert_eq!(different, 0, "{table}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warehouse_of_the_former_layout_is_carried_over_and_a_replay_changes_nothing() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "former", 1).await?;
    let mut generator = generator();
    // The last users are missing, so that some orders are pending. The former version did not read the times of entries.
    let entries = generator.catalogue().entries(20);
    let entries = entries.map(|(id, entry)| (id, entry.replace("update_ts", "former_ts")));
    pipeline.load_entries(entries).await?;
    let messages = shuffled_edits(&mut generator, 6);
    pipeline.produce(1, messages.into_iter()).await?;
    run_until_drained(&pipeline).await?;
    let expected = pipeline.row_digests().await?;
    for table in TABLES {
        let rows = &expected[table];
        ensure!(!rows.starts_with("0 rows"), "{table} is empty");
    }

    // As a worker of the former version leaves the warehouse.
    for table in TABLES {
        let statement =
            format!("UPDATE {table} SET version = substring(version FOR 9) || substring(version FROM 18)");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(pipeline.pool())
            .await?;
    }
    let exchanged = sqlx::raw_sql(EXCHANGE_LATEST).execute(pipeline.pool()).await?;
    ensure!(
        exchanged.rows_affected() > 5,
        "no order whose latest version was another one"
    );
    sqlx::query("DELETE FROM streamstage._sqlx_migrations WHERE version = $1")
        .bind(MIGRATION)
        .execute(pipeline.pool())
        .await?;
    pipeline.run_command("migrate", &[], &[])?;
    assert_eq!(pipeline.row_digests().await?, expected, "after the migration");

    // The messages between the stages, as a worker of the former version produced them.
    let mut former_offsets = Vec::new();
    for topic in [pipeline.stg_topic(), pipeline.dds_topic()] {
        let messages: Vec<Record> = pipeline.read_topic(topic)?;
        former_offsets.push(pipeline.end_offsets(topic)?[&0]);
        let former: Vec<Record> = messages.iter().map(former_message).collect::<Result<_>>()?;
        pipeline.send(topic, &former).await?;
    }
    for stage in STAGES {
        pipeline.run_command(
            "reset-offsets",
            &[stage],
            &["--to", "earliest", "--all", "--execute"],
        )?;
    }
    run_until_drained(&pipeline).await?;
    assert_eq!(pipeline.row_digests().await?, expected, "after the replay");

    // A message that was not read before the upgrade gets its send time from STG.
    let satellites: Vec<String> = expected
        .keys()
        .filter(|table| is_satellite(table))
        .cloned()
        .collect();
    let statement = format!("TRUNCATE {}", satellites.join(", "));
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(pipeline.pool())
        .await?;
    pipeline
        .delete_records(pipeline.stg_topic(), 0, former_offsets[0])
        .await?;
    pipeline.run_command(
        "reset-offsets",
        &["dds"],
        &["--to", "earliest", "--all", "--execute"],
    )?;
    run_until_drained(&pipeline).await?;
    assert_eq!(
        pipeline.row_digests().await?,
        expected,
        "after a load of the former messages"
    );
    Ok(())
}

/// Returns true for a satellite of the vault: hubs and links also have ghost records, which no message brings.
fn is_satellite(table: &str) -> bool {
    table
        .strip_prefix("dds.")
        .is_some_and(|name| !name.starts_with("h_") && !name.starts_with("l_"))
}

async fn run_until_drained(pipeline: &Pipeline) -> Result<()> {
    let worker = pipeline.start_worker(&[])?;
    for stage in STAGES {
        pipeline.wait_caught_up(stage, DEADLINE).await?;
    }
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    Ok(())
}

/// Message between the stages with the digest alone and with timestamps without UTC offset.
fn former_message(message: &Record) -> Result<Record> {
    let version = message.header("streamstage-version");
    ensure!(version.len() == 98, "{version}");
    let mut value: Value = serde_json::from_slice(message.value.as_deref().context("a value")?)?;
    for field in ["date", "update_ts"] {
        if let Some(text) = value["payload"][field].as_str() {
            value["payload"][field] = json!(text.trim_end_matches('Z').replace('T', " "));
        }
    }
    Ok(Record {
        headers: vec![(
            "streamstage-digest".to_owned(),
            Some(version.as_bytes()[34..].to_vec()),
        )],
        value: Some(value.to_string().into_bytes()),
        ..message.clone()
    })
}
