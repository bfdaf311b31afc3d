//! The top of the marts and of the tags, and the dead letters, as a person reads them.
#![expect(
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "edge: reads the marts and prints them"
)]

use anyhow::Result;
use sqlx::PgPool;

/// Rows of each table.
const TOP: i64 = 8;

/// Prints the marts and the tags, the largest counts first.
pub(super) async fn print(pool: &PgPool) -> Result<()> {
    print_one(
        pool,
        ["guest", "dish", "closed orders"],
        "SELECT guest.name, mart.product_name, mart.order_cnt::text FROM cdm.user_product_counters AS mart
         JOIN cdm.name AS guest ON guest.id = mart.user_id ORDER BY mart.order_cnt DESC, 1, 2 LIMIT $1",
    )
    .await?;
    print_one(
        pool,
        ["guest", "category", "closed orders"],
        "SELECT guest.name, mart.category_name, mart.order_cnt::text FROM cdm.user_category_counters AS mart
         JOIN cdm.name AS guest ON guest.id = mart.user_id ORDER BY mart.order_cnt DESC, 1, 2 LIMIT $1",
    )
    .await?;
    print_one(
        pool,
        ["guest", "tag", "orders of threshold"],
        "SELECT user_name, tag, order_cnt || ' of ' || threshold FROM cdm.user_tags
         ORDER BY order_cnt DESC, 1, 2 LIMIT $1",
    )
    .await
}

async fn print_one(pool: &PgPool, heads: [&str; 3], query: &'static str) -> Result<()> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(query).bind(TOP).fetch_all(pool).await?;
    println!("{:<28} {:<40} {}", heads[0], heads[1], heads[2]);
    for (guest, thing, count) in rows {
        println!("{guest:<28} {thing:<40} {count}");
    }
    println!();
    Ok(())
}

/// Dead letters by code.
pub(super) async fn dead_letters(pool: &PgPool) -> Result<Vec<(String, i64)>> {
    let query =
        "SELECT code, count(*) FROM streamstage.dead_letter GROUP BY code ORDER BY code COLLATE \"C\"";
    Ok(sqlx::query_as(query).fetch_all(pool).await?)
}
