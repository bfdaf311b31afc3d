#![expect(
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "edge: moves dead letters back, and prints how many"
)]
//! `worker redrive`: dead letters go back to where they came from, after a repair.
//!
//! A record goes back to the source topic as it came. An order that was given up while it waited for the dictionary is
//! stored already; sent again it would be a duplicate, so it goes back to the orders that wait.

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use crds::stage::Layer;
use sqlx::{PgConnection, Row as _};

use super::Documents;
use crate::connect::Secrets;
use crate::dead_letter::{ATTEMPTS_HEADER, Origin};
use crate::layer::stg::pending;
use crate::record::{Header, Record};
use crate::rejection::Code;
use crate::stage;
use crate::stored;

/// Dead letters that one transaction moves.
const AT_ONCE: i64 = 500;

const TAKE: &str = "\
SELECT partition, \"offset\", key, value, header_names, header_values, attempts,
    (extract(epoch FROM record_timestamp) * 1000)::bigint AS record_timestamp
FROM streamstage.dead_letter
WHERE consumer_group = $1 AND topic = $2 AND redriven_at IS NULL AND ($3::text IS NULL OR code = $3)
    AND dead_since <= $4::timestamptz
ORDER BY partition, \"offset\" LIMIT $5 FOR UPDATE SKIP LOCKED";

const MARK: &str = "\
UPDATE streamstage.dead_letter AS letter SET redriven_at = now()
FROM unnest($3::integer[], $4::bigint[]) AS moved (partition, \"offset\")
WHERE consumer_group = $1 AND topic = $2 AND letter.partition = moved.partition
    AND letter.\"offset\" = moved.\"offset\"";

/// Flags of `worker redrive`.
#[derive(Debug, Args)]
pub struct Redrive {
    /// The stages.
    #[command(flatten)]
    pub documents: Documents,
    /// Only dead letters of this code
    #[arg(long, value_name = "CODE")]
    pub code: Option<Code>,
}

/// Moves every dead letter of the stages that was there when it began.
///
/// # Errors
/// When a service does not answer; what was moved until then is moved.
pub async fn redrive(flags: Redrive) -> anyhow::Result<()> {
    let secrets = Secrets::in_folder(&flags.documents.secrets_dir);
    for stage in flags.documents.read()? {
        let moved = redrive_stage(&stage, &secrets, flags.code).await;
        let moved = moved.with_context(|| format!("stage {}", stage.name()))?;
        println!("{}: {moved} dead letters sent back", stage.name());
    }
    Ok(())
}

async fn redrive_stage(stage: &StreamStage, secrets: &Secrets, code: Option<Code>) -> anyhow::Result<usize> {
    let origin = stage::origin(stage);
    let rules = stage::rules(stage)?;
    let warehouse = stage::warehouse(stage, secrets)?;
    let publisher = stage::publisher(stage, secrets)?;
    // A record that fails again while this runs is not taken again.
    let begun: String = sqlx::query_scalar("SELECT now()::text")
        .fetch_one(warehouse.pool())
        .await?;
    let mut moved = 0;
    loop {
        let mut transaction = warehouse.pool().begin().await?;
        let letters = take(&mut transaction, &origin, code, &begun).await?;
        if letters.is_empty() {
            return Ok(moved);
        }
        mark(&mut transaction, &origin, &letters).await?;
        moved += letters.len();
        let sent = match stage.spec.layer {
            Layer::Stg => pending::wait_again(&mut transaction, &origin, &rules, letters).await?,
            Layer::Dds | Layer::Cdm => letters,
        };
        publisher.send_back(sent.iter()).await?;
        transaction.commit().await?;
    }
}

async fn take(
    connection: &mut PgConnection,
    origin: &Origin,
    code: Option<Code>,
    begun: &str,
) -> anyhow::Result<Vec<Record>> {
    let query = sqlx::query(TAKE)
        .bind(&origin.consumer_group)
        .bind(&origin.topic)
        .bind(code.map(|code| code.to_string()))
        .bind(begun)
        .bind(AT_ONCE);
    let rows = query.fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let mut record = stored::record(row)?;
            let attempts: i32 = row.try_get("attempts")?;
            record
                .headers
                .push(Header::text(ATTEMPTS_HEADER, &attempts.to_string()));
            Ok(record)
        })
        .collect()
}

async fn mark(connection: &mut PgConnection, origin: &Origin, letters: &[Record]) -> Result<(), sqlx::Error> {
    let (partitions, offsets): (Vec<i32>, Vec<i64>) = letters
        .iter()
        .map(|letter| (letter.partition, letter.offset))
        .unzip();
    let query = sqlx::query(MARK)
        .bind(&origin.consumer_group)
        .bind(&origin.topic)
        .bind(partitions)
        .bind(offsets);
    query.execute(connection).await.map(drop)
}
