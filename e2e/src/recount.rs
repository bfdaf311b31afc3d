//! The marts by their definition, and the marts as the warehouse has them, in one form that can be compared.
//!
//! The first comes from `recount.py`, which reads the produced messages and shares nothing with the worker. The
//! second translates the marts' hash keys back to business keys through the hubs of the vault.
#![expect(clippy::disallowed_types, reason = "edge: reads the marts")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use sqlx::PgPool;

/// How many closed orders, by guest and by dish or category.
pub type Counters = BTreeMap<(String, String), i64>;

/// The content of the marts, by business keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recount {
    /// Closed orders by guest and dish.
    pub products: Counters,
    /// Closed orders by guest and category.
    pub categories: Counters,
    /// Guest, category and tag.
    pub tags: BTreeSet<(String, String, String)>,
}

/// What `recount.py` prints.
#[derive(Deserialize)]
struct Printed {
    products: Vec<(String, String, i64)>,
    categories: Vec<(String, String, i64)>,
    tags: BTreeSet<(String, String, String)>,
}

/// Counts from the files: messages as `orders --to-file` writes them, the dictionary, the rules of the tags.
///
/// # Errors
/// When Python is not there, or a file is not what it should be.
pub fn recount(messages: &Path, dictionary: &Path, tags: &Path) -> Result<Recount> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("recount.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .arg("--messages")
        .arg(messages)
        .arg("--dictionary")
        .arg(dictionary);
    let output = command
        .arg("--tags")
        .arg(tags)
        .output()
        .context("cannot start python3; install it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "recount.py failed: {said}");
    let printed: Printed =
        serde_json::from_slice(&output.stdout).context("recount.py printed something else")?;
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

/// Reads the marts.
///
/// # Errors
/// When PostgreSQL does not answer.
pub async fn marts(pool: &PgPool) -> Result<Recount> {
    let products = counters(
        pool,
        "SELECT guest.user_id, product.product_id, mart.order_cnt::bigint FROM cdm.user_product_counters AS mart
         JOIN dds.h_user AS guest ON guest.h_user_pk = mart.user_id
         JOIN dds.h_product AS product ON product.h_product_pk = mart.product_id",
    );
    let categories = counters(
        pool,
        "SELECT guest.user_id, category.category_name, mart.order_cnt::bigint
         FROM cdm.user_category_counters AS mart
         JOIN dds.h_user AS guest ON guest.h_user_pk = mart.user_id
         JOIN dds.h_category AS category ON category.h_category_pk = mart.category_id",
    );
    let tags = sqlx::query_as(
        "SELECT guest.user_id, mart.category_name, mart.tag FROM cdm.user_tags AS mart
         JOIN dds.h_user AS guest ON guest.h_user_pk = mart.user_id",
    );
    let (products, categories) = (products.await?, categories.await?);
    let tags: Vec<(String, String, String)> = tags.fetch_all(pool).await?;
    Ok(Recount {
        products,
        categories,
        tags: tags.into_iter().collect(),
    })
}

async fn counters(pool: &PgPool, query: &'static str) -> Result<Counters> {
    let rows: Vec<(String, String, i64)> = sqlx::query_as(query).fetch_all(pool).await?;
    Ok(rows
        .into_iter()
        .map(|(user, key, orders)| ((user, key), orders))
        .collect())
}
