#![expect(
    clippy::disallowed_types,
    reason = "edge: redrives dead letters in a transaction"
)]
//! `worker dead-letters redrive`: processes dead letters again, after the cause is repaired. Without `--execute` it is a
//! preview.
//!
//! A record is produced to the source topic as received. A pending order that became a dead letter is stored already, so
//! it would be a duplicate in the topic; it becomes pending again instead.

use std::collections::HashSet;

use anyhow::Context as _;
use clap::Args;
use crds::StreamStage;
use crds::stage::Layer;
use sqlx::PgConnection;
use telemetry::stdout::print_line;
use uuid::Uuid;

use super::filter_flags::{FilterFlags, print_counts};
use crate::connect::{self, Secrets};
use crate::dead_letter::selection::{self, Filter};
use crate::dead_letter::{ATTEMPTS_HEADER, Origin};
use crate::decode::DecodeSettings;
use crate::layer::stg::pending;
use crate::publish::PublishError;
use crate::publish::record_producer::RecordProducer;
use crate::record::{Header, Record, RecordId};
use crate::stage;

/// Maximum number of dead letters per transaction.
const BATCH_SIZE: i64 = 500;
/// Identity before that of every record.
const BEFORE_ALL: RecordId = (Uuid::nil(), -1, -1);

/// Flags of `worker dead-letters redrive`.
#[derive(Debug, Args)]
pub struct Redrive {
    /// Dead letters to redrive.
    #[command(flatten)]
    pub filter: FilterFlags,
    /// Maximum number of dead letters per stage [default: all]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    pub limit: Option<i64>,
    /// Redrive them; without it, only print their number by code
    #[arg(long)]
    pub execute: bool,
}

/// Prints the number of selected dead letters by code, and redrives them with `--execute`.
///
/// # Errors
/// If a dependency is unavailable, or the source topic rejects a record. Dead letters of committed transactions stay
/// redriven.
pub async fn redrive(flags: Redrive) -> anyhow::Result<()> {
    let secrets = flags.filter.selection.secrets();
    let mut outcome = Ok(());
    for stage in flags.filter.selection.read()? {
        let redriven = redrive_stage(&stage, &secrets, &flags).await;
        // A failure of one stage does not keep the others from being redriven.
        outcome = outcome.and(redriven.with_context(|| format!("stage {}", stage.name())));
    }
    if !flags.execute {
        print_line("preview: add --execute to redrive")?;
    }
    outcome
}

async fn redrive_stage(stage: &StreamStage, secrets: &Secrets, flags: &Redrive) -> anyhow::Result<()> {
    let origin = stage::origin(stage);
    let warehouse = stage::warehouse(stage, secrets)?;
    let mut filter = flags.filter.filter(false);
    if !flags.execute {
        print_counts(&warehouse, &origin, &filter).await?;
        return Ok(());
    }
    // Excludes records that fail again while this runs, so that it ends.
    let started = warehouse
        .transact(selection::server_time)
        .await?
        .saturating_add(1);
    filter.until = Some(filter.until.map_or(started, |until| until.min(started)));
    let config = connect::kafka_config(stage, secrets)?;
    let redrive = StageRedrive {
        producer: RecordProducer::new(config, &origin.topic)?,
        settings: stage::decode_settings(stage)?,
        layer: stage.spec.layer,
        origin,
        filter,
    };
    let (mut after, mut remaining) = (BEFORE_ALL, flags.limit.unwrap_or(i64::MAX));
    let mut total = RedriveResult::default();
    while remaining > 0 {
        let batch = warehouse.transact(async |connection| {
            redrive
                .redrive_batch(connection, after, remaining.min(BATCH_SIZE))
                .await
        });
        let Some((last, batch)) = batch.await? else { break };
        (after, remaining) = (last, remaining - i64::try_from(batch.succeeded + batch.failed)?);
        total.succeeded += batch.succeeded;
        total.failed += batch.failed;
        let is_outage =
            batch.succeeded == 0 && batch.error.as_ref().is_some_and(|error| !error.is_rejection());
        total.error = total.error.or(batch.error);
        if is_outage {
            break;
        }
    }
    print_line(format_args!(
        "{}: {} dead letters redriven",
        stage.name(),
        total.succeeded
    ))?;
    if let Some(error) = total.error {
        return Err(anyhow::Error::new(error).context(format!("{} dead letters not redriven", total.failed)));
    }
    let without_value = warehouse.transact(async |connection| {
        selection::count_without_value(connection, &redrive.origin, &redrive.filter).await
    });
    match without_value.await? {
        0 => Ok(()),
        letters => anyhow::bail!(
            "{letters} dead letters not redriven: their records were too large or not decodable, so the values are \
             missing; produce these orders again, and discard the dead letters with `worker dead-letters discard`"
        ),
    }
}

/// Number of redriven dead letters.
#[derive(Default)]
struct RedriveResult {
    succeeded: usize,
    failed: usize,
    /// First error of the failed ones.
    error: Option<PublishError>,
}

/// Redrive of one stage.
struct StageRedrive {
    producer: RecordProducer,
    settings: DecodeSettings,
    layer: Layer,
    origin: Origin,
    filter: Filter,
}

impl StageRedrive {
    /// Redrives up to `limit` dead letters after the record `after`. Returns the last record and the result; `None` if
    /// there are no more.
    async fn redrive_batch(
        &self,
        connection: &mut PgConnection,
        after: RecordId,
        limit: i64,
    ) -> anyhow::Result<Option<(RecordId, RedriveResult)>> {
        let letters = selection::lock_batch(connection, &self.origin, &self.filter, after, limit).await?;
        let records: Vec<Record> = letters.into_iter().map(with_attempts).collect();
        let Some(last) = records.last().map(Record::id) else {
            return Ok(None);
        };
        let ids: Vec<RecordId> = records.iter().map(Record::id).collect();
        let to_produce = match self.layer {
            Layer::Stg => pending::requeue(connection, &self.origin, &self.settings, records).await?,
            Layer::Dds | Layer::Cdm => records,
        };
        let results = self
            .producer
            .send(to_produce.iter().map(|record| (record, &record.headers[..])));
        let mut failed = HashSet::new();
        let mut first_error = None;
        for (record, result) in to_produce.iter().zip(results.await) {
            if let Err(error) = result {
                failed.insert(record.id());
                first_error.get_or_insert(error);
            }
        }
        let redriven: Vec<RecordId> = ids.into_iter().filter(|id| !failed.contains(id)).collect();
        selection::mark_redriven(connection, &self.origin, &redriven).await?;
        let result = RedriveResult {
            succeeded: redriven.len(),
            failed: failed.len(),
            error: first_error,
        };
        Ok(Some((last, result)))
    }
}

/// Adds the number of attempts as a header, so that the count continues.
fn with_attempts((mut record, attempts): (Record, i32)) -> Record {
    record
        .headers
        .push(Header::text(ATTEMPTS_HEADER, &attempts.to_string()));
    record
}
