//! `worker verify` agrees with a healthy warehouse, also while workers run, and names each row that was changed by hand.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::orders::{Generator, Message, Settings};
use e2e::pipeline::{Pipeline, start_services};
use e2e::services::Services;
use sqlx::AssertSqlSafe;

const DEADLINE: Duration = Duration::from_mins(2);
const PARTITIONS: i32 = 3;
/// A version that is not the latest of its order.
const SUPERSEDED: &str = "(SELECT version FROM stg.order_event_history ORDER BY version LIMIT 1)";

/// Changes by hand: the table, the statement, and the text that must name the change.
const CHANGES: [(&str, &str, &[&str]); 22] = [
    (
        "cdm.product_order_count",
        "UPDATE {row} SET order_cnt = order_cnt + 1",
        &[
            "cdm.product_order_count (user_id ",
            "a recount of the ledger gives",
        ],
    ),
    (
        "cdm.category_order_count",
        "DELETE FROM {row}",
        &["cdm.category_order_count (user_id ", "missing"],
    ),
    (
        "cdm.order_contribution",
        "UPDATE {row} SET products = '{}', categories = '{}'",
        &["cdm.order_contribution (order_id ", "cdm.product_order_count"],
    ),
    (
        "cdm.order_contribution",
        "DELETE FROM {row}",
        &["cdm.order_contribution (order "],
    ),
    (
        "cdm.entity_name",
        "UPDATE {row} SET name = name || '?'",
        &["cdm.entity_name (id "],
    ),
    (
        "streamstage.position",
        "UPDATE {row} SET next_offset = next_offset + 1",
        &["streamstage.position (consumer_group "],
    ),
    (
        "streamstage.position",
        "UPDATE {row} SET next_offset = next_offset - 1",
        &["streamstage.position (consumer_group "],
    ),
    (
        "stg.order_events",
        "DELETE FROM {row}",
        &["stg.order_events (order "],
    ),
    (
        "stg.order_events",
        "UPDATE {row} SET payload = replace(payload::text, 'order', 'Order')::json",
        &["stg.order_events (object_id ", "digest"],
    ),
    (
        "stg.order_event_history",
        "DELETE FROM {row}",
        &["stg.order_events (order "],
    ),
    ("dds.h_user", "DELETE FROM {row}", &["dds.h_user (h_user_pk "]),
    (
        "dds.h_user",
        "UPDATE {row} SET user_id = user_id || '0'",
        &["dds.h_user (h_user_pk "],
    ),
    ("dds.h_order", "DELETE FROM {row}", &["dds.h_order (h_order_pk "]),
    ("dds.l_order_user", "DELETE FROM {row}", &["dds.l_order_user ("]),
    (
        "dds.l_product_category",
        "DELETE FROM {row}",
        &["dds.l_product_category ("],
    ),
    (
        "dds.l_product_restaurant",
        "DELETE FROM {row}",
        &["dds.l_product_restaurant ("],
    ),
    (
        "dds.s_order_status",
        "UPDATE {row} SET status = 'CLOSED?'",
        &["dds.s_order_status (h_order_pk "],
    ),
    (
        "dds.s_order_status",
        "DELETE FROM {row}",
        &["dds.s_order_status ("],
    ),
    ("dds.s_order_cost", "DELETE FROM {row}", &["dds.s_order_cost ("]),
    ("dds.s_user_names", "DELETE FROM {row}", &["dds.s_user_names ("]),
    (
        "dds.s_product_names",
        "DELETE FROM {row}",
        &["dds.s_product_names ("],
    ),
    ("dds.s_order_item", "DELETE FROM {row}", &["dds.s_order_item ("]),
];

async fn execute(pipeline: &Pipeline, statement: String) -> Result<u64> {
    let result = sqlx::query(AssertSqlSafe(statement))
        .execute(pipeline.pool())
        .await?;
    Ok(result.rows_affected())
}

async fn create_pipeline(services: &Services, name: &str) -> Result<(Pipeline, Vec<Message>)> {
    let mut generator = Generator::new(&Settings {
        seed: 18,
        bad: 0.05,
        ..Settings::default()
    });
    let pipeline = Pipeline::create(services, name, PARTITIONS).await?;
    pipeline.load_reference_data(&generator, 0).await?;
    let messages = generator.history(150).collect();
    Ok((pipeline, messages))
}

