//! Migration 0016: a warehouse with the former keys, and with lines without name and category, is carried over.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Generator, Settings, edit};
use e2e::pipeline::{Pipeline, start_services};
use sqlx::AssertSqlSafe;

const DEADLINE: Duration = Duration::from_mins(1);
const MIGRATION: i64 = 16;
const ORDERS: usize = 300;

/// Former layout of the vault. A hash has its parts with their lengths; the former key of an order was the whole hash.
const RESTORE_FORMER_LAYOUT: &str = "\
CREATE FUNCTION pg_temp.hashed(VARIADIC parts text[]) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (substring(digest FOR 12) || '8' || substring(digest FROM 14 FOR 3)
        || to_hex(('x' || substring(digest FROM 17 FOR 1))::bit(4)::integer & 3 | 8) || substring(digest FROM 18 FOR 15))::uuid
    FROM (
        SELECT encode(sha256(string_agg(
            decode(lpad(to_hex(octet_length(part)), 8, '0'), 'hex') || convert_to(part, 'UTF8'), '' ORDER BY number)), 'hex')
        FROM unnest(parts) WITH ORDINALITY AS listed (part, number)
    ) AS hashed (digest)
$$;
CREATE TEMP TABLE orders AS
SELECT h_order_pk AS present, pg_temp.hashed('h_order', order_id::text) AS former FROM dds.h_order WHERE order_id >= 0;
CREATE TEMP TABLE links AS
SELECT l_order_user_pk AS present, pg_temp.hashed('l_order_user', order_id::text, user_id) AS former
FROM dds.l_order_user JOIN dds.h_order USING (h_order_pk) JOIN dds.h_user USING (h_user_pk)
UNION ALL
SELECT l_order_product_pk, pg_temp.hashed('l_order_product', order_id::text, product_id)
FROM dds.l_order_product JOIN dds.h_order USING (h_order_pk) JOIN dds.h_product USING (h_product_pk)
UNION ALL
SELECT l_order_restaurant_pk, pg_temp.hashed('l_order_restaurant', order_id::text, restaurant_id)
FROM dds.l_order_restaurant JOIN dds.h_order USING (h_order_pk) JOIN dds.h_restaurant USING (h_restaurant_pk);
DO $$
DECLARE
    changed record;
BEGIN
    FOR changed IN
        SELECT table_name, column_name,
            CASE WHEN column_name = 'h_order_pk' THEN 'orders' ELSE 'links' END AS keys
        FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
        WHERE table_schema = 'dds' AND table_type = 'BASE TABLE'
            AND column_name IN ('h_order_pk', 'l_order_user_pk', 'l_order_product_pk', 'l_order_restaurant_pk')
    LOOP
        EXECUTE format('UPDATE dds.%1$I AS changed SET %2$I = former FROM %3$I AS keys WHERE changed.%2$I = present',
            changed.table_name, changed.column_name, changed.keys);
    END LOOP;
END
$$;
DROP VIEW dds.v_s_order_item_current, dds.v_s_order_item_timeline;
ALTER TABLE dds.s_order_item DROP COLUMN name, DROP COLUMN category;
UPDATE dds.s_order_item SET hash_diff = pg_temp.hashed(trim_scale(price)::text, quantity::text);
DROP FUNCTION dds.reject_former_worker();";

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_with_the_former_keys_is_carried_over_and_a_replay_changes_nothing() -> Result<()> {
    let services = start_services().await?;
    let pipeline = Pipeline::create(&services, "keys", 2).await?;
    let mut generator = Generator::new(&Settings::default());
    // The former version did not read the times of entries.
    let entries = generator.catalogue().entries(0);
    let entries = entries.map(|(id, entry)| (id, entry.replace("update_ts", "former_ts")));
    pipeline.load_entries(entries).await?;
    pipeline
        .produce(1, edit::with_edits(generator.history(ORDERS)))
        .await?;
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    ensure!(worker.stop().await?.success(), "the worker did not stop properly");
    let expected = pipeline.row_digests().await?;

    undo_migration(&pipeline).await?;
    ensure!(pipeline.row_digests().await?["dds.h_order"] != expected["dds.h_order"]);
    pipeline.run_command("migrate", &[], &[])?;
    assert_eq!(pipeline.row_digests().await?, expected, "after the migration");
    pipeline.run_command("verify", &[], &[])?;

    for stage in ["stg", "dds", "cdm"] {
        let flags = ["--to", "earliest", "--all", "--execute"];
        pipeline.run_command("reset-offsets", &[stage], &flags)?;
    }
    let worker = pipeline.start_worker(&[])?;
    pipeline.wait_drained(DEADLINE).await?;
    worker.stop().await?;
    assert_eq!(pipeline.row_digests().await?, expected, "after the replay");

    // A worker of the former version omits the columns; its statement fails with an error that it retries.
    let former =
        "INSERT INTO dds.s_order_item (l_order_product_pk, version, occurrence, update_ts, price, quantity,
            hash_diff, load_src)
        SELECT h_order_pk, version, 1, update_ts, 1, 1, hash_diff, load_src FROM dds.s_order_status LIMIT 1";
    let rejected = sqlx::query(former).execute(pipeline.pool()).await;
    let error = rejected.err().and_then(sqlx::Error::into_database_error);
    let code = error.and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    assert_eq!(code.as_deref(), Some("57P03"));
    Ok(())
}

/// Returns a warehouse to its state before the migration.
pub(crate) async fn undo_migration(pipeline: &Pipeline) -> Result<()> {
    let former_views = former_views()?;
    let mut connection = pipeline.pool().acquire().await?;
    for statements in [RESTORE_FORMER_LAYOUT, &former_views] {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query("DELETE FROM streamstage._sqlx_migrations WHERE version = $1")
        .bind(MIGRATION)
        .execute(&mut *connection)
        .await?;
    // Its temporary objects belong to the session.
    connection.close().await?;
    Ok(())
}

/// Definitions of the views of order lines before the migration.
fn former_views() -> Result<String> {
    let definitions = include_str!("../../../migrations/0012_effectivity.sql");
    let start = definitions
        .find("CREATE VIEW dds.v_s_order_item_current")
        .context("the first view")?;
    let end = definitions
        .find("-- An order has one user and")
        .context("the end of the views")?;
    Ok(definitions[start..end].to_owned())
}
