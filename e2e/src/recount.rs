//! Independent recount of the marts, and the marts of the warehouse, in a form that can be compared.
//!
//! `recount.py` counts the produced messages; it must share no code with the worker.
//! [`read_marts`] translates the hash keys of the marts back to business keys through the hubs.
#![expect(clippy::disallowed_types, reason = "edge: reads the marts")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use sqlx::PgPool;

/// Closed orders by user and by product or category.
pub type Counters = BTreeMap<(String, String), i64>;

/// Content of the marts, by business keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recount {
    /// Closed orders by user and product.
    pub products: Counters,
    /// Closed orders by user and category.
    pub categories: Counters,
    /// User, category and tag.
    pub tags: BTreeSet<(String, String, String)>,
}

/// Output of `recount.py`.
#[derive(Deserialize)]
struct RecountOutput {
    products: Vec<(String, String, i64)>,
    categories: Vec<(String, String, i64)>,
    tags: BTreeSet<(String, String, String)>,
}

/// Runs `recount.py` with three files: messages as `orders --to-file` writes them, reference data and tag rules.
///
/// # Errors
/// When Python is not installed, or a file has another format.
pub fn recount(messages: &Path, reference_data: &Path, tags: &Path) -> Result<Recount> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("recount.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .arg("--messages")
        .arg(messages)
        .arg("--reference-data")
        .arg(reference_data);
    let output = command
        .arg("--tags")
        .arg(tags)
        .output()
        .context("cannot start python3; install it")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "recount.py failed: {stderr}");
    let printed: RecountOutput =
        serde_json::from_slice(&output.stdout).context("recount.py printed an unknown format")?;
    let counters = |rows: Vec<(String, String, i64)>| {
        rows.into_iter()
            .map(|(user, key, orders)| ((user, key), orders))
            .collect()
    };
    Ok(Recount {
        products: counters(printed.products),
        categories: counters(printed.categories),
        tags: printed.tags,
    })
}

/// Reads the marts of the warehouse.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn read_marts(pool: &PgPool) -> Result<Recount> {
    let products = read_counters(
        pool,
        "SELECT h_user.user_id, product.product_id, mart.order_cnt::bigint FROM cdm.user_product_counters AS mart
         JOIN dds.h_user ON h_user.h_user_pk = mart.user_id
         JOIN dds.h_product AS product ON product.h_product_pk = mart.product_id",
    );
    let categories = read_counters(
        pool,
        "SELECT h_user.user_id, category.category_name, mart.order_cnt::bigint
         FROM cdm.user_category_counters AS mart
         JOIN dds.h_user ON h_user.h_user_pk = mart.user_id
         JOIN dds.h_category AS category ON category.h_category_pk = mart.category_id",
    );
    let tags = sqlx::query_as(
        "SELECT h_user.user_id, mart.category_name, mart.tag FROM cdm.user_tags AS mart
         JOIN dds.h_user ON h_user.h_user_pk = mart.user_id",
    );
    let (products, categories) = (products.await?, categories.await?);
    let tags: Vec<(String, String, String)> = tags.fetch_all(pool).await?;
    Ok(Recount {
        products,
        categories,
        tags: tags.into_iter().collect(),
    })
}

async fn read_counters(pool: &PgPool, query: &'static str) -> Result<Counters> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(query).fetch_all(pool).await?;
    Ok(rows
        .into_iter()
        .map(|(user, key, orders)| ((user, key), orders))
        .collect())
}
