#![expect(
    clippy::disallowed_types,
    reason = "edge: searches PostgreSQL for versions that a layer lacks"
)]
//! Gaps: versions that one layer has and the next or previous one lacks.
//!
//! Layers commit separately, so a gap is a fault only if the layer has read everything. A layer publishes before it
//! commits, so for a moment the next one may also have a version that the previous one lacks.

use crds::stage::Layer;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::finding::{Finding, Findings};
use crate::statement;
use crate::version::to_hex;

/// Maximum number of missing versions that are examined: those that were stored first.
const MAX_KEYS: i64 = 1_000;

/// Digests of the versions that have a dead letter, as hexadecimal digits: of the value, or from the header that carries
/// the digest between the layers.
const DEAD_LETTERS: &str = "\
SELECT convert_to(encode(sha256(value), 'hex'), 'UTF8') AS digest
FROM streamstage.dead_letter WHERE redriven_at IS NULL AND value IS NOT NULL
UNION
SELECT substring(header.value FROM greatest(length(header.value) - 63, 1))
FROM streamstage.dead_letter CROSS JOIN unnest(header_names, header_values) AS header (name, value)
WHERE redriven_at IS NULL AND header.name IN ('streamstage-digest', 'streamstage-version')";

/// True for a version without a dead letter.
const NOT_DEAD_LETTERED: &str = "\
NOT EXISTS (
    SELECT FROM dead_letter
    WHERE dead_letter.digest = convert_to(
        encode(substring(stored.version FROM greatest(length(stored.version) - 31, 1)), 'hex'), 'UTF8'))";

/// Versions that one of two layers lacks.
#[derive(Debug)]
pub(super) struct Gap {
    /// The earlier of the two layers.
    pub upstream: Layer,
    /// The later of the two layers.
    pub downstream: Layer,
    /// Layer without the versions; a gap is not a fault while it has records to read.
    pub lacking: Layer,
    /// Table that lacks the versions.
    table: &'static str,
    /// Selects order, version and load date of every version that the other layer has.
    source: &'static str,
    /// True for a row of `stored` that the layer `lacking` lacks.
    is_missing: &'static str,
}

/// Order and version.
type Key = (i64, Vec<u8>);

/// Versions that were missing in the snapshot.
pub(super) struct Missing {
    /// Gap that they are.
    pub gap: &'static Gap,
    /// The first of them.
    pub keys: Vec<Key>,
    /// Number of all of them.
    pub count: u64,
}

/// Gaps of all layers.
pub(super) const GAPS: [Gap; 4] = [
    Gap {
        upstream: Layer::Stg,
        downstream: Layer::Dds,
        lacking: Layer::Dds,
        table: "dds.s_order_status",
        source: "SELECT object_id, version, load_dt FROM stg.order_events
            UNION ALL SELECT object_id, version, load_dt FROM stg.order_event_history",
        is_missing: "NOT EXISTS (
                SELECT FROM dds.h_order AS hub JOIN dds.s_order_status AS status USING (h_order_pk)
                WHERE hub.order_id = stored.order_id AND status.version = stored.version)
            AND NOT EXISTS (
                SELECT FROM stg.pending_enrichment AS pending
                WHERE pending.object_id = stored.order_id AND pending.version = stored.version)",
    },
    Gap {
        upstream: Layer::Stg,
        downstream: Layer::Dds,
        lacking: Layer::Stg,
        table: "stg.order_events",
        source: "SELECT hub.order_id, status.version, status.load_dt
            FROM dds.s_order_status AS status JOIN dds.h_order AS hub USING (h_order_pk)",
        is_missing: "NOT EXISTS (
                SELECT FROM stg.order_events AS latest
                WHERE latest.object_id = stored.order_id AND latest.version = stored.version)
            AND NOT EXISTS (
                SELECT FROM stg.order_event_history AS earlier
                WHERE earlier.object_id = stored.order_id AND earlier.version = stored.version)",
    },
    Gap {
        upstream: Layer::Dds,
        downstream: Layer::Cdm,
        lacking: Layer::Cdm,
        table: "cdm.order_contribution",
        source: "SELECT DISTINCT ON (hub.order_id) hub.order_id, status.version, status.load_dt
            FROM dds.s_order_status AS status JOIN dds.h_order AS hub USING (h_order_pk)
            ORDER BY hub.order_id, status.version DESC",
        is_missing: "NOT EXISTS (
                SELECT FROM cdm.order_contribution AS ledger
                WHERE ledger.order_id = stored.order_id AND ledger.version >= stored.version)",
    },
    Gap {
        upstream: Layer::Dds,
        downstream: Layer::Cdm,
        lacking: Layer::Dds,
        table: "dds.s_order_status",
        source: "SELECT order_id, version, NULL::timestamptz FROM cdm.order_contribution",
        is_missing: "NOT EXISTS (
                SELECT FROM dds.h_order AS hub JOIN dds.s_order_status AS status USING (h_order_pk)
                WHERE hub.order_id = stored.order_id AND status.version = stored.version)",
    },
];

