#![expect(clippy::disallowed_types, reason = "edge: reads the vault from PostgreSQL")]
//! Stored versions of orders in the vault, as facts for the marts.
//!
//! A version belongs to one order, so the lines with the version have its products and their categories. Its user is that of
//! the effectivity, with the present name.

use crds::contract::{FactPayload, FactRef, ORDER_OBJECT_TYPE, OrderFact};
use jiff::SignedDuration;
use jiff::civil::DateTime;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use uuid::Uuid;

use crate::layer::stored::{RebuildOutcome, Rebuilt, StoredError, StoredVersions, VersionFilter, VersionKey};
use crate::output::{Output, serialize_output};
use crate::record_columns::Query;
use crate::rejection::Rejection;
use crate::statement;
use crate::vault::{BusinessKey, hash_key};
use crate::version::Version;

const READ: &str = "\
SELECT hub.order_id, status.version, status.status, ordered_by.h_user_pk, ordered_by.username, lines.products,
    lines.product_names, lines.categories
FROM unnest($1::uuid[], $2::bytea[]) AS picked (h_order_pk, version)
JOIN dds.h_order AS hub USING (h_order_pk)
JOIN dds.s_order_status AS status USING (h_order_pk, version)
LEFT JOIN LATERAL (
    SELECT link.h_user_pk, names.username
    FROM dds.s_order_user_effectivity AS stated
    JOIN dds.l_order_user AS link USING (l_order_user_pk)
    CROSS JOIN LATERAL (
        SELECT username FROM dds.s_user_names AS names WHERE names.h_user_pk = link.h_user_pk
        ORDER BY names.version DESC LIMIT 1
    ) AS names
    WHERE stated.h_order_pk = picked.h_order_pk AND stated.version = picked.version
) AS ordered_by ON true
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(link.h_product_pk) FILTER (WHERE item.occurrence = 1), '{}') AS products,
        coalesce(array_agg(item.name) FILTER (WHERE item.occurrence = 1), '{}') AS product_names,
        coalesce(array_agg(DISTINCT item.category), '{}') AS categories
    FROM dds.l_order_product AS link
    JOIN dds.s_order_item AS item
        ON item.l_order_product_pk = link.l_order_product_pk AND item.version = picked.version
    WHERE link.h_order_pk = picked.h_order_pk
) AS lines
ORDER BY picked.h_order_pk, picked.version";

/// Order versions that the stage of one record source has stored in the vault.
pub struct StoredFacts {
    /// Record source of the versions: `kafka:<topic>`.
    pub record_source: String,
}

impl StoredVersions for StoredFacts {
    type OrderKey = Uuid;

    async fn count(
        &self,
        connection: &mut PgConnection,
        filter: &VersionFilter,
    ) -> Result<Vec<(String, i64)>, sqlx::Error> {
        let condition = filter.condition("h_order_pk");
        let statement = format!(
            "SELECT load_src, count(*) FROM dds.s_order_status WHERE {condition} GROUP BY 1 ORDER BY 1"
        );
        let rows = bind_filter(&statement, filter).fetch_all(connection).await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    async fn page(
        &self,
        connection: &mut PgConnection,
        filter: &VersionFilter,
        after: Option<&VersionKey<Uuid>>,
        limit: i64,
    ) -> Result<Vec<VersionKey<Uuid>>, sqlx::Error> {
        let condition = filter.condition("h_order_pk");
        // A reference of a fact has a key of 36 bytes, a name and the names of its fields.
        let statement = format!(
            "SELECT page.h_order_pk, page.version, (
                SELECT coalesce(sum(octet_length(item.name) + octet_length(item.category) + 200), 0)
                FROM dds.l_order_product AS link
                JOIN dds.s_order_item AS item
                    ON item.l_order_product_pk = link.l_order_product_pk AND item.version = page.version
                WHERE link.h_order_pk = page.h_order_pk
            )::bigint AS bytes
            FROM (
                SELECT h_order_pk, version FROM dds.s_order_status
                WHERE load_src = $4 AND (h_order_pk, version) > ($5, $6) AND {condition}
                ORDER BY h_order_pk, version LIMIT $7
            ) AS page
            ORDER BY page.h_order_pk, page.version"
        );
        let rows = bind_filter(&statement, filter)
            .bind(&self.record_source)
            .bind(after.map_or(Uuid::nil(), |key| key.order))
            .bind(after.map_or(&[][..], |key| &key.version))
            .bind(limit)
            .fetch_all(connection)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(VersionKey {
                    order: row.try_get("h_order_pk")?,
                    version: row.try_get("version")?,
                    bytes: usize::try_from(row.try_get::<i64, _>("bytes")?).unwrap_or(usize::MAX),
                    is_pending: false,
                })
            })
            .collect()
    }

    async fn rebuild(
        &self,
        connection: &mut PgConnection,
        keys: &[&VersionKey<Uuid>],
    ) -> Result<Vec<Rebuilt>, StoredError> {
        let rows = statement::query(READ)
            .bind(keys.iter().map(|key| key.order).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.version.as_slice()).collect::<Vec<_>>())
            .fetch_all(connection)
            .await?;
        let rebuilt = rows.iter().map(|row| {
            let outcome = match fact_from_row(row)? {
                Ok(output) => RebuildOutcome::Ready(output),
                Err(rejection) => RebuildOutcome::Rejected(rejection),
            };
            let order_id = row.try_get("order_id")?;
            Ok(Rebuilt { order_id, outcome })
        });
        rebuilt.collect()
    }
}

