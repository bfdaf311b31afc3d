//! Tables for the terminal: the top rows of the marts and the tags, and the dead letters by code.
#![expect(clippy::disallowed_types, reason = "edge: reads the marts and prints them")]

use anyhow::Result;
use sqlx::PgPool;
use telemetry::stdout::print_line;

/// Rows per table.
const MAX_ROWS: i64 = 8;

/// Prints the marts and the tags, the largest counts first.
pub(super) async fn print_marts(pool: &PgPool) -> Result<()> {
    print_table(
        pool,
        ["user", "product", "closed orders"],
        "SELECT customer.name, mart.product_name, mart.order_cnt::text FROM cdm.user_product_counters AS mart
         JOIN cdm.entity_name AS customer ON customer.id = mart.user_id
         ORDER BY mart.order_cnt DESC, 1, 2 LIMIT $1",
    )
    .await?;
    print_table(
        pool,
        ["user", "category", "closed orders"],
        "SELECT customer.name, mart.category_name, mart.order_cnt::text FROM cdm.user_category_counters AS mart
         JOIN cdm.entity_name AS customer ON customer.id = mart.user_id
         ORDER BY mart.order_cnt DESC, 1, 2 LIMIT $1",
    )
    .await?;
    print_table(
        pool,
        ["user", "tag", "orders of threshold"],
        "SELECT user_name, tag, order_cnt || ' of ' || threshold FROM cdm.user_tags
         ORDER BY order_cnt DESC, 1, 2 LIMIT $1",
    )
    .await
}

async fn print_table(pool: &PgPool, headings: [&str; 3], query: &'static str) -> Result<()> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(query).bind(MAX_ROWS).fetch_all(pool).await?;
    print_line(format_args!(
        "{:<28} {:<40} {}",
        headings[0], headings[1], headings[2]
    ))?;
    for (user, item, count) in rows {
        print_line(format_args!("{user:<28} {item:<40} {count}"))?;
    }
    print_line("")?;
    Ok(())
}

/// Counts the dead letters by code.
pub(super) async fn count_dead_letters(pool: &PgPool) -> Result<Vec<(String, i64)>> {
    let query =
        "SELECT code, count(*) FROM streamstage.dead_letter GROUP BY code ORDER BY code COLLATE \"C\"";
    Ok(sqlx::query_as(query).fetch_all(pool).await?)
}
