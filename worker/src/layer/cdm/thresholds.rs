#![expect(
    clippy::disallowed_types,
    reason = "edge: writes the thresholds to PostgreSQL"
)]
//! Synchronizes `cdm.category_thresholds` with the stage's `tags` when a worker starts.
//!
//! A rule belongs to the consumer group of its stage. The rules of another stage in the same warehouse stay unchanged,
//! and apply as well: the counters are common to all stages.

use std::collections::HashSet;

use crds::contract::normalize;
use crds::stage::TagRule;
use sqlx::PgConnection;

use crate::statement;

/// Key of the advisory lock that serializes workers which start at the same time. Any constant works.
const ADVISORY_LOCK_KEY: i64 = 0x7374_6167_6573;

const DELETE: &str = "\
DELETE FROM cdm.category_thresholds AS stored
WHERE consumer_group = '' OR consumer_group = $1 AND NOT EXISTS (
    SELECT FROM unnest($2::text[], $3::integer[]) AS rule (category, threshold)
    WHERE rule.category = stored.category AND rule.threshold = stored.threshold)";

const UPSERT: &str = "\
INSERT INTO cdm.category_thresholds (consumer_group, category, threshold, tag)
SELECT $1, rule.* FROM unnest($2::text[], $3::integer[], $4::text[]) AS rule (category, threshold, tag)
WHERE NOT EXISTS (
    SELECT FROM cdm.category_thresholds AS stored
    WHERE stored.consumer_group = $1 AND stored.category = rule.category AND stored.threshold = rule.threshold
      AND stored.tag IS NOT DISTINCT FROM rule.tag)
ON CONFLICT (consumer_group, category, threshold) DO UPDATE SET tag = excluded.tag";

const SELECT_OTHER_GROUPS: &str = "\
SELECT DISTINCT consumer_group FROM cdm.category_thresholds WHERE consumer_group <> $1 ORDER BY 1";

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

/// Replaces the rules of a consumer group by these rules, and rules of unknown origin too. Writes nothing if they are
/// equal. Returns the other consumer groups that have rules.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn install_thresholds(
    connection: &mut PgConnection,
    consumer_group: &str,
    rules: &[TagRule],
) -> Result<Vec<String>, sqlx::Error> {
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
        .bind(consumer_group)
        .bind(&categories)
        .bind(&thresholds)
        .execute(&mut *connection)
        .await?;
    statement::query(UPSERT)
        .bind(consumer_group)
        .bind(&categories)
        .bind(&thresholds)
        .bind(&tags)
        .execute(&mut *connection)
        .await?;
    statement::query_scalar(SELECT_OTHER_GROUPS)
        .bind(consumer_group)
        .fetch_all(connection)
        .await
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