/// Builds the fact of one version from its row of [`READ`].
fn fact_from_row(row: &PgRow) -> Result<Result<Output, Rejection>, sqlx::Error> {
    let version: Vec<u8> = row.try_get("version")?;
    let user: Option<(Uuid, String)> = Option::zip(row.try_get("h_user_pk")?, row.try_get("username")?);
    let (Some(version), Some(user)) = (Version::from_bytes(&version), user) else {
        let detail = "the vault has only a part of the version; run `worker verify`";
        return Ok(Err(Rejection::contract_violation("", detail)));
    };
    let order_id = row.try_get("order_id")?;
    let products: Vec<Uuid> = row.try_get("products")?;
    let product_names: Vec<String> = row.try_get("product_names")?;
    let categories: Vec<String> = row.try_get("categories")?;
    let categories = categories
        .into_iter()
        .map(|name| (hash_key("h_category", &[BusinessKey::Text(&name)]), name));
    let fact = OrderFact {
        object_id: order_id,
        object_type: ORDER_OBJECT_TYPE.to_owned(),
        payload: FactPayload {
            id: order_id,
            update_ts: format_utc(version.update_ts()),
            status: row.try_get("status")?,
            user: reference(user),
            products: products.into_iter().zip(product_names).map(reference).collect(),
            categories: categories.map(reference).collect(),
        },
    };
    Ok(serialize_output(order_id, version, &fact))
}

fn reference((id, name): (Uuid, String)) -> FactRef {
    FactRef {
        id: id.to_string(),
        name,
    }
}

/// Binds the filter as `$1` to `$3`, with the hub keys of its orders.
fn bind_filter<'q>(statement: &str, filter: &VersionFilter) -> Query<'q> {
    let orders = filter
        .orders
        .iter()
        .map(|order| hash_key("h_order", &[BusinessKey::Number(*order)]));
    statement::query(AssertSqlSafe(statement.to_owned()))
        .bind(orders.collect::<Vec<_>>())
        .bind(filter.since)
        .bind(filter.until)
}

/// Formats a time in microseconds since the Unix epoch, such as `2024-02-24T12:00:05Z`.
fn format_utc(micros: i64) -> String {
    let epoch = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
    format!("{}Z", epoch.saturating_add(SignedDuration::from_micros(micros)))
}

#[cfg(test)]
mod tests {
    use crds::timestamp::Timestamp;
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// All times from the year 1 to the year 9999.
        #[test]
        fn a_formatted_time_is_the_same_time(micros in -62_135_596_800_000_000..253_402_300_800_000_000_i64) {
            let parsed = Timestamp::parse(&format_utc(micros), &TimeZone::UTC).expect("a timestamp");
            prop_assert_eq!(parsed.as_microsecond(), micros);
        }
    }
}
