#![expect(
    clippy::disallowed_types,
    reason = "edge: writes the thresholds to PostgreSQL"
)]
//! Brings `cdm.category_thresholds` in line with the stage's `tags`, when a worker starts.

use crds::stage::TagRule;
use sqlx::PgPool;

use crate::vault::normalise;

/// Serialises workers that start together; any number will do, as long as it is always this one.
const LOCK: i64 = 0x7374_6167_6573;

const DELETE: &str = "\
DELETE FROM cdm.category_thresholds AS held
WHERE NOT EXISTS (
    SELECT FROM unnest($1::text[], $2::integer[]) AS rule (category, threshold)
    WHERE rule.category = held.category AND rule.threshold = held.threshold)";

const UPSERT: &str = "\
INSERT INTO cdm.category_thresholds (category, threshold, tag)
SELECT rule.* FROM unnest($1::text[], $2::integer[], $3::text[]) AS rule (category, threshold, tag)
WHERE NOT EXISTS (
    SELECT FROM cdm.category_thresholds AS held
    WHERE held.category = rule.category AND held.threshold = rule.threshold
      AND held.tag IS NOT DISTINCT FROM rule.tag)
ON CONFLICT (category, threshold) DO UPDATE SET tag = excluded.tag";

/// Makes the table hold exactly these rules; writes nothing when it does already.
///
/// # Errors
/// Whatever PostgreSQL refuses.
pub async fn install(pool: &PgPool, rules: &[TagRule]) -> Result<(), sqlx::Error> {
    let categories: Vec<_> = rules.iter().map(|rule| normalise(&rule.category)).collect();
    let categories: Vec<&str> = categories.iter().map(AsRef::as_ref).collect();
    let thresholds: Vec<i32> = rules
        .iter()
        .map(|rule| i32::try_from(rule.threshold).unwrap_or(i32::MAX))
        .collect();
    let tags: Vec<Option<&str>> = rules.iter().map(|rule| rule.tag.as_deref()).collect();
    let mut transaction = pool.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(DELETE)
        .bind(&categories)
        .bind(&thresholds)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(UPSERT)
        .bind(&categories)
        .bind(&thresholds)
        .bind(&tags)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}
