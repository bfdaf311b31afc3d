#![expect(
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "edge: redrives dead letters, and prints their number"
)]
//! `worker redrive`: processes dead letters again, after the cause is repaired.
//!
//! A record is produced to the source topic as received. A pending order that became a dead letter is stored already, so
//! it would be a duplicate in the topic; it becomes pending again instead.

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use crds::stage::Layer;
use sqlx::{PgConnection, Row as _};

use super::stage_selection::StageSelection;
use crate::connect::Secrets;
use crate::dead_letter::{ATTEMPTS_HEADER, Origin};
use crate::layer::stg::pending;
use crate::record::{Header, Record};
use crate::record_columns::record_from_row;
use crate::rejection::Code;
use crate::session::with_deadline;
use crate::stage;
use crate::statement;
use crate::warehouse::{TRANSACTION_TIMEOUT, Warehouse};

/// Number of dead letters per transaction.
const BATCH_SIZE: i64 = 500;

const LOCK: &str = "\
SELECT partition, \"offset\", key, value, header_names, header_values, attempts,
    (extract(epoch FROM record_timestamp) * 1000)::bigint AS record_timestamp
FROM streamstage.dead_letter
WHERE consumer_group = $1 AND topic = $2 AND redriven_at IS NULL AND ($3::text IS NULL OR code = $3)
    AND dead_lettered_at <= $4::timestamptz
ORDER BY partition, \"offset\" LIMIT $5 FOR UPDATE SKIP LOCKED";

const MARK_REDRIVEN: &str = "\
UPDATE streamstage.dead_letter AS stored SET redriven_at = now()
FROM unnest($3::integer[], $4::bigint[]) AS redriven (partition, \"offset\")
WHERE consumer_group = $1 AND topic = $2 AND stored.partition = redriven.partition
    AND stored.\"offset\" = redriven.\"offset\"";

/// Flags of `worker redrive`.
#[derive(Debug, Args)]
pub struct Redrive {
    /// Stages whose dead letters are redriven.
    #[command(flatten)]
    pub selection: StageSelection,
    /// Only dead letters with this code
    #[arg(long, value_name = "CODE")]
    pub code: Option<Code>,
}

/// Redrives every dead letter of the stages that exists when the command starts.
///
/// # Errors
/// If a dependency is unavailable. Dead letters of committed transactions stay redriven.
pub async fn redrive(flags: Redrive) -> anyhow::Result<()> {
    let secrets = flags.selection.secrets();
    for stage in flags.selection.read()? {
        let redriven = redrive_stage(&stage, &secrets, flags.code).await;
        let redriven = redriven.with_context(|| format!("stage {}", stage.name()))?;
        println!("{}: {redriven} dead letters redriven", stage.name());
    }
    Ok(())
}

async fn redrive_stage(stage: &StreamStage, secrets: &Secrets, code: Option<Code>) -> anyhow::Result<usize> {
    let origin = stage::origin(stage);
    let settings = stage::decode_settings(stage)?;
    let warehouse = stage::warehouse(stage, secrets)?;
    let publisher = stage::publisher(stage, secrets)?;
    // Excludes records that fail again while this runs, so that it ends.
    let started_at = with_deadline(TRANSACTION_TIMEOUT, fetch_time(&warehouse)).await?;
    let mut redriven = 0;
    loop {
        let batch = with_deadline(TRANSACTION_TIMEOUT, async {
            let mut transaction = warehouse.begin(TRANSACTION_TIMEOUT).await?;
            let connection = transaction.connection();
            let records = lock_dead_letters(connection, &origin, code, &started_at).await?;
            let count = records.len();
            mark_redriven(connection, &origin, &records).await?;
            let to_produce = match stage.spec.layer {
                Layer::Stg => pending::requeue(connection, &origin, &settings, records).await?,
                Layer::Dds | Layer::Cdm => records,
            };
            publisher.redrive(to_produce.iter()).await?;
            transaction.commit().await?;
            anyhow::Ok(count)
        });
        match batch.await? {
            0 => return Ok(redriven),
            count => redriven += count,
        }
    }
}

/// Time of the warehouse.
async fn fetch_time(warehouse: &Warehouse) -> Result<String, sqlx::Error> {
    let mut transaction = warehouse.begin(TRANSACTION_TIMEOUT).await?;
    statement::query_scalar("SELECT now()::text")
        .fetch_one(transaction.connection())
        .await
}

/// Locks one batch of dead letters and returns their records, each with its number of attempts as a header.
async fn lock_dead_letters(
    connection: &mut PgConnection,
    origin: &Origin,
    code: Option<Code>,
    started_at: &str,
) -> anyhow::Result<Vec<Record>> {
    let query = statement::query(LOCK)
        .bind(&origin.consumer_group)
        .bind(&origin.topic)
        .bind(code.map(|code| code.to_string()))
        .bind(started_at)
        .bind(BATCH_SIZE);
    let rows = query.fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let mut record = record_from_row(row)?;
            let attempts: i32 = row.try_get("attempts")?;
            record
                .headers
                .push(Header::text(ATTEMPTS_HEADER, &attempts.to_string()));
            Ok(record)
        })
        .collect()
}

async fn mark_redriven(
    connection: &mut PgConnection,
    origin: &Origin,
    records: &[Record],
) -> Result<(), sqlx::Error> {
    let (partitions, offsets): (Vec<i32>, Vec<i64>) = records
        .iter()
        .map(|record| (record.partition, record.offset))
        .unzip();
    let query = statement::query(MARK_REDRIVEN)
        .bind(&origin.consumer_group)
        .bind(&origin.topic)
        .bind(partitions)
        .bind(offsets);
    query.execute(connection).await.map(drop)
}
