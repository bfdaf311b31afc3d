//! Digests of the warehouse's rows, for comparing two pipelines table by table.
//!
//! Columns with load times, source offsets and the state of copies are excluded; they differ between runs.

use std::collections::BTreeMap;

use anyhow::Result;

use super::instance::Pipeline;

/// Lists every table with its compared columns.
const TABLES_QUERY: &str = "\
SELECT table_schema || '.' || table_name, string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position)
FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
WHERE table_type = 'BASE TABLE'
    AND (table_schema IN ('stg', 'dds', 'cdm') OR (table_schema, table_name) = ('streamstage', 'dead_letter'))
    AND column_name NOT IN ('load_dt', 'load_src', 'consumer_group', 'topic', 'partition', 'offset', 'attempts',
        'pending_since', 'next_attempt_at', 'dead_lettered_at', 'record_timestamp', 'record_timestamp_ms', 'topic_id',
        'redriven_at', 'copied_at', 'copy_attempts', 'copy_error', 'next_copy_at', 'discarded_at', 'discard_reason')
    AND (table_name, column_name) <> ('order_events', 'id')
GROUP BY 1 ORDER BY 1";

impl Pipeline {
    /// Row count and digest of every table of `stg`, `dds` and `cdm`, and of the dead letters.
    ///
    /// # Errors
    /// When PostgreSQL does not answer.
    pub async fn row_digests(&self) -> Result<BTreeMap<String, String>> {
        let tables: Vec<(String, String)> = sqlx::query_as(TABLES_QUERY).fetch_all(self.pool()).await?;
        let mut digests = BTreeMap::new();
        for (table, columns) in tables {
            let digest = self.query_scalar(&digest_query(&table, &columns)).await?;
            digests.insert(table, digest);
        }
        Ok(digests)
    }
}

/// SQL for the row count and the digest of a table. Rows are sorted by their own digests, so that tables without a key
/// work and long values are never sorted.
fn digest_query(table: &str, columns: &str) -> String {
    format!(
        "SELECT count(*) || ' rows, ' || md5(coalesce(string_agg(digest, '' ORDER BY digest), ''))
         FROM (SELECT md5(row({columns})::text) COLLATE \"C\" AS digest FROM {table}) AS row"
    )
}
