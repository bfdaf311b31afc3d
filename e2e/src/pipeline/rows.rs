//! The rows of the warehouse as digests, so that two pipelines can be compared table by table.
//!
//! Left out is what tells when and from where a row came, not what it says.

use std::collections::BTreeMap;

use anyhow::Result;

use super::Pipeline;

/// Every table, with the columns that are compared.
const TABLES: &str = "\
SELECT table_schema || '.' || table_name, string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position)
FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
WHERE table_type = 'BASE TABLE'
    AND (table_schema IN ('stg', 'dds', 'cdm') OR (table_schema, table_name) = ('streamstage', 'dead_letter'))
    AND column_name NOT IN ('load_dt', 'load_src', 'consumer_group', 'topic', 'partition', 'offset', 'attempts',
        'since', 'next_attempt_at', 'dead_since', 'record_timestamp', 'redriven_at')
    AND (table_name, column_name) <> ('order_events', 'id')
GROUP BY 1 ORDER BY 1";

impl Pipeline {
    /// Every table of `stg`, `dds` and `cdm`, and the dead letters: the number of rows and a digest over all of them.
    ///
    /// # Errors
    /// When PostgreSQL does not answer.
    pub async fn rows(&self) -> Result<BTreeMap<String, String>> {
        let tables: Vec<(String, String)> = sqlx::query_as(TABLES).fetch_all(self.pool()).await?;
        let mut digests = BTreeMap::new();
        for (table, columns) in tables {
            let digest = self.query(&digest(&table, &columns)).await?;
            digests.insert(table, digest);
        }
        Ok(digests)
    }
}

/// The number of rows and their digest. Rows are sorted by their own digests: no table needs a key for it, and no
/// long value is sorted.
fn digest(table: &str, columns: &str) -> String {
    format!(
        "SELECT count(*) || ' rows, ' || md5(coalesce(string_agg(digest, '' ORDER BY digest), ''))
         FROM (SELECT md5(row({columns})::text) COLLATE \"C\" AS digest FROM {table}) AS row"
    )
}