impl Gap {
    /// Statement that is true if no version is missing.
    pub(super) fn title(&self) -> String {
        let other = if self.lacking == self.upstream {
            self.downstream
        } else {
            self.upstream
        };
        format!(
            "every version of {} is in {}",
            layer_name(other).to_uppercase(),
            layer_name(self.lacking).to_uppercase()
        )
    }

    /// Searches the missing versions.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub(super) async fn search(&'static self, connection: &mut PgConnection) -> Result<Missing, sqlx::Error> {
        let (keys, count) = self.missing(connection, self.source, &[]).await?;
        Ok(Missing {
            gap: self,
            keys,
            count,
        })
    }

    /// Returns those of the versions that are missing still.
    ///
    /// # Errors
    /// If PostgreSQL fails.
    pub(super) async fn search_again(
        &self,
        connection: &mut PgConnection,
        keys: &[Key],
    ) -> Result<Vec<Key>, sqlx::Error> {
        let source = "SELECT order_id, version, NULL::timestamptz FROM unnest($1::bigint[], $2::bytea[])
            AS again (order_id, version)";
        Ok(self.missing(connection, source, keys).await?.0)
    }

    async fn missing(
        &self,
        connection: &mut PgConnection,
        source: &str,
        keys: &[Key],
    ) -> Result<(Vec<Key>, u64), sqlx::Error> {
        let is_missing = self.is_missing;
        let statement = format!(
            "WITH dead_letter AS MATERIALIZED ({DEAD_LETTERS})
            SELECT order_id, version, count(*) OVER () AS total
            FROM ({source}) AS stored (order_id, version, load_dt)
            WHERE $1 IS NOT NULL AND $2 IS NOT NULL AND {is_missing} AND {NOT_DEAD_LETTERED}
            ORDER BY load_dt LIMIT {MAX_KEYS}"
        );
        let (orders, versions): (Vec<i64>, Vec<&[u8]>) = keys
            .iter()
            .map(|(order, version)| (*order, version.as_slice()))
            .unzip();
        let rows = statement::query(AssertSqlSafe(statement))
            .bind(orders)
            .bind(versions)
            .fetch_all(connection)
            .await?;
        let mut total = 0;
        let mut missing = Vec::with_capacity(rows.len());
        for row in rows {
            missing.push((row.try_get("order_id")?, row.try_get("version")?));
            total = row.try_get::<i64, _>("total")?.unsigned_abs();
        }
        Ok((missing, total))
    }

    /// Findings for missing versions.
    pub(super) fn findings(&self, missing: &[Key]) -> Findings {
        let mut findings = Findings::default();
        for (order, version) in missing {
            findings.push(Finding {
                table: self.table.to_owned(),
                key: format!("order {order}, version \\x{}", to_hex(version)),
                detail: "missing".to_owned(),
            });
        }
        findings
    }
}

/// Name of a layer, as in `spec.layer`.
pub(super) fn layer_name(layer: Layer) -> &'static str {
    match layer {
        Layer::Stg => "stg",
        Layer::Dds => "dds",
        Layer::Cdm => "cdm",
    }
}
