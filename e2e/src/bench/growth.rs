//! The vault's write path in an empty warehouse, and in one with many orders.
use anyhow::Result;
use sqlx::AssertSqlSafe;

use super::measurement::measure_stage;
use super::report::{Goal, Report};
use super::throughput::create_pipeline;
use crate::pipeline::Pipeline;
use crate::services::Services;

/// Measures DDS in an empty vault, and with `stored` orders that came before.
///
/// # Errors
/// When a stage does not finish, or the vault cannot be filled.
pub(super) async fn measure(
    services: &Services,
    orders: usize,
    stored: u32,
    report: &mut Report,
) -> Result<()> {
    let mut measured = Vec::new();
    for filled in [0, stored] {
        let (pipeline, messages) = create_pipeline(services, "bench_growth", orders).await?;
        fill(&pipeline, filled).await?;
        pipeline.produce(1, messages.into_iter()).await?;
        measure_stage(&pipeline, "stg").await?;
        let dds = measure_stage(&pipeline, "dds").await?;
        report.add_measurement(&format!("DDS, {filled} orders stored"), dds);
        measured.push(dds);
    }
    let [empty, large] = measured[..] else {
        return Ok(());
    };
    for (row, ratio, goal) in [
        (
            "PostgreSQL time",
            large.postgres_micros / empty.postgres_micros,
            Goal::at_most(1.3),
        ),
        ("WAL", large.wal_bytes / empty.wal_bytes, Goal::at_most(1.4)),
    ] {
        report.add_row(&format!("DDS {row}, {stored} orders / empty"), ratio, goal);
    }
    Ok(())
}

/// Stores orders with three versions of three lines each, with keys as the worker computes them: the order's number, and
/// then bytes that look random.
async fn fill(pipeline: &Pipeline, orders: u32) -> Result<()> {
    if orders == 0 {
        return Ok(());
    }
    let statement = FILL.replace("{orders}", &orders.to_string());
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(pipeline.pool())
        .await?;
    Ok(())
}

const FILL: &str = "\
CREATE FUNCTION public.key(number bigint, name text) RETURNS uuid LANGUAGE sql IMMUTABLE AS
$$ SELECT (lpad(to_hex(number), 12, '0') || '8' || substring(md5(number || name) FOR 3) || '8'
    || substring(md5(number || name) FROM 4 FOR 15))::uuid $$;
CREATE TEMP TABLE versions AS
SELECT id, public.key(id, 'order') AS order_key, int8send(id * 1000000 + number) || sha256((id || ' ' || number)::bytea) AS version,
    timestamptz '2020-01-01' + id * interval '1 second' AS update_ts
FROM generate_series(1, {orders}) AS orders (id), generate_series(1, 3) AS versions (number);
INSERT INTO dds.h_order (h_order_pk, order_id, load_src)
SELECT order_key, id, 'filled' FROM versions GROUP BY 1, 2 ORDER BY 1;
INSERT INTO dds.l_order_user (l_order_user_pk, h_order_pk, h_user_pk, load_src)
SELECT public.key(id, 'user'), order_key, md5((id % 120)::text)::uuid, 'filled' FROM versions GROUP BY 1, 2, 3 ORDER BY 1;
INSERT INTO dds.l_order_restaurant (l_order_restaurant_pk, h_order_pk, h_restaurant_pk, load_src)
SELECT public.key(id, 'restaurant'), order_key, md5((id % 8)::text)::uuid, 'filled' FROM versions GROUP BY 1, 2, 3 ORDER BY 1;
INSERT INTO dds.l_order_product (l_order_product_pk, h_order_pk, h_product_pk, load_src)
SELECT public.key(id, 'product' || line), order_key, md5((id * line % 320)::text)::uuid, 'filled'
FROM versions, generate_series(1, 3) AS lines (line) GROUP BY 1, 2, 3 ORDER BY 1;
INSERT INTO dds.s_order_status (h_order_pk, version, update_ts, status, hash_diff, load_src)
SELECT order_key, version, update_ts, 'OPEN', order_key, 'filled' FROM versions ORDER BY 1, 2;
INSERT INTO dds.s_order_cost (h_order_pk, version, update_ts, order_dt, cost, payment, hash_diff, load_src)
SELECT order_key, version, update_ts, update_ts, 100, 100, order_key, 'filled' FROM versions ORDER BY 1, 2;
INSERT INTO dds.s_order_user_effectivity (h_order_pk, version, update_ts, l_order_user_pk, load_src)
SELECT order_key, version, update_ts, public.key(id, 'user'), 'filled' FROM versions ORDER BY 1, 2;
INSERT INTO dds.s_order_restaurant_effectivity (h_order_pk, version, update_ts, l_order_restaurant_pk, load_src)
SELECT order_key, version, update_ts, public.key(id, 'restaurant'), 'filled' FROM versions ORDER BY 1, 2;
INSERT INTO dds.s_order_item (
    l_order_product_pk, version, occurrence, update_ts, name, category, price, quantity, hash_diff, load_src)
SELECT public.key(id, 'product' || line), version, 1, update_ts, 'FILLED DISH', 'Filled', 100, 1, order_key, 'filled'
FROM versions, generate_series(1, 3) AS lines (line) ORDER BY 1, 2, 3;
DROP TABLE versions;
CHECKPOINT;
VACUUM ANALYZE";
