#![expect(
    clippy::disallowed_types,
    reason = "edge: stores the begin of a hold in PostgreSQL"
)]
//! Begin of the hold of a stage, in the warehouse: it is common to all workers of the stage, and survives their restarts.

use std::time::Duration;

use sqlx::PgConnection;

use crate::dead_letter::Origin;
use crate::statement;

/// Records that there is a cause for a hold, and returns the remaining seconds of the hold. `$3` is its maximum in
/// seconds. After as long a time without a cause, another hold begins.
const RENEW: &str = "\
INSERT INTO streamstage.hold AS stored (consumer_group, topic, cause)
VALUES ($1, $2, $4)
ON CONFLICT (consumer_group, topic) DO UPDATE
SET cause = excluded.cause, last_cause_at = now(),
    started_at = CASE WHEN stored.last_cause_at < now() - $3::double precision * interval '1 second' THEN now()
        ELSE stored.started_at END
RETURNING greatest(0, extract(epoch FROM started_at - now())::double precision + $3)";

/// True if the stage's hold has not ended. `$3` is its maximum in seconds.
const IS_HELD: &str = "\
SELECT EXISTS (
    SELECT FROM streamstage.hold
    WHERE consumer_group = $1 AND topic = $2 AND started_at > now() - $3::double precision * interval '1 second')";

/// Returns true if the hold of the stage, which began at most `max_hold` ago, has not ended.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn is_held(
    connection: &mut PgConnection,
    origin: &Origin,
    max_hold: Duration,
) -> Result<bool, sqlx::Error> {
    statement::query_scalar(IS_HELD)
        .bind(&origin.consumer_group)
        .bind(&origin.topic)
        .bind(max_hold.as_secs_f64())
        .fetch_one(connection)
        .await
}

/// Returns the remaining time of the stage's hold; zero after `max_hold`. Begins a hold unless there is one.
///
/// # Errors
/// If PostgreSQL fails.
pub async fn renew(
    connection: &mut PgConnection,
    origin: &Origin,
    max_hold: Duration,
    cause: &str,
) -> Result<Duration, sqlx::Error> {
    let remaining: f64 = statement::query_scalar(RENEW)
        .bind(&origin.consumer_group)
        .bind(&origin.topic)
        .bind(max_hold.as_secs_f64())
        .bind(cause)
        .fetch_one(connection)
        .await?;
    Ok(Duration::try_from_secs_f64(remaining)
        .unwrap_or(max_hold)
        .min(max_hold))
}
