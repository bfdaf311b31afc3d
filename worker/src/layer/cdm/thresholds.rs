#![expect(
    clippy::disallowed_types,
    reason = "edge: writes the thresholds to PostgreSQL"
)]
//! Synchronizes `cdm.category_thresholds` with the stage's `tags` when a worker starts.

use std::collections::HashSet;

use crds::stage::TagRule;
use sqlx::PgConnection;

use crate::statement;
use crate::vault::normalize;

/// Key of the advisory lock that serializes workers which start at the same time. Any constant works.
const ADVISORY_LOCK_KEY: i64 = 0x7374_6167_6573;

const DELETE: &str = "\
DELETE FROM cdm.category_thresholds AS stored
WHERE NOT EXISTS (
    SELECT FROM unnest($1::text[], $2::integer[]) AS rule (category, threshold)
    WHERE rule.category = stored.category AND rule.threshold = stored.threshold)";

const UPSERT: &str = "\
INSERT INTO cdm.category_thresholds (category, threshold, tag)
SELECT rule.* FROM unnest($1::text[], $2::integer[], $3::text[]) AS rule (category, threshold, tag)
WHERE NOT EXISTS (
    SELECT FROM cdm.category_thresholds AS stored
    WHERE stored.category = rule.category AND stored.threshold = rule.threshold
      AND stored.tag IS NOT DISTINCT FROM rule.tag)
ON CONFLICT (category, threshold) DO UPDATE SET tag = excluded.tag";

/// Columns of the table.
#[derive(Debug, Default, PartialEq, Eq)]
struct ThresholdRows<'r> {
    categories: Vec<String>,
    thresholds: Vec<i32>,
    tags: Vec<Option<&'r str>>,
}

/// Builds one row for each category and threshold. If the categories of two rules are equal after normalization, the
/// rules are duplicates and the first one is used.
fn threshold_rows(rules: &[TagRule]) -> ThresholdRows<'_> {
    let mut seen = HashSet::new();
    let mut rows = ThresholdRows::default();
    for rule in rules {
        let category = normalize(&rule.category).into_owned();
        let threshold = i32::try_from(rule.threshold).unwrap_or(i32::MAX);
        if seen.insert((category.clone(), threshold)) {
            rows.categories.push(category);
            rows.thresholds.push(threshold);
            rows.tags.push(rule.tag.as_deref());
        } else {
            tracing::warn!(category, threshold, "duplicate tag rule, using the first");
        }
    }
    rows
}

/// Replaces the content of the table by these rules. Writes nothing if they are equal.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn install_thresholds(connection: &mut PgConnection, rules: &[TagRule]) -> Result<(), sqlx::Error> {
    let ThresholdRows {
        categories,
        thresholds,
        tags,
    } = threshold_rows(rules);
    statement::query("SELECT pg_advisory_xact_lock($1)")
        .bind(ADVISORY_LOCK_KEY)
        .execute(&mut *connection)
        .await?;
    statement::query(DELETE)
        .bind(&categories)
        .bind(&thresholds)
        .execute(&mut *connection)
        .await?;
    statement::query(UPSERT)
        .bind(&categories)
        .bind(&thresholds)
        .bind(&tags)
        .execute(connection)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_with_the_same_normalized_category_are_one_row() {
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
        let expected = ThresholdRows {
            categories: vec!["Роллы".to_owned(); 2],
            thresholds: vec![5, 6],
            tags: vec![Some("first"), Some("third")],
        };
        assert_eq!(threshold_rows(&rules), expected);
    }
}
