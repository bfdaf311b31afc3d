#![expect(
    clippy::disallowed_types,
    reason = "edge: writes the thresholds to PostgreSQL"
)]
//! Brings `cdm.category_thresholds` in line with the stage's `tags`, when a worker starts.

use std::collections::HashSet;

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

/// The columns of the table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rows<'r> {
    categories: Vec<String>,
    thresholds: Vec<i32>,
    tags: Vec<Option<&'r str>>,
}

/// One row for each category and threshold. Two rules whose categories differ in spaces or in their form alone are
/// one, and the first of them counts.
fn rows(rules: &[TagRule]) -> Rows<'_> {
    let mut seen = HashSet::new();
    let mut rows = Rows::default();
    for rule in rules {
        let category = normalise(&rule.category).into_owned();
        let threshold = i32::try_from(rule.threshold).unwrap_or(i32::MAX);
        if seen.insert((category.clone(), threshold)) {
            rows.categories.push(category);
            rows.thresholds.push(threshold);
            rows.tags.push(rule.tag.as_deref());
        } else {
            tracing::warn!(
                category,
                threshold,
                "spec.tags repeats a rule; the first one counts"
            );
        }
    }
    rows
}

/// Makes the table hold exactly these rules; writes nothing when it does already.
///
/// # Errors
/// Whatever PostgreSQL refuses.
pub async fn install(pool: &PgPool, rules: &[TagRule]) -> Result<(), sqlx::Error> {
    let Rows {
        categories,
        thresholds,
        tags,
    } = rows(rules);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_whose_categories_are_one_after_normalising_make_one_row() {
        let rule = |category: &str, threshold, tag: &str| TagRule {
            category: category.to_owned(),
            threshold,
            tag: Some(tag.to_owned()),
        };
        let rules = [
            rule("Роллы", 5, "first"),
            rule(" Роллы", 5, "second"),
            rule("Роллы ", 6, "third"),
        ];
        let expected = Rows {
            categories: vec!["Роллы".to_owned(); 2],
            thresholds: vec![5, 6],
            tags: vec![Some("first"), Some("third")],
        };
        assert_eq!(rows(&rules), expected);
    }
}
