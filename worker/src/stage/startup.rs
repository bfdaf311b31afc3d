#![expect(
    clippy::disallowed_types,
    reason = "edge: prepares the warehouse, and reads from it"
)]
//! Steps of a stage before its first batch. Each is retried until PostgreSQL answers, or a shutdown.

use std::time::Duration;

use crds::stage::TagRule;
use sqlx::PgConnection;

use crate::encoding::{UnsupportedEncoding, check_encoding};
use crate::health::Dependency;
use crate::layer::cdm::{self, Cdm};
use crate::layer::stg::{MAX_KNOWN_ENTRIES, Stg};
use crate::pipeline::{Pipeline, PipelineError};
use crate::statement;

/// Users, and restaurants, that were once found in the reference data: a random sample of those in the vault.
const SELECT_KNOWN_ENTRIES: &str = "\
WITH start AS MATERIALIZED (SELECT gen_random_uuid() AS key), users AS (
    (SELECT user_id FROM dds.h_user WHERE h_user_pk >= (SELECT key FROM start) ORDER BY h_user_pk LIMIT $1)
    UNION ALL
    (SELECT user_id FROM dds.h_user WHERE h_user_pk < (SELECT key FROM start) AND user_id <> ''
     ORDER BY h_user_pk LIMIT $1)
), restaurants AS (
    (SELECT restaurant_id FROM dds.h_restaurant WHERE h_restaurant_pk >= (SELECT key FROM start)
     ORDER BY h_restaurant_pk LIMIT $1)
    UNION ALL
    (SELECT restaurant_id FROM dds.h_restaurant WHERE h_restaurant_pk < (SELECT key FROM start)
     AND restaurant_id <> '' ORDER BY h_restaurant_pk LIMIT $1)
)
SELECT ARRAY(SELECT user_id FROM users LIMIT $1), ARRAY(SELECT restaurant_id FROM restaurants LIMIT $1)";

/// Interval between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Checks the encoding of the warehouse. Retries until PostgreSQL answers, or a shutdown.
pub(super) async fn check_warehouse<L>(pipeline: &Pipeline<L>) -> Result<(), UnsupportedEncoding> {
    let checked = retry(pipeline, || pipeline.warehouse.transact(check_encoding)).await;
    checked.unwrap_or(Ok(()))
}

/// Continues the hold of an earlier worker. Retries until PostgreSQL answers, or a shutdown.
pub(super) async fn resume_hold<L>(pipeline: &Pipeline<L>) {
    let _ = retry(pipeline, || pipeline.hold.resume()).await;
}

/// Installs the thresholds of the tag rules. Retries until PostgreSQL answers, or a shutdown.
pub(super) async fn install_thresholds(rules: &[TagRule], pipeline: &Pipeline<Cdm>) {
    let group = &pipeline.origin.consumer_group;
    let install = || {
        let install = async |connection: &mut _| cdm::install_thresholds(connection, group, rules).await;
        pipeline.warehouse.transact(install)
    };
    let other_groups = retry(pipeline, install).await.unwrap_or_default();
    if !other_groups.is_empty() {
        tracing::warn!(?other_groups, "tag rules of other consumer groups apply too");
    }
}

/// Makes entries known to the reference data that were found before the start of this worker, if the vault is in the
/// same warehouse. Retries until PostgreSQL answers, or a shutdown.
pub(super) async fn recall_known_entries(pipeline: &Pipeline<Stg>) {
    if let Some((users, restaurants)) =
        retry(pipeline, || pipeline.warehouse.transact(select_known_entries)).await
    {
        pipeline.layer.reference_data.recall(&users, &restaurants);
    }
}

async fn select_known_entries(
    connection: &mut PgConnection,
) -> Result<(Vec<String>, Vec<String>), sqlx::Error> {
    let limit = i64::try_from(MAX_KNOWN_ENTRIES).unwrap_or(i64::MAX);
    let query = statement::query_as(SELECT_KNOWN_ENTRIES).bind(limit);
    query.fetch_one(connection).await
}

/// Repeats an attempt until PostgreSQL answers; `None` after a shutdown.
async fn retry<L, T, F: Future<Output = Result<T, sqlx::Error>>>(
    pipeline: &Pipeline<L>,
    attempt: impl Fn() -> F,
) -> Option<T> {
    let mut interval = tokio::time::interval(RETRY_INTERVAL);
    loop {
        interval.tick().await;
        let result = tokio::select! {
            () = pipeline.stop.cancelled() => return None,
            result = attempt() => result,
        };
        match result {
            Ok(value) => {
                pipeline.health.mark_available(Dependency::Warehouse);
                return Some(value);
            }
            Err(error) => pipeline
                .health
                .mark_unavailable(Dependency::Warehouse, &PipelineError::from(error).to_string()),
        }
    }
}