/// Runs `worker verify`, and returns its output if it found a disagreement.
fn disagreement(pipeline: &Pipeline) -> Result<String> {
    match pipeline.run_command("verify", &[], &[]) {
        Ok(output) => anyhow::bail!("no finding:\n{output}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_hand_is_named_and_a_healthy_warehouse_agrees() -> Result<()> {
    let services = start_services().await?;
    let (pipeline, messages) = create_pipeline(&services, "verified").await?;
    pipeline.produce(1, messages.into_iter()).await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    worker.stop().await?;
    let before = pipeline.row_digests().await?;
    let output = pipeline.run_command("verify", &[], &[])?;
    ensure!(
        output.contains("verdict    agrees\n") && !output.contains("behind"),
        "{output}"
    );

    for (table, change, names) in CHANGES {
        execute(&pipeline, "DROP TABLE IF EXISTS public.backup".to_owned()).await?;
        execute(
            &pipeline,
            format!("CREATE TABLE public.backup AS SELECT * FROM {table}"),
        )
        .await?;
        // The first row of a superseded version, so that no other check hides the change; any row of other tables.
        let versions = if table.starts_with("dds.s_order_") {
            format!("WHERE version = {SUPERSEDED}")
        } else if table == "dds.h_order" || table == "dds.h_user" {
            format!(
                "WHERE {}_pk <> '00000000-0000-0000-0000-000000000000'",
                &table[4..]
            )
        } else if table == "cdm.order_contribution" {
            "WHERE cardinality(products) > 0".to_owned()
        } else {
            String::new()
        };
        let row = format!("WHERE ctid = (SELECT ctid FROM {table} {versions} LIMIT 1)");
        let statement = if change.contains(" SET ") {
            format!("{} {row}", change.replace("{row}", table))
        } else {
            change.replace("{row}", &format!("{table} {row}"))
        };
        assert_eq!(execute(&pipeline, statement.clone()).await?, 1, "{statement}");
        let output = disagreement(&pipeline).map_err(|error| error.context(statement.clone()))?;
        for name in names {
            ensure!(
                output.contains(name),
                "{statement} is not named {name:?}:\n{output}"
            );
        }
        ensure!(
            output.contains("exit status: 1") && output.contains("verdict    disagrees"),
            "{output}"
        );
        execute(&pipeline, format!("DELETE FROM {table}")).await?;
        let restore = format!("INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM public.backup");
        execute(&pipeline, restore).await?;
    }
    assert_eq!(pipeline.row_digests().await?, before, "verify has changed a row");
    pipeline.run_command("verify", &[], &[])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_has_records_to_read_is_behind_and_does_not_disagree() -> Result<()> {
    let services = start_services().await?;
    let (pipeline, messages) = create_pipeline(&services, "behind").await?;
    let (first, second) = messages.split_at(messages.len() / 2);
    pipeline.produce(1, first.iter().cloned()).await?;
    let worker = pipeline.start_worker(&["stg"])?;
    pipeline.wait_caught_up("stg", DEADLINE).await?;
    let output = pipeline.run_command("verify", &[], &[])?;
    ensure!(
        output.contains("behind     every version of STG is in DDS: "),
        "{output}"
    );
    ensure!(
        output.contains("verdict    agrees, as far as the layers have read"),
        "{output}"
    );

    // While all layers run and read.
    let others = pipeline.start_worker(&["dds", "cdm"])?;
    for messages in second.chunks(second.len().div_ceil(4)) {
        pipeline.produce(1, messages.iter().cloned()).await?;
        let output = pipeline.run_command("verify", &[], &[])?;
        ensure!(output.contains("verdict    agrees"), "{output}");
    }
    pipeline.wait_drained(DEADLINE).await?;
    worker.stop().await?;
    others.stop().await?;

    // Versions that are missing although everything was read are lost.
    pipeline.recreate_topic(pipeline.stg_topic(), PARTITIONS).await?;
    for table in ["h_order", "s_order_status", "s_order_cost"] {
        execute(&pipeline, format!("DELETE FROM dds.{table}")).await?;
    }
    let output = disagreement(&pipeline)?;
    ensure!(
        output.contains("DISAGREES  every version of STG is in DDS"),
        "{output}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_orders_and_dead_letters_are_not_missing() -> Result<()> {
    let services = start_services().await?;
    let mut generator = Generator::new(&Settings {
        seed: 19,
        bad: 0.05,
        ..Settings::default()
    });
    let mut pipeline = Pipeline::create(&services, "excused", PARTITIONS).await?;
    pipeline.load_reference_data(&generator, 60).await?;
    let messages: Vec<Message> = generator.history(100).collect();
    pipeline.produce(1, messages.into_iter()).await?;
    let worker = pipeline.start_worker(&[])?;
    for stage in ["stg", "dds", "cdm"] {
        pipeline.wait_caught_up(stage, DEADLINE).await?;
    }
    let pending: i64 = pipeline
        .query_scalar("SELECT count(*) FROM stg.pending_enrichment")
        .await?;
    ensure!(pending > 0, "no order is pending");
    pipeline.run_command("verify", &[], &[])?;
    worker.stop().await?;

    pipeline.edit("  referenceData:\n", "  referenceData:\n    maxWait: 1s\n")?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    worker.stop().await?;
    pipeline.run_command("verify", &[], &[])?;
    Ok(())
}
