#![expect(clippy::disallowed_types, reason = "edge: runs the query of a check")]
//! Findings: rows that disagree with other rows, each with its table and key.

use std::fmt;

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::record_columns::Query;
use crate::statement;

/// Maximum number of findings that a check lists; the others are counted.
pub(super) const MAX_LISTED: usize = 20;

/// Row that disagrees with other rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Table of the row, with its schema.
    pub table: String,
    /// Key of the row, as columns and values.
    pub key: String,
    /// Actual and expected content of the row.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({}): {}", self.table, self.key, self.detail)
    }
}

/// Findings of one check: the first of them, and their number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    listed: Vec<Finding>,
    count: u64,
}

impl Findings {
    /// Adds a finding.
    pub(super) fn push(&mut self, finding: Finding) {
        self.count += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(finding);
        }
    }

    /// Adds the findings of another check.
    pub(super) fn append(&mut self, other: Self) {
        self.count += other.count;
        let free = MAX_LISTED.saturating_sub(self.listed.len());
        self.listed.extend(other.listed.into_iter().take(free));
    }

    /// The first findings.
    pub(super) fn listed(&self) -> &[Finding] {
        &self.listed
    }

    /// Number of findings.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Runs a query whose rows are findings: the text columns `table_name`, `key` and `detail`.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub(super) async fn query(connection: &mut PgConnection, query: &str) -> Result<Self, sqlx::Error> {
        Self::fetch(connection, statement::query(AssertSqlSafe(limited(query)))).await
    }

    /// As [`Self::query`], for a query that is [`limited`] and has its parameters.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub(super) async fn fetch(connection: &mut PgConnection, query: Query<'_>) -> Result<Self, sqlx::Error> {
        let mut findings = Self::default();
        for row in query.fetch_all(connection).await? {
            findings.push(Finding {
                table: row.try_get("table_name")?,
                key: row.try_get("key")?,
                detail: row.try_get("detail")?,
            });
            findings.count = row.try_get::<i64, _>("total")?.unsigned_abs();
        }
        Ok(findings)
    }
}

/// Limits a query to the findings that are listed, and adds the number of all.
pub(super) fn limited(query: &str) -> String {
    format!(
        "SELECT found.*, count(*) OVER () AS total FROM ({query}) AS found (table_name, key, detail) LIMIT {MAX_LISTED}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_beyond_the_limit_are_counted_and_not_listed() {
        let finding = Finding {
            table: "cdm.product_order_count".to_owned(),
            key: "user_id 1, product_id 2".to_owned(),
            detail: "order_cnt is 5, the ledger has 4".to_owned(),
        };
        assert_eq!(
            finding.to_string(),
            "cdm.product_order_count (user_id 1, product_id 2): order_cnt is 5, the ledger has 4"
        );
        let mut findings = Findings::default();
        for _ in 0..=MAX_LISTED {
            findings.push(finding.clone());
        }
        let mut both = findings.clone();
        both.append(findings);
        assert_eq!((both.count(), both.listed().len()), (42, MAX_LISTED));
    }
}
